"""The integrated-gradients family: algorithms that add up gradients on the path from a baseline to the image.

Integrated gradients, XRAI, and integrated gradients times the attention relevance of a transformer.

Shapes in names: B baselines, P side of the network's input.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn import functional

from clearsight.catalogue.algorithms import BaselineName
from clearsight.handlers.explain.algorithms.cam_family import guided_gradcam, relevance
from clearsight.handlers.explain.algorithms.captum_engine import captum_integrated_gradients
from clearsight.handlers.explain.algorithms.context import Attribution, ExplainContext
from clearsight.handlers.explain.algorithms.integrated_gradients import (
    MIN_STEPS,
    Convergence,
    IgResult,
    StepGoal,
    convergence,
    integrated_gradients_of_labels,
)
from clearsight.handlers.explain.algorithms.xrai import Regions, segment, xrai_map

__all__ = ["baselines_for", "gradients_along_path", "integrated_gradients", "relevance_along_path", "xrai"]


def baselines_for(
    name: BaselineName, x_13PP: torch.Tensor, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Make the images without information at which paths start: one or two normalised images, (B, 3, P, P).

    `mean` and `std` are those of the normalisation, per colour channel, for pixels in [0, 1].

    The baseline named `mean` is the image of the mean colour, all zeros; `black_white` gives two, whose explanations
    are averaged; `blur` is the image itself under a Gaussian with a standard deviation of a tenth of its side.
    """
    if name == "mean":
        return torch.zeros_like(x_13PP)
    if name == "blur":
        return _blur(x_13PP, x_13PP.shape[-1] / 10)
    centre, scale = (x_13PP.new_tensor(list(numbers)).view(1, 3, 1, 1) for numbers in (mean, std))
    black = (torch.zeros_like(x_13PP) - centre) / scale
    white = (torch.ones_like(x_13PP) - centre) / scale
    return {"black": black, "white": white, "black_white": torch.cat([black, white])}[name]


def integrated_gradients(context: ExplainContext) -> tuple[Attribution, ...]:
    """Integrated gradients, by our engine or Captum's: (3, P, P) per target."""
    if context.parameters.engine == "captum":
        return _by_captum(context)
    results = gradients_along_path(context)
    if results is None:
        return _instead_of_path(context)
    return tuple(_complete_attribution(context, index, result) for index, result in enumerate(results))


def xrai(context: ExplainContext) -> tuple[Attribution, ...]:
    """XRAI: integrated gradients summed over regions of the image, (P, P) per target."""
    results = gradients_along_path(context)
    if results is None:
        return _instead_of_path(context)
    regions = context.regions or Regions.of(segment(context.x_13PP[0].cpu().numpy()))
    return tuple(
        replace(
            _path_attribution(context, index, result),
            values=xrai_map(result.attribution.amax(dim=0).numpy(), regions, context.parameters.xrai_fast),
            regions=regions.num_segments,
        )
        for index, result in enumerate(results)
    )


def relevance_along_path(context: ExplainContext) -> tuple[Attribution, ...]:
    """Integrated gradients times attention relevance: (3, P, P) per target; transformers only."""
    relevance_maps = relevance(context)
    results = gradients_along_path(context)
    if results is None:
        return _instead_of_path(context)
    return tuple(
        replace(
            relevance_map,
            values=result.attribution.numpy() * relevance_map.values,
            n_steps_used=result.n_steps_used,
            deadline_hit=result.deadline_hit,
            degraded=result.deadline_hit,
        )
        for relevance_map, result in zip(relevance_maps, results, strict=True)
    )


def gradients_along_path(context: ExplainContext) -> tuple[IgResult, ...] | None:
    """Compute integrated gradients of every target; None when the deadline leaves no time for enough steps."""
    parameters = context.parameters
    all_steps = not context.may_degrade and parameters.convergence_tolerance is None
    results = integrated_gradients_of_labels(
        context.differentiable_model().gradients_of(context.targets),
        context.x_13PP,
        _baselines(context),
        parameters.n_steps,
        parameters.approximation_method,
        context.deadline,
        context.chunk,
        parameters.convergence_tolerance,
        least_steps=parameters.n_steps if all_steps else MIN_STEPS,
        goal=_step_goal(context),
    )
    if any(result.deadline_hit for result in results) and not context.may_degrade:
        raise context.out_of_time()
    too_few = min(result.n_steps_used for result in results) < min(MIN_STEPS, parameters.n_steps)
    return None if too_few else results


