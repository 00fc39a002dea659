"""Captum as a second engine: its integrated gradients beside ours, and occlusion. Imported when first used."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from clearsight.catalogue.algorithms import Method
from clearsight.errors import UserError
from clearsight.handlers.explain.deadline import Deadline, OutOfTime
from clearsight.handlers.explain.network.functions import Score
from clearsight.handlers.explain.telemetry import checkpoint

__all__ = ["captum_integrated_gradients", "captum_occlusion"]


def captum_integrated_gradients(
    score: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    baseline: torch.Tensor,
    n_steps: int,
    method: Method,
    deadline: Deadline,
    chunk: int,
) -> torch.Tensor:
    """Explain the image `x`, (1, 3, P, P), from `baseline`, (B, 3, P, P): (3, P, P), the mean over baselines.

    `score` must be differentiable. Captum gives no map before it is done, so the deadline raises `OutOfTime`.
    """
    engine = _captum().IntegratedGradients(_until(deadline, score))
    with torch.enable_grad():
        maps = [
            engine.attribute(
                x, baselines=b[None], n_steps=n_steps, method=method, internal_batch_size=max(chunk, len(x))
            )
            for b in baseline
        ]
    return torch.cat(maps).mean(dim=0).detach().cpu()


def captum_occlusion(
    score: Score, x: torch.Tensor, window: int, stride: int, deadline: Deadline, chunk: int
) -> torch.Tensor:
    """The fall of the score when a square of the mean colour covers each location: (3, P, P), equal channels.

    `window` and `stride` are in pixels.
    """
    with torch.no_grad():
        found: torch.Tensor = (
            _captum()
            .Occlusion(_until(deadline, score))
            .attribute(
                x,
                sliding_window_shapes=(3, window, window),
                strides=(3, stride, stride),
                baselines=0,
                perturbations_per_eval=chunk,
            )
        )
    return found[0].detach().cpu()


def _until(deadline: Deadline, score: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def limited(points_N3PP: torch.Tensor) -> torch.Tensor:
        checkpoint()
        if deadline.is_over():
            raise OutOfTime(
                f"the explanation must be done in {deadline.seconds:g} s, but captum needs longer; "
                "take fewer steps, or the built-in engine, which answers what it has"
            )
        return score(points_N3PP)

    return limited


def _captum() -> Any:
    try:
        return import_module("captum.attr")
    except ModuleNotFoundError as error:
        raise UserError("captum computes this, which is not installed: pip install 'clearsight[explain]'") from error
