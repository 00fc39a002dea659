"""One labelled image: the record of each of the four tasks, parsed from a row of a label file.

Formats: https://learn.microsoft.com/azure/machine-learning/reference-automl-images-schema. Where Azure is silent,
the docstrings say what is accepted. Coordinates are fractions of the upright image's width and height.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from clearsight.tasks import Task
from clearsight.training.data.keys import likely_meant

__all__ = [
    "BadRecord",
    "Box",
    "Instance",
    "Labels",
    "Record",
    "SizeHint",
    "is_below_one_pixel",
    "parse_labels",
    "parse_size_hint",
]

ObjectT = TypeVar("ObjectT")

CLIP_TOLERANCE: Final = 0.01
"""A coordinate outside [0, 1] by at most this is clipped (a rounding error), farther out it is a fault."""

ONE_PIXEL: Final = 0.99
"""A box of exactly one pixel may come out smaller: fractions in label files are rounded."""

BOX_KEYS: Final = ("label", "isCrowd", "topX", "topY", "bottomX", "bottomY")
POLYGON_KEYS: Final = ("label", "isCrowd", "polygon")
TRUTHS: Final = MappingProxyType({"0": False, "1": True, "false": False, "true": True})
PIXELS: Final = re.compile(r"\s*(\d{1,9})\s*(?:px)?\s*", re.IGNORECASE)


class BadRecord(ValueError):
    """A row breaks the format of its task; the message says what must hold and what the row has."""


@dataclass(frozen=True, slots=True)
class Box:
    """One object of a detection record."""

    label: str
    xyxy_unit: tuple[float, float, float, float]
    """left, top, right, bottom in [0, 1], with left < right and top < bottom."""
    is_crowd: bool = False


@dataclass(frozen=True, slots=True)
class Instance:
    """One object of an instance-segmentation record."""

    label: str
    polygons_unit: tuple[tuple[float, ...], ...]
    """One polygon per visible part, each x1, y1, x2, y2, … in [0, 1], at least 3 points; filled as a union."""
    is_crowd: bool = False

    @property
    def xyxy_unit(self) -> tuple[float, float, float, float]:
        """The smallest box around all polygons."""
        xs = [x for polygon in self.polygons_unit for x in polygon[0::2]]
        ys = [y for polygon in self.polygons_unit for y in polygon[1::2]]
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True, slots=True)
class Labels:
    """What a record says about its image.

    `names`: multi-class exactly one; multi-label any number, in file order, each once; detection and segmentation the
    distinct classes of the objects, in order of appearance. `boxes` and `instances` are empty for other tasks.
    """

    names: tuple[str, ...]
    boxes: tuple[Box, ...] = ()
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True, slots=True)
class SizeHint:
    """Width and height of `image_details`, in pixels. Nothing depends on them: the size is read from the file.

    None: not stated. 0: stated, but not as a positive number.
    """

    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One labelled image of a table."""

    image: Path
    labels: tuple[str, ...]
    """See `Labels.names`."""
    source: str
    """Location of the record: `annotations.jsonl:12`."""
    boxes: tuple[Box, ...] = ()
    instances: tuple[Instance, ...] = ()
    size_hint: SizeHint = SizeHint()


def parse_labels(
    value: object, task: Task, size_wh: Callable[[], tuple[int, int] | None], tally: Counter[str]
) -> Labels:
    """Parse the target column of one row.

    `size_wh` returns the size in pixels of the upright image, or None when it cannot be known; it is called for every
    box and polygon. What was repaired or dropped is counted in `tally`, by sentence. Raises `BadRecord`.
    """
    return PARSERS[task](value, size_wh, tally)


