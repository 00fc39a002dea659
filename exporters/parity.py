"""The promise behind every exported graph: it computes what the network computes."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]
import torch
from torch import nn

from clearsight.errors import ExportError
from clearsight.tasks import Task

__all__ = [
    "LOGIT_TOLERANCE",
    "PROB_TOLERANCE",
    "WANTED_IMAGES",
    "Graph",
    "check_parity",
    "run_eager",
    "run_onnxruntime",
    "run_openvino",
    "run_torchscript",
]

Floats = npt.NDArray[np.float32]
Run = Callable[[Floats], Floats]

PROB_TOLERANCE: Final = 1e-4
"""Largest difference of any probability. Measured on ImageNet networks: 1e-6 for every float32 runtime."""

LOGIT_TOLERANCE: Final = 1e-3
"""Largest difference of any logit over the largest logit: finds a broken graph whose probabilities are flat."""

WANTED_IMAGES: Final = 16

_BATCH_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class Graph:
    """One exported graph on one runtime. `prepare` turns the network's input into the graph's, if they differ."""

    name: str
    run: Run
    runtime: str
    """Runtime and its version."""
    prepare: Callable[[Floats], Floats] | None = None


def run_eager(network: nn.Module) -> Run:
    """Run a network in evaluation mode as it is."""

    def run(images_NCHW: Floats) -> Floats:
        with torch.inference_mode():
            logits_NK: Floats = network(torch.from_numpy(images_NCHW)).numpy()
        return logits_NK

    return run


def run_torchscript(file: Path) -> Graph:
    """Load a saved TorchScript graph on the CPU."""
    with warnings.catch_warnings():
        # torch deprecates TorchScript in favour of torch.export; it stays the format that TorchServe users ask for.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        module = torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    return Graph("torchscript", run_eager(module), f"torch {torch.__version__}")


def run_onnxruntime(file: Path, name: str = "onnxruntime") -> Graph:
    """Load an ONNX file in ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    input_name, output_name = session.get_inputs()[0].name, session.get_outputs()[0].name

    def run(images_NCHW: Floats) -> Floats:
        logits_NK: Floats = session.run([output_name], {input_name: images_NCHW})[0]
        return logits_NK

    return Graph(name, run, f"onnxruntime {onnxruntime.__version__}")


def run_openvino(file: Path) -> Graph | None:
    """Compile an ONNX file with OpenVINO in float32 on the CPU; `None` when OpenVINO is not installed."""
    if find_spec("openvino") is None:
        return None
    import openvino  # type: ignore[import-untyped]  # half a second, and not needed to write a package

    compiled = openvino.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images_NCHW: Floats) -> Floats:
        logits_NK: Floats = np.array(compiled(images_NCHW)[0])
        return logits_NK

    return Graph("openvino", run, f"openvino {version('openvino')}")


def check_parity(
    network: nn.Module, graphs: Sequence[Graph], images_NCHW: Floats, task: Task, num_classes: int
) -> Mapping[str, Any]:
    """Compare every graph with the eager network on preprocessed pictures, in batches of 1 and of up to 8.

    Returns the largest absolute differences of logits and of probabilities per graph (the form of
    `manifest["parity"]`). Raises `ExportError` naming the graph when a difference exceeds the tolerances, when the
    output is not (N, `num_classes`), or when the network itself answers numbers that are not finite.
    """
    if not len(images_NCHW):
        raise ExportError("the parity check needs at least 1 picture, but got none; pass some of the validation set")
    expected = _run_in_batches(run_eager(network), images_NCHW)
    if expected.shape != (len(images_NCHW), num_classes):
        raise ExportError(
            f"the network must answer {num_classes} logits per picture, one per label, "
            f"but its output has shape {expected.shape}"
        )
    if not np.isfinite(expected).all():
        raise ExportError("the network answers logits that are not finite; it cannot be exported")
    backends: dict[str, dict[str, Any]] = {}
    for graph in graphs:
        inputs = images_NCHW if graph.prepare is None else graph.prepare(images_NCHW)
        backends[graph.name] = {**_compare(graph.name, expected, _run_in_batches(graph.run, inputs), task)}
        backends[graph.name]["runtime"] = graph.runtime
    return {
        "num_images": len(images_NCHW),
        "wanted_images": WANTED_IMAGES,
        "prob_tolerance": PROB_TOLERANCE,
        "logit_tolerance": LOGIT_TOLERANCE,
        "largest_logit": float(np.abs(expected).max()),
        "backends": backends,
    }


def _compare(name: str, expected_NK: Floats, found_NK: Floats, task: Task) -> dict[str, float]:
    if found_NK.shape != expected_NK.shape:
        raise ExportError(f"{name} must answer logits of shape {expected_NK.shape}, but got {found_NK.shape}")
    logit_limit = LOGIT_TOLERANCE * max(1.0, float(np.abs(expected_NK).max()))
    logit_diff = float(np.abs(expected_NK - found_NK).max())
    prob_diff = float(np.abs(_probs(expected_NK, task) - _probs(found_NK, task)).max())
    if not (prob_diff <= PROB_TOLERANCE and logit_diff <= logit_limit):  # in this form, NaN fails too
        raise ExportError(
            f"{name} must agree with the network within {PROB_TOLERANCE:g} on probabilities and {logit_limit:g} on "
            f"logits, but the largest differences are {prob_diff:g} and {logit_diff:g}"
        )
    return {"max_abs_diff_logits": logit_diff, "max_abs_diff_probs": prob_diff}


def _run_in_batches(run: Run, images_NCHW: Floats) -> Floats:
    starts = [0, *range(1, len(images_NCHW), _BATCH_SIZE)]  # the first picture alone: both kinds of batch are covered
    ends = [*starts[1:], len(images_NCHW)]
    return np.concatenate(
        [run(np.ascontiguousarray(images_NCHW[start:end])) for start, end in zip(starts, ends, strict=True)]
    )


def _probs(logits_NK: Floats, task: Task) -> npt.NDArray[np.float64]:
    logits = logits_NK.astype(np.float64)
    if task is Task.MULTI_LABEL:
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
