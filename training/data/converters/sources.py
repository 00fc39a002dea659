"""Reading a source in its layout, and what the source says about its split.

A source is split already when its folders are parts (`train/`, `valid/`, `test/`), when it has a label file for each
part, when its own files say so (`data.yaml` of YOLO, a column of a CSV list), or when a second source validates.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from clearsight.errors import Fault, InvalidData
from clearsight.training.data.class_names import doubtful_names
from clearsight.training.data.converters.entries import (
    Conversion,
    ConversionRequest,
    Entry,
    is_of_system,
    source_refused,
)
from clearsight.training.data.converters.layouts import LabelLayout
from clearsight.training.data.converters.parts import Part, part_named

__all__ = ["read_source"]


def read_source(
    layout: LabelLayout,
    request: ConversionRequest,
    validation_source: Path | None = None,
    validation_images: Path | None = None,
) -> Conversion:
    """Read a source, or one source for each part, and leave out test images, which a warning counts.

    `validation_images` is the folder of the images of `validation_source`, by default that of the request.

    An entry's `part` says what the source does, None: nothing. A source whose parts are the same images is not split.
    Raises `InvalidData` with the faults of all parts, for parts that share some images, and for parts whose labels are
    for different tasks.
    """
    test: Path | None = None
    if validation_source is not None:
        sources = {Part.TRAINING: request.source, Part.VALIDATION: validation_source}
        sources = {part: _label_file(layout, path) for part, path in sources.items()}
        converted = _read_parts(layout, request, sources, validation_images)
    elif sources := _parts(layout, request.source):
        test = sources.pop(Part.TEST, None)
        converted = _read_parts(layout, request, sources, validation_images)
    else:
        converted = layout.read(replace(request, source=_label_file(layout, request.source)))
    warnings = list(converted.warnings)
    if test is not None:
        warnings.append(f"part that is kept for tests left out: {test}")
    if (test is None or test.is_dir()) and (unnamed := converted.unnamed_images()):
        warnings.append(f"picture that no annotation names passed over: {len(unnamed)} (first: {unnamed[0]})")
    entries, is_repeated = _without_repeated_part(request.source, converted.entries)
    if is_repeated:
        warnings.append("what trains and what validates in SOURCE are the same pictures: a split is drawn")
    warnings += doubtful_names(name for entry in entries for name in entry.class_names)
    return replace(converted, entries=entries, warnings=tuple(warnings))


def _read_parts(
    layout: LabelLayout, request: ConversionRequest, sources: dict[Part, Path], validation_images: Path | None
) -> Conversion:
    conversions: dict[Part, Conversion] = {}
    faults: list[Fault] = []
    for part, source in sources.items():
        images = validation_images if validation_images and part is Part.VALIDATION else request.images
        if images is not None and source.is_dir() and (images / source.name).is_dir():
            images = images / source.name
        try:
            conversions[part] = layout.read(replace(request, source=source, images=images))
        except InvalidData as error:
            faults += error.faults
    for part, converted in conversions.items():
        if any(entry.part is Part.VALIDATION for entry in converted.entries):
            message = "must be one part, since another source is the other one, but it is split itself"
            faults.append(Fault("BAD_DATA", str(sources[part]), message))
    if not faults and len({converted.task for converted in conversions.values()}) > 1:
        tasks = ", ".join(f"{sources[part]} for {converted.task}" for part, converted in conversions.items())
        faults.append(Fault("BAD_DATA", str(request.source), f"must be for one task, but {tasks}; choose with --task"))
    if faults:
        raise InvalidData(str(request.source), faults)
    first = next(iter(conversions.values()))
    entries = [replace(entry, part=part) for part, converted in conversions.items() for entry in converted.entries]
    return replace(
        first,
        entries=entries,
        warnings=tuple(warning for one in conversions.values() for warning in one.warnings),
        changes=tuple(change for one in conversions.values() for change in one.changes),
        named_images=frozenset().union(*(one.named_images for one in conversions.values())),
    )


def _without_repeated_part(source: Path, entries: list[Entry]) -> tuple[list[Entry], bool]:
    """The entries; when the same images train and validate, those that train, for no part, and True."""
    training, validation = (
        {entry.image.resolve() for entry in entries if entry.part is part} for part in (Part.TRAINING, Part.VALIDATION)
    )
    if training and training == validation:
        return [replace(entry, part=None) for entry in entries if entry.part is Part.TRAINING], True
    if both := sorted(training & validation):
        message = f"no picture may train and validate, but {len(both)} do, first {both[0]}; name each in one part"
        raise InvalidData(str(source), [Fault("BAD_DATA", str(source), message)])
    return entries, False


def _parts(layout: LabelLayout, source: Path) -> dict[Part, Path]:
    """The source of each part, training first; empty for a source that has no parts, or says so in its own files."""
    if layout.says_parts or not source.is_dir():
        return {}
    folders = [path for path in sorted(source.iterdir()) if path.is_dir() and not is_of_system(path)]
    by_folder = _by_part(folders)
    if by_folder and (layout.label_files or _has_labels(by_folder[Part.TRAINING])):
        return {part: path if part is Part.TEST else _label_file(layout, path) for part, path in by_folder.items()}
    return _by_part(files) if len(files := _label_files(layout, source)) > 1 else {}


def _by_part(paths: Iterable[Path]) -> dict[Part, Path]:
    """Paths by the part that they name, training first; empty unless each names one of its own, and one trains."""
    parts: dict[Part | None, Path] = {}
    for path in paths:
        part = part_named(path.stem)
        if part is None or part in parts:
            return {}
        parts[part] = path
    return {part: parts[part] for part in Part if part in parts} if Part.TRAINING in parts else {}


def _has_labels(folder: Path) -> bool:
    """Whether a folder is a source: it has folders or label files, which a class named `train` would not."""
    return any(
        path.is_dir() or path.suffix.lower() in (".xml", ".json") for path in folder.iterdir() if not is_of_system(path)
    )


def _label_files(layout: LabelLayout, folder: Path) -> list[Path]:
    """The label files of a folder, of the first pattern that has any."""
    for pattern in layout.label_files:
        for place in (folder, folder / "annotations"):
            if files := sorted(path for path in place.glob(pattern) if path.is_file()):
                return files
    return []


def _label_file(layout: LabelLayout, source: Path) -> Path:
    """The source itself, or the one label file in it for a layout that reads a file."""
    if not layout.label_files or not source.is_dir():
        return source
    files = _label_files(layout, source)
    if len(files) == 1:
        return files[0]
    names = f"holds {', '.join(path.name for path in files[:5])}; name one of them" if files else "holds none"
    message = f"must be a label file ({layout.label_files[-1]}) or a folder with one, but {names}"
    raise source_refused(source, message)
