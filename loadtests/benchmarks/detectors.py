"""Detection and segmentation: what serving adds to the network, what tiles cost, and what a larger image costs.

Networks have seeded random weights: speed does not depend on them, as long as objects are found. So the score threshold
of yolov5 is the score that 300 candidates of the first image exceed; that of Mask R-CNN is 0, and no object suppresses
another, so that every image has 100. Masks nearly fill their boxes, as trained ones do; noise would have long outlines.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from clearsight.documents.settings import SegmentationSettings, YoloSettings
from clearsight.exporters.write import write_package
from clearsight.handlers.backends import OpenOptions, open_backend
from clearsight.handlers.scoring.scorer import MAX_BATCH_SIZE, Scorer
from clearsight.handlers.scoring.views import views_of
from clearsight.images.decode import decode_image
from clearsight.networks.families.rcnn.options import DEFAULT
from clearsight.networks.families.table import build_network, family_of
from clearsight.runs.package import ModelPackage
from clearsight.tasks import Task
from clearsight.vision.preprocess import normalise
from clearsight.wire.answers import DetectionAnswer
from loadtests.benchmarks.client import LoadTarget, measure
from loadtests.benchmarks.images import resized_jpeg
from loadtests.benchmarks.in_process import WorkerLayout, in_process_limit
from loadtests.benchmarks.online import MAX_DRIFT, Service, running_service, to_bodies
from loadtests.benchmarks.timing import interleaved_medians_ms

__all__ = [
    "ImageSizeRow",
    "ServingRow",
    "TilesRow",
    "measure_detectors",
    "measure_image_sizes",
    "measure_tiles",
]

LABELS = ("can", "carton", "milk_bottle", "water_bottle")
CONCURRENCIES = (1, 8)
NUM_IMAGES = 8
REPEATS = 5
"""Calls of each function per pass."""
NUM_OBJECTS = 100
NUM_CANDIDATES = 300
YOLO, MASK_RCNN = "yolov5", "maskrcnn_resnet18_fpn"
YOLO_SIZE: Final = "small"

Report = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class ServingRow:
    """Medians over the passes that count. `way` is scorer (in process), direct (TorchServe) or gateway."""

    model: str
    layout: str
    way: str
    concurrency: int
    requests_per_s: float
    over_network: float
    """Requests/s over those of the network alone, on the same inputs in the same layout."""
    p50_ms: float
    network_requests_per_s: float
    passes: int


@dataclass(frozen=True, slots=True)
class TilesRow:
    """Medians in ms of one image, cut into tiles that go through the network together or one by one."""

    model: str
    image: str
    grid: str
    backend: str
    batched_ms: float
    one_by_one_ms: float
    ratio: float
    """One by one over batched."""
    batch_rule: str
    """`alone`: the runtime's results depend on the batch, so that tiles always go through the network one by one."""


@dataclass(frozen=True, slots=True)
class ImageSizeRow:
    """Medians in ms from JPEG bytes to the answer with `objects` outlines, at two image sizes."""

    model: str
    backend: str
    objects: str
    small_ms: float
    large_ms: float
    ratio: float
    network_ratio: float
    """Ratio of the numbers of pixels that the network gets."""


def measure_detectors(
    images: Sequence[bytes], seconds: float, passes: int, report: Report = print
) -> Iterator[list[ServingRow]]:
    """Serve yolov5 and Mask R-CNN as a user would, and compare with `backend.run` on the same inputs.

    Yields the rows of one model as soon as they are measured.
    """
    bodies = to_bodies(images[:NUM_IMAGES])
    for model_name in (YOLO, MASK_RCNN):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            package = _random_package(folder, model_name, _settings(model_name), images)
            with running_service(folder / "home", package.root, "f32") as service:
                report(f"{model_name}: {service.layout}")
                samples: dict[tuple[str, int], list[_Sample]] = {}
                for number in range(passes):
                    report(f"pass {number + 1} of {passes}")
                    for key, sample in _one_pass(package.root, service, bodies, seconds, report).items():
                        samples.setdefault(key, []).append(sample)
        yield [_row(model_name, service.layout, way, c, taken) for (way, c), taken in samples.items()]


