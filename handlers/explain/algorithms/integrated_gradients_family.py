"""Attribution along the way from a baseline to the image: integrated gradients, and what is made of them."""

from dataclasses import replace

import torch

from clearsight.handlers.explain.algorithms.cam_family import guided_gradcam, relevance
from clearsight.handlers.explain.algorithms.captum_engine import captum_integrated_gradients
from clearsight.handlers.explain.algorithms.context import Attribution, ExplainContext
from clearsight.handlers.explain.algorithms.integrated_gradients import (
    MIN_STEPS,
    Convergence,
    IgResult,
    convergence,
    integrated_gradients_of_labels,
)
from clearsight.handlers.explain.algorithms.xrai import Regions, segment, xrai_map

__all__ = ["gradients_along_path", "integrated_gradients", "relevance_along_path", "xrai"]


def integrated_gradients(context: ExplainContext) -> tuple[Attribution, ...]:
    if context.parameters.engine == "captum":
        return _by_captum(context)
    results = gradients_along_path(context)
    if results is None:
        return _instead_of_path(context)
    return tuple(_path_attribution(context, index, result) for index, result in enumerate(results))


def xrai(context: ExplainContext) -> tuple[Attribution, ...]:
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
    """Integrated gradients where the transformer looks."""
    places = relevance(context)
    results = gradients_along_path(context)
    if results is None:
        return _instead_of_path(context)
    return tuple(
        replace(
            place,
            values=result.attribution.numpy() * place.values,
            n_steps_used=result.n_steps_used,
            deadline_hit=result.deadline_hit,
            degraded=result.deadline_hit,
        )
        for place, result in zip(places, results, strict=True)
    )


def gradients_along_path(context: ExplainContext) -> tuple[IgResult, ...] | None:
    """Integrated gradients of every target; None when the deadline leaves no time for steps enough."""
    parameters = context.parameters
    all_steps = not context.may_degrade and parameters.convergence_tolerance is None
    results = integrated_gradients_of_labels(
        context.differentiable_model().gradients_of(context.targets),
        context.x_13PP,
        context.baselines(),
        parameters.n_steps,
        parameters.approximation_method,
        context.deadline,
        context.chunk,
        parameters.convergence_tolerance,
        least_steps=parameters.n_steps if all_steps else MIN_STEPS,
    )
    if any(result.deadline_hit for result in results) and not context.may_degrade:
        raise context.out_of_time()
    too_few = min(result.n_steps_used for result in results) < min(MIN_STEPS, parameters.n_steps)
    return None if too_few else results


def _instead_of_path(context: ExplainContext) -> tuple[Attribution, ...]:
    """Guided GradCAM, for one or two gradients, where the time does not suffice for a path."""
    if context.deadline.is_over() or not context.may_degrade:
        raise context.out_of_time()
    warning = f"the time did not suffice for {context.parameters.algorithm}: this is guided_gradcam"
    return tuple(
        replace(
            found, algorithm="guided_gradcam", deadline_hit=True, degraded=True, warnings=(warning, *found.warnings)
        )
        for found in guided_gradcam(context)
    )


def _path_attribution(context: ExplainContext, index: int, result: IgResult) -> Attribution:
    checked = _convergence(context, index, result.attribution)
    return Attribution(
        result.attribution.numpy(),
        n_steps_used=result.n_steps_used,
        convergence_delta=checked.delta if checked else None,
        relative_delta=checked.relative_delta if checked else None,
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
            context.baselines(),
            parameters.n_steps,
            parameters.approximation_method,
            context.deadline,
            context.chunk,
        )
        result = _path_attribution(context, index, IgResult(map_3PP, parameters.n_steps, deadline_hit=False))
        found.append(result if parameters.convergence_tolerance is None else replace(result, warnings=warnings))
    return tuple(found)


def _convergence(context: ExplainContext, index: int, map_3PP: torch.Tensor) -> Convergence | None:
    """Two more passes, for those who read the details."""
    if not context.parameters.details:
        return None
    target = context.targets[index]
    score = context.differentiable_model().score_of(target.class_id, target.contrast_id)
    return convergence(score, context.x_13PP, context.baselines(), map_3PP)
