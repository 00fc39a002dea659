r"""Whether a body asks for an explanation, by a search of its bytes: JSON is not parsed here.

The switch sits in JSON text inside JSON: `"{\"image_base64\": \"…\", \"model_explainability\": true}"`. Nearly all
of a body is base64, whose standard alphabet has no underscore, so hopping from underscore to underscore (memchr) and
comparing there costs a seventh of a search for the key: 0.3 ms against 2.1 ms for an image of 6 MB (measured).

A key spelled with escapes (`model\u005fexplainability`) is missed: the handler of the predict lane answers 421, and
the gateway sends the same bytes to the explain lane. A key inside another text is found although no explanation is
asked for: the explain lane then predicts, as the predict lane would have done.
"""

from collections.abc import Iterable
from typing import Final

__all__ = ["asks_for_explanation"]

KEY: Final = b"model_explainability"
FIRST_UNDERSCORE: Final = KEY.index(b"_")

VALUE_REACH: Final = 32
"""Bytes behind the key that are searched for its value; a value further away counts as true."""

BETWEEN: Final = b'\\": \t\r\n'
"""What may stand between a key and its value, quoted once or twice."""

MAX_HOPS: Final = 16
"""Per piece. With more underscores (base64 of the URL alphabet has one in 64) a plain search is cheaper."""


MAX_REFUSALS: Final = 128
"""Keys per piece with the value false or null. A request has at most 100 rows: with more, the explain lane decides."""


def asks_for_explanation(pieces: Iterable[bytes | memoryview]) -> bool:
    """Whether the body made of `pieces` holds the key with another value than `false` or `null`."""
    carry = b""
    for piece in pieces:
        data = carry + piece if carry else bytes(piece)
        decided = len(data) - len(KEY) - VALUE_REACH
        if _holds_key(data, decided):
            return True
        carry = data[max(0, decided + 1) :]
    return _holds_key(carry, len(carry))


def _holds_key(data: bytes, last: int) -> bool:
    """Whether the key, with a value other than false and null, begins at or before `last`."""
    at = _find_key(data, 0)
    for _ in range(MAX_REFUSALS):
        if not 0 <= at <= last:
            return False
        value = data[at + len(KEY) : at + len(KEY) + VALUE_REACH].lstrip(BETWEEN)
        if not value.startswith((b"false", b"null")):
            return True
        at = _find_key(data, at + len(KEY))
    return True


def _find_key(data: bytes, start: int) -> int:
    """Where the key begins at or after `start`; -1 when it does not."""
    at = data.find(b"_", start + FIRST_UNDERSCORE)
    for _ in range(MAX_HOPS):
        if at < 0 or data.startswith(KEY, at - FIRST_UNDERSCORE):
            return at - FIRST_UNDERSCORE if at >= 0 else -1
        at = data.find(b"_", at + 1)
    return data.find(KEY, at - FIRST_UNDERSCORE) if at >= 0 else -1
