"""Error bodies, and descriptions of JSON values for error messages."""

import json
from collections.abc import Mapping
from typing import Final

from clearsight.errors import BadRequest

__all__ = ["IMAGE_COLUMN", "describe_columns", "error_body", "kind_of", "row_error", "to_ascii"]

IMAGE_COLUMN: Final = "image"
"""The column of a request that holds the images."""


def error_body(message: str) -> bytes:
    """Return the body of a failed request: `{"message": …}`."""
    return json.dumps({"message": message}, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def row_error(row: int, reason: object) -> BadRequest:
    """Build the error of the row (from 0, as in `data`) that makes a request fail; a `BadRequest` keeps its class."""
    message = f"row {row}, column {IMAGE_COLUMN!r}: {reason}"
    return type(reason)(message) if isinstance(reason, BadRequest) else BadRequest(message)


def kind_of(value: object) -> str:
    """Describe the type and size of a JSON value without its content, which may be megabytes."""
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


def describe_columns(columns: object) -> str:
    """Describe a value where a list of column names is expected: such a list in full, anything else by its kind."""
    if isinstance(columns, list) and all(isinstance(column, str) for column in columns):
        return to_ascii(str(columns))
    return kind_of(columns)


def to_ascii(text: str, limit: int = 200) -> str:
    """Escape what is not ASCII, and cut the text to `limit` characters: it goes into an HTTP header or a log line."""
    shown = text.encode("ascii", "backslashreplace").decode()
    return shown if len(shown) <= limit else f"{shown[:limit]}..."
