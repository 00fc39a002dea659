"""Decodes image files to RGB pixels, with limits that are checked before a decoder starts.

Pillow is the reference for what a file means. A plain JPEG (8 bits, grey or three colours) goes to simplejpeg
instead: the same libjpeg-turbo underneath and the same pixels, in half the time. Where libjpeg merely warns, which
simplejpeg cannot pass on, Pillow decides whether the file counts as whole.

All files: first frame only; palettes, grey and 1-bit expanded; alpha dropped; 16 bits to 8 by the high byte, as
Pillow does for colour; truncated files refused.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image, ImageFile, TiffImagePlugin

from clearsight.documents.settings import ExifOrientation
from clearsight.errors import BadImage
from clearsight.images.headers import FORMATS, MAX_PIXELS, ImageHeader, read_header, sniff_format
from clearsight.images.plugins import as_bad_image, ignored_warnings, open_with_pillow

__all__ = ["DecodeLimits", "decode_image", "decode_opened", "open_image", "sniff_format"]

Pixels = npt.NDArray[np.uint8]

_TIFF_BITS_PER_SAMPLE: Final = 258
_TIFF_PHOTOMETRIC: Final = 262

_STRIP_PIXELS: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Limits of an image, checked on its header before anything is decoded."""

    max_bytes: int = 400 * 1024 * 1024
    """Greatest size of the file; an uncompressed image of 100 megapixels fits."""
    max_pixels: int = MAX_PIXELS
    """Height times width, inclusive."""
    formats: tuple[str, ...] = FORMATS


def decode_image(
    data: bytes, limits: DecodeLimits = DecodeLimits(), exif_orientation: ExifOrientation = "apply"
) -> Pixels:
    """Decode the first frame of an image file: uint8 (H, W, 3), RGB, C-contiguous; upright by default.

    Raises `BadImage` for bytes that are no image, damaged or truncated files and anything beyond `limits`.
    """
    return decode_opened(data, open_image(data, limits), exif_orientation)


def open_image(data: bytes, limits: DecodeLimits = DecodeLimits()) -> ImageHeader:
    """Read the header and check it against `limits`. Raises `BadImage`."""
    if not data:
        raise BadImage("a picture must not be empty, but got 0 bytes")
    if len(data) > limits.max_bytes:
        raise BadImage(f"a picture file must have at most {limits.max_bytes} bytes, but it has {len(data)}")
    header = read_header(data, limits.max_pixels)
    if header.format not in limits.formats:
        raise BadImage(f"a picture must be one of {', '.join(limits.formats)}, but got {header.format}")
    return header


def decode_opened(data: bytes, header: ImageHeader, exif_orientation: ExifOrientation = "apply") -> Pixels:
    """Decode an image whose header has been read; see `decode_image`."""
    image_HWC = _decode_stored(data, header)
    # Pillow turns TIFF files while it decodes them.
    if exif_orientation == "apply" and header.orientation != 1 and header.format != "tiff":
        return np.ascontiguousarray(_UPRIGHT[header.orientation](image_HWC))
    return image_HWC


def _decode_stored(data: bytes, header: ImageHeader) -> Pixels:
    if header.is_plain_jpeg:
        try:
            image_HWC: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError:  # damaged, or merely odd (such as stray bytes between segments): the reference decides
            return _decode_with_pillow(data, header)
        return image_HWC
    return _decode_with_pillow(data, header)


def _decode_with_pillow(data: bytes, header: ImageHeader) -> Pixels:
    if header.format == "jpeg":
        # The metadata is read already; without it a malformed block cannot disturb the decoder.
        data = b"".join(data[start:stop] for start, stop in header.jpeg_segments)
    with as_bad_image(header.format):
        image = open_with_pillow(header.format, io.BytesIO(data))
        _load(image)
        return _to_rgb(image)


def _load(image: ImageFile.ImageFile) -> None:
    """Decode the pixels. The size is checked already, against a limit above the one at which Pillow warns."""
    if Image.MAX_IMAGE_PIXELS is None or image.height * image.width <= Image.MAX_IMAGE_PIXELS:
        image.load()
        return
    with ignored_warnings():
        image.load()


def _to_rgb(image: ImageFile.ImageFile) -> Pixels:
    """RGB pixels of a decoded image, made strip by strip: no second copy of a large image is in memory."""
    strip_to_rgb = _strip_converter(image)
    height, width = image.height, image.width
    rows = max(1, _STRIP_PIXELS // width)
    if height <= rows:
        return np.ascontiguousarray(strip_to_rgb(image))
    image_HWC = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        image_HWC[top:bottom] = strip_to_rgb(image.crop((0, top, width, bottom)))
    return image_HWC


def _strip_converter(image: ImageFile.ImageFile) -> Callable[[Image.Image], Pixels]:
    if image.mode.startswith("I;16"):
        shift, is_white_zero = 8, _is_white_zero(image)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            bits = image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (16,))
            shift = int(bits[0] if isinstance(bits, tuple) else bits) - 8  # 12-bit samples come as 0 to 4095

        def from_16_bits(strip: Image.Image) -> Pixels:
            levels_HW = (np.asarray(strip) >> shift).astype(np.uint8)
            return np.repeat((255 - levels_HW if is_white_zero else levels_HW)[..., None], 3, axis=2)

        return from_16_bits
    if image.mode in ("I", "F"):
        raise BadImage(
            "samples must be whole numbers of at most 16 bits without sign, but the picture has "
            f"{'32-bit or signed' if image.mode == 'I' else 'floating point'} samples, whose range is not defined; "
            "save it with 8 or 16 bits"
        )
    image.info.pop("transparency", None)  # alpha is dropped, and Pillow warns about palettes that carry it
    return lambda strip: np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))


def _is_white_zero(image: Image.Image) -> bool:
    """Whether 0 means white in a TIFF; Pillow inverts 8-bit samples of that kind, but not 16-bit ones."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0


_UPRIGHT: Final[Mapping[int, Callable[[Pixels], Pixels]]] = MappingProxyType(
    {
        # EXIF 2.32, tag 274: which side of the scene the stored first row and first column are.
        2: np.fliplr,
        3: partial(np.rot90, k=2),
        4: np.flipud,
        5: lambda image_HWC: image_HWC.transpose(1, 0, 2),
        6: partial(np.rot90, k=-1),
        7: lambda image_HWC: np.rot90(image_HWC, k=2).transpose(1, 0, 2),
        8: partial(np.rot90, k=1),
    }
)
