"""Values of JSON documents that others wrote, of the types that they must have. All raise `BadAnnotation`."""

import math
from collections.abc import Mapping
from typing import Any

from clearsight.training.data.converters.objects import BadAnnotation

__all__ = ["finite_number", "list_of", "mapping_of", "mappings_of"]


def finite_number(value: object, name: str) -> float:
    """A number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadAnnotation(f"{name} must be a number, but got {_shown(value)}")
    return float(value)


def list_of(value: object, name: str) -> list[Any]:
    """A list; an empty one for a value that is missing."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadAnnotation(f"{name} must be a list, but got {_shown(value)}")
    return value


def mapping_of(value: object, name: str) -> Mapping[str, Any]:
    """An object; an empty one for a value that is missing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadAnnotation(f"{name} must be an object, but got {_shown(value)}")
    return value


def mappings_of(value: object, name: str) -> list[Mapping[str, Any]]:
    """A list of objects; an empty one for a value that is missing."""
    return [mapping_of(item, f"an item of {name}") for item in list_of(value, name)]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
