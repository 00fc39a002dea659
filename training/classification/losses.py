"""Losses of the classification tasks, with Azure's `weighted_loss`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clearsight.tasks import Task

__all__ = ["LossOptions", "build_loss", "class_weights"]


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Options of the loss."""

    weighted_loss: Literal[0, 1, 2]
    """How classes are weighted, see `class_weights`."""


def class_weights(counts: Sequence[int], num_records: int, weighted_loss: int) -> npt.NDArray[np.float64] | None:
    """Weights of classes that occur in `counts` of `num_records` training records.

    0: None. 2: N / (C n_c), scikit-learn's "balanced" rule. 1: its square root. A class without records gets 1.
    """
    if weighted_loss == 0:
        return None
    seen = np.asarray(counts, np.float64)
    weights = np.where(seen > 0, num_records / (len(seen) * np.maximum(seen, 1)), 1.0)
    return np.sqrt(weights) if weighted_loss == 1 else weights


def build_loss(task: Task, weights: npt.NDArray[np.float64] | None) -> nn.Module:
    """Cross-entropy with class weights (multi-class), binary cross-entropy with positive weights (multi-label)."""
    tensor = None if weights is None else torch.from_numpy(weights).float()
    return nn.CrossEntropyLoss(tensor) if task is Task.MULTI_CLASS else nn.BCEWithLogitsLoss(pos_weight=tensor)
