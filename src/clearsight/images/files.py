"""Image files named on the command line: search, reading, and names of files derived from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clearsight.errors import BadImage, BadRequest, UserError
from clearsight.images.decode import DecodeLimits, sniff_format
from clearsight.images.headers import IMAGE_SUFFIXES, describe_format

__all__ = ["InputImage", "find_images", "free_name", "read_image", "require_image", "require_size"]


@dataclass(frozen=True, slots=True)
class InputImage:
    """A file to score, and its path below the folder it was found in (its name, when named directly)."""

    file: Path
    relative: Path


def find_images(paths: Sequence[Path]) -> list[InputImage]:
    """List files in the order given; a folder contributes the images in it and below, sorted by path.

    Hidden files and folders are left out. Raises `UserError` for a folder without images.
    """
    found = []
    for path in paths:
        if not path.is_dir():
            found.append(InputImage(path, Path(path.name)))
            continue
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        )
        if not inside:
            raise UserError(f"a folder must hold pictures ({', '.join(sorted(IMAGE_SUFFIXES))}), but {path} has none")
        found += [InputImage(file, file.relative_to(path)) for file in inside]
    return found


def read_image(file: Path) -> bytes | BadRequest:
    """Read an image file. Text is refused here: a scoring cell may be base64, a file may not."""
    try:
        require_size(file.stat().st_size)
        content = file.read_bytes()
        require_image(content)
    except OSError as error:
        return BadImage(f"the file cannot be read: {error.strerror or error}")
    except BadImage as error:
        return error
    return content


def require_size(size: int) -> None:
    """Raise `BadImage` for a file of more bytes than an image may have."""
    limit = DecodeLimits().max_bytes
    if size > limit:
        raise BadImage(f"a picture file must have at most {limit} bytes, but it has {size}")


def require_image(content: bytes) -> None:
    """Raise `BadImage` for a file that has the signature of no image."""
    if sniff_format(content) is None:
        formats = ", ".join(DecodeLimits().formats)
        raise BadImage(f"a picture must be one of {formats}, but the file is {describe_format(content[:512])}")


def free_name(image: InputImage, ending: str, used: set[Path]) -> Path:
    """Path below the target folder of an image made from another; a number makes equal names different."""
    number = 1
    while True:
        mark = "" if number == 1 else f".{number}"
        name = image.relative.with_name(f"{image.relative.name}{mark}.{ending}")
        if name not in used:
            used.add(name)
            return name
        number += 1
