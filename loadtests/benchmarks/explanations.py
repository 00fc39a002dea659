"""Explanations compared with the usual libraries: PAIR's `saliency` for XRAI, Captum for the others.

All rows are medians of processor time of one thread; both ways take turns. The images are the six colour images of
scikit-image, shorter side 256, centre crop 224; networks have seeded random weights and ten classes. The rows for
XRAI's regions are medians over the six images, all others use one image.
"""

import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pybase64
import skimage.data
import torch
from captum.attr import IntegratedGradients
from captum.attr import visualization as captum_images
from PIL import Image
from saliency.core import base as saliency_base
from saliency.core import xrai as saliency_xrai
from torchvision.models import resnet18, resnet50

from clearsight.catalogue.algorithms import CLASSIFIER_ALGORITHMS
from clearsight.catalogue.models import find_row
from clearsight.documents.settings import ClassificationSettings
from clearsight.handlers.drawing.explanation_image import explanation_image
from clearsight.handlers.explain.algorithms.context import ExplainContext
from clearsight.handlers.explain.algorithms.run import compute_attributions
from clearsight.handlers.explain.algorithms.xrai import Regions, segment, xrai_map
from clearsight.handlers.explain.answering.numbers import encode_attribution
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.network.functions import ExplainTarget
from clearsight.handlers.explain.network.model import ExplainModel
from clearsight.handlers.explain.objects.heat import heat_of
from clearsight.handlers.explain.objects.network import DetectorForward, ObjectModel
from clearsight.handlers.explain.parameters import parse_xai_parameters
from clearsight.networks.families.rcnn.options import DEFAULT
from clearsight.networks.families.rcnn.selection import SelectionLimits
from clearsight.networks.families.table import build_network, family_of
from clearsight.vision.preprocess import normalise, resize_and_crop
from clearsight.wire.answers import ClassificationAnswer
from clearsight.wire.encoding import encode_answers
from loadtests.benchmarks.timing import interleaved_medians_ms, one_thread

__all__ = ["ExplanationRow", "measure_explanations"]

IMAGES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "hubble_deep_field.jpg")
SETTINGS = ClassificationSettings()
NUM_CLASSES = 10
TARGETS = (ExplainTarget(0), ExplainTarget(1), ExplainTarget(2))
MEMORY_WAYS = {"integrated_gradients": "IG", "xrai": "XRAI fast", "captum": "IG by Captum, 50 points in one batch"}

DETECTORS = ("yolov5", "retinanet_resnet50_fpn", "fasterrcnn_resnet18_fpn", "maskrcnn_resnet18_fpn")
FURTHER = 4
SETTINGS_HW = (SETTINGS.valid_crop_size, SETTINGS.valid_crop_size)

Way = Callable[[], object]


@dataclass(frozen=True, slots=True)
class ExplanationRow:
    """`ratio` is other over ours where the goal is a speed-up (>=), ours over other where it is a share (<=)."""

    number: str
    what: str
    reference: str
    ours: float
    """ms; memory in MiB."""
    other: float
    ratio: float
    goal: str


def measure_explanations(passes: int) -> list[ExplanationRow]:
    """Measure every row `passes` times, after one pass that warms up; a few minutes."""
    with one_thread():
        return [*_regions(passes), *_networks(passes), *_objects(passes), *_answers(passes), *_memory()]


def _crops() -> list[np.ndarray]:
    folder = Path(skimage.data.__file__).parent
    return [resize_and_crop(np.asarray(Image.open(folder / name).convert("RGB")), SETTINGS) for name in IMAGES]


