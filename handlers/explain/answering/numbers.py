"""Attributions as JSON: nested lists of short numbers, or base64 of raw ones; and an estimate of the text's size.

One attribution of 224 x 224 pixels is 150 528 numbers: 3.3 MB of text at full precision, 1.4 MB at five digits, 0.8 MB
as base64 of float32, 0.4 MB of float16. A number of the nested lists is written as an integer with a power of ten,
`-12345e-7`: the usual `-0.0012345` makes the text a fifth longer.
"""

from collections.abc import Iterable
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import orjson
import pybase64

from clearsight.catalogue.algorithms import AttributionsFormat
from clearsight.errors import BadRequest, ClearsightError

__all__ = ["DIGITS", "AnswerTooLarge", "encode_attribution", "first_too_many"]

DIGITS: Final = 5
"""Significant digits of nested lists: a relative error of at most 5e-5."""

_EXPONENTS: Final = range(-50, 39)  # float32 begins at 1.4e-45 and ends at 3.4e38

Bytes = npt.NDArray[np.uint8]


def encode_attribution(attribution: npt.NDArray[np.floating], form: AttributionsFormat = "nested") -> bytes:
    """Write an array of at least one dimension, not empty, as JSON text: ASCII, compact, finite, without -0.

    `float32_base64` is an object with `shape`, `dtype` and `data` (C order, little endian). `float16_base64` holds
    the values divided by the largest absolute one, and that one as `scale`. Raises `ClearsightError` for a number
    that is not finite.
    """
    values = np.ascontiguousarray(attribution, np.float32)
    if not np.isfinite(values).all():
        raise ClearsightError("the explanation holds numbers that are not finite")
    if form == "nested":
        return _nested(values)
    document: dict[str, object] = {"shape": values.shape, "dtype": "float32", "data": ""}
    if form == "float16_base64":
        scale = float(np.abs(values).max()) or 1.0
        document.update(dtype="float16", data=_base64(values / scale, "<f2"), scale=scale)
    else:
        document.update(data=_base64(values, "<f4"))
    return orjson.dumps(document)


def _base64(values: npt.NDArray[np.float32], dtype: str) -> str:
    return pybase64.b64encode(values.astype(dtype).tobytes()).decode("ascii")


def _nested(values: npt.NDArray[np.float32]) -> bytes:
    """Write all numbers at once: one row of bytes per number, padded with zero bytes, which are then removed."""
    flat = values.reshape(-1)
    mantissas, exponents = _decimal(flat)
    levels = values.ndim - 1
    sign = 2 * levels + 1  # before it ",", or "],[" where a row starts, or "]],[[" where a channel starts
    text = np.zeros((len(flat), sign + 1 + DIGITS + 4), np.uint8)
    text[:, levels] = ord(",")
    for level in range(1, levels + 1):
        block = int(np.prod(values.shape[-level:]))
        text[::block, levels - level] = ord("]")
        text[::block, levels + level] = ord("[")
    text[0, :sign] = 0
    text[:, sign] = np.where((flat < 0) & (mantissas > 0), ord("-"), 0)
    text[:, sign + 1 : -4] = _mantissa_table()[mantissas]
    text[:, -4:] = _exponent_table()[exponents - _EXPONENTS.start]
    return b"[" * values.ndim + text[text > 0].tobytes() + b"]" * values.ndim


def _decimal(flat: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Split numbers into integers of at most `DIGITS` digits without trailing zeros, and powers of ten."""
    magnitudes = np.abs(flat.astype(np.float64))
    magnitudes[magnitudes == 0] = 1.0
    exponents = np.floor(np.log10(magnitudes)).astype(np.int32) - (DIGITS - 1)
    mantissas = np.rint(magnitudes * _powers()[-exponents]).astype(np.int32)
    mantissas[flat == 0] = 0
    zeros = _trailing_zeros()[mantissas]
    shorter = mantissas // 10 ** zeros.astype(np.int32)
    return shorter, np.where(mantissas == 0, 0, exponents + zeros)


@lru_cache(maxsize=1)
def _powers() -> npt.NDArray[np.float64]:
    """10 ** p for the p that bring a float32 to `DIGITS` digits before the point; a negative p counts from the end."""
    exponents = list(range(-_EXPONENTS.start + 1)) + list(range(-_EXPONENTS.stop, 0))
    return np.array([float(f"1e{exponent}") for exponent in exponents])


@lru_cache(maxsize=1)
def _trailing_zeros() -> npt.NDArray[np.int32]:
    """Number of trailing zeros of each integer from 0 to 10 ** `DIGITS`; 0 counts as having none."""
    integers = np.arange(10**DIGITS + 1)
    zeros = np.zeros(len(integers), np.int32)
    for power in range(1, DIGITS + 1):
        zeros += integers % 10**power == 0
    zeros[0] = 0
    return zeros


@lru_cache(maxsize=1)
def _mantissa_table() -> Bytes:
    """ASCII digits of each integer below 10 ** `DIGITS`, without leading zeros: padded with 0 bytes in front."""
    integers = np.arange(10**DIGITS)
    powers = 10 ** np.arange(DIGITS)[::-1]
    digits = (integers[:, None] // powers % 10 + ord("0")).astype(np.uint8)
    digits[integers[:, None] < powers] = 0
    digits[0, -1] = ord("0")
    return digits


@lru_cache(maxsize=1)
def _exponent_table() -> Bytes:
    """ASCII text of each power of ten, padded with 0 bytes behind; nothing for 10 ** 0."""
    texts = [f"e{exponent}" if exponent else "" for exponent in _EXPONENTS]
    return np.frombuffer(b"".join(text.encode("ascii").ljust(4, b"\0") for text in texts), np.uint8).reshape(-1, 4)


_BYTES_PER_NUMBER: Final = MappingProxyType({"nested": 9.25, "float32_base64": 16 / 3, "float16_base64": 8 / 3})
"""Bytes of JSON text per number of an attribution; `nested` is the average over maps of photographs."""


class AnswerTooLarge(BadRequest):
    """An answer with the requested attributions would exceed the size limit."""

    status = 422


def first_too_many(
    rows: Iterable[tuple[int, int, AttributionsFormat]], max_bytes: int
) -> tuple[int, AnswerTooLarge] | None:
    """Find the first row whose attributions no longer fit into the answer, before any is computed.

    `rows` are triples: row index, number of values in the row's attributions, and format. Images do not count: their
    compressed size is not known in advance.
    """
    total = 0
    for row, count, form in rows:
        total += int(count * _BYTES_PER_NUMBER[form])
        if total > max_bytes:
            compact = "" if form == "float16_base64" else "'attributions_format' 'float16_base64', "
            return row, AnswerTooLarge(
                f"an answer must have at most {max_bytes} bytes, but with these attributions it has about {total}; "
                f"ask for {compact}fewer labels or objects, or send fewer rows"
            )
    return None
