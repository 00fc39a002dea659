"""The size of an image file after turning it upright."""

from pathlib import Path

from clearsight.errors import BadImage
from clearsight.images.content import FileContent
from clearsight.images.headers import ImageHeader, read_header

__all__ = ["read_file_header", "read_size"]


def read_file_header(image: Path) -> ImageHeader:
    """Read the header of a file, and no more of it than that takes. Raises `BadImage` with the reason."""
    try:
        with FileContent(image) as content:
            return read_header(content)
    except FileNotFoundError:
        raise BadImage("there is no such file") from None
    except OSError as error:
        raise BadImage(f"the file cannot be read: {error.strerror or error}") from None


def read_size(image: Path) -> tuple[int, int]:
    """Width and height in pixels after turning upright, without decoding. Raises `BadImage` with the reason."""
    height, width = read_file_header(image).upright_hw
    return width, height
