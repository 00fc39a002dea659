"""`--set a.b=c`: changes to a document before anything in it is checked."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from clearsight.errors import Fault, InvalidDocument

__all__ = ["apply_overrides"]


def apply_overrides(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set values by dotted path in a copy of `document`; missing mappings on the way are made.

    A number indexes a list (`search_space.0.learning_rate=0.1`). `advanced_settings`, which holds JSON text in
    Azure's files, is opened when a path leads into it. Raises `InvalidDocument` for paths that lead nowhere.
    """
    changed: Any = copy.deepcopy(dict(document))
    faults: list[Fault] = []
    for path, value in overrides.items():
        try:
            _assign(changed, path.split("."), value)
        except ValueError as error:
            faults.append(Fault("BAD_TYPE", path, f"--set cannot reach this key: {error}"))
    if faults:
        raise InvalidDocument("--set", faults)
    result: dict[str, Any] = changed
    return result


def _assign(holder: Any, keys: list[str], value: Any) -> None:
    for depth, key in enumerate(keys):
        is_last = depth == len(keys) - 1
        if isinstance(holder, list):
            if not key.isdigit() or int(key) >= len(holder):
                raise ValueError(f"a list of {len(holder)} items has no item {key!r}")
            if is_last:
                holder[int(key)] = value
            else:
                holder = holder[int(key)]
        elif isinstance(holder, dict):
            if is_last:
                holder[key] = value
            else:
                holder[key] = _opened(key, holder.get(key))
                holder = holder[key]
        else:
            raise ValueError(f"{'.'.join(keys[:depth])} is not a mapping")


def _opened(key: str, value: Any) -> Any:
    if value is None:
        return {}
    if key == "advanced_settings" and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("advanced_settings does not hold JSON") from None
    return value
