"""From a cell that asks for an explanation to the image and the checked parameters."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from clearsight.catalogue.algorithms import CLASSIFIER_ALGORITHMS, DETECTOR_ALGORITHMS
from clearsight.handlers.explain.parameters import (
    XaiLimits,
    XaiParameters,
    parse_xai_parameters,
    wants_explanation,
)
from clearsight.tasks import Task
from clearsight.wire.cells import XaiRequest, resolve_cell

__all__ = ["ExplainRequest", "read_cell"]


@dataclass(frozen=True, slots=True, eq=False)
class ExplainRequest:
    """An image and what to explain of it."""

    image: bytes
    """The image file."""
    parameters: XaiParameters

    @property
    def digest(self) -> bytes:
        """Of the image file."""
        return hashlib.sha256(self.image).digest()


def read_cell(cell: object, always: bool, limits: XaiLimits, task: Task) -> ExplainRequest | None:
    """Read a cell; None for one that is not to be explained, whatever else is in it.

    `always` explains cells that do not ask, too, with the parameters that they hold. Raises `BadRequest`.
    """
    if always:
        cell = _asking(cell)
    if not wants_explanation(cell, task):
        return None
    found = resolve_cell(cell)
    if not isinstance(found, XaiRequest):
        return None
    algorithms = CLASSIFIER_ALGORITHMS if task.is_classification else DETECTOR_ALGORITHMS
    return ExplainRequest(found.image, parse_xai_parameters(found.parameters, limits, algorithms))


def _asking(cell: object) -> object:
    """The same cell with `model_explainability`; what cannot be read stays as it is, for `resolve_cell` to say why."""
    while isinstance(cell, list | tuple) and len(cell) == 1:
        cell = cell[0]
    text = cell.lstrip()[:1] if isinstance(cell, str | bytes) else None
    if text in ("{", b"{"):
        try:
            cell = orjson.loads(cell)  # type: ignore[arg-type]  # text or bytes, as `text` says
        except (orjson.JSONDecodeError, UnicodeEncodeError):
            return cell
    if isinstance(cell, Mapping):
        return {**cell, "model_explainability": True}
    return {"image_base64": cell, "model_explainability": True}
