"""The names and free axes of a serving graph's tensors.

Exporters trace the module that `Family.serving_module` makes and the eager backend calls it, so that every backend
answers the same tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["GraphSignature"]


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """Names of a graph's tensors, in the order in which it takes and gives them."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    free_axes: Mapping[str, Mapping[int, str]]
    """By tensor: which axes may have any length, and their names. The others are those of the traced example."""