@dataclass(frozen=True, slots=True)
class _Sample:
    requests_per_s: float
    p50_ms: float
    network_requests_per_s: float


def _one_pass(
    package: Path, service: Service, bodies: Sequence[bytes], seconds: float, report: Report
) -> dict[tuple[str, int], _Sample]:
    """Measure every way between two measurements of the network alone; it counts if those two agree."""

    def network() -> float:
        return in_process_limit(package, service.layout, bodies, seconds, only_network=True).requests_per_s

    def in_process() -> tuple[float, float]:
        limit = in_process_limit(package, service.layout, bodies, seconds)
        return limit.requests_per_s, limit.latency_ms

    def over(target: LoadTarget, concurrency: int) -> tuple[float, float]:
        measurement = measure(target, bodies, concurrency, seconds)
        return measurement.requests_per_s, measurement.p50_ms

    ways = {("scorer", service.layout.workers): in_process}
    for way, target in service.ways.items():
        ways |= {(way, concurrency): partial(over, target, concurrency) for concurrency in CONCURRENCIES}
    network()  # a machine that has idled is faster for some seconds
    samples = {}
    before = network()
    for (way, concurrency), take in ways.items():
        requests_per_s, p50_ms = take()
        after = network()
        drift = abs(after - before) / before
        counts = drift <= MAX_DRIFT
        verdict = "" if counts else ": does not count, the machine's speed changed"
        report(
            f"  {way} {concurrency}: {requests_per_s:.2f} requests/s, p50 {p50_ms:.0f} ms; "
            f"network {before:.2f} -> {after:.2f}, drift {drift:.1%}{verdict}"
        )
        if counts:
            samples[way, concurrency] = _Sample(requests_per_s, p50_ms, (before + after) / 2)
        before = after
    return samples


def _row(model: str, layout: WorkerLayout, way: str, concurrency: int, samples: Sequence[_Sample]) -> ServingRow:
    return ServingRow(
        model=model,
        layout=str(layout),
        way=way,
        concurrency=concurrency,
        requests_per_s=statistics.median(sample.requests_per_s for sample in samples),
        over_network=statistics.median(sample.requests_per_s / sample.network_requests_per_s for sample in samples),
        p50_ms=statistics.median(sample.p50_ms for sample in samples),
        network_requests_per_s=statistics.median(sample.network_requests_per_s for sample in samples),
        passes=len(samples),
    )


def measure_tiles(image: bytes, passes: int, backend: str = "openvino") -> list[TilesRow]:
    """yolov5 on a 1280x720 image in a 3x2 grid: 7 views in one call of the network against 7 calls, in turn."""
    jpeg = resized_jpeg(image, 1280, 720)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        settings = replace(_settings(YOLO), tile_grid_size=(3, 2))
        package = _random_package(Path(name), YOLO, settings, [jpeg])
        batched, alone = (_scorer(package, backend, size) for size in (MAX_BATCH_SIZE, 1))
        batched_ms, alone_ms = interleaved_medians_ms(
            [lambda: batched.score([jpeg]), lambda: alone.score([jpeg])], REPEATS * passes
        )
        return [
            TilesRow(
                model=f"{YOLO} {YOLO_SIZE}",
                image="1280x720",
                grid="3x2",
                backend=backend,
                batched_ms=batched_ms,
                one_by_one_ms=alone_ms,
                ratio=alone_ms / batched_ms,
                batch_rule=batched.batch_rule,
            )
        ]


