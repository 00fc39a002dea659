"""Cells of a request: one cell in, an image file or an explanation request out.

A cell is base64 text (with or without newlines), bytes of such text, bytes of an image file, or the JSON text of an
explanation request.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pybase64

from clearsight.errors import BadImage, BadRequest
from clearsight.images.headers import describe_format, sniff_format
from clearsight.wire.errors import kind_of, to_ascii

__all__ = ["XaiRequest", "resolve_cell", "xai_parameters_of"]

_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_PYTHON_BYTES: Final = re.compile(rb"b(['\"])(.*)\1")
_WHITE_SPACE: Final = b" \t\n\r\v\f"


@dataclass(frozen=True, slots=True)
class XaiRequest:
    """A request to score one image and explain the result."""

    image: bytes
    """Content of the image file."""
    parameters: Mapping[str, Any]
    """`xai_parameters` as received, not yet validated."""


def resolve_cell(cell: object) -> bytes | XaiRequest:
    """Return the image file of a cell, or its explanation request, in any of the forms a cell may have.

    In this order: a list of one is its element; a mapping is an explanation request; bytes with an image's
    signature are the image, others are ASCII text; text that begins with `{` is the JSON of an explanation
    request, an address is refused, a data URI loses its prefix, everything else is base64, checked strictly after
    white space is removed. What clients write by mistake is read where it has one meaning only: the URL alphabet,
    missing padding, and Python's text of bytes (`b'…'`). Raises `BadRequest` (`BadImage` where nothing is left).
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
        raise BadRequest(f"text that begins with '{{' must be JSON, but it is not: {to_ascii(str(error))}") from None
    return _xai_request(document)


def xai_parameters_of(cell: object) -> Mapping[str, Any] | None:
    """Return the parameters (possibly empty) of a cell that requests an explanation; None for any other cell.

    Cheap: no image is decoded, and only text that begins with `{` is parsed. Never raises: `resolve_cell` reports
    what is wrong with a cell.
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
    """Return the bytes of an image file, or the text of a cell that holds text."""
    if isinstance(cell, (bytearray, memoryview)):
        cell = bytes(cell)
    if isinstance(cell, bytes):
        if sniff_format(cell) is not None:
            return cell
        if not cell:
            raise BadImage("empty picture: got 0 bytes")
        if not cell.isascii():
            raise BadImage(f"bytes must be a picture file or base64 text, but got {describe_format(cell[:512])}")
        return cell.decode("ascii")
    if not isinstance(cell, str):
        raise BadRequest(f"a cell must be base64 text, but got {kind_of(cell)}")
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
            data = pybase64.b64decode(_regular(encoded), validate=True)
        except ValueError:
            raise BadImage(
                "the picture must be base64 text (A-Z a-z 0-9 + / and = padding to a multiple of 4 characters), "
                f"but got {len(text)} characters that are not"
            ) from None
    if not data:
        raise BadImage("empty picture: the base64 text holds 0 bytes")
    return data


def _regular(encoded: bytes) -> bytes:
    """Base64 in the standard alphabet with padding, of text that is not quite so; other faults stay in it."""
    if (quoted := _PYTHON_BYTES.fullmatch(encoded)) is not None:
        encoded = quoted[2].replace(b"\\n", b"")  # of `str(base64.encodebytes(…))`
    encoded = encoded.translate(None, _WHITE_SPACE)
    if b"+" not in encoded and b"/" not in encoded:
        encoded = encoded.replace(b"-", b"+").replace(b"_", b"/")  # RFC 4648, 5
    return encoded if b"=" in encoded else encoded + b"=" * (-len(encoded) % 4)


def _xai_request(document: Mapping[Any, Any]) -> bytes | XaiRequest:
    """Read the JSON object of an explanation request; without `model_explainability` it is a plain image."""
    image = _unwrapped(document.get("image_base64"))
    explainability = document.get("model_explainability")
    parameters = document.get("xai_parameters")
    if image is None or isinstance(image, Mapping):
        raise BadRequest(f"an explanation request must hold 'image_base64' as base64 text, but got {kind_of(image)}")
    content = _image_or_text(image)
    data = content if isinstance(content, bytes) else _decode_text(content.lstrip())
    if explainability is None or explainability is False:
        return data
    if explainability is not True:
        raise BadRequest(f"'model_explainability' must be true or false, but got {kind_of(explainability)}")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise BadRequest(f"'xai_parameters' must be a JSON object, but got {kind_of(parameters)}")
    return XaiRequest(data, dict(parameters or {}))
