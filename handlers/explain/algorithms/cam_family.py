"""The CAM family: guided backpropagation, class activation maps, and attention relevance of transformers.

Each costs one or two gradients. The upper half of this file computes maps from tensors; the lower half holds the
algorithms, which take an `ExplainContext`.

Shapes in names: C channels of the target layer, u x v its locations (height and width of the feature map), P side of
the network's input, T tokens, H heads, L layers.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from clearsight.errors import BadRequest
from clearsight.handlers.explain.algorithms.context import Attribution, ExplainContext, Interpolation
from clearsight.handlers.explain.network.model import ExplainModel, Features, Tokens, Transformer

__all__ = [
    "attention_relevance",
    "cam",
    "explain_gradcam",
    "explain_hirescam",
    "explain_layercam",
    "gradcam",
    "guided_backprop",
    "guided_gradcam",
    "hirescam",
    "layercam",
    "relevance",
    "upsample",
]

Map = npt.NDArray[np.float32]
CamFormula = Callable[[Features], torch.Tensor]
"""Combines activations and gradients of the target layer into one map (u, v)."""

_NO_EVIDENCE: Final = "nothing in the target layer speaks for this label: the map is zero"
_PLAIN_GRADIENT: Final = "the network has no rectifier that guided backpropagation has a rule for: plain gradient"


def gradcam(features: Features) -> torch.Tensor:
    """GradCAM (arXiv 1610.02391): channels weighted by their mean gradient; (u, v), never negative."""
    weights_C = features.gradients_Cuv.mean(dim=(1, 2))
    return torch.einsum("c,cuv->uv", weights_C, features.activations_Cuv).clamp(min=0)


def hirescam(features: Features) -> torch.Tensor:
    """HiResCAM (arXiv 2011.08891): each location weighted by its own gradient; (u, v), never negative.

    Where only pooling and one linear layer follow, the sum over all locations (before clamping) is the score.
    """
    return (features.gradients_Cuv * features.activations_Cuv).sum(dim=0).clamp(min=0)


def layercam(features: Features) -> torch.Tensor:
    """LayerCAM (IEEE TIP 2021, doi 10.1109/TIP.2021.3089943): HiResCAM with the positive gradients only."""
    return (features.gradients_Cuv.clamp(min=0) * features.activations_Cuv).sum(dim=0).clamp(min=0)


def attention_relevance(tokens: Tokens, transformer: Transformer) -> torch.Tensor:
    """Relevance of each patch for the explained score: (patch rows, patch columns), never negative.

    Propagates attention, weighted by its gradient, through all layers (Chefer, Gur and Wolf, arXiv 2103.15679): the
    relevance matrix R starts as the identity, and each layer updates it, R <- R + mean over heads of max(A * G, 0) R.
    The result is read where the network reads its output: at the class token, or as the mean over the patches when
    the network pools those.
    """
    num_tokens = tokens.attention_LHTT[0].shape[-1]
    relevance_TT = torch.eye(num_tokens, dtype=tokens.attention_LHTT[0].dtype, device=tokens.attention_LHTT[0].device)
    for attention_HTT, gradients_HTT in zip(tokens.attention_LHTT, tokens.gradients_LHTT, strict=True):
        mixed_TT = (attention_HTT * gradients_HTT).clamp(min=0).mean(dim=0)
        relevance_TT = relevance_TT + mixed_TT @ relevance_TT
    first = transformer.num_prefix_tokens
    output_T = relevance_TT[0] if transformer.pools_by_class_token else relevance_TT[first:].mean(dim=0)
    return output_T[first:].reshape(transformer.grid_hw)


def upsample(map_uv: torch.Tensor, height: int, width: int, interpolation: Interpolation) -> torch.Tensor:
    """Enlarge a map (u, v) to (height, width); pixel centres are aligned as torch and captum do."""
    align_corners = None if interpolation == "nearest" else False
    enlarged: torch.Tensor = functional.interpolate(
        map_uv[None, None], size=(height, width), mode=interpolation, align_corners=align_corners
    )
    return enlarged[0, 0]


def guided_backprop(context: ExplainContext) -> tuple[Attribution, ...]:
    """Gradients of the input with the guided rule at every rectifier: (3, P, P) per target."""
    model = context.differentiable_model()
    gradients = model.guided_gradients(context.targets)(context.x_13PP)
    return tuple(
        Attribution(gradient_13PP[0].cpu().numpy(), guided_rule=model.guided_rule, warnings=_warnings_of_rule(model))
        for gradient_13PP in gradients
    )


def guided_gradcam(context: ExplainContext) -> tuple[Attribution, ...]:
    """Guided backpropagation times a coarse map: GradCAM, or attention relevance on a transformer."""
    model = context.differentiable_model()
    if model.transformer is None:
        pairs = model.guided_gradients_and_features(context.x_13PP, context.targets)
        gradients = [gradient_3PP for gradient_3PP, _ in pairs]
        coarse_maps = [_cam_attribution(context, model, gradcam, features) for _, features in pairs]
    else:
        gradients = [gradient_13PP[0] for gradient_13PP in model.guided_gradients(context.targets)(context.x_13PP)]
        coarse_maps = list(cam(gradcam, context) if context.parameters.localizer == "gradcam" else relevance(context))
    return tuple(
        replace(
            coarse_map,
            values=gradient_3PP.cpu().numpy() * coarse_map.values,
            guided_rule=model.guided_rule,
            warnings=(*coarse_map.warnings, *_warnings_of_rule(model)),
        )
        for gradient_3PP, coarse_map in zip(gradients, coarse_maps, strict=True)
    )


def cam(formula: CamFormula, context: ExplainContext) -> tuple[Attribution, ...]:
    """Class activation map by `formula`: (P, P) per target. Raises `BadRequest` for a network without feature maps."""
    model = context.differentiable_model()
    if model.target_layer is None:
        raise BadRequest(f"CAMs need a network with a picture of features, which {model.model_name} has not")
    features_of_targets = model.activations_and_gradients(context.x_13PP, context.targets)
    return tuple(_cam_attribution(context, model, formula, features) for features in features_of_targets)


explain_gradcam = partial(cam, gradcam)
explain_hirescam = partial(cam, hirescam)
explain_layercam = partial(cam, layercam)


def relevance(context: ExplainContext) -> tuple[Attribution, ...]:
    """Attention relevance: (P, P) per target. Raises `BadRequest` for a network that is no such transformer."""
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


def _cam_attribution(
    context: ExplainContext, model: ExplainModel, formula: CamFormula, features: Features
) -> Attribution:
    interpolation = context.interpolation if model.transformer is None else "bilinear"
    values = _enlarged(context, formula(features), interpolation)
    return Attribution(values, localizer="gradcam", target_layer=model.target_layer, warnings=_warnings_of_map(values))


def _enlarged(context: ExplainContext, map_uv: torch.Tensor, interpolation: Interpolation) -> Map:
    height, width = context.x_13PP.shape[-2:]
    values: Map = upsample(map_uv.to(context.x_13PP.dtype), height, width, interpolation).cpu().numpy()
    return values


def _warnings_of_map(values: Map) -> tuple[str, ...]:
    return () if values.any() else (_NO_EVIDENCE,)


def _warnings_of_rule(model: ExplainModel) -> tuple[str, ...]:
    return (_PLAIN_GRADIENT,) if model.guided_rule == "none" else ()
