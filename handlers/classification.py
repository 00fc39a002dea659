"""From logits to answers, for classification."""

import numpy as np
import numpy.typing as npt

from clearsight.errors import ClearsightError
from clearsight.handlers.backends import Floats
from clearsight.tasks import Task
from clearsight.wire import ClassificationAnswer, shortest

__all__ = ["probabilities", "to_answers"]


def probabilities(logits_K: Floats, task: Task) -> npt.NDArray[np.float64]:
    """Softmax for multi-class, independent sigmoids for multi-label. Of one picture, in float64."""
    logits = logits_K.astype(np.float64)
    if task is Task.MULTI_LABEL:
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))  # the sigmoid, without overflow
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum())


def to_answers(logits_NK: Floats, task: Task, labels: tuple[str, ...]) -> list[ClassificationAnswer]:
    """Make one answer per row. Rows are treated one by one, so that none depends on another.

    Raises `ClearsightError` when logits are not finite.
    """
    if not np.isfinite(logits_NK).all():
        raise ClearsightError("the model gave logits that are not finite numbers")
    return [ClassificationAnswer(tuple(shortest(probabilities(logits_K, task))), labels) for logits_K in logits_NK]
