"""Runs detectors: the networks of two families, and the pipeline from images to answers that both share.

The views of an image (the whole image, and tiles if the settings have them) are made one after another, and candidates
are reduced to detections before the next view is made. So memory is that of one image and one call of the network, for
any number of tiles and images.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from clearsight.documents.settings import DetectorSettings, RcnnSettings, YoloSettings
from clearsight.errors import InvalidPackage
from clearsight.handlers.backends import Array, Backend, OpenOptions
from clearsight.handlers.scoring.batching import BatchRule, choose_rule, run_batches
from clearsight.handlers.scoring.detection import Detections, find_objects
from clearsight.handlers.scoring.pipeline import never_stops
from clearsight.handlers.scoring.views import View, to_answer, views_of
from clearsight.runs.package import ModelPackage
from clearsight.vision.candidates import Candidates
from clearsight.vision.letterbox import Placement
from clearsight.vision.preprocess import normalise
from clearsight.wire.answers import DetectionAnswer

__all__ = [
    "MAX_INPUT_BYTES",
    "DetectionPipeline",
    "DetectorNetwork",
    "Prepared",
    "RcnnNetwork",
    "YoloNetwork",
    "open_rcnn",
    "open_yolov5",
]

Bytes = npt.NDArray[np.uint8]

MAX_INPUT_BYTES: Final = 32 * 1024 * 1024
"""Largest size of a batch as float32: six images of 640 x 640. The layers of a network hold many times as much, so that
the limit bounds the memory of a call."""

_TRIAL_SIDE: Final = 64  # pixels of the image on which a network of any input size is tested


class DetectorNetwork(Protocol):
    """The network of a loaded detector."""

    batch_rule: BatchRule

    def predict_candidates(
        self, canvases: Iterable[Bytes], box_score_thresh: float | None = None
    ) -> Iterator[Candidates]:
        """Candidates for each canvas, uint8 (H, W, 3), in order. Takes no more canvases than the next batch needs.

        Candidates below `box_score_thresh` may be left out; None: below the threshold of the settings.
        """
        ...


class YoloNetwork:
    """yolov5: all canvases have one size, so that views of any images go through the network together."""

    def __init__(
        self,
        backend: Backend,
        settings: YoloSettings,
        package: ModelPackage,
        options: OpenOptions,
        max_batch_size: int,
    ) -> None:
        self._backend = backend
        self._settings = settings
        side = settings.img_size
        input_bytes = 3 * side * side * np.dtype(np.float32).itemsize
        self._batch_size = min(max_batch_size, max(MAX_INPUT_BYTES // input_bytes, 1))
        _check(backend.run([np.zeros((1, 3, _TRIAL_SIDE, _TRIAL_SIDE), np.float32)]), 3, package)
        self.batch_rule = choose_rule(backend, side, side, self._batch_size, options)

    def predict_candidates(
        self, canvases: Iterable[Bytes], box_score_thresh: float | None = None
    ) -> Iterator[Candidates]:
        """All candidates of any score: the graph has no threshold."""
        side, remaining = self._settings.img_size, iter(canvases)
        images_NCHW = np.empty((self._batch_size, 3, side, side), np.float32)
        while batch_size := self._fill(images_NCHW, remaining):
            outputs = run_batches(self._backend, images_NCHW[:batch_size], self.batch_rule, self._batch_size)
            for boxes_xyxy_C4, scores_C, class_ids_C in zip(*outputs, strict=True):
                yield Candidates(boxes_xyxy_C4, scores_C, class_ids_C)

    def _fill(self, images_NCHW: npt.NDArray[np.float32], canvases: Iterator[Bytes]) -> int:
        """Copy canvases into a batch until it is full or there are no more; return their number."""
        count = 0
        for canvas_HWC in islice(canvases, len(images_NCHW)):
            images_NCHW[count] = normalise(canvas_HWC, self._settings.mean, self._settings.std)
            count += 1
        return count


class RcnnNetwork:
    """Faster R-CNN, RetinaNet, Mask R-CNN: one image of any size a call, the user's thresholds as further inputs."""

    batch_rule: BatchRule = "alone"

    def __init__(self, backend: Backend, settings: RcnnSettings, package: ModelPackage) -> None:
        self._backend = backend
        self._settings = settings
        self._limits = (
            np.array([settings.box_score_thresh], np.float32),
            np.array([settings.nms_iou_thresh], np.float32),
            np.array([settings.max_detections], np.int64),
        )
        num_outputs = 3 if settings.masks is None else 4
        noise_1CHW = np.random.default_rng(0).standard_normal((1, 3, _TRIAL_SIDE, _TRIAL_SIDE), np.float32)
        _check(backend.run([noise_1CHW, np.zeros(1, np.float32), *self._limits[1:]]), num_outputs, package)

    def predict_candidates(
        self, canvases: Iterable[Bytes], box_score_thresh: float | None = None
    ) -> Iterator[Candidates]:
        limits = self._limits
        if box_score_thresh is not None:
            limits = (np.array([box_score_thresh], np.float32), *limits[1:])
        for canvas_HWC in canvases:
            image_CHW = normalise(canvas_HWC, self._settings.mean, self._settings.std)
            yield Candidates(*self._backend.run([image_CHW[None], *limits]))


