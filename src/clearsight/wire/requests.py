"""Request bodies: JSON in, one cell per row out.

A request is `{"input_data": {"columns": ["image"], "data": [cell, …], "index"?: […]}, "params"?: {…}}` as Azure's
AutoML for images takes it, or with a plain list as `input_data`; or one of KServe's protocol v1 and TensorFlow Serving,
`{"instances": [row, …]}`, whose answer is `{"predictions": […]}`. The body may be compressed by gzip.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from clearsight.errors import BadRequest, TooLarge
from clearsight.wire.errors import IMAGE_COLUMN, describe_columns, kind_of, row_error, to_ascii
from clearsight.wire.lane_protocol import MAX_BODY_BYTES

__all__ = ["MAX_ROWS", "RequestRows", "parse_request", "read_request"]

MAX_ROWS: Final = 100
"""Greatest number of rows of one request."""

_GZIP: Final = b"\x1f\x8b"
_MAX_RATIO: Final = 8
_MIN_UNPACKED_BYTES: Final = 1024 * 1024

_INSTANCE_KEYS: Final = ("data", "image", "image_bytes", "b64")
"""Of KServe's samples for TorchServe, and of TensorFlow Serving. Other keys of an instance are ignored."""

_EXPLANATION_KEYS: Final = ("model_explainability", "xai_parameters")


@dataclass(frozen=True, slots=True)
class RequestRows:
    """The rows of a request, and the form of its answer."""

    cells: list[object]
    """One image cell per row; `resolve_cell` reads them."""
    has_instances: bool
    """Whether the rows came as `instances`: the answer is then an object with `predictions`, not a list."""


def parse_request(body: bytes, max_rows: int = MAX_ROWS) -> list[object]:
    """Parse a request body and return its image cells. Raises what `read_request` raises."""
    return read_request(body, max_rows).cells


def read_request(body: bytes, max_rows: int = MAX_ROWS) -> RequestRows:
    """Parse a request body.

    `params` may carry the keys of an explanation request, which then apply to every cell that is not one itself.
    Raises `BadRequest`, with the message of Azure's scoring server where that server has one.
    """
    document = _parse_json(body)
    if not isinstance(document, dict):
        raise BadRequest("POST body should be a JSON dictionary.")
    input_data, instances = document.get("input_data"), document.get("instances")
    has_instances = input_data is None and instances is not None
    if input_data is None and not has_instances:
        raise BadRequest("A value is not provided for the 'input_data' parameter.")
    params = document.get("params")
    if params is not None and not isinstance(params, dict):
        raise BadRequest(f"'params' must be a JSON object, but got {kind_of(params)}")
    cells = _instances(instances) if has_instances else _cells(input_data)
    if len(cells) > max_rows:
        raise BadRequest(f"a request must have at most {max_rows} rows, but it has {len(cells)}; send several requests")
    if params and any(params.get(key) is not None for key in _EXPLANATION_KEYS):
        cells = [_with_params(cell, params) for cell in cells]
    return RequestRows(cells, has_instances)


def _parse_json(body: bytes) -> Any:
    if body.startswith(_GZIP):
        body = _unpacked(body)
    if not body.strip():
        raise BadRequest("POST body is empty. Send a JSON object with the key 'input_data'.")
    try:
        return orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))  # some clients write a byte order mark
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"POST body could not be decoded as JSON: {to_ascii(str(error))}") from None


def _unpacked(body: bytes) -> bytes:
    """Decompress a body, as far as its size lets expect: JSON of base64 shrinks to three quarters, drawings to less."""
    limit = min(MAX_BODY_BYTES, max(_MIN_UNPACKED_BYTES, _MAX_RATIO * len(body)))
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        unpacked = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadRequest(f"POST body begins like gzip, but cannot be decompressed: {to_ascii(str(error))}") from None
    if len(unpacked) > limit:
        raise TooLarge(
            f"a body of {len(body)} bytes must be at most {limit} bytes when it is decompressed, but is more; "
            "send it without compression"
        )
    if not stream.eof:
        raise BadRequest("POST body begins like gzip, but is cut off")
    if stream.unused_data:
        raise BadRequest("POST body must be one gzip member, but more bytes follow it")
    return unpacked


def _cells(input_data: object) -> list[object]:
    if isinstance(input_data, list):
        return [row[0] if isinstance(row, list) and len(row) == 1 else row for row in input_data]
    if not isinstance(input_data, dict):
        raise BadRequest(f"'input_data' must be an object with 'columns' and 'data', but got {kind_of(input_data)}")
    columns, data, index = input_data.get("columns"), input_data.get("data"), input_data.get("index")
    if not isinstance(columns, list) or IMAGE_COLUMN not in columns:
        raise BadRequest(
            f"'columns' of 'input_data' must be a list that holds {IMAGE_COLUMN!r}, but got {describe_columns(columns)}"
        )
    if not isinstance(data, list):
        raise BadRequest(f"'data' of 'input_data' must be a list with one element per image, but got {kind_of(data)}")
    if index is not None:
        if not isinstance(index, list):
            raise BadRequest(f"'index' of 'input_data' must be a list, but got {kind_of(index)}")
        if len(index) != len(data):
            raise BadRequest(
                f"'index' of 'input_data' must have one element per row, but has {len(index)} for {len(data)} rows"
            )
    column, width = columns.index(IMAGE_COLUMN), len(columns)
    return [_cell(row, number, column, width) for number, row in enumerate(data)]


def _instances(instances: object) -> list[object]:
    if not isinstance(instances, list):
        raise BadRequest(f"'instances' must be a list with one element per image, but got {kind_of(instances)}")
    return [_instance(instance, number) for number, instance in enumerate(instances)]


def _instance(instance: object, number: int) -> object:
    """The cell of an instance: the text in `{"data": …}`, `{"image": …}`, `{"b64": …}`, one within the other too."""
    while isinstance(instance, dict) and "image_base64" not in instance:
        keys = [key for key in _INSTANCE_KEYS if key in instance]
        if len(keys) != 1:
            raise row_error(
                number,
                'an instance must be base64 text, {"data": text} or {"image": {"b64": text}}, but got an object with '
                + (f"the keys {to_ascii(', '.join(instance))}" if instance else "no keys"),
            )
        instance = instance[keys[0]]
    return instance


def _cell(row: object, number: int, column: int, width: int) -> object:
    if isinstance(row, list):
        if len(row) != width:
            raise row_error(number, f"a row must have one value per column, {width}, but has {len(row)}")
        return row[column]
    if width > 1:
        raise row_error(number, f"a row must be a list of {width} values, one per column, but got {kind_of(row)}")
    return row


def _with_params(cell: object, params: Mapping[str, Any]) -> object:
    if isinstance(cell, dict) or (isinstance(cell, str) and cell.lstrip().startswith("{")):
        return cell
    return {"image_base64": cell, **{key: params[key] for key in _EXPLANATION_KEYS if key in params}}
