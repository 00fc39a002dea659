"""Class probabilities from a classifier's logits."""

import numpy as np
import numpy.typing as npt

from clearsight.tasks import Task

__all__ = ["probabilities"]


def probabilities(logits: npt.NDArray[np.floating], task: Task) -> npt.NDArray[np.float64]:
    """Softmax over the last axis for multi-class, independent sigmoids for multi-label; float64, the same shape.

    Finite for all finite logits.
    """
    logits = logits.astype(np.float64)
    if task is Task.MULTI_LABEL:
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))  # the sigmoid, without overflow
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
