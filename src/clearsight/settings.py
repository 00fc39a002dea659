"""`settings.json`: the numbers of preprocessing, as Azure's packages carry them and users edit them.

Reading accepts every spelling that Azure's own pages use and warns about unknown keys; writing uses the first
spelling. A missing key takes its default.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from clearsight.errors import Fault, InvalidDocument, UserError
from clearsight.tasks import Task

__all__ = ["ClassificationSettings", "ExifOrientation", "Interpolation", "parse_settings", "to_document"]

Interpolation = Literal["bilinear", "bicubic"]
ExifOrientation = Literal["apply", "ignore"]

INFORMATIONAL: Final = ("task_type", "model_name", "labels", "schema_version")
"""Keys that describe the package. They are accepted in the file and change nothing."""

ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {"validation_resize_size": "valid_resize_size", "validation_crop_size": "valid_crop_size"}
)
"""Azure's other spellings -> the spelling of the settings file (AutoML hyperparameter page, component pages)."""

_MAX_SIDE: Final = 4096  # a crop of this side is 200 MB of floats at batch 1: beyond it a typing error is likelier


@dataclass(frozen=True, slots=True)
class ClassificationSettings:
    """How a picture becomes the input of a classifier."""

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
    """Whether pictures are turned upright as their EXIF tag says; must equal what training did."""


def parse_settings(document: Mapping[str, Any], task: Task) -> tuple[ClassificationSettings, list[str]]:
    """Read a settings document; the second value warns about each unknown key.

    Raises `InvalidDocument` listing every bad value with its key, two spellings of a key that disagree included.
    """
    if not task.is_classification:
        raise UserError(f"settings of {task.value} cannot be read yet: this version serves classification models only")
    values, faults = _canonical(document)
    known: dict[str, Any] = {}
    warnings = []
    for key, value in values.items():
        if key in INFORMATIONAL:
            continue
        read = _READERS.get(key)
        if read is None:
            near = difflib.get_close_matches(str(key), [*_READERS, *ALIASES], n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            warnings.append(f"settings.json: unknown key {key!r} is ignored{hint}")
            continue
        try:
            known[key] = read(value)
        except ValueError as error:
            faults.append(Fault("BAD_VALUE", key, f"{error}, but got {value!r}"))
    if not faults:
        settings = ClassificationSettings(**known)
        if settings.valid_crop_size <= settings.valid_resize_size:
            return settings, warnings
        message = f"must be at most valid_resize_size, {settings.valid_resize_size}"
        faults.append(Fault("BAD_VALUE", "valid_crop_size", f"{message}, but got {settings.valid_crop_size}"))
    raise InvalidDocument("settings.json", faults)


def to_document(settings: ClassificationSettings) -> dict[str, Any]:
    """Make the plain data of a settings file, every key written out; `parse_settings` reads it back unchanged."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()}


def _canonical(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """Rename aliases; two spellings of one key may stand together only with the same value."""
    values: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    faults = []
    for spelling, value in document.items():
        key = ALIASES.get(spelling, spelling)
        if key in values and values[key] != value:
            message = f"is given as {spelled[key]!r}: {values[key]!r} and as {spelling!r}: {value!r}; keep one of them"
            faults.append(Fault("BAD_VALUE", key, message))
        values.setdefault(key, value)
        spelled.setdefault(key, spelling)
    return values, faults


def _side(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_SIDE:
        raise ValueError(f"must be a whole number of pixels in [1, {_MAX_SIDE}]")
    return value


def _numbers(value: object) -> tuple[float, float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(_is_finite(item) for item in value):
        raise ValueError("must be a list of three finite numbers, one per colour channel")
    return float(value[0]), float(value[1]), float(value[2])


def _positive_numbers(value: object) -> tuple[float, float, float]:
    numbers = _numbers(value)
    if min(numbers) <= 0:
        raise ValueError("must be a list of three numbers above 0, one per colour channel")
    return numbers


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"must be one of {list(choices)}")
        return value

    return read


_READERS: Final[Mapping[str, Callable[[object], Any]]] = MappingProxyType(
    {
        "valid_resize_size": _side,
        "valid_crop_size": _side,
        "mean": _numbers,
        "std": _positive_numbers,
        "interpolation": _one_of(get_args(Interpolation)),
        "exif_orientation": _one_of(get_args(ExifOrientation)),
    }
)
