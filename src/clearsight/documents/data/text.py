"""Text files that others wrote: one reader for lists, CSV, JSON and XML.

The encoding is the one that the file names: a byte order mark (UTF-8, UTF-16, UTF-32), or the declaration of an XML
file in any encoding that Python knows, also those that the XML parser itself does not; otherwise UTF-8. Nothing is
guessed.
"""

import codecs
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from xml.etree import ElementTree

import orjson

__all__ = ["BadText", "marked_encoding", "read_json", "read_text", "read_xml"]

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARATION: Final = re.compile(rb"""\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z][\w.:-]*)["']""")
_SUPERSETS: Final = MappingProxyType({"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"})
"""What files with these names hold in practice. https://encoding.spec.whatwg.org/#names-and-labels"""


class BadText(ValueError):
    """A file is no text, or text of another format; the message says what must hold and what came."""


def marked_encoding(content: bytes) -> str | None:
    """The encoding that the byte order mark at the beginning of a file names; None: there is no mark."""
    return next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)


def read_text(file: Path) -> str:
    """The text of a file, without its byte order mark; line ends stay. Raises `BadText`."""
    return _decode(_read_bytes(file), "utf-8")


def read_json(file: Path) -> Any:
    """The document of a JSON file. Raises `BadText`."""
    text = read_text(file)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadText(f"must be a JSON file, but: {error}") from None


def read_xml(file: Path) -> ElementTree.Element:
    """The root element of an XML file. Raises `BadText`."""
    content = _read_bytes(file)
    declared = _DECLARATION.match(content)
    encoding = "utf-8" if declared is None else declared[1].decode()
    if encoding.lower().startswith(("utf-16", "utf-32")):  # the declaration, read as bytes, shows that it is not
        encoding = "utf-8"
    text = _decode(content, encoding)
    try:
        # Of text, the parser ignores the declared encoding. Expat refuses entities that expand without end.
        return ElementTree.fromstring(text)  # noqa: S314
    except (ElementTree.ParseError, ValueError) as error:
        raise BadText(f"must be an XML file, but: {error}") from None


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadText(f"must be a readable file, but: {error.strerror or error}") from None


def _decode(content: bytes, encoding: str) -> str:
    """Decode by the byte order mark, else by `encoding`."""
    encoding = marked_encoding(content) or encoding
    try:
        name = codecs.lookup(encoding).name
        text = content.decode(_SUPERSETS.get(name, name))
    except LookupError:
        raise BadText(f"must be in an encoding that Python knows, but names {encoding!r}; save it as UTF-8") from None
    except UnicodeError as error:
        message = f"must be text in {encoding.upper()}, but: {error}; save it as UTF-8"
        raise BadText(message) from None
    return text.removeprefix("\ufeff")
