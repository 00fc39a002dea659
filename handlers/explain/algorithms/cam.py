"""Class activation maps: where the last image of features speaks for a class.

An image of features has C channels on u x v places; a map has P x P pixels.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal

import torch
from torch.nn import functional

from clearsight.handlers.explain.network.model import Features

__all__ = ["CAMS", "Interpolation", "gradcam", "hirescam", "layercam", "upsample"]

Interpolation = Literal["nearest", "bilinear"]


def gradcam(features: Features) -> torch.Tensor:
    """GradCAM (arXiv 1610.02391): channels weighted by their mean gradient; (u, v), never negative."""
    weights_C = features.gradients_Cuv.mean(dim=(1, 2))
    return torch.einsum("c,cuv->uv", weights_C, features.activations_Cuv).clamp(min=0)


def hirescam(features: Features) -> torch.Tensor:
    """HiResCAM (arXiv 2011.08891): each place weighted by its own gradient; (u, v), never negative.

    Where only pooling and one linear layer follow, the places add up to the score.
    """
    return (features.gradients_Cuv * features.activations_Cuv).sum(dim=0).clamp(min=0)


def layercam(features: Features) -> torch.Tensor:
    """LayerCAM (IEEE TIP 2021, doi 10.1109/TIP.2021.3089943): like HiResCAM, with positive gradients alone."""
    return (features.gradients_Cuv.clamp(min=0) * features.activations_Cuv).sum(dim=0).clamp(min=0)


CAMS: Final[Mapping[str, Callable[[Features], torch.Tensor]]] = MappingProxyType(
    {"gradcam": gradcam, "hirescam": hirescam, "layercam": layercam}
)


def upsample(map_uv: torch.Tensor, height: int, width: int, interpolation: Interpolation) -> torch.Tensor:
    """Enlarge a map to the size of the image; pixel centres are aligned as torch and captum do."""
    align_corners = None if interpolation == "nearest" else False
    enlarged: torch.Tensor = functional.interpolate(
        map_uv[None, None], size=(height, width), mode=interpolation, align_corners=align_corners
    )
    return enlarged[0, 0]
