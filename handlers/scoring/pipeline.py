"""The part of scoring that depends on the task, from a decoded image to its answer."""

from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clearsight.catalogue.models import FAMILIES, find_row
from clearsight.documents.settings import Settings
from clearsight.handlers.backends import Backend, OpenOptions
from clearsight.handlers.scoring.batching import BatchRule
from clearsight.runs.package import ModelPackage
from clearsight.wire.answers import Answer

__all__ = ["Pipeline", "never_stops", "open_pipeline"]


def never_stops() -> None:
    """The checkpoint of work that is not to be ended early."""


class Pipeline(Protocol):
    """Images in, answers out, on one loaded network. Safe in threads when its backend is."""

    batch_rule: BatchRule
    images_at_once: int
    """Number of images that are prepared before the network runs, which bounds the memory."""

    def prepare(self, image_HWC: npt.NDArray[np.uint8]) -> Any:
        """Preprocess an image; runs in several threads at the same time."""
        ...

    def answer(self, prepared: Sequence[Any], checkpoint: Callable[[], None] = never_stops) -> Sequence[Answer]:
        """One answer for each prepared image, in order; none depends on its neighbours.

        `checkpoint` is called before each of several calls of the network, and may raise to end the work.
        """
        ...

    def warm_up(self, image_HWC: npt.NDArray[np.uint8]) -> None:
        """Run the network in the sizes of clients' requests."""
        ...


def open_pipeline(
    package: ModelPackage, settings: Settings, backend: Backend, options: OpenOptions, max_batch_size: int
) -> Pipeline:
    """Choose the pipeline of a package and run its network once.

    Raises `InvalidPackage` when the graph belongs to another task or another number of labels.
    """
    open_family = resolve_name(FAMILIES[find_row(package.model_name).family].pipeline)
    pipeline: Pipeline = open_family(backend, settings, package, options, max_batch_size)
    return pipeline