def measure_image_sizes(image: bytes, passes: int, backend: str = "openvino") -> list[ImageSizeRow]:
    """Mask R-CNN with 100 instances on one image as 640x480 and as 1920x1080, in turn."""
    small, large = resized_jpeg(image, 640, 480), resized_jpeg(image, 1920, 1080)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        settings = _settings(MASK_RCNN)
        package = _random_package(Path(name), MASK_RCNN, settings, [small])
        scorer = _scorer(package, backend, 1)
        counts = [_num_objects(scorer, jpeg) for jpeg in (small, large)]
        small_ms, large_ms = interleaved_medians_ms(
            [lambda: scorer.score([small]), lambda: scorer.score([large])], REPEATS * passes
        )
        return [
            ImageSizeRow(
                model=MASK_RCNN,
                backend=backend,
                objects=" and ".join(map(str, counts)),
                small_ms=small_ms,
                large_ms=large_ms,
                ratio=large_ms / small_ms,
                network_ratio=_network_pixels(1920, 1080, settings) / _network_pixels(640, 480, settings),
            )
        ]


def _network_pixels(width: int, height: int, settings: YoloSettings | SegmentationSettings) -> float:
    assert isinstance(settings, SegmentationSettings)
    scale = min(settings.min_size / min(width, height), settings.max_size / max(width, height))
    return width * height * scale**2


def _settings(model_name: str) -> YoloSettings | SegmentationSettings:
    """Settings with Azure's image sizes."""
    if model_name == YOLO:
        return YoloSettings(model_size=YOLO_SIZE)
    return SegmentationSettings(box_score_thresh=0.0, nms_iou_thresh=1.0, box_detections_per_img=NUM_OBJECTS)


def _random_package(
    folder: Path, model_name: str, settings: YoloSettings | SegmentationSettings, images: Sequence[bytes]
) -> ModelPackage:
    files = [folder / f"{number}.jpg" for number in range(min(len(images), 2))]
    for file, image in zip(files, images, strict=False):
        file.write_bytes(image)
    torch.manual_seed(0)
    architecture = {"model_size": YOLO_SIZE, "options": asdict(DEFAULT)}
    network = build_network(model_name, len(LABELS), architecture=architecture).eval()
    if model_name == MASK_RCNN:
        _fill_masks(network)
    else:
        settings = replace(settings, box_score_thresh=_score_exceeded_by(NUM_CANDIDATES, network, images[0], settings))
    return write_package(
        folder / "mlflow-model",
        task=Task.DETECTION if model_name == YOLO else Task.SEGMENTATION,
        model_name=model_name,
        labels=LABELS,
        network=network,
        settings=settings,
        parity_images=files,
        run_id="benchmark",
        pretrained={"source": "random"},
    )


@torch.no_grad()
def _score_exceeded_by(count: int, network: torch.nn.Module, image: bytes, settings: Any) -> float:
    view, *_ = views_of(480, 640, settings)
    canvas_HWC = view.network_input(decode_image(resized_jpeg(image, 640, 480)))
    images_NCHW = torch.from_numpy(normalise(canvas_HWC, settings.mean, settings.std))[None]
    _, scores_NC, _ = family_of("yolov5").serving_module(network)(images_NCHW)
    return float(scores_NC[0].sort(descending=True).values[count])


@torch.no_grad()
def _fill_masks(network: torch.nn.Module) -> None:
    """Make masks fill their boxes: the bias of the last layer outweighs the random features."""
    layers = [layer for name, layer in network.named_modules() if name.endswith("mask_fcn_logits")]
    [last] = layers
    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    last.weight *= 0.1
    last.bias += 0.5


def _scorer(package: ModelPackage, backend: str, max_batch_size: int) -> Scorer:
    options = OpenOptions("cpu", "f32", torch.get_num_threads())
    scorer = Scorer(package, open_backend(backend, package, options), backend, options, max_batch_size)
    scorer.warm_up()
    return scorer


def _num_objects(scorer: Scorer, jpeg: bytes) -> int:
    [answer] = scorer.score([jpeg])
    assert isinstance(answer, DetectionAnswer)
    return len(answer.boxes)
