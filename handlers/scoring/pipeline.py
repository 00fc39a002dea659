"""What of scoring depends on the task: between a decoded image and its answer."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from clearsight.catalogue.models import find_row
from clearsight.documents.settings import RcnnSettings, Settings, YoloSettings
from clearsight.handlers.backends import Backend, OpenOptions
from clearsight.handlers.scoring.batching import BatchRule
from clearsight.handlers.scoring.classification import ClassificationPipeline
from clearsight.handlers.scoring.detectors import DetectionPipeline, RcnnNetwork, YoloNetwork
from clearsight.runs.package import ModelPackage
from clearsight.wire.answers import Answer

__all__ = ["PIPELINES", "Pipeline", "open_pipeline"]


class Pipeline(Protocol):
    """Images in, answers out, on one loaded network. Safe in threads when its backend is."""

    batch_rule: BatchRule
    images_at_once: int
    """So many are prepared before the network sees the first of them: memory is that of so many."""

    def prepare(self, image_HWC: npt.NDArray[np.uint8]) -> Any:
        """The part that needs no network; many of these run side by side."""
        ...

    def answer(self, prepared: Sequence[Any]) -> Sequence[Answer]:
        """One answer for each prepared image, in order; none depends on its neighbours."""
        ...

    def warm_up(self, image_HWC: npt.NDArray[np.uint8]) -> None:
        """Run the network in the sizes that clients will meet."""
        ...


def open_pipeline(
    package: ModelPackage, settings: Settings, backend: Backend, options: OpenOptions, max_batch_size: int
) -> Pipeline:
    """Choose the pipeline of a package and try its network once.

    Raises `InvalidPackage` when the graph is not one of this task or of so many labels.
    """
    family = find_row(package.model_name).family
    return PIPELINES[family](backend, settings, package, options, max_batch_size)


def _open_yolov5(
    backend: Backend, settings: YoloSettings, package: ModelPackage, options: OpenOptions, max_batch_size: int
) -> Pipeline:
    network = YoloNetwork(backend, settings, package, options, max_batch_size)
    return DetectionPipeline(network, settings, package.labels, max_batch_size)


def _open_rcnn(
    backend: Backend, settings: RcnnSettings, package: ModelPackage, options: OpenOptions, max_batch_size: int
) -> Pipeline:
    network = RcnnNetwork(backend, settings, package)
    return DetectionPipeline(network, settings, package.labels, max_batch_size)


_PIPELINES: Final[dict[str, Callable[[Backend, Any, ModelPackage, OpenOptions, int], Pipeline]]] = {
    "classifier": ClassificationPipeline,
    "yolov5": _open_yolov5,
    "rcnn": _open_rcnn,
    "retinanet": _open_rcnn,
}

PIPELINES: Final[Mapping[str, Callable[[Backend, Any, ModelPackage, OpenOptions, int], Pipeline]]] = MappingProxyType(
    _PIPELINES
)
"""How the pipeline of a family of networks is opened, by `ModelRow.family`; arguments as for `open_pipeline`."""
