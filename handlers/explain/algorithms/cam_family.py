"""Where the evidence for a label lies, for a derivative or two: guided backpropagation, CAMs, attention relevance."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from clearsight.errors import BadRequest
from clearsight.handlers.explain.algorithms.attention_relevance import attention_relevance
from clearsight.handlers.explain.algorithms.cam import Interpolation, gradcam, upsample
from clearsight.handlers.explain.algorithms.context import Attribution, ExplainContext
from clearsight.handlers.explain.network.model import ExplainModel, Features

__all__ = ["cam", "guided_backprop", "guided_gradcam", "relevance"]

Map = npt.NDArray[np.float32]
Weigh = Callable[[Features], torch.Tensor]

_NO_EVIDENCE: Final = "nothing in the target layer speaks for this label: the map is zero"
_PLAIN_GRADIENT: Final = "the network has no rectifier that guided backpropagation has a rule for: plain gradient"


def guided_backprop(context: ExplainContext) -> tuple[Attribution, ...]:
    model = context.differentiable_model()
    gradients = model.guided_gradients(context.targets)(context.x_13PP)
    return tuple(
        Attribution(gradient_13PP[0].cpu().numpy(), guided_rule=model.guided_rule, warnings=_warnings_of_rule(model))
        for gradient_13PP in gradients
    )


def guided_gradcam(context: ExplainContext) -> tuple[Attribution, ...]:
    model = context.differentiable_model()
    if model.transformer is None:
        pairs = model.guided_gradients_and_features(context.x_13PP, context.targets)
        gradients = [gradient_3PP for gradient_3PP, _ in pairs]
        places = [_cam_attribution(context, model, gradcam, features) for _, features in pairs]
    else:
        gradients = [gradient_13PP[0] for gradient_13PP in model.guided_gradients(context.targets)(context.x_13PP)]
        places = list(cam(gradcam, context) if context.parameters.localizer == "gradcam" else relevance(context))
    return tuple(
        replace(
            place,
            values=gradient_3PP.cpu().numpy() * place.values,
            guided_rule=model.guided_rule,
            warnings=(*place.warnings, *_warnings_of_rule(model)),
        )
        for gradient_3PP, place in zip(gradients, places, strict=True)
    )


def cam(weigh: Weigh, context: ExplainContext) -> tuple[Attribution, ...]:
    model = context.differentiable_model()
    if model.target_layer is None:
        raise BadRequest(f"CAMs need a network with a picture of features, which {model.model_name} has not")
    found = model.activations_and_gradients(context.x_13PP, context.targets)
    return tuple(_cam_attribution(context, model, weigh, features) for features in found)


def _cam_attribution(context: ExplainContext, model: ExplainModel, weigh: Weigh, features: Features) -> Attribution:
    interpolation = context.interpolation if model.transformer is None else "bilinear"
    values = _enlarged(context, weigh(features), interpolation)
    return Attribution(values, localizer="gradcam", target_layer=model.target_layer, warnings=_warnings_of_map(values))


def relevance(context: ExplainContext) -> tuple[Attribution, ...]:
    model = context.differentiable_model()
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


def _enlarged(context: ExplainContext, map_uv: torch.Tensor, interpolation: Interpolation) -> Map:
    height, width = context.x_13PP.shape[-2:]
    values: Map = upsample(map_uv.to(context.x_13PP.dtype), height, width, interpolation).cpu().numpy()
    return values


def _warnings_of_map(values: Map) -> tuple[str, ...]:
    return () if values.any() else (_NO_EVIDENCE,)


def _warnings_of_rule(model: ExplainModel) -> tuple[str, ...]:
    return (_PLAIN_GRADIENT,) if model.guided_rule == "none" else ()
