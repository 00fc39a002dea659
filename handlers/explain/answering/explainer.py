"""Explains labels of one image: segments, algorithm, faithfulness. Answers are encoded elsewhere.

Shapes in names: N points or images, P side of the network's input, C colour channel, K classes.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from clearsight.catalogue.algorithms import ALGORITHMS
from clearsight.documents.settings import ClassificationSettings
from clearsight.handlers.drawing.explanation_image import explanation_image, heat_map
from clearsight.handlers.explain.algorithms.context import Attribution, ExplainContext
from clearsight.handlers.explain.algorithms.run import compute_attributions
from clearsight.handlers.explain.algorithms.xrai import Regions, segment
from clearsight.handlers.explain.answering.cache import ByteCache
from clearsight.handlers.explain.answering.details import ExplanationDetails
from clearsight.handlers.explain.answering.quality import Faithfulness, measure_faithfulness
from clearsight.handlers.explain.answering.targets import Targets
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.network.functions import DEFAULT_CHUNK
from clearsight.handlers.explain.network.model import ExplainModel
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.explain.parameters import XaiParameters
from clearsight.vision.preprocess import normalise

__all__ = ["ClassExplainer", "ExplainTask", "Explanation"]

GPU_CHUNK: Final = 32

_UNMEASURED: Final = "the time did not suffice for the deletion and insertion scores"

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class ProbabilityScorer(Protocol):
    """The part of a `Scorer` that explanations use: probabilities of altered images by the serving backend."""

    num_threads: int

    def class_probabilities(self, inputs_N3PP: Floats) -> npt.NDArray[np.float64]: ...


@dataclass(frozen=True, slots=True, eq=False)
class ExplainTask:
    """A scored image and which of its labels to explain."""

    crop_PPC: Bytes
    """The network's input before normalisation."""
    digest: bytes
    """SHA-256 of the image file."""
    probs: Sequence[float]
    targets: Targets
    parameters: XaiParameters

    @property
    def num_numbers(self) -> int:
        """Numbers in the attributions of the answer."""
        return len(self.targets.class_ids) * self.crop_PPC.size


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The explanation of one label."""

    values: Floats
    """(3, P, P) per colour channel, or one map (P, P)."""
    image: bytes | None
    """PNG file; None if the parameters request none."""
    details: ExplanationDetails

    @property
    def numbers(self) -> Floats:
        """Numbers of the answer's attributions, (3, P, P): a map is repeated for each colour channel."""
        return np.broadcast_to(self.values, (3, *self.values.shape[-2:]))


class ClassExplainer:
    """Explains images with one model. Safe in threads."""

    def __init__(
        self,
        scorer: ProbabilityScorer,
        model: ExplainModel | None,
        labels: Sequence[str],
        settings: ClassificationSettings,
        options: ExplainOptions,
    ) -> None:
        self._scorer = scorer
        self._model = model
        self._labels = labels
        self._settings = settings
        self._options = options
        self._device = torch.device("cpu") if model is None else model.device
        self._regions: ByteCache[Regions] = ByteCache(options.cache_bytes)

    def explain(self, explain_task: ExplainTask, deadline: Deadline) -> list[Explanation]:
        """Explain every target, in order. Raises `UserError`: `BadRequest` or `OutOfTime`."""
        if not explain_task.targets.class_ids:
            return []
        parameters = explain_task.parameters
        clock = _Clock(deadline)
        x_3PP = normalise(explain_task.crop_PPC, self._settings.mean, self._settings.std)
        regions = None
        if ALGORITHMS[parameters.algorithm].needs_regions:
            regions = self._regions_of(explain_task.digest, x_3PP)
            clock.note("regions")
        context = ExplainContext(
            model=self._model,
            probabilities=self._probabilities,
            x_13PP=torch.from_numpy(x_3PP)[None].to(self._device),
            targets=explain_task.targets.scores,
            parameters=parameters,
            deadline=deadline,
            mean=self._settings.mean,
            std=self._settings.std,
            regions=regions,
            chunk=self._options.chunk or (DEFAULT_CHUNK if self._device.type == "cpu" else GPU_CHUNK),
            may_degrade=self._options.allow_degradation,
        )
        with self._precision():
            found = compute_attributions(context)
        clock.note("gradients")
        scores: list[Faithfulness | None] = [None] * len(found)
        if parameters.faithfulness:
            maps = [heat_map(attribution.values) for attribution in found]
            scores = measure_faithfulness(
                maps, explain_task.targets.class_ids, x_3PP, self._scorer.class_probabilities, deadline
            )
            if None in scores and not self._options.allow_degradation:
                raise context.out_of_time()
            clock.note("faithfulness")
        images = [
            explanation_image(attribution.values, explain_task.crop_PPC, parameters.visualization_format)
            if parameters.visualizations
            else None
            for attribution in found
        ]
        clock.note("picture")
        return [
            Explanation(attribution.values, image, self._details(explain_task, index, attribution, score, clock))
            for index, (attribution, image, score) in enumerate(zip(found, images, scores, strict=True))
        ]

    def _regions_of(self, digest: bytes, x_3PP: Floats) -> Regions:
        regions = self._regions.get(digest)
        if regions is None:
            regions = Regions.of(segment(x_3PP, self._scorer.num_threads))
            self._regions.put(digest, regions, regions.members_M.nbytes + regions.starts_R.nbytes)
        return regions

    def _probabilities(self, points_N3PP: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self._scorer.class_probabilities(points_N3PP.cpu().numpy()))

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self._options.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def _details(
        self,
        explain_task: ExplainTask,
        index: int,
        found: Attribution,
        faithfulness: Faithfulness | None,
        clock: "_Clock",
    ) -> ExplanationDetails:
        parameters, targets = explain_task.parameters, explain_task.targets
        class_id = targets.class_ids[index]
        algorithm = found.algorithm or parameters.algorithm
        is_path = ALGORITHMS[algorithm].has_path
        is_unmeasured = parameters.faithfulness and faithfulness is None
        warnings = (*found.warnings, _UNMEASURED) if is_unmeasured else found.warnings
        if targets.num_left_out:
            total = len(targets.class_ids) + targets.num_left_out
            warnings = (
                f"{total} labels qualify, of which the {len(targets.class_ids)} most probable are explained",
                *warnings,
            )
        return ExplanationDetails.of(
            found,
            algorithm=algorithm,
            label=self._labels[class_id],
            probability=explain_task.probs[class_id],
            approximation_method=parameters.approximation_method if is_path else None,
            baseline=parameters.baseline if is_path else None,
            faithfulness=faithfulness,
            degraded=found.degraded or is_unmeasured or targets.num_left_out > 0,
            warnings=warnings,
            milliseconds=clock.milliseconds,
        )


class _Clock:
    """Milliseconds by phase, measured with the clock of a deadline."""

    def __init__(self, deadline: Deadline) -> None:
        self.milliseconds: dict[str, float] = {}
        self._deadline = deadline
        self._last_s = deadline.elapsed_s()

    def note(self, phase: str) -> None:
        now_s = self._deadline.elapsed_s()
        self.milliseconds[phase] = 1000 * (now_s - self._last_s)
        self._last_s = now_s
