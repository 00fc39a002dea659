"""Pillow's readers of the formats that are accepted, each called by itself.

`Image.open` would compare the size with a limit of its own, for the whole process, and try readers of other formats.
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import BinaryIO, Final

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from clearsight.errors import BadImage

__all__ = ["as_bad_image", "ignored_warnings", "open_with_pillow"]

_PLUGINS: Final[Mapping[str, Callable[[BinaryIO], ImageFile.ImageFile]]] = MappingProxyType(
    {
        "jpeg": JpegImagePlugin.JpegImageFile,
        "png": PngImagePlugin.PngImageFile,
        "gif": GifImagePlugin.GifImageFile,
        "bmp": BmpImagePlugin.BmpImageFile,
        "tiff": TiffImagePlugin.TiffImageFile,
        "webp": WebPImagePlugin.WebPImageFile,
        "avif": AvifImagePlugin.AvifImageFile,
    }
)


def open_with_pillow(name: str, stream: BinaryIO) -> ImageFile.ImageFile:
    """Read the header of a file of the named format. Raises whatever Pillow's parsing runs into."""
    if name == "avif" and not features.check("avif"):
        readable = ", ".join(other for other in _PLUGINS if other != "avif")
        raise BadImage(f"this installation of Pillow reads no avif; send one of {readable}")
    with ignored_warnings():
        return _PLUGINS[name](stream)


_WARNINGS_LOCK: Final = threading.RLock()  # warnings.catch_warnings is not safe in threads


@contextmanager
def ignored_warnings() -> Iterator[None]:
    """Let Pillow's warnings about metadata and sizes pass unseen; only one thread at a time is inside."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def as_bad_image(name: str) -> Iterator[None]:
    """Turn what Pillow raises about a file of the named format into `BadImage`.

    Its readers meet hostile bytes with whatever their parsing runs into: OSError, SyntaxError, ValueError,
    struct.error, IndexError, KeyError, AssertionError were seen. All mean the same here.
    """
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        raise BadImage(f"the {name} file cannot be decoded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line of the message, in ASCII and at most 200 characters."""
    lines = str(error).splitlines() or [""]
    return (lines[0] or type(error).__name__).encode("ascii", "replace").decode()[:200]
