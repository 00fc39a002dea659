"""One folder per class."""

from pathlib import Path

from clearsight.errors import Fault, InvalidData
from clearsight.images.headers import IMAGE_SUFFIXES
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import (
    Conversion,
    ConversionNotes,
    ConversionRequest,
    Entry,
    is_of_system,
    source_refused,
)

__all__ = ["read_class_folders"]


def read_class_folders(request: ConversionRequest) -> Conversion:
    """One entry per image in `source/<class>/`, classes and file names in sorted order.

    Everything else is counted. Raises `InvalidData` when there is no class folder with images.
    """
    source: Path = request.source
    if not source.is_dir():
        raise source_refused(source, "must be a folder with a folder per class")
    notes = ConversionNotes(request)
    entries: list[Entry] = []
    listed = sorted(source.iterdir())
    folders = [path for path in listed if path.is_dir() and not is_of_system(path)]
    notes.pass_over("file outside of class folders", (path for path in listed if not path.is_dir()))
    for folder in request.progress(folders):
        num_before = len(entries)
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                notes.pass_over("folder in a class folder", [path])
            elif path.suffix.lower() not in IMAGE_SUFFIXES:
                notes.pass_over("file without the suffix of a picture", [path])
            elif not is_of_system(path):
                entries.append(Entry(path, folder.name, location=str(path)))
        if len(entries) == num_before:
            notes.pass_over("class folder without pictures", [folder])
    if not entries:
        message = (
            f"must hold one folder per class with pictures ({', '.join(IMAGE_SUFFIXES)}) in it, but there are none"
        )
        raise InvalidData(f"{source}", [Fault("BAD_DATA", str(source), message)])
    return notes.finish(Task.MULTI_CLASS, entries)