def _regions(passes: int) -> list[ExplanationRow]:
    """XRAI's regions and ranking from the same base map, with and without the segmentation that both share."""
    ours: dict[str, list[float]] = {}
    others: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    for crop_PP3 in _crops():
        x_3PP = normalise(crop_PP3, SETTINGS.mean, SETTINGS.std)
        base_PP = _base_map()
        label_maps = segment(x_3PP)
        for fast in (True, False):
            name = "fast" if fast else "full"
            whole = _medians(
                passes,
                lambda x_3PP=x_3PP, fast=fast, base_PP=base_PP: xrai_map(base_PP, Regions.of(segment(x_3PP)), fast),
                lambda x_3PP=x_3PP, fast=fast, base_PP=base_PP: _saliency_regions(x_3PP, base_PP, fast),
            )
            shared = _medians(passes, lambda x_3PP=x_3PP: segment(x_3PP))
            rest = _medians(
                passes,
                lambda maps=label_maps, fast=fast, base_PP=base_PP: xrai_map(base_PP, Regions.of(maps), fast),
            )
            for key, mine, theirs in (
                (f"{name} whole", whole[0], whole[1]),
                (f"{name} rest", rest[0], whole[1] - shared[0]),
            ):
                ours.setdefault(key, []).append(mine)
                others.setdefault(key, []).append(theirs)
                ratios.setdefault(key, []).append(theirs / mine)
    rows = {
        "fast whole": ("S1", "regions + ranking, fast", ">= 4"),
        "full whole": ("S2", "regions + ranking, full", ">= 6"),
        "fast rest": ("S3", "dilation + ranking, fast", ">= 15"),
        "full rest": ("S3", "dilation + ranking, full", ">= 20"),
    }
    return [
        ExplanationRow(
            number,
            what,
            "saliency",
            statistics.median(ours[key]),
            statistics.median(others[key]),
            statistics.median(ratios[key]),
            goal,
        )
        for key, (number, what, goal) in rows.items()
    ]


def _base_map() -> np.ndarray:
    """Smoothed noise, similar to attributions."""
    random = np.random.default_rng(0)
    size = (SETTINGS.valid_crop_size,) * 2
    return 1e-2 * cv2.GaussianBlur(random.normal(size=size), (0, 0), 4) + 1e-3 * random.normal(size=size)


def _saliency_regions(x_3PP: np.ndarray, base_PP: np.ndarray, fast: bool) -> object:
    parameters = saliency_xrai.XRAIParameters(algorithm="fast" if fast else "full")
    x_PP3 = x_3PP.transpose(1, 2, 0)
    base_PP3 = np.repeat(base_PP[:, :, None], 3, axis=2)
    return saliency_xrai.XRAI().GetMask(x_PP3, None, base_attribution=base_PP3, extra_parameters=parameters)


def _networks(passes: int) -> list[ExplanationRow]:
    x_3PP = normalise(_crops()[0], SETTINGS.mean, SETTINGS.std)
    small, large = _network(resnet18), _network(resnet50)
    small_model, large_model = ExplainModel(small, "resnet18"), ExplainModel(large, "resnet50")
    x_13PP = torch.from_numpy(x_3PP)[None]

    def ours(model: ExplainModel, targets: Sequence[ExplainTarget] = TARGETS[:1], **parameters: object) -> Way:
        context = _context(model, x_13PP, targets, parameters)
        return lambda: compute_attributions(context)

    fast_ms, fast_5_ms, fast_1_ms = _medians(
        passes, ours(small_model), lambda: _saliency(small, x_3PP, 0, 5), lambda: _saliency(small, x_3PP, 0, 1)
    )
    full_16_ms, full_50_ms = _medians(
        passes, ours(small_model, xrai_fast=False, n_steps=16), ours(small_model, xrai_fast=False)
    )
    three_ms, other_three_ms = _medians(
        passes,
        ours(small_model, TARGETS),
        lambda: [_saliency(small, x_3PP, target.class_id, 5) for target in TARGETS],
    )
    captum = IntegratedGradients(large)
    ig_ms, captum_ms = _medians(
        passes,
        ours(large_model, xai_algorithm="integrated_gradients"),
        lambda: captum.attribute(x_13PP, target=0, n_steps=50, method="riemann_middle", internal_batch_size=5),
    )
    backprop_ms, gradcam_ms, gradient_ms = _medians(
        passes,
        ours(large_model, xai_algorithm="guided_backprop"),
        ours(large_model, xai_algorithm="guided_gradcam"),
        lambda: large_model.gradient_of(0)(x_13PP),
    )
    xrai = "XRAI fast, 50 steps, ResNet-18"
    return [
        _share("S4", xrai, "saliency, batch 5", fast_ms, fast_5_ms, 0.85),
        _share("S4", xrai, "saliency, batch 1", fast_ms, fast_1_ms, 0.75),
        _share("S5", "XRAI full, 16 steps, ResNet-18", "ours, 50 steps", full_16_ms, full_50_ms, 0.45),
        _share("S6", f"{xrai}, 3 labels", "saliency, batch 5", three_ms, other_three_ms, 0.65),
        _share("S7", "IG, 50 steps, ResNet-50", "captum, batch 5", ig_ms, captum_ms, 1.05),
        _share("S8", "guided backprop, ResNet-50", "one gradient", backprop_ms, gradient_ms, 1.3),
        _share("S8", "guided GradCAM, ResNet-50", "one gradient", gradcam_ms, gradient_ms, 1.5),
    ]


