"""The size of an image after EXIF orientation, read from its header."""

import warnings
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from clearsight.images.headers import MAX_PIXELS, ORIENTATION_TAG

__all__ = ["read_size"]

SIDEWAYS: Final = (5, 6, 7, 8)
"""EXIF orientations that swap width and height (CIPA DC-008, table 4)."""


def read_size(image: Path) -> tuple[int, int]:
    """Width and height in pixels after EXIF orientation, without decoding. Raises `ValueError` with the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bad EXIF is no fault, and the limit below decides, not Pillow's
            with Image.open(image) as header:
                width, height = header.size
                # The method of the base class: that of PNG files decodes the whole image first.
                orientation = Image.Image.getexif(header).get(ORIENTATION_TAG)
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except UnidentifiedImageError:
        raise ValueError("the file is not a picture that Pillow reads") from None
    except Image.DecompressionBombError:
        raise ValueError(f"the picture must have at most {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"the file cannot be read: {error}") from None
    if width * height > MAX_PIXELS:
        raise ValueError(f"the picture must have at most {MAX_PIXELS} pixels, but got {width}x{height}")
    return (height, width) if orientation in SIDEWAYS else (width, height)
