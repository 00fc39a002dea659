"""Algorithms by public name: from a picture and the labels to explain to one attribution per label."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from clearsight.errors import BadRequest
from clearsight.handlers.explain.baselines import baselines_for
from clearsight.handlers.explain.cam import CAMS, Interpolation, gradcam, upsample
from clearsight.handlers.explain.captum_engine import captum_integrated_gradients, captum_occlusion
from clearsight.handlers.explain.context import Attribution, ExplainContext
from clearsight.handlers.explain.deadline import OutOfTime
from clearsight.handlers.explain.integrated_gradients import (
    MIN_STEPS,
    Convergence,
    IgResult,
    convergence,
    integrated_gradients_of_labels,
)
from clearsight.handlers.explain.model import ExplainModel, Features
from clearsight.handlers.explain.relevance import attention_relevance
from clearsight.handlers.explain.rise import rise
from clearsight.handlers.explain.xrai import Regions, segment, xrai_map

__all__ = ["ALGORITHMS", "BLACK_BOX", "Algorithm", "explain", "gradients_along_path", "instead_of_path"]

Algorithm = Callable[[ExplainContext], tuple[Attribution, ...]]
"""Gives one attribution per target, in their order. Raises `BadRequest` where the model is of the wrong kind, and
`OutOfTime`."""

Map = npt.NDArray[np.float32]
Weigh = Callable[[Features], torch.Tensor]

BLACK_BOX: Final = frozenset({"rise"})
"""Algorithms that need no differentiable model."""

_NO_EVIDENCE: Final = "nothing in the target layer speaks for this label: the map is zero"
_PLAIN_GRADIENT: Final = "the network has no rectifier that guided backpropagation has a rule for: plain gradient"
_OCCLUSION_SHARE: Final = 8  # of the picture's side, a covering square has one in so many


def explain(context: ExplainContext) -> tuple[Attribution, ...]:
    """Run the algorithm that the parameters name; with `smooth_samples`, on so many noisy copies of the picture."""
    name = context.parameters.algorithm
    try:
        algorithm = ALGORITHMS[name]
    except KeyError:
        raise BadRequest(f"'xai_algorithm' must be one of {sorted(ALGORITHMS)}, but got {name!a}") from None
    if name in BLACK_BOX or not context.parameters.smooth_samples:
        return algorithm(context)
    return _smoothed(algorithm, context)


def gradients_along_path(context: ExplainContext) -> tuple[IgResult, ...] | None:
    """Integrated gradients of every target; None when the deadline leaves no time for steps enough."""
    parameters = context.parameters
    all_steps = not context.may_degrade and parameters.convergence_tolerance is None
    results = integrated_gradients_of_labels(
        _model(context).gradients_of(context.targets),
        context.x_13PP,
        _baselines(context),
        parameters.n_steps,
        parameters.approximation_method,
        context.deadline,
        context.chunk,
        parameters.convergence_tolerance,
        least_steps=parameters.n_steps if all_steps else MIN_STEPS,
    )
    if any(result.deadline_hit for result in results) and not context.may_degrade:
        raise _out_of_time(context)
    too_few = min(result.n_steps_used for result in results) < min(MIN_STEPS, parameters.n_steps)
    return None if too_few else results


def instead_of_path(context: ExplainContext) -> tuple[Attribution, ...]:
    """Guided GradCAM, for one or two gradients, where the time does not suffice for a path."""
    if context.deadline.is_over() or not context.may_degrade:
        raise _out_of_time(context)
    warning = f"the time did not suffice for {context.parameters.algorithm}: this is guided_gradcam"
    return tuple(
        replace(
            found, algorithm="guided_gradcam", deadline_hit=True, degraded=True, warnings=(warning, *found.warnings)
        )
        for found in _guided_gradcam(context)
    )


def _integrated_gradients(context: ExplainContext) -> tuple[Attribution, ...]:
    if context.parameters.engine == "captum":
        return _integrated_gradients_by_captum(context)
    results = gradients_along_path(context)
    if results is None:
        return instead_of_path(context)
    return tuple(_path_attribution(context, index, result) for index, result in enumerate(results))


def _xrai(context: ExplainContext) -> tuple[Attribution, ...]:
    results = gradients_along_path(context)
    if results is None:
        return instead_of_path(context)
    regions = context.regions or Regions.of(segment(context.x_13PP[0].cpu().numpy()))
    return tuple(
        replace(
            _path_attribution(context, index, result),
            values=xrai_map(result.attribution.amax(dim=0).numpy(), regions, context.parameters.xrai_fast),
            regions=regions.num_segments,
        )
        for index, result in enumerate(results)
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


def _integrated_gradients_by_captum(context: ExplainContext) -> tuple[Attribution, ...]:
    parameters, model = context.parameters, _model(context)
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
        result = _path_attribution(context, index, IgResult(map_3PP, parameters.n_steps, deadline_hit=False))
        found.append(result if parameters.convergence_tolerance is None else replace(result, warnings=warnings))
    return tuple(found)


def _guided_backprop(context: ExplainContext) -> tuple[Attribution, ...]:
    model = _model(context)
    gradients = model.guided_gradients(context.targets)(context.x_13PP)
    return tuple(
        Attribution(gradient_13PP[0].cpu().numpy(), guided_rule=model.guided_rule, warnings=_warnings_of_rule(model))
        for gradient_13PP in gradients
    )


def _guided_gradcam(context: ExplainContext) -> tuple[Attribution, ...]:
    model = _model(context)
    if model.transformer is None:
        pairs = model.guided_gradients_and_features(context.x_13PP, context.targets)
        gradients = [gradient_3PP for gradient_3PP, _ in pairs]
        places = [_cam_attribution(context, model, gradcam, features) for _, features in pairs]
    else:
        gradients = [gradient_13PP[0] for gradient_13PP in model.guided_gradients(context.targets)(context.x_13PP)]
        places = list(_cam(gradcam, context) if context.parameters.localizer == "gradcam" else _relevance(context))
    return tuple(
        replace(
            place,
            values=gradient_3PP.cpu().numpy() * place.values,
            guided_rule=model.guided_rule,
            warnings=(*place.warnings, *_warnings_of_rule(model)),
        )
        for gradient_3PP, place in zip(gradients, places, strict=True)
    )


def _cam(weigh: Weigh, context: ExplainContext) -> tuple[Attribution, ...]:
    model = _model(context)
    if model.target_layer is None:
        raise BadRequest(f"CAMs need a network with a picture of features, which {model.model_name} has not")
    found = model.activations_and_gradients(context.x_13PP, context.targets)
    return tuple(_cam_attribution(context, model, weigh, features) for features in found)


def _cam_attribution(context: ExplainContext, model: ExplainModel, weigh: Weigh, features: Features) -> Attribution:
    interpolation = context.interpolation if model.transformer is None else "bilinear"
    values = _enlarged(context, weigh(features), interpolation)
    return Attribution(values, localizer="gradcam", target_layer=model.target_layer, warnings=_warnings_of_map(values))


def _relevance(context: ExplainContext) -> tuple[Attribution, ...]:
    model = _model(context)
    if model.transformer is None:
        raise BadRequest(
            f"attention relevance needs a transformer with global attention, which {model.model_name} is not; "
            "use 'gradcam'"
        )
    maps = []
    for tokens in model.attention_and_gradients(context.x_13PP, context.targets):
        maps.append(_enlarged(context, attention_relevance(tokens, model.transformer), "bilinear"))
    return tuple(
        Attribution(values, localizer="attention_relevance", warnings=_warnings_of_map(values)) for values in maps
    )


def _relevance_ig(context: ExplainContext) -> tuple[Attribution, ...]:
    """Integrated gradients where the transformer looks."""
    places = _relevance(context)
    results = gradients_along_path(context)
    if results is None:
        return instead_of_path(context)
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
        raise _out_of_time(context)
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
    model = _model(context)
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
        found = algorithm(noisy)
        sums = sums or [np.zeros(attribution.values.shape) for attribution in found]
        for total, attribution in zip(sums, found, strict=True):
            total += attribution.values
        done += 1
    hurried = done < parameters.smooth_samples
    if hurried and not context.may_degrade:
        raise _out_of_time(context)
    return tuple(
        replace(
            attribution,
            values=(total / done).astype(np.float32),
            deadline_hit=attribution.deadline_hit or hurried,
            degraded=attribution.degraded or hurried,
        )
        for total, attribution in zip(sums, found, strict=True)
    )


def _model(context: ExplainContext) -> ExplainModel:
    if context.model is None:
        raise BadRequest(
            f"{context.parameters.algorithm} needs derivatives, but this package holds no differentiable model; "
            "use 'rise'"
        )
    return context.model


def _baselines(context: ExplainContext) -> torch.Tensor:
    return baselines_for(context.parameters.baseline, context.x_13PP, context.mean, context.std)


def _convergence(context: ExplainContext, index: int, map_3PP: torch.Tensor) -> Convergence | None:
    """Two more passes, for those who read the details."""
    if not context.parameters.details:
        return None
    target = context.targets[index]
    score = _model(context).score_of(target.class_id, target.contrast_id)
    return convergence(score, context.x_13PP, _baselines(context), map_3PP)


def _enlarged(context: ExplainContext, map_uv: torch.Tensor, interpolation: Interpolation) -> Map:
    height, width = context.x_13PP.shape[-2:]
    values: Map = upsample(map_uv.to(context.x_13PP.dtype), height, width, interpolation).cpu().numpy()
    return values


def _warnings_of_map(values: Map) -> tuple[str, ...]:
    return () if values.any() else (_NO_EVIDENCE,)


def _warnings_of_rule(model: ExplainModel) -> tuple[str, ...]:
    return (_PLAIN_GRADIENT,) if model.guided_rule == "none" else ()


def _out_of_time(context: ExplainContext) -> OutOfTime:
    return OutOfTime(
        f"{context.parameters.algorithm} must be done in {context.deadline.seconds or 0:g} s, which do not suffice; "
        "allow more time, fewer steps, or use 'guided_gradcam'"
    )


ALGORITHMS: Final[Mapping[str, Algorithm]] = MappingProxyType(
    {
        "xrai": _xrai,
        "integrated_gradients": _integrated_gradients,
        "guided_gradcam": _guided_gradcam,
        "guided_backprop": _guided_backprop,
        **{name: partial(_cam, weigh) for name, weigh in CAMS.items()},
        "attention_relevance": _relevance,
        "attention_relevance_ig": _relevance_ig,
        "rise": _rise,
        "occlusion": _occlusion,
    }
)
