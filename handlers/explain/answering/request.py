"""Parses a cell that requests an explanation into its image and checked parameters."""

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
    """An image and the parameters of its explanation."""

    image: bytes
    """Content of the image file."""
    parameters: XaiParameters

    @property
    def digest(self) -> bytes:
        """SHA-256 of the image file."""
        return hashlib.sha256(self.image).digest()


def read_cell(cell: object, always: bool, limits: XaiLimits, task: Task) -> ExplainRequest | None:
    """Parse a cell; None for one without an explanation, which is not checked.

    `always` also explains cells without a request, with the parameters that they hold. Raises `BadRequest`.
    """
    if always:
        cell = _with_request(cell)
    if not wants_explanation(cell, task):
        return None
    found = resolve_cell(cell)
    if not isinstance(found, XaiRequest):
        return None
    algorithms = CLASSIFIER_ALGORITHMS if task.is_classification else DETECTOR_ALGORITHMS
    return ExplainRequest(found.image, parse_xai_parameters(found.parameters, limits, algorithms))


def _with_request(cell: object) -> object:
    """The same cell with `model_explainability`; an unreadable one stays as it is, and `resolve_cell` reports why."""
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