def _multi_class(value: object, size_wh: object, tally: Counter[str]) -> Labels:
    """One class name; a list of one is read as its element."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return Labels((_class_name(value),))


def _multi_label(value: object, size_wh: object, tally: Counter[str]) -> Labels:
    """A list of class names, perhaps empty; repetitions collapse; a lone name is read as a list of one."""
    if isinstance(value, (str, int, float)):
        value = [value]
    if not isinstance(value, list):
        raise BadRecord(f"labels must be a list of class names, but got {_shown(value)}")
    return Labels(tuple(dict.fromkeys(_class_name(name) for name in value)))


def _detection(value: object, size_wh: Callable[[], tuple[int, int] | None], tally: Counter[str]) -> Labels:
    boxes = []
    for box in _objects(value, _box, BOX_KEYS, tally):
        if is_below_one_pixel(box.xyxy_unit, size_wh()):
            tally["box narrower than one pixel dropped"] += 1
        else:
            boxes.append(box)
    return Labels(tuple(dict.fromkeys(box.label for box in boxes)), boxes=tuple(boxes))


def _segmentation(value: object, size_wh: Callable[[], tuple[int, int] | None], tally: Counter[str]) -> Labels:
    instances = []
    for instance in _objects(value, _instance, POLYGON_KEYS, tally):
        if not instance.polygons_unit:
            tally["object without a usable ring dropped"] += 1
        elif is_below_one_pixel(instance.xyxy_unit, size_wh()):
            tally["polygon narrower than one pixel dropped"] += 1
        else:
            instances.append(instance)
    return Labels(tuple(dict.fromkeys(instance.label for instance in instances)), instances=tuple(instances))


PARSERS: Final[Mapping[Task, Callable[[object, Callable[[], tuple[int, int] | None], Counter[str]], Labels]]] = (
    MappingProxyType(
        {
            Task.MULTI_CLASS: _multi_class,
            Task.MULTI_LABEL: _multi_label,
            Task.DETECTION: _detection,
            Task.SEGMENTATION: _segmentation,
        }
    )
)


def _objects(
    value: object,
    parse: Callable[[Mapping[str, object], Counter[str]], ObjectT],
    keys: tuple[str, ...],
    tally: Counter[str],
) -> Iterator[ObjectT]:
    """Parse the label objects of a row; a lone object is read as a list of one, an empty list is a background image."""
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadRecord(f"labels must be a list of objects, but got {_shown(value)}")
    for number, document in enumerate(items, 1):
        meant = likely_meant(tuple(document), keys)
        try:
            parsed = parse(document, tally)
        except BadRecord as error:
            hint = "".join(f"; the object has {key!r}, is {known!r} meant?" for key, known in meant[:1])
            raise BadRecord(f"object {number}: {error}{hint}") from None
        for key, known in meant:
            tally[f"object with the unknown key {key!r}, which is ignored; is {known!r} meant?"] += 1
        yield parsed


def _box(document: Mapping[str, object], tally: Counter[str]) -> Box:
    left, top, right, bottom = (_coordinate(document, key, tally) for key in ("topX", "topY", "bottomX", "bottomY"))
    if right <= left or bottom <= top:
        raise BadRecord(
            "bottomX must be greater than topX and bottomY than topY,"
            f" but got topX {left:g}, topY {top:g}, bottomX {right:g}, bottomY {bottom:g}"
        )
    return Box(_class_name(document.get("label")), (left, top, right, bottom), _is_crowd(document))


def _instance(document: Mapping[str, object], tally: Counter[str]) -> Instance:
    polygons = document.get("polygon")
    if not isinstance(polygons, list) or not all(isinstance(polygon, list) for polygon in polygons):
        raise BadRecord(f"polygon must be a list of rings [x1, y1, x2, y2, …], but got {_shown(polygons)}")
    kept = []
    for polygon in polygons:
        points = tuple(_unit(value, "a polygon point", tally) for value in polygon)
        if len(points) % 2 == 0 and len(points) >= 6:
            kept.append(points)
        else:
            tally["ring with an odd count of numbers or fewer than 3 points dropped"] += 1
    return Instance(_class_name(document.get("label")), tuple(kept), _is_crowd(document))


def is_below_one_pixel(xyxy_unit: tuple[float, float, float, float], size_wh: tuple[int, int] | None) -> bool:
    """Whether a box is narrower or lower than a pixel of its image, but for a rounding error; False: size unknown."""
    left, top, right, bottom = xyxy_unit
    return size_wh is not None and min((right - left) * size_wh[0], (bottom - top) * size_wh[1]) < ONE_PIXEL


def _class_name(value: object) -> str:
    """A class name; a number becomes its decimal text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, bool):
        raise BadRecord(
            f'a label must be a class name, but got {value}; a class of that name is "{str(value).lower()}"'
        )
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(f"a label must be a class name, not empty, but got {_shown(value)}")
    return value


def _coordinate(document: Mapping[str, object], key: str, tally: Counter[str]) -> float:
    if document.get(key) is None:
        raise BadRecord(f"{key} is missing")
    return _unit(document[key], key, tally)


def _unit(value: object, name: str, tally: Counter[str]) -> float:
    number = _number(value)
    if number is None or not -CLIP_TOLERANCE <= number <= 1 + CLIP_TOLERANCE:
        raise BadRecord(f"{name} must be a fraction of the picture in [0, 1], but got {_shown(value)}")
    clipped = min(max(number, 0.0), 1.0)
    if clipped != number:
        tally["coordinate just outside [0, 1] clipped"] += 1
    return clipped


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_crowd(document: Mapping[str, object]) -> bool:
    """`isCrowd`: 0, 1, a boolean, or one of these as text in any case; absent or null is false."""
    value = document.get("isCrowd")
    if value is None:
        return False
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return TRUTHS[str(value).strip().lower()]
    except KeyError:
        raise BadRecord(f"isCrowd must be 0, 1, true or false, but got {_shown(value)}") from None


def parse_size_hint(details: object) -> SizeHint:
    """Parse `image_details`, whatever stands there; it and each of its keys may be absent or null."""
    if details is None:
        return SizeHint()
    if not isinstance(details, dict):
        return SizeHint(0, 0)
    return SizeHint(_pixels(details.get("width")), _pixels(details.get("height")))


def _pixels(value: object) -> int | None:
    """A positive number like 400 or "400px"; 0 for anything else."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    match = None if isinstance(value, (bool, float)) else PIXELS.fullmatch(str(value))
    return 0 if match is None else int(match[1])


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
