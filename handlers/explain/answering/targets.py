"""Chooses the labels of an image to explain, and the contrasting label."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from clearsight.errors import BadRequest
from clearsight.handlers.explain.network.functions import ExplainTarget
from clearsight.handlers.explain.parameters import XaiParameters
from clearsight.tasks import Task

__all__ = ["Targets", "choose_targets"]


@dataclass(frozen=True, slots=True)
class Targets:
    """The explained classes, in the order of the answer."""

    class_ids: tuple[int, ...]
    contrast_id: int | None = None
    is_list: bool = False
    """Whether the answer holds lists; if not, single values."""
    num_left_out: int = 0
    """Number of qualifying labels beyond the deployment's limit, which are not explained."""

    @property
    def scores(self) -> tuple[ExplainTarget, ...]:
        return tuple(ExplainTarget(class_id, self.contrast_id) for class_id in self.class_ids)


def choose_targets(
    probs: Sequence[float],
    labels: Sequence[str],
    task: Task,
    parameters: XaiParameters,
    max_labels: int,
    may_leave_out: bool = True,
) -> Targets:
    """Choose `target_labels`; without them the most probable label, or for multi-label those that reach the threshold.

    Of more than `max_labels` the most probable are taken, in the order of the labels; with `may_leave_out` False more
    labels are an error. Raises `BadRequest` for a label that the model does not have, and for a contrast that is also
    explained.
    """
    contrast = parameters.contrast_label
    contrast_id = None if contrast is None else _id_of("contrast_label", contrast, labels)
    num_left_out = 0
    if parameters.target_labels is not None:
        if len(parameters.target_labels) > max_labels:
            raise BadRequest(
                f"'target_labels' must name at most {max_labels} labels, but it names {len(parameters.target_labels)}; "
                "send the picture again for the others"
            )
        class_ids = tuple(_id_of("target_labels", label, labels) for label in parameters.target_labels)
        is_list = task is Task.MULTI_LABEL or len(class_ids) > 1
    elif task is Task.MULTI_LABEL:
        able = [class_id for class_id, prob in enumerate(probs) if prob >= parameters.threshold]
        num_left_out = max(0, len(able) - max_labels)
        if num_left_out and not may_leave_out:
            raise BadRequest(
                f"at most {max_labels} labels of a picture are explained, but {len(able)} reach the threshold; raise "
                "'confidence_score_threshold_multilabel', or name 'target_labels'"
            )
        most_probable = sorted(able, key=lambda class_id: -probs[class_id])[:max_labels]
        class_ids, is_list = tuple(sorted(most_probable)), True
    else:
        class_ids, is_list = (max(range(len(probs)), key=lambda class_id: probs[class_id]),), False
    if contrast_id in class_ids:
        raise BadRequest(
            f"'contrast_label' must differ from the explained labels, but {contrast!a} is one of them; "
            "name the others as 'target_labels'"
        )
    return Targets(class_ids, contrast_id, is_list, num_left_out)


def _id_of(key: str, label: str, labels: Sequence[str]) -> int:
    try:
        return labels.index(label)
    except ValueError:
        near = difflib.get_close_matches(label[:200], labels, n=1)
        hint = f"; did you mean {near[0]!a}?" if near else ""
        raise BadRequest(f"{key!r} must name labels of this model, but got {label[:80]!a}{hint}") from None
