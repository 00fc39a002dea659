"""Exit codes of the verbs that follow a job to its end."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["exit_code"]

_CODES: Final[Mapping[str, int]] = MappingProxyType({"Completed": 0, "Canceled": 130})


def exit_code(state: str) -> int:
    """0 completed, 130 canceled, 1 all else."""
    return _CODES.get(state, 1)
