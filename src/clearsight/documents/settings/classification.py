"""How an image becomes the input of a classifier."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["ClassificationSettings", "ExifOrientation", "Interpolation"]

Interpolation = Literal["bilinear", "bicubic"]
ExifOrientation = Literal["apply", "ignore"]


@dataclass(frozen=True, slots=True)
class ClassificationSettings:
    """How an image becomes the input of a classifier."""

    valid_resize_size: int = 256
    """Shorter side after resizing, pixels."""
    valid_crop_size: int = 224
    """Side of the centre crop, pixels; at most `valid_resize_size`. Also the side of explanation maps."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per channel, of values in [0, 1]; the default is ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    """Filter of the resize; both are antialiased."""
    exif_orientation: ExifOrientation = "apply"
    """Whether images are turned upright as their EXIF tag says; must equal what training did."""
