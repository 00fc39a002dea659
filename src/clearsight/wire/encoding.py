"""Answers as JSON: a list with one object per row, in row order; finite numbers, compact, ASCII."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from math import isfinite
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
import pybase64

from clearsight.errors import ClearsightError
from clearsight.wire.answers import Answer, ClassificationAnswer, DetectedObject, DetectionAnswer, ObjectExplanation

__all__ = ["encode_answers", "shortest", "to_document"]

_T = TypeVar("_T")


def shortest(values: npt.NDArray[np.floating]) -> Any:
    """Return the array as nested lists of its float32 values in shortest decimal form (at most 9 digits)."""
    text = orjson.dumps(np.ascontiguousarray(values, np.float32), option=orjson.OPT_SERIALIZE_NUMPY)
    return orjson.loads(text)


def encode_answers(answers: Sequence[Answer]) -> bytes:
    """Return the response body of one request: a JSON list with one answer per row, in row order.

    A number that is not finite raises `ClearsightError`: the model is at fault, and JSON cannot express it.
    """
    return b"[" + b",".join(_encode_answer(answer) for answer in answers) + b"]"


def to_document(answer: Answer) -> dict[str, Any]:
    """Return an answer as the plain data that its JSON holds."""
    if isinstance(answer, ClassificationAnswer):
        document: dict[str, Any] = {"probs": list(answer.probs), "labels": list(answer.labels)}
        return document | {key: orjson.loads(text) for key, text in _encode_explanation(answer)}
    document = {"boxes": [_object_document(found, found.label) for found in answer.boxes]}
    if answer.explanations is not None:
        document["explanations"] = orjson.loads(_encode_object_explanations(answer.explanations))
    return document


def _encode_answer(answer: Answer) -> bytes:
    if isinstance(answer, DetectionAnswer):
        return _encode_detections(answer)
    if not all(map(isfinite, answer.probs)):
        raise ClearsightError("the model gave probabilities that are not finite numbers")
    scores = b'{"probs":' + orjson.dumps(answer.probs) + b',"labels":' + _encode_labels(answer.labels)
    explanation = [b',"' + key.encode("ascii") + b'":' + text for key, text in _encode_explanation(answer)]
    return b"".join((scores, *explanation, b"}"))


def _encode_explanation(answer: ClassificationAnswer) -> Iterator[tuple[str, bytes]]:
    """Yield the key and the JSON text of each explanation that an answer holds."""
    if answer.visualizations is not None:
        yield "visualizations", _one_or_list(answer.visualizations, _encode_image)
    if answer.attributions is not None:
        yield "attributions", _one_or_list(answer.attributions, bytes)
    if answer.explanation_details is not None:
        yield "explanation_details", _one_or_list(answer.explanation_details, _encode_details)


def _one_or_list(values: _T | tuple[_T, ...], encode: Callable[[_T], bytes]) -> bytes:
    if isinstance(values, tuple):
        return b"[" + b",".join(map(encode, values)) + b"]"
    return encode(values)


def _encode_image(data: bytes) -> bytes:
    return b'"' + pybase64.b64encode(data) + b'"'


def _encode_details(details: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(details, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
    except ValueError:
        raise ClearsightError("the details of an explanation hold numbers that are not finite") from None


def _encode_detections(answer: DetectionAnswer) -> bytes:
    for found in answer.boxes:
        numbers = chain(found.box_xyxy_unit, (found.score,), *(found.polygon or ()))
        if not all(map(isfinite, numbers)):
            raise ClearsightError("the model gave boxes, scores or outlines that are not finite numbers")
    # A fragment, since orjson does not escape to ASCII.
    boxes = [_object_document(found, orjson.Fragment(_encode_label(found.label))) for found in answer.boxes]
    document: dict[str, Any] = {"boxes": boxes}
    if answer.explanations is not None:
        document["explanations"] = orjson.Fragment(_encode_object_explanations(answer.explanations))
    return orjson.dumps(document)


def _encode_object_explanations(explanations: Sequence[ObjectExplanation]) -> bytes:
    documents = []
    for explanation in explanations:
        document: dict[str, Any] = {"index": explanation.index}
        if explanation.visualizations is not None:
            document["visualizations"] = orjson.Fragment(_encode_image(explanation.visualizations))
        if explanation.attributions is not None:
            document["attributions"] = orjson.Fragment(explanation.attributions)
        if explanation.explanation_details is not None:
            document["explanation_details"] = orjson.Fragment(_encode_details(explanation.explanation_details))
        documents.append(document)
    return orjson.dumps(documents)


def _object_document(found: DetectedObject, label: str | orjson.Fragment) -> dict[str, Any]:
    corners = dict(zip(("topX", "topY", "bottomX", "bottomY"), found.box_xyxy_unit, strict=True))
    document: dict[str, Any] = {"box": corners, "label": label, "score": found.score}
    if found.polygon is not None:
        document["polygon"] = [list(region) for region in found.polygon]
    if found.rle is not None:
        document["rle"] = dict(found.rle)
    return document


@lru_cache(maxsize=16)
def _encode_labels(labels: tuple[str, ...]) -> bytes:
    """Cached, since the labels are the same in every answer of a model."""
    return json.dumps(labels, ensure_ascii=True, separators=(",", ":")).encode("ascii")


@lru_cache(maxsize=1024)
def _encode_label(label: str) -> bytes:
    return json.dumps(label, ensure_ascii=True).encode("ascii")
