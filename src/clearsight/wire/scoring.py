"""The scoring contract: request bodies in, cells out; answers in, JSON out.

A request is `{"input_data": {"columns": ["image"], "data": [cell, …], "index"?: […]}, "params"?: {…}}` as Azure's
AutoML for images takes it, or with a plain list as `input_data`. A cell is base64 text (with or without newlines),
bytes of such text, bytes of an image file, or the JSON text of an explanation request. An answer is a JSON list with
one object per row, in row order. JSON written here is finite, compact and ASCII.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from math import isfinite
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
import pybase64

from clearsight.errors import BadImage, BadRequest, ClearsightError
from clearsight.images.decode import sniff_format

__all__ = [
    "MAX_ROWS",
    "Answer",
    "ClassificationAnswer",
    "DetectedObject",
    "DetectionAnswer",
    "ObjectExplanation",
    "XaiRequest",
    "encode_answers",
    "error_body",
    "parse_request",
    "resolve_cell",
    "row_error",
    "shortest",
    "to_document",
    "xai_parameters_of",
]

MAX_ROWS: Final = 100
"""Rows of one request."""

COLUMN: Final = "image"

_T = TypeVar("_T")

_EXPLANATION_KEYS: Final = ("model_explainability", "xai_parameters")
_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_WHITE_SPACE: Final = b" \t\n\r\v\f"


@dataclass(frozen=True, slots=True)
class XaiRequest:
    """An image whose score is to be explained."""

    image: bytes
    """The image file."""
    parameters: Mapping[str, Any]
    """`xai_parameters` as they came; not checked yet."""


@dataclass(frozen=True, slots=True)
class ClassificationAnswer:
    """Scores of one image, one element per class in the order of the package's labels, and what explains them.

    An explanation is one value for one explained class, a tuple for a list of them; keys without one are not written.
    """

    probs: tuple[float, ...]
    labels: tuple[str, ...]
    visualizations: bytes | tuple[bytes, ...] | None = None
    """PNG files; base64 in the answer."""
    attributions: bytes | tuple[bytes, ...] | None = None
    """JSON texts, written into the answer as they are: megabytes."""
    explanation_details: Mapping[str, Any] | tuple[Mapping[str, Any], ...] | None = None
    """Ours, only where the request asks for them."""
    is_degraded: bool = False
    """Whether an explanation is less than was asked for, since time or a limit ended. Not written into the answer."""


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """One box of an answer; all coordinates are fractions of the upright image, in [0, 1]."""

    box_xyxy_unit: tuple[float, float, float, float]
    """Azure's `topX`, `topY`, `bottomX`, `bottomY`: left < right and top < bottom."""
    label: str
    score: float
    polygon: tuple[tuple[float, ...], ...] | None = None
    """Segmentation only: x0, y0, x1, y1, … of each part, the largest first, at least 3 points each."""
    rle: Mapping[str, Any] | None = None
    """Ours, only where the package's settings ask for it: the mask as COCO's run-length encoding."""
    view: int = field(default=0, compare=False)
    """Which view of the image it was found in: 0 is the whole, i its tile i - 1. Not written into the answer."""


@dataclass(frozen=True, slots=True)
class ObjectExplanation:
    """What explains one object of an answer; keys without a value are not written."""

    index: int
    """Of the object in `boxes`."""
    visualizations: bytes | None = None
    """PNG file; base64 in the answer."""
    attributions: bytes | None = None
    """JSON text, written into the answer as it is."""
    explanation_details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DetectionAnswer:
    """What was found in one image, by descending score; detection and segmentation."""

    boxes: tuple[DetectedObject, ...]
    explanations: tuple[ObjectExplanation, ...] | None = None
    """Ours, only where the request asks for them."""
    is_degraded: bool = False
    """As in `ClassificationAnswer`."""


Answer = ClassificationAnswer | DetectionAnswer


def parse_request(body: bytes, max_rows: int = MAX_ROWS) -> list[object]:
    """Read a body; return one cell per row, unresolved.

    `params` may carry the keys of an explanation request; they then apply to every cell that is not one itself.
    Raises `BadRequest`, with the messages of Azure's scoring server where it has one.
    """
    document = _parse_json(body)
    if not isinstance(document, dict):
        raise BadRequest("POST body should be a JSON dictionary.")
    if document.get("input_data") is None:
        raise BadRequest("A value is not provided for the 'input_data' parameter.")
    params = document.get("params")
    if params is not None and not isinstance(params, dict):
        raise BadRequest(f"'params' must be a JSON object, but got {_kind(params)}")
    cells = _cells(document["input_data"])
    if len(cells) > max_rows:
        raise BadRequest(f"a request must have at most {max_rows} rows, but it has {len(cells)}; send several requests")
    if params and any(params.get(key) is not None for key in _EXPLANATION_KEYS):
        return [_with_params(cell, params) for cell in cells]
    return cells


