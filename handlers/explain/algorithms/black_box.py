"""Explanations of a classifier that need no derivative: RISE and occlusion.

Shapes in names: P side of the network's input.
"""

from typing import Final

from clearsight.handlers.explain.algorithms.captum_engine import captum_occlusion
from clearsight.handlers.explain.algorithms.context import Attribution, ExplainContext
from clearsight.handlers.explain.algorithms.rise import rise

__all__ = ["explain_by_occlusion", "explain_by_rise"]

_OCCLUSION_SHARE: Final = 8
"""Side of the image divided by the side of the masking square."""


def explain_by_rise(context: ExplainContext) -> tuple[Attribution, ...]:
    """RISE: (P, P) per target, from the probabilities of images with random masks."""
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


def explain_by_occlusion(context: ExplainContext) -> tuple[Attribution, ...]:
    """Occlusion: (3, P, P) per target, from the scores of images with one square masked."""
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
