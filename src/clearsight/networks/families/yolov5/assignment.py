"""Assigns boxes to predictions of a level, by shape and location, without IoU.

Shapes in names: M boxes, A anchors of a level, R assignments.
"""

from dataclasses import dataclass
from typing import Final

import torch

__all__ = ["RATIO_LIMIT", "Assignment", "assign"]

RATIO_LIMIT: Final = 4.0
"""A box and an anchor match when neither side is this many times the other's; decoding reaches no further either."""

# Columns and rows to the cell itself, to the left, above, to the right, below.
_SHIFTS: Final = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))


@dataclass(frozen=True, slots=True)
class Assignment:
    """R pairs of a prediction and a box; int64, and ordered by kind of cell (`_SHIFTS`), anchor, box.

    A prediction may stand in several pairs, a box in none.
    """

    box_index_R: torch.Tensor
    anchor_index_R: torch.Tensor
    rows_R: torch.Tensor
    columns_R: torch.Tensor
    targets_cells_R4: torch.Tensor
    """float32: the box's centre x, y from the corner of the cell, in (-0.5, 1.5), and its width, height. Cells."""


def assign(boxes_cxcywh_cells_M4: torch.Tensor, anchors_cells_A2: torch.Tensor, height: int, width: int) -> Assignment:
    """Pair the boxes with predictions of a level of `height` x `width` cells.

    A box takes every anchor within `RATIO_LIMIT` of both its sides, in the cell of its centre and in the nearer
    neighbour on each axis, since a prediction reaches half a cell beyond its own. A centre in the middle of a cell, or
    within a cell of the border, has no neighbour on that axis. Cells are kept on the map.
    """
    ratios_AM2 = boxes_cxcywh_cells_M4[None, :, 2:] / anchors_cells_A2[:, None]
    worst_AM = torch.maximum(ratios_AM2, 1 / ratios_AM2).amax(dim=2)
    anchor_index, box_index = (worst_AM < RATIO_LIMIT).nonzero(as_tuple=True)

    boxes = boxes_cxcywh_cells_M4[box_index]
    centres = boxes[:, :2]
    limits = torch.tensor([width, height], device=boxes.device)
    fractions = centres % 1
    left, above = ((fractions < 0.5) & (centres > 1)).unbind(1)
    right, below = ((fractions > 0.5) & (centres < limits - 1)).unbind(1)
    taken = torch.stack([torch.ones_like(left), left, above, right, below])
    kind_R, match_R = taken.nonzero(as_tuple=True)

    shifts_R2 = torch.tensor(_SHIFTS, device=boxes.device)[kind_R]
    cells_R2 = centres[match_R].floor().long() + shifts_R2
    cells_R2 = torch.minimum(cells_R2.clamp(min=0), limits - 1)
    return Assignment(
        box_index_R=box_index[match_R],
        anchor_index_R=anchor_index[match_R],
        rows_R=cells_R2[:, 1],
        columns_R=cells_R2[:, 0],
        targets_cells_R4=torch.cat([centres[match_R] - cells_R2, boxes[match_R, 2:]], dim=1),
    )