def _parse_json(body: bytes) -> Any:
    if not body.strip():
        raise BadRequest("POST body is empty. Send a JSON object with the key 'input_data'.")
    try:
        return orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))  # some clients write a byte order mark
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"POST body could not be decoded as JSON: {_ascii(str(error))}") from None


def _cells(input_data: object) -> list[object]:
    if isinstance(input_data, list):
        return [row[0] if isinstance(row, list) and len(row) == 1 else row for row in input_data]
    if not isinstance(input_data, dict):
        raise BadRequest(f"'input_data' must be an object with 'columns' and 'data', but got {_kind(input_data)}")
    columns, data, index = input_data.get("columns"), input_data.get("data"), input_data.get("index")
    if not isinstance(columns, list) or COLUMN not in columns:
        raise BadRequest(f"'columns' of 'input_data' must be a list that holds {COLUMN!r}, but got {_shown(columns)}")
    if not isinstance(data, list):
        raise BadRequest(f"'data' of 'input_data' must be a list with one element per image, but got {_kind(data)}")
    if index is not None:
        if not isinstance(index, list):
            raise BadRequest(f"'index' of 'input_data' must be a list, but got {_kind(index)}")
        if len(index) != len(data):
            raise BadRequest(
                f"'index' of 'input_data' must have one element per row, but has {len(index)} for {len(data)} rows"
            )
    place, width = columns.index(COLUMN), len(columns)
    return [_cell(row, number, place, width) for number, row in enumerate(data)]


def _cell(row: object, number: int, place: int, width: int) -> object:
    if isinstance(row, list):
        if len(row) != width:
            raise row_error(number, f"a row must have one value per column, {width}, but has {len(row)}")
        return row[place]
    if width > 1:
        raise row_error(number, f"a row must be a list of {width} values, one per column, but got {_kind(row)}")
    return row


def _with_params(cell: object, params: Mapping[str, Any]) -> object:
    if isinstance(cell, dict) or (isinstance(cell, str) and cell.lstrip().startswith("{")):
        return cell
    return {"image_base64": cell, **{key: params[key] for key in _EXPLANATION_KEYS if key in params}}


def resolve_cell(cell: object) -> bytes | XaiRequest:
    """Find the image file in a cell, whichever route it came by.

    In this order: a list of one is its element; a mapping is an explanation request; bytes with an image's
    signature are the image, others are ASCII text; text that begins with `{` is the JSON of an explanation
    request, an address is refused, a data URI loses its prefix, everything else is base64, checked strictly after
    white space is removed. Raises `BadRequest` (`BadImage` where nothing is left).
    """
    cell = _unwrapped(cell)
    if isinstance(cell, Mapping):
        return _xai_request(cell)
    content = _image_or_text(cell)
    if isinstance(content, bytes):
        return content
    text = content.lstrip() if content[:1].isspace() else content
    if not text.startswith("{"):
        return _decode_text(text)
    try:
        document = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raise BadRequest(f"text that begins with '{{' must be JSON, but it is not: {_ascii(str(error))}") from None
    return _xai_request(document)


def xai_parameters_of(cell: object) -> Mapping[str, Any] | None:
    """The parameters, perhaps none, of a cell that asks for an explanation; None for any other cell.

    Cheap: no image is decoded, and text that is not JSON is not read. What is wrong with a cell is for
    `resolve_cell` to say.
    """
    cell = _unwrapped(cell)
    if isinstance(cell, bytes) and cell.lstrip()[:1] == b"{":
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, str) and cell.lstrip()[:1] == "{":
        try:
            cell = orjson.loads(cell)
        except (orjson.JSONDecodeError, UnicodeEncodeError):
            return None
    if not isinstance(cell, Mapping) or cell.get("model_explainability") is not True:
        return None
    parameters = cell.get("xai_parameters")
    return parameters if isinstance(parameters, Mapping) else {}


def _unwrapped(cell: object) -> object:
    while isinstance(cell, (list, tuple)) and len(cell) == 1:
        cell = cell[0]
    return cell


def _image_or_text(cell: object) -> bytes | str:
    """Bytes of an image file, or text still to be read."""
    if isinstance(cell, (bytearray, memoryview)):
        cell = bytes(cell)
    if isinstance(cell, bytes):
        if sniff_format(cell) is not None:
            return cell
        if not cell:
            raise BadImage("empty picture: got 0 bytes")
        if not cell.isascii():
            raise BadImage(f"bytes must be a picture file or base64 text, but begin with {cell[:8].hex(' ')}")
        return cell.decode("ascii")
    if not isinstance(cell, str):
        raise BadRequest(f"a cell must be base64 text, but got {_kind(cell)}")
    return cell


