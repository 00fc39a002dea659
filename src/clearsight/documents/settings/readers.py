"""Values of `settings.json`: each reader returns ours, or raises `ValueError` with what must hold."""

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, get_args

from clearsight.documents.settings.classification import ExifOrientation, Interpolation
from clearsight.documents.settings.detection import ImageType, ModelSize

__all__ = ["READERS", "Reader"]

Reader = Callable[[object], Any]

_MAX_CROP: Final = 4096  # a crop of this side is 200 MB of floats at batch 1: beyond it a typing error is likelier
_MAX_SIDE: Final = 10_000  # detectors take one image at a time: the side of the largest square that is decoded
_MAX_COUNT: Final = 100_000
_MAX_TILES: Final = 64  # each costs as much as the whole image

_SIDE: Final = r"\s*([1-9]\d{0,5})\s*"
_GRIDS: Final = re.compile(rf"{_SIDE}[xX]{_SIDE}"), re.compile(rf"\s*\({_SIDE},{_SIDE}\)\s*")


def _whole(lowest: int, highest: int, unit: str = "") -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError(f"must be a whole number{unit} in [{lowest}, {highest}]")
        return value

    return read


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("must be a finite number")
    return float(value)


def _fraction(value: object) -> float:
    number = _number(value)
    if not 0 <= number <= 1:
        raise ValueError("must be a number in [0, 1]")
    return number


def _overlap(value: object) -> float:
    number = _number(value)
    if not 0 <= number < 1:
        raise ValueError("must be a number in [0, 1), below 1")
    return number


def _margin(value: object) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number < 0:
        raise ValueError("must be a number of pixels, at least 0, or null")
    return number


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _channels(value: object) -> tuple[float, float, float]:
    try:
        if isinstance(value, (list, tuple)) and len(value) == 3:
            return _number(value[0]), _number(value[1]), _number(value[2])
    except ValueError:
        pass
    raise ValueError("must be a list of three finite numbers, one per colour channel")


def _positive_channels(value: object) -> tuple[float, float, float]:
    numbers = _channels(value)
    if min(numbers) <= 0:
        raise ValueError("must be a list of three numbers above 0, one per colour channel")
    return numbers


def _one_of(*choices: str, spellings: Mapping[str, str] | None = None) -> Callable[[object], str]:
    """Read one of the words; `spellings` are others for some of them."""

    def read(value: object) -> str:
        word = (spellings or {}).get(value, value) if isinstance(value, str) else value
        if not isinstance(word, str) or word not in choices:
            raise ValueError(f"must be one of {list(choices)}")
        return word

    return read


def _image_type(value: object) -> str:
    return _one_of(*get_args(ImageType))(value.upper() if isinstance(value, str) else value)


def _tile_grid(value: object) -> tuple[int, int] | None:
    """`'3x2'` is three tiles across, two down; so are the older `'(3, 2)'` and `[3, 2]`. Nothing, or 1x1: no tiles."""
    if value is None or value == "":
        return None
    text = "x".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    match = next((found for form in _GRIDS if isinstance(text, str) and (found := form.fullmatch(text))), None)
    if match is None:
        raise ValueError("must be tiles across x tiles down as text, like '3x2', or null for none")
    across, down = int(match[1]), int(match[2])
    if across * down > _MAX_TILES:
        raise ValueError(f"must have at most {_MAX_TILES} tiles")
    return (across, down) if across * down > 1 else None


_crop, _side, _count = _whole(1, _MAX_CROP, " of pixels"), _whole(1, _MAX_SIDE, " of pixels"), _whole(1, _MAX_COUNT)

READERS: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        "valid_resize_size": _crop,
        "valid_crop_size": _crop,
        "mean": _channels,
        "std": _positive_channels,
        "interpolation": _one_of(*get_args(Interpolation)),
        "exif_orientation": _one_of(*get_args(ExifOrientation)),
        "min_size": _side,
        "max_size": _side,
        "img_size": _side,
        "model_size": _one_of(*get_args(ModelSize), spellings={"extra_large": "xlarge", "ExtraLarge": "xlarge"}),
        "box_score_thresh": _fraction,
        "nms_iou_thresh": _fraction,
        "box_detections_per_img": _count,
        "tile_grid_size": _tile_grid,
        "tile_overlap_ratio": _overlap,
        "tile_predictions_nms_thresh": _fraction,
        "tile_border_margin": _margin,
        "mask_pixel_score_threshold": _fraction,
        "max_number_of_polygon_points": _whole(3, _MAX_COUNT),
        "export_as_image": _truth,
        "image_type": _image_type,
        "mask_image_allow_lossy": _truth,
        "mask_rle": _truth,
    }
)
"""By key; the keys of all tasks together, none of which means two things."""
