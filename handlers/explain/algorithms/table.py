"""Binds the explanation algorithms of classifiers to their names, and runs them.

Their properties stand in `clearsight.catalogue.algorithms`; a test holds both tables together.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from clearsight.catalogue.algorithms import ALGORITHMS
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

__all__ = ["ALGORITHM_FUNCTIONS", "AlgorithmFunction", "compute_attributions"]

AlgorithmFunction = Callable[[ExplainContext], tuple[Attribution, ...]]
"""Returns one attribution per target, in their order. Raises `BadRequest` for a model of the wrong kind, and
`OutOfTime`."""

_OCCLUSION_SHARE: Final = 8
"""Side of the image divided by the side of the masking square."""


def compute_attributions(context: ExplainContext) -> tuple[Attribution, ...]:
    """Run the algorithm that the parameters name; with `smooth_samples`, average it over noisy copies of the image."""
    name = context.parameters.algorithm
    try:
        algorithm = ALGORITHM_FUNCTIONS[name]
    except KeyError:
        raise BadRequest(f"'xai_algorithm' must be one of {sorted(ALGORITHM_FUNCTIONS)}, but got {name!a}") from None
    if ALGORITHMS[name].is_black_box or not context.parameters.smooth_samples:
        return algorithm(context)
    return _smoothed(algorithm, context)


def _smoothed(algorithm: AlgorithmFunction, context: ExplainContext) -> tuple[Attribution, ...]:
    """Average over noisy copies (SmoothGrad, arXiv 1706.03825); as many as the deadline allows, at least one.

    Each copy gets an equal share of the time left. All fields but the values are those of the last copy.
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
            # No share is long enough: one copy with all the time left is better than none.
            found = algorithm(replace(noisy, deadline=context.deadline))
        sums = sums or [np.zeros(attribution.values.shape) for attribution in found]
        for total, attribution in zip(sums, found, strict=True):
            total += attribution.values
        done += 1
    is_cut_short = done < parameters.smooth_samples
    if not done or (is_cut_short and not context.may_degrade):
        raise context.out_of_time()
    return tuple(
        replace(
            attribution,
            values=(total / done).astype(np.float32),
            deadline_hit=attribution.deadline_hit or is_cut_short,
            degraded=attribution.degraded or is_cut_short,
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


ALGORITHM_FUNCTIONS: Final[Mapping[str, AlgorithmFunction]] = MappingProxyType(
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
