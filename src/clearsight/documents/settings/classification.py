"""How an image becomes the input of a classifier."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from clearsight.errors import Fault
from clearsight.fields import Integer, Number, OneOf, Rule, Section, refused

__all__ = ["Channels", "ClassificationSettings", "Exif", "ExifOrientation", "Interpolation", "PositiveChannels"]

Interpolation = Literal["bilinear", "bicubic"]
ExifOrientation = Literal["apply", "ignore"]

_MAX_CROP: Final = 4096  # a crop of this side is 200 MB of floats at batch 1; a larger value is likely a typing error


@dataclass(frozen=True, slots=True)
class _ThreeNumbers(Rule):
    """One finite number per colour channel."""

    positive: bool = False

    def read(self, value: Any) -> tuple[float, ...]:
        number = Number(strict=True)
        try:
            numbers = tuple(number.read(item) for item in value) if isinstance(value, (list, tuple)) else ()
        except ValueError:
            numbers = ()
        if len(numbers) != 3:
            raise refused("BAD_TYPE", "must be a list of three finite numbers, one per colour channel")
        if self.positive and min(numbers) <= 0:
            raise refused("OUT_OF_RANGE", "must be a list of three numbers above 0, one per colour channel")
        return numbers

    def json_schema(self) -> dict[str, Any]:
        item = Number(0 if self.positive else None, low_open=True, strict=True).json_schema()
        return {"type": "array", "items": item, "minItems": 3, "maxItems": 3}


Channels = Annotated[tuple[float, float, float], _ThreeNumbers()]
PositiveChannels = Annotated[tuple[float, float, float], _ThreeNumbers(positive=True)]
_Crop = Annotated[int, Integer(1, _MAX_CROP, f"must be a whole number of pixels in [1, {_MAX_CROP}]", strict=True)]
Exif = Annotated[ExifOrientation, OneOf(get_args(ExifOrientation), strict=True)]


@dataclass(frozen=True, slots=True)
class ClassificationSettings(Section):
    """How an image becomes the input of a classifier."""

    null_is_absent: ClassVar[bool] = False

    valid_resize_size: _Crop = 256
    """Shorter side after resizing, pixels."""
    valid_crop_size: _Crop = 224
    """Side of the centre crop, pixels; at most `valid_resize_size`. Also the side of explanation maps."""
    mean: Channels = (0.485, 0.456, 0.406)
    """Mean of each colour channel, of values in [0, 1]; the default is ImageNet's."""
    std: PositiveChannels = (0.229, 0.224, 0.225)
    """Standard deviation of each colour channel, of values in [0, 1]; the default is ImageNet's."""
    interpolation: Annotated[Interpolation, OneOf(get_args(Interpolation), strict=True)] = "bilinear"
    """Filter of the resize; both are antialiased."""
    exif_orientation: Exif = "apply"
    """Whether images are turned upright as their EXIF tag says; must equal what training did."""

    detection: ClassVar[None] = None
    masks: ClassVar[None] = None

    @property
    def classification(self) -> Self:
        """These settings, as those of a classifier; None of a detector's."""
        return self

    @property
    def crop_size(self) -> int:
        """Side, in pixels, of the images that the network takes; None of a detector's settings, which takes many."""
        return self.valid_crop_size

    def faults(self) -> list[Fault]:
        """What is wrong with values that are each right by themselves."""
        if self.valid_crop_size <= self.valid_resize_size:
            return []
        message = f"must be at most valid_resize_size, {self.valid_resize_size}, but got {self.valid_crop_size}"
        return [Fault("BAD_VALUE", "valid_crop_size", message)]

    def rounded(self) -> tuple[Self, list[str]]:
        """These settings with values that the network can run with, and one sentence for each that was changed."""
        return self, []