def _decode_text(text: str) -> bytes:
    if _URL.match(text):
        raise BadRequest("pictures by address (http, https) are switched off here; send the picture as base64 text")
    if text.startswith("data:") and ";base64," in text[:256]:
        text = text[text.index(";base64,") + len(";base64,") :]
    if not text.isascii():
        raise BadImage("base64 text must be ASCII, but has other characters")
    encoded = text.encode("ascii").replace(b"\n", b"")  # encodebytes breaks lines; replace is 4x faster than translate
    try:
        data = pybase64.b64decode(encoded, validate=True)
    except ValueError:
        try:
            data = pybase64.b64decode(encoded.translate(None, _WHITE_SPACE), validate=True)
        except ValueError:
            raise BadImage(
                "the picture must be base64 text (A-Z a-z 0-9 + / and = padding to a multiple of 4 characters), "
                f"but got {len(text)} characters that are not"
            ) from None
    if not data:
        raise BadImage("empty picture: the base64 text holds 0 bytes")
    return data


def _xai_request(document: Mapping[Any, Any]) -> bytes | XaiRequest:
    """Read the object of an explanation request; without `model_explainability` it is a plain image."""
    image = _unwrapped(document.get("image_base64"))
    wanted = document.get("model_explainability")
    parameters = document.get("xai_parameters")
    if image is None or isinstance(image, Mapping):
        raise BadRequest(f"an explanation request must hold 'image_base64' as base64 text, but got {_kind(image)}")
    content = _image_or_text(image)
    data = content if isinstance(content, bytes) else _decode_text(content.lstrip())
    if wanted is None or wanted is False:
        return data
    if wanted is not True:
        raise BadRequest(f"'model_explainability' must be true or false, but got {_kind(wanted)}")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise BadRequest(f"'xai_parameters' must be a JSON object, but got {_kind(parameters)}")
    return XaiRequest(data, dict(parameters or {}))


def shortest(values: npt.NDArray[np.floating]) -> Any:
    """Lists, nested as the array, of its float32 values in their shortest decimal form: 9 digits hold all there is."""
    text = orjson.dumps(np.ascontiguousarray(values, np.float32), option=orjson.OPT_SERIALIZE_NUMPY)
    return orjson.loads(text)


def encode_answers(answers: Sequence[Answer]) -> bytes:
    """Write the response body of one request: a list, in row order.

    A number that is not finite raises `ClearsightError`: it is a fault of the model, and JSON has no word for it.
    """
    return b"[" + b",".join(_encode_answer(answer) for answer in answers) + b"]"


def to_document(answer: Answer) -> dict[str, Any]:
    """An answer as the plain data that its JSON holds."""
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
    """Keys and JSON texts of what an answer holds beyond scores."""
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
    for found in explanations:
        document: dict[str, Any] = {"index": found.index}
        if found.visualizations is not None:
            document["visualizations"] = orjson.Fragment(_encode_image(found.visualizations))
        if found.attributions is not None:
            document["attributions"] = orjson.Fragment(found.attributions)
        if found.explanation_details is not None:
            document["explanation_details"] = orjson.Fragment(_encode_details(found.explanation_details))
        documents.append(document)
    return orjson.dumps(documents)


def _object_document(found: DetectedObject, label: str | orjson.Fragment) -> dict[str, Any]:
    corners = dict(zip(("topX", "topY", "bottomX", "bottomY"), found.box_xyxy_unit, strict=True))
    document: dict[str, Any] = {"box": corners, "label": label, "score": found.score}
    if found.polygon is not None:
        document["polygon"] = [list(part) for part in found.polygon]
    if found.rle is not None:
        document["rle"] = dict(found.rle)
    return document


@lru_cache(maxsize=16)
def _encode_labels(labels: tuple[str, ...]) -> bytes:
    """Labels are the same in every answer of a model, so they are written once."""
    return json.dumps(labels, ensure_ascii=True, separators=(",", ":")).encode("ascii")


@lru_cache(maxsize=1024)
def _encode_label(label: str) -> bytes:
    return json.dumps(label, ensure_ascii=True).encode("ascii")


def error_body(message: str) -> bytes:
    """Write the body of a failed request: `{"message": …}`."""
    return json.dumps({"message": message}, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def row_error(row: int, reason: object) -> BadRequest:
    """Name the row (from 0, as in `data`) that makes a request fail. The class of an error as `reason` is kept."""
    message = f"row {row}, column {COLUMN!r}: {reason}"
    return type(reason)(message) if isinstance(reason, BadRequest) else BadRequest(message)


def _kind(value: object) -> str:
    """Describe a JSON value without repeating it: it may hold megabytes."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {str(value)[:40]}"
        case str() | bytes():
            return f"text of {len(value)} characters"
        case list() | tuple():
            return f"a list of {len(value)}"
        case Mapping():
            return "an object"
        case _:
            return f"a value of type {type(value).__name__}"


def _shown(columns: object) -> str:
    if isinstance(columns, list) and all(isinstance(column, str) for column in columns):
        return _ascii(str(columns))
    return _kind(columns)


def _ascii(text: str, limit: int = 200) -> str:
    shown = text.encode("ascii", "backslashreplace").decode()
    return shown if len(shown) <= limit else f"{shown[:limit]}..."
