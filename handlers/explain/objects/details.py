"""What an answer says about how the explanation of an object came about: `explanation_details`, ours and opt-in."""

from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["OBJECT_ALGORITHMS", "ObjectDetails"]

OBJECT_ALGORITHMS: Final = ("odam", "d_rise")
"""Names by which a request asks for explanations of a detector; Azure's own names get its plain answer."""


@dataclass(slots=True)
class ObjectDetails:
    """How an explanation came about."""

    algorithm: str
    label: str
    probability: float
    target: str
    matched_iou: float | None = None
    """Overlap of the explained candidate with the answer's box; None: there is no candidate."""
    tile: tuple[int, int, int, int] | None = None
    """Left, top, width, height of the tile that the object was found in, pixels; None: the whole image."""
    strides: tuple[int, ...] = ()
    """Pixels of the network's input in a cell, of the levels that the map comes from."""
    masks_used: int | None = None
    """Covered images that the map comes from; None: no part was covered."""
    degraded: bool = False
    warnings: tuple[str, ...] = ()
    milliseconds: dict[str, float] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """The object of the answer, as plain data."""
        return {
            "algorithm": self.algorithm,
            "label": self.label,
            "probability": self.probability,
            "target": self.target,
            "matched_iou": None if self.matched_iou is None else round(self.matched_iou, 4),
            "tile": None if self.tile is None else list(self.tile),
            "strides": list(self.strides),
            "masks_used": self.masks_used,
            "degraded": self.degraded,
            "warnings": list(self.warnings),
            "milliseconds": {phase: round(milliseconds) for phase, milliseconds in self.milliseconds.items()},
            "cached": False,
        }