def _objects(passes: int) -> list[ExplanationRow]:
    """Maps of detections in forward passes of the eager network; random weights, images of 224 x 224."""
    image_3PP = normalise(_crops()[0], SETTINGS.mean, SETTINGS.std)
    rows = []
    for name in DETECTORS:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            architecture = {"model_size": "small", "options": asdict(DEFAULT)}
            network = build_network(name, NUM_CLASSES, architecture=architecture).eval()
        model = ObjectModel(network, find_row(name).family)
        served = family_of(name).serving_module(network)
        limits = () if name == "yolov5" else SelectionLimits(0.0, 0.5, 100).to_tensors(torch.device("cpu"))

        def forward(served: torch.nn.Module = served, limits: Sequence[torch.Tensor] = limits) -> object:
            with torch.inference_mode():
                return served(torch.from_numpy(image_3PP)[None], *limits)

        def explain_some(count: int, model: ObjectModel = model) -> object:
            forwarded = model.forward(image_3PP)
            return [_object_map(forwarded, index) for index in range(count)]

        forward_ms, one_ms, five_ms = _medians(
            passes, forward, partial(explain_some, 1), partial(explain_some, 1 + FURTHER)
        )
        further_ms = (five_ms - one_ms) / FURTHER
        rows.append(_share("S15", f"odam, {name}, first detection", "one forward", one_ms, forward_ms, 2.5))
        rows.append(_share("S15", f"odam, {name}, each further one", "one forward", further_ms, forward_ms, 1.5))
    return rows


def _object_map(forwarded: DetectorForward, index: int) -> np.ndarray:
    features = [level.features_1Cuv for level in forwarded.levels]
    gradients = torch.autograd.grad(forwarded.score(index, 0), features, retain_graph=True, allow_unused=True)
    return heat_of(forwarded.levels, gradients, *SETTINGS_HW)


def _network(build: Callable[..., torch.nn.Module]) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(num_classes=NUM_CLASSES).eval()


def _context(
    model: ExplainModel, x_13PP: torch.Tensor, targets: Sequence[ExplainTarget], parameters: dict[str, object]
) -> ExplainContext:
    return ExplainContext(
        model=model,
        probabilities=lambda points: model.logits(points).softmax(dim=1),
        x_13PP=x_13PP,
        targets=tuple(targets),
        parameters=parse_xai_parameters(parameters, algorithms=CLASSIFIER_ALGORITHMS),
        deadline=Deadline(None),
        mean=SETTINGS.mean,
        std=SETTINGS.std,
    )


def _saliency(network: torch.nn.Module, x_3PP: np.ndarray, class_id: int, batch_size: int) -> object:
    def gradients(points: np.ndarray, call_model_args: object = None, expected_keys: object = None) -> dict[str, Any]:
        points_N3PP = torch.from_numpy(np.asarray(points, np.float32).transpose(0, 3, 1, 2).copy()).requires_grad_()
        (found,) = torch.autograd.grad(network(points_N3PP)[:, class_id].sum(), points_N3PP)
        return {saliency_base.INPUT_OUTPUT_GRADIENTS: found.numpy().transpose(0, 2, 3, 1)}

    x_PP3 = np.ascontiguousarray(x_3PP.transpose(1, 2, 0))
    flat = [np.full(x_PP3.shape, level, np.uint8) for level in (0, 255)]
    levels = [normalise(level_PP3, SETTINGS.mean, SETTINGS.std) for level_PP3 in flat]
    return saliency_xrai.XRAI().GetMask(
        x_PP3,
        gradients,
        baselines=[level_3PP.transpose(1, 2, 0) for level_3PP in levels],
        batch_size=batch_size,
        extra_parameters=saliency_xrai.XRAIParameters(steps=50, algorithm="fast"),
    )


