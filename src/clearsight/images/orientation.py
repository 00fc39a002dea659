"""The orientation of an image, from the metadata that Pillow's `ImageOps.exif_transpose` looks at.

Carriers are EXIF blocks, ImageMagick's raw profiles in the text of PNG files, and XMP. Pillow itself reads the value;
the first directory of an EXIF block is reduced to the entries of this tag before, so that a block of 65 535 entries
costs no more than one. References: EXIF 2.32, section 4.6.4; XMP specification part 2, section 3.1.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from clearsight.images.plugins import ignored_warnings

__all__ = ["ORIENTATION_TAG", "SIDEWAYS", "orientation_of", "valid_orientation"]

ORIENTATION_TAG: Final = 274
"""Number of the tag of the orientation, in EXIF 2.32 and TIFF 6.0."""

SIDEWAYS: Final = (5, 6, 7, 8)
"""Orientations that swap width and height (CIPA DC-008, table 4)."""

_RAW_PROFILE: Final = "Raw profile type exif"
_CARRIERS: Final = ("exif", _RAW_PROFILE, "XML:com.adobe.xmp", "xmp")
_PREFIX: Final = b"Exif\0\0"


def orientation_of(info: Mapping[Any, Any]) -> int:
    """Orientation (1 to 8) by the metadata of an image, named as in `PIL.Image.Image.info`.

    1 when none is there or the metadata are malformed.
    """
    carrier = Image.Image()
    carrier.info = {key: info[key] for key in _CARRIERS if key in info}
    if not carrier.info:
        return 1
    try:
        if "exif" in info:
            carrier.info["exif"] = _reduced(info["exif"])
        elif _RAW_PROFILE in info:
            profile = bytes.fromhex("".join(info[_RAW_PROFILE].split("\n")[3:]))
            carrier.info["exif"] = _reduced(profile)
        with ignored_warnings():
            return valid_orientation(carrier.getexif().get(ORIENTATION_TAG))
    except Exception:  # of hostile metadata Pillow raises whatever its parsing runs into; none has an orientation
        return 1


def valid_orientation(value: object) -> int:
    """The orientation that a value of the tag stands for: 1 unless it equals a number from 2 to 8."""
    return next((number for number in range(2, 9) if value == number), 1)


def _reduced(exif: bytes) -> bytes:
    """The block with a first directory that holds the entries of the orientation only; their data stay in place."""
    while exif.startswith(_PREFIX):
        exif = exif[len(_PREFIX) :]
    if not exif:
        return exif
    order = "<" if exif[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, offset)
    tag = struct.pack(f"{order}H", ORIENTATION_TAG)
    starts = range(offset + 2, min(offset + 2 + 12 * count, len(exif) - 11), 12)
    entries = [exif[start : start + 12] for start in starts if exif[start : start + 2] == tag]
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    return exif[:4] + struct.pack(f"{order}I", len(exif)) + exif[8:] + directory
