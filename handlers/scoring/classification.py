"""Classifiers: from images to class probabilities."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from clearsight.documents.settings import ClassificationSettings
from clearsight.errors import ClearsightError, InvalidPackage
from clearsight.handlers.backends import Backend, Floats, OpenOptions
from clearsight.handlers.scoring.batching import choose_rule, run_batches
from clearsight.handlers.scoring.pipeline import never_stops
from clearsight.runs.package import ModelPackage
from clearsight.tasks import Task
from clearsight.vision.preprocess import preprocess
from clearsight.vision.probabilities import probabilities
from clearsight.wire.answers import ClassificationAnswer
from clearsight.wire.encoding import shortest

__all__ = ["ClassificationPipeline", "to_answers"]

_BATCHES_IN_MEMORY: Final = 4  # preprocessed at once, so that memory does not grow with the number of images


class ClassificationPipeline:
    """The `pipeline.Pipeline` of classifiers: images are preprocessed in parallel and run in batches."""

    def __init__(
        self,
        backend: Backend,
        settings: ClassificationSettings,
        package: ModelPackage,
        options: OpenOptions,
        max_batch_size: int,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._task, self._labels = package.task, package.labels
        self._max_batch_size = max_batch_size
        self.images_at_once = max_batch_size * _BATCHES_IN_MEMORY
        size = settings.valid_crop_size
        num_logits = backend.run([np.zeros((1, 3, size, size), np.float32)])[0].shape[-1]
        if num_logits != len(self._labels):
            raise InvalidPackage(f"{package.root} has {len(self._labels)} labels, but its graph gives {num_logits}")
        self.batch_rule = choose_rule(backend, size, size, max_batch_size, options)

    def prepare(self, image_HWC: npt.NDArray[np.uint8]) -> Floats:
        return preprocess(image_HWC, self._settings)

    def answer(
        self, prepared: Sequence[Floats], checkpoint: Callable[[], None] = never_stops
    ) -> list[ClassificationAnswer]:
        checkpoint()
        (logits_NK,) = run_batches(self._backend, np.stack(prepared), self.batch_rule, self._max_batch_size)
        return to_answers(logits_NK, self._task, self._labels)

    def class_probabilities(self, inputs_N3PP: Floats) -> npt.NDArray[np.float64]:
        """Probabilities of prepared images, (N, number of classes)."""
        (logits_NK,) = run_batches(self._backend, inputs_N3PP, self.batch_rule, self._max_batch_size)
        return np.stack([probabilities(logits_K, self._task) for logits_K in logits_NK])

    def warm_up(self, image_HWC: npt.NDArray[np.uint8]) -> None:
        for count in (1, self._max_batch_size):
            self.answer([self.prepare(image_HWC)] * count)


def to_answers(logits_NK: Floats, task: Task, labels: tuple[str, ...]) -> list[ClassificationAnswer]:
    """Make one answer per row. Rows are computed one by one, so that no row depends on another.

    Raises `ClearsightError` when logits are not finite.
    """
    if not np.isfinite(logits_NK).all():
        raise ClearsightError("the model gave logits that are not finite numbers")
    return [ClassificationAnswer(tuple(shortest(probabilities(logits_K, task))), labels) for logits_K in logits_NK]