def _answers(passes: int) -> list[ExplanationRow]:
    """From an attribution to the text of the answer."""
    crop_PP3 = _crops()[0]
    random = np.random.default_rng(0)
    attribution_3PP = (_base_map() * random.normal(size=(3, *crop_PP3.shape[:2]))).astype(np.float32)
    image_ms, figure_ms = _medians(
        passes,
        lambda: pybase64.b64encode(explanation_image(attribution_3PP, crop_PP3)),
        lambda: _figure(attribution_3PP, crop_PP3),
    )

    def nested() -> bytes:
        answer = ClassificationAnswer((1.0,), ("can",), attributions=encode_attribution(attribution_3PP))
        return encode_answers([answer])

    text_ms, json_ms = _medians(passes, nested, lambda: json.dumps(attribution_3PP.tolist()))
    megabytes = len(nested()) / 1e6
    return [
        _speed_up("S9", "picture, PNG, base64", "captum's figure", image_ms, figure_ms, "<= 35 ms, >= 10"),
        _speed_up("S10", f"attributions, {megabytes:.2f} MB", "json", text_ms, json_ms, "<= 60 ms, <= 1.6 MB"),
    ]


def _figure(attribution_3PP: np.ndarray, crop_PP3: np.ndarray) -> bytes:
    figure, _ = captum_images.visualize_image_attr_multiple(
        attribution_3PP.transpose(1, 2, 0),
        crop_PP3,
        ["original_image", "heat_map", "blended_heat_map", "masked_image"],
        ["all", "absolute_value", "absolute_value", "absolute_value"],
        use_pyplot=False,
    )
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return pybase64.b64encode(file.getvalue())


def _memory() -> list[ExplanationRow]:
    """Peak memory of new processes, without that of the network and the libraries: ResNet-50, 50 steps."""
    peaks = {}
    for way in MEMORY_WAYS:
        command = [sys.executable, "-m", "loadtests.benchmarks.explanations", way]
        peaks[way] = float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout)
    return [
        ExplanationRow(
            "S11",
            f"{MEMORY_WAYS[way]}, peak in MiB",
            MEMORY_WAYS["captum"],
            peaks[way],
            peaks["captum"],
            peaks[way] / peaks["captum"],
            "<= 512 MiB, <= 0.15",
        )
        for way in ("integrated_gradients", "xrai")
    ]


def _print_peak(way: str) -> None:
    """Print the peak memory of one explanation in MiB; run in a process of its own."""
    torch.set_num_threads(1)
    x_13PP = torch.from_numpy(normalise(_crops()[0], SETTINGS.mean, SETTINGS.std))[None]
    network = _network(resnet50)
    if way == "captum":
        captum = IntegratedGradients(network)
        run: Way = partial(captum.attribute, x_13PP, target=0, n_steps=50, method="riemann_middle")
    else:
        context = _context(ExplainModel(network, "resnet50"), x_13PP, TARGETS[:1], {"xai_algorithm": way})
        run = partial(compute_attributions, context)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before_kb = _status_kb("VmRSS")
    run()
    print((_status_kb("VmHWM") - before_kb) / 1024)


def _status_kb(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _share(number: str, what: str, reference: str, ours_ms: float, other_ms: float, goal: float) -> ExplanationRow:
    return ExplanationRow(number, what, reference, ours_ms, other_ms, ours_ms / other_ms, f"<= {goal:g}")


def _speed_up(number: str, what: str, reference: str, ours_ms: float, other_ms: float, goal: str) -> ExplanationRow:
    return ExplanationRow(number, what, reference, ours_ms, other_ms, other_ms / ours_ms, goal)


def _medians(passes: int, *ways: Way) -> list[float]:
    """Median processor time of each in ms."""
    return interleaved_medians_ms(ways, passes, time.process_time)


if __name__ == "__main__":
    _print_peak(sys.argv[1])