def _step_goal(context: ExplainContext) -> StepGoal | None:
    """What the number of steps is chosen for; None when the request names it, or names another way to choose it."""
    parameters = context.parameters
    if parameters.most_steps is None or parameters.smooth_samples or parameters.convergence_tolerance is not None:
        return None
    points = torch.cat([context.x_13PP, _baselines(context)])
    rises = []
    for target in context.targets:
        with torch.no_grad():
            scores = context.differentiable_model().score_of(target.class_id, target.contrast_id)(points).double()
        rises.append(float(scores[0] - scores[1:].mean()))
    return StepGoal(rises, parameters.most_steps)


def _instead_of_path(context: ExplainContext) -> tuple[Attribution, ...]:
    """Fall back to guided GradCAM, which costs one or two gradients, when there is no time for a path."""
    if context.deadline.is_over() or not context.may_degrade:
        raise context.out_of_time()
    warning = f"the time did not suffice for {context.parameters.algorithm}: this is guided_gradcam"
    return tuple(
        replace(
            found, algorithm="guided_gradcam", deadline_hit=True, degraded=True, warnings=(warning, *found.warnings)
        )
        for found in guided_gradcam(context)
    )


def _complete_attribution(context: ExplainContext, index: int, result: IgResult) -> Attribution:
    """Like `_path_attribution`, of a map whose sum means something; warns when it misses much of the rise."""
    found = _path_attribution(context, index, result)
    if found.convergence_delta is None or found.rise is None:
        return found
    if Convergence(found.convergence_delta, 0.0, found.rise).adds_up:
        return found
    share = f"{found.delta_over_rise or 0:.0%} of" if found.rise else "all of"
    remedy = "raise 'n_steps'" if context.parameters.most_steps is None else "allow more time, or name 'n_steps'"
    warning = f"the sum of the map misses {share} the rise of the score: {remedy}"
    return replace(found, warnings=(*found.warnings, warning))


def _path_attribution(context: ExplainContext, index: int, result: IgResult) -> Attribution:
    checked = _convergence(context, index, result.attribution)
    return Attribution(
        result.attribution.numpy(),
        n_steps_used=result.n_steps_used,
        convergence_delta=checked.delta if checked else None,
        relative_delta=checked.relative_delta if checked else None,
        rise=checked.rise if checked else None,
        delta_over_rise=checked.delta_over_rise if checked else None,
        deadline_hit=result.deadline_hit,
        degraded=result.deadline_hit,
    )


def _by_captum(context: ExplainContext) -> tuple[Attribution, ...]:
    parameters, model = context.parameters, context.differentiable_model()
    warnings = ("captum takes all steps: 'convergence_tolerance' does nothing",)
    found = []
    for index, target in enumerate(context.targets):
        map_3PP = captum_integrated_gradients(
            model.differentiable_score_of(target),
            context.x_13PP,
            _baselines(context),
            parameters.n_steps,
            parameters.approximation_method,
            context.deadline,
            context.chunk,
        )
        result = _complete_attribution(context, index, IgResult(map_3PP, parameters.n_steps, deadline_hit=False))
        tolerates = parameters.convergence_tolerance is not None
        found.append(replace(result, warnings=(*warnings, *result.warnings)) if tolerates else result)
    return tuple(found)


def _convergence(context: ExplainContext, index: int, map_3PP: torch.Tensor) -> Convergence | None:
    """Compare the sum of a map with the score difference: two more forward passes, only when details are asked for."""
    if not context.parameters.details:
        return None
    target = context.targets[index]
    score = context.differentiable_model().score_of(target.class_id, target.contrast_id)
    return convergence(score, context.x_13PP, _baselines(context), map_3PP)


def _baselines(context: ExplainContext) -> torch.Tensor:
    return baselines_for(context.parameters.baseline, context.x_13PP, context.mean, context.std)


def _blur(x_13PP: torch.Tensor, sigma: float) -> torch.Tensor:
    """Apply a Gaussian of `sigma` pixels, cut off at three sigma; the border repeats the outermost pixels."""
    radius = int(3 * sigma) + 1
    offsets = torch.arange(-radius, radius + 1, dtype=x_13PP.dtype, device=x_13PP.device)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    padded = functional.pad(x_13PP, (radius, radius, radius, radius), mode="replicate")
    rows = functional.conv2d(padded, weights.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
    return functional.conv2d(rows, weights.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)