def _check(outputs: Sequence[Array], num_outputs: int, package: ModelPackage) -> None:
    """Raise `InvalidPackage` for the graph of another task or with more classes than labels."""
    if len(outputs) != num_outputs:
        raise InvalidPackage(
            f"{package.root} must have a graph with {num_outputs} outputs, as {package.model_name} has for "
            f"{package.task.value}, but its graph has {len(outputs)}"
        )
    class_ids = outputs[2]
    if class_ids.size and class_ids.max() >= len(package.labels):
        raise InvalidPackage(
            f"{package.root} has {len(package.labels)} labels, but its graph gives class {class_ids.max()}"
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image prepared for a detector."""

    views: tuple[View, ...]
    whole_HWC: Bytes
    """The first view, the whole image, on its canvas."""
    image_HWC: Bytes | None
    """The decoded image, from which tiles are cut; None without tiles."""

    def canvases(self) -> Iterator[Bytes]:
        """Yield the canvases of the views; each is made when it is needed."""
        yield self.whole_HWC
        if self.image_HWC is not None:
            for view in self.views[1:]:
                yield view.network_input(self.image_HWC)


class DetectionPipeline:
    """A `pipeline.Pipeline` for detection and segmentation."""

    def __init__(
        self, network: DetectorNetwork, settings: DetectorSettings, labels: tuple[str, ...], max_batch_size: int
    ) -> None:
        self._network = network
        self._settings = settings
        self._labels = labels
        self.batch_rule = network.batch_rule
        # A tiled image stays in memory in full size, up to 300 MB; others only in the size of the network's input.
        self.images_at_once = 1 if settings.tile_grid_size is not None else max_batch_size

    def prepare(self, image_HWC: Bytes) -> Prepared:
        return _prepare(image_HWC, self._settings)

    def answer(
        self, prepared: Sequence[Prepared], checkpoint: Callable[[], None] = never_stops
    ) -> list[DetectionAnswer]:
        def canvases() -> Iterator[Bytes]:
            for image in prepared:
                for canvas_HWC in image.canvases():
                    checkpoint()
                    yield canvas_HWC

        predicted = self._network.predict_candidates(canvases())
        answers = []
        for image in prepared:
            found = [view.find(next(predicted), self._settings) for view in image.views]
            answers.append(to_answer(image.views, found, self._settings, self._labels))
        return answers

    def detect(self, canvases: Iterable[Bytes], placement: Placement, box_score_thresh: float) -> Iterator[Detections]:
        """Detections on each canvas, in order, in pixels of the images, which are placed on them as `placement` says.

        The score threshold is the lower of `box_score_thresh` and the settings' own; the other thresholds are the
        settings'.
        """
        score_thresh = min(box_score_thresh, self._settings.box_score_thresh)
        settings = replace(self._settings, box_score_thresh=score_thresh)
        for candidates in self._network.predict_candidates(canvases, score_thresh):
            yield find_objects(candidates, placement, settings)

    def warm_up(self, image_HWC: Bytes) -> None:
        """Run the whole image only: tiles need nothing else to be warmed up."""
        prepared = _prepare(image_HWC, replace(self._settings, tile_grid_size=None))
        self.answer([prepared])


def _prepare(image_HWC: Bytes, settings: DetectorSettings) -> Prepared:
    views = views_of(image_HWC.shape[0], image_HWC.shape[1], settings)
    whole_HWC = views[0].network_input(image_HWC)
    return Prepared(views, whole_HWC, image_HWC if len(views) > 1 else None)


def open_yolov5(
    backend: Backend, settings: YoloSettings, package: ModelPackage, options: OpenOptions, max_batch_size: int
) -> DetectionPipeline:
    network = YoloNetwork(backend, settings, package, options, max_batch_size)
    return DetectionPipeline(network, settings, package.labels, max_batch_size)


def open_rcnn(
    backend: Backend, settings: RcnnSettings, package: ModelPackage, options: OpenOptions, max_batch_size: int
) -> DetectionPipeline:
    network = RcnnNetwork(backend, settings, package)
    return DetectionPipeline(network, settings, package.labels, max_batch_size)
