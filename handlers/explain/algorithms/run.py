"""Runs the explanation algorithm of a classifier that a request names."""

from collections.abc import Callable
from dataclasses import replace
from pkgutil import resolve_name

import numpy as np
import numpy.typing as npt
import torch

from clearsight.catalogue.algorithms import ALGORITHMS, CLASSIFIER_ALGORITHMS
from clearsight.errors import BadRequest
from clearsight.handlers.explain.algorithms.context import Attribution, ExplainContext
from clearsight.handlers.explain.deadline import OutOfTime

__all__ = ["AlgorithmFunction", "compute_attributions"]

AlgorithmFunction = Callable[[ExplainContext], tuple[Attribution, ...]]
"""Returns one attribution per target, in their order. Raises `BadRequest` for a model of the wrong kind, and
`OutOfTime`."""


def compute_attributions(context: ExplainContext) -> tuple[Attribution, ...]:
    """Run the algorithm that the parameters name; with `smooth_samples`, average it over noisy copies of the image."""
    name = context.parameters.algorithm
    if name not in CLASSIFIER_ALGORITHMS:
        raise BadRequest(f"'xai_algorithm' must be one of {sorted(CLASSIFIER_ALGORITHMS)}, but got {name!a}")
    row = ALGORITHMS[name]
    algorithm: AlgorithmFunction = resolve_name(row.function)
    if row.is_black_box or not context.parameters.smooth_samples:
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
