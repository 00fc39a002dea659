"""One folder per class."""

from pathlib import Path

from clearsight.errors import Fault, InvalidData
from clearsight.images.headers import IMAGE_SUFFIXES
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import Conversion, ConversionRequest, Entry

__all__ = ["read_class_folders"]


def read_class_folders(request: ConversionRequest) -> Conversion:
    """One entry per image in `source/<class>/`, classes and file names in sorted order; other files are ignored.

    Raises `InvalidData` when there is no class folder with images.
    """
    source: Path = request.source
    if not source.is_dir():
        raise InvalidData(f"{source}", [Fault("BAD_DATA_REF", str(source), "must be a folder with a folder per class")])
    folders = [folder for folder in sorted(source.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    entries = [
        Entry(image, folder.name, location=str(image))
        for folder in request.progress(folders)
        for image in sorted(folder.iterdir())
        if image.suffix.lower() in IMAGE_SUFFIXES and image.is_file()
    ]
    if not entries:
        message = (
            f"must hold one folder per class with pictures ({', '.join(IMAGE_SUFFIXES)}) in it, but there are none"
        )
        raise InvalidData(f"{source}", [Fault("BAD_DATA", str(source), message)])
    return Conversion(Task.MULTI_CLASS, entries)
