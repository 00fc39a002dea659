"""From raw predictions to boxes and scores, as tensor operations that trace and export with free sizes.

Score thresholds, NMS and the limit on boxes stay outside: they are settings of the user, and a graph with constant
thresholds could not return a box below them.

Shapes in names: N images, C candidates, K classes, V = 5 + K values, L levels, A anchors of a level, H and W cells.
"""

from collections.abc import Sequence

import torch

from clearsight.networks.families.yolov5.head import BOX_VALUES, STRIDES

__all__ = ["boxes_and_scores", "decode"]


def decode(levels: Sequence[torch.Tensor], anchors_cells_LA2: torch.Tensor) -> torch.Tensor:
    """Predictions (N, C, V) of raw levels (N, A, H, W, V), float32: Azure's contract for this network's ONNX output.

    Values: centre x, centre y, width, height in pixels of the network's input (a box may reach beyond it), objectness,
    class probabilities. Candidates are ordered by level, anchor, row, column: 25 200 of them at 640 x 640.

    With s the sigmoid of a logit, a centre is (2 s - 0.5 + cell) * stride, so it can leave its cell by half a cell,
    and a side is (2 s)^2 * anchor, so at most four times its anchor and without an exponential that could overflow.
    """
    decoded = []
    for level_NAHWV, anchors_A2, stride in zip(levels, anchors_cells_LA2.unbind(), STRIDES, strict=True):
        probs_NAHWV = level_NAHWV.float().sigmoid()
        height, width = level_NAHWV.shape[2:4]
        rows_H = torch.arange(height, device=level_NAHWV.device, dtype=torch.float32)
        columns_W = torch.arange(width, device=level_NAHWV.device, dtype=torch.float32)
        rows_HW, columns_HW = torch.meshgrid(rows_H, columns_W, indexing="ij")
        cells_HW2 = torch.stack([columns_HW, rows_HW], dim=-1)
        centres = (probs_NAHWV[..., 0:2] * 2 - 0.5 + cells_HW2) * stride
        sides = (probs_NAHWV[..., 2:4] * 2) ** 2 * (anchors_A2 * stride).view(1, -1, 1, 1, 2)
        decoded.append(torch.cat([centres, sides, probs_NAHWV[..., 4:]], dim=-1).flatten(1, 3))
    return torch.cat(decoded, dim=1)


def boxes_and_scores(predictions_NCV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """boxes_xyxy (N, C, 4) in input pixels and scores (N, C, K): objectness times class probability."""
    centres, sides = predictions_NCV[..., 0:2], predictions_NCV[..., 2:4]
    boxes_xyxy_NC4 = torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)
    return boxes_xyxy_NC4, predictions_NCV[..., BOX_VALUES - 1 : BOX_VALUES] * predictions_NCV[..., BOX_VALUES:]
