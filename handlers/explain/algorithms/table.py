"""Algorithms by public name: from an image and the labels to explain to one attribution per label."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from clearsight.errors import BadRequest
from clearsight.handlers.explain.algorithms.cam_family import (
    cam,
    gradcam,
    guided_backprop,
    guided_gradcam,
    hirescam,
    layercam,
    relevance,
)
from clearsight.handlers.explain.algorithms.captum_engine import captum_occlusion
from clearsight.handlers.explain.algorithms.context import Attribution, ExplainContext
from clearsight.handlers.explain.algorithms.integrated_gradients_family import (
    integrated_gradients,
    relevance_along_path,
    xrai,
)
from clearsight.handlers.explain.algorithms.rise import rise
from clearsight.handlers.explain.deadline import OutOfTime

__all__ = ["ALGORITHMS", "BLACK_BOX", "Algorithm", "compute_attributions"]

Algorithm = Callable[[ExplainContext], tuple[Attribution, ...]]
"""Gives one attribution per target, in their order. Raises `BadRequest` where the model is of the wrong kind, and
`OutOfTime`."""

BLACK_BOX: Final = frozenset({"rise"})
"""Algorithms that need no differentiable model."""

_OCCLUSION_SHARE: Final = 8  # of the image's side, a covering square has one in so many


def compute_attributions(context: ExplainContext) -> tuple[Attribution, ...]:
    """Run the algorithm that the parameters name; with `smooth_samples`, on so many noisy copies of the image."""
    name = context.parameters.algorithm
    try:
        algorithm = ALGORITHMS[name]
    except KeyError:
        raise BadRequest(f"'xai_algorithm' must be one of {sorted(ALGORITHMS)}, but got {name!a}") from None
    if name in BLACK_BOX or not context.parameters.smooth_samples:
        return algorithm(context)
    return _smoothed(algorithm, context)


def _smoothed(algorithm: Algorithm, context: ExplainContext) -> tuple[Attribution, ...]:
    """Average over noisy copies (SmoothGrad, arXiv 1706.03825); as many as the deadline allows, at least one.

    Each takes its share of the time left. What is told of the way, warnings too, is that of the last copy.
    """
    parameters = context.parameters
    generator = torch.Generator().manual_seed(parameters.seed)
    sums: list[npt.NDArray[np.float64]] = []
    found: tuple[Attribution, ...] = ()
    done = 0
    while done < parameters.smooth_samples and (done == 0 or not context.deadline.is_over()):
        noise_13PP = torch.randn(context.x_13PP.shape, generator=generator).to(context.x_13PP)
        noisy = replace(
            context,
            x_13PP=context.x_13PP + parameters.smooth_stdev * noise_13PP,
            deadline=context.deadline.share(parameters.smooth_samples - done),
        )
        try:
            found = algorithm(noisy)
        except OutOfTime:
            if done or not context.may_degrade:
                break
            # No share is long enough: one copy with all the time that is left is better than none.
            found = algorithm(replace(noisy, deadline=context.deadline))
        sums = sums or [np.zeros(attribution.values.shape) for attribution in found]
        for total, attribution in zip(sums, found, strict=True):
            total += attribution.values
        done += 1
    hurried = done < parameters.smooth_samples
    if not done or (hurried and not context.may_degrade):
        raise context.out_of_time()
    return tuple(
        replace(
            attribution,
            values=(total / done).astype(np.float32),
            deadline_hit=attribution.deadline_hit or hurried,
            degraded=attribution.degraded or hurried,
        )
        for total, attribution in zip(sums, found, strict=True)
    )


def _rise(context: ExplainContext) -> tuple[Attribution, ...]:
    parameters = context.parameters
    found = rise(
        context.probabilities,
        context.x_13PP,
        context.targets,
        parameters.masks,
        parameters.grid_size,
        parameters.seed,
        context.deadline,
        context.chunk,
    )
    if found and found[0].deadline_hit and not context.may_degrade:
        raise context.out_of_time()
    return tuple(
        Attribution(
            result.map_PP.numpy(),
            n_steps_used=result.masks_used,
            deadline_hit=result.deadline_hit,
            degraded=result.deadline_hit,
        )
        for result in found
    )


def _occlusion(context: ExplainContext) -> tuple[Attribution, ...]:
    window = max(1, context.x_13PP.shape[-1] // _OCCLUSION_SHARE)
    model = context.differentiable_model()
    return tuple(
        Attribution(
            captum_occlusion(
                model.score_of(target.class_id, target.contrast_id),
                context.x_13PP,
                window,
                max(1, window // 2),
                context.deadline,
                context.chunk,
            ).numpy()
        )
        for target in context.targets
    )


ALGORITHMS: Final[Mapping[str, Algorithm]] = MappingProxyType(
    {
        "xrai": xrai,
        "integrated_gradients": integrated_gradients,
        "guided_gradcam": guided_gradcam,
        "guided_backprop": guided_backprop,
        "gradcam": partial(cam, gradcam),
        "hirescam": partial(cam, hirescam),
        "layercam": partial(cam, layercam),
        "attention_relevance": relevance,
        "attention_relevance_ig": relevance_along_path,
        "rise": _rise,
        "occlusion": _occlusion,
    }
)
