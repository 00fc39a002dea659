"""Check that an exported graph of a classifier computes the same numbers as the network."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import nn

from clearsight.errors import ExportError
from clearsight.exporters.graphs import Graph, run_eager, run_in_batches
from clearsight.tasks import Task
from clearsight.vision.probabilities import probabilities

__all__ = ["LOGIT_TOLERANCE", "PROB_TOLERANCE", "WANTED_IMAGES", "check_parity"]

Floats = npt.NDArray[np.float32]

PROB_TOLERANCE: Final = 1e-4
"""Largest difference of any probability. Measured on ImageNet networks: 1e-6 for every float32 runtime."""

LOGIT_TOLERANCE: Final = 1e-3
"""Largest difference of any logit relative to the largest logit: finds a broken graph with flat probabilities."""

WANTED_IMAGES: Final = 16
"""Images to compare, where that many are given."""


def check_parity(
    network: nn.Module, graphs: Sequence[Graph], images_NCHW: Floats, task: Task, num_classes: int
) -> Mapping[str, Any]:
    """Compare every graph with the eager network on preprocessed images, in batches of 1 and of up to 8.

    Returns the largest absolute differences of logits and of probabilities per graph (the form of
    `manifest["parity"]`). Raises `ExportError` naming the graph when a difference exceeds the tolerances, when the
    output is not (N, `num_classes`), or when the network itself answers numbers that are not finite.
    """
    if not len(images_NCHW):
        raise ExportError("the parity check needs at least 1 picture, but got none; pass some of the validation set")
    [expected] = run_in_batches(run_eager(network), images_NCHW)
    if expected.shape != (len(images_NCHW), num_classes):
        raise ExportError(
            f"the network must answer {num_classes} logits per picture, one per label, "
            f"but its output has shape {expected.shape}"
        )
    if not np.isfinite(expected).all():
        raise ExportError("the network answers logits that are not finite; it cannot be exported")
    backends: dict[str, dict[str, Any]] = {}
    for graph in graphs:
        [found] = run_in_batches(graph.run, images_NCHW)
        backends[graph.name] = {**_compare(graph.name, expected, found, task), "runtime": graph.runtime}
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
    prob_diff = float(np.abs(probabilities(expected_NK, task) - probabilities(found_NK, task)).max())
    if not (prob_diff <= PROB_TOLERANCE and logit_diff <= logit_limit):  # in this form, NaN fails too
        raise ExportError(
            f"{name} must agree with the network within {PROB_TOLERANCE:g} on probabilities and {logit_limit:g} on "
            f"logits, but the largest differences are {prob_diff:g} and {logit_diff:g}"
        )
    return {"max_abs_diff_logits": logit_diff, "max_abs_diff_probs": prob_diff}
