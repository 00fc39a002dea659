"""The images and labels that a converter reads, and its faults and warnings."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from clearsight.errors import Fault, InvalidData
from clearsight.files import real_paths
from clearsight.images.headers import IMAGE_SUFFIXES
from clearsight.tasks import Task
from clearsight.training.data.converters.parts import Part

__all__ = [
    "Conversion",
    "ConversionNotes",
    "ConversionRequest",
    "Entry",
    "OnFault",
    "Progress",
    "is_of_system",
    "source_refused",
]

Progress = Callable[[Sequence[Any]], Iterable[Any]]
"""Wraps a sequence that is iterated over, to show a progress bar."""


class OnFault(StrEnum):
    """What becomes of an image with a fault."""

    STOP = "stop"
    """Nothing is converted."""
    SKIP = "skip"
    """The image is left out."""
    CLIP = "clip"
    """Objects are cut off at the edges of their image; for other faults nothing is converted."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image and the value of its target column, ready for JSON."""

    image: Path
    label: Any
    """A class name, a list of them, or objects. Objects are kept as JSON (bytes), which takes a fifth of the memory."""
    size_wh: tuple[int, int] | None = None
    location: str = ""
    """Location of the annotation, for messages: `labels.csv:12`."""
    part: Part | None = None
    """What the source keeps the image for; None: it does not say."""

    @property
    def class_names(self) -> list[str]:
        """The classes of the label, in its order; a class with several objects is there as often."""
        if isinstance(self.label, bytes):
            return [item["label"] for item in orjson.loads(self.label)]
        return [self.label] if isinstance(self.label, str) else list(self.label)


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """The source of a conversion, and its options."""

    source: Path
    task: Task | None = None
    """Task of the labels; None: what the source says, else the default of the layout."""
    images: Path | None = None
    """Folder with the images; None: beside the labels."""
    label: str | None = None
    """Class of every object, for layouts that name none."""
    voc_origin: int | None = None
    """VOC: the number of the first pixel, 0 or 1; None: 0 if there is a coordinate below 1, else 1."""
    on_fault: OnFault = OnFault.STOP
    label_separator: str | None = None
    """What separates the classes of a cell in a CSV list; None: spaces, in a column that holds several."""
    progress: Progress = iter


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of reading a source."""

    task: Task
    entries: list[Entry]
    warnings: tuple[str, ...] = ()
    named_images: frozenset[Path] = frozenset()
    """Images that annotations name, where these lie apart from images."""
    changes: tuple[str, ...] = ()
    """What `on_fault` did: the location of each fault or object, and what it was."""

    def unnamed_images(self) -> list[Path]:
        """Images in the folders of `named_images` that no annotation names, sorted."""
        names: dict[Path, set[str]] = defaultdict(set)
        for image in self.named_images:
            names[image.parent].add(image.name)
        by_folder: dict[Path, set[str]] = defaultdict(set)
        for folder, found in names.items():
            by_folder[folder.resolve()] |= found
        return [
            path
            for folder, found in sorted(by_folder.items())
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES and path.name not in found and not is_of_system(path)
        ]


@dataclass(slots=True)
class ConversionNotes:
    """Collects the faults of a source, and counts what was repaired or dropped."""

    request: ConversionRequest
    faults: list[Fault] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    """See `Conversion.changes`."""
    source_faults: list[Fault] = field(default_factory=list)
    named_images: set[Path] = field(default_factory=set)
    """See `Conversion.named_images`."""

    def fault(self, location: str, message: str) -> None:
        """Note what keeps an image from being converted. `location` names the file, and the line or object."""
        self.faults.append(Fault("BAD_DATA", location, message))

    def source_fault(self, location: str, message: str) -> None:
        """Note what keeps the source as a whole from being converted, also where faulty images are left out."""
        self.source_faults.append(Fault("BAD_DATA", location, message))

    def change(self, location: str, message: str) -> None:
        """Note what `on_fault` did about an object."""
        self.changes.append(f"{location}: {message}")

    def count(self, what: str, location: str) -> None:
        """Note something repaired or dropped."""
        self.tally[what] += 1
        self.examples.setdefault(what, location)

    def pass_over(self, what: str, paths: Iterable[Path]) -> None:
        """Note files and folders that are not read, but for those that systems keep for themselves."""
        for path in paths:
            if not is_of_system(path):
                self.count(f"{what} passed over", str(path))

    def finish(self, task: Task, entries: Sequence[Entry]) -> Conversion:
        """The result, with one entry for each image file of a part.

        Entries of one file with the same label become one, which is counted; different ones are a fault, and left out.
        The entries must be those of images without a fault. Raises `InvalidData` with every fault, unless faulty images
        are to be left out, and when there is nothing to convert.
        """
        source = str(self.request.source)
        entries = self._one_for_each_file(entries)
        faults = [*self.source_faults, *self.faults]
        if not faults and not entries:
            faults = [Fault("BAD_DATA", source, "must hold at least one labelled picture, but there is none")]
        if self.source_faults or not entries or (faults and self.request.on_fault is not OnFault.SKIP):
            can_skip = faults and entries and not self.source_faults and self.request.on_fault is OnFault.STOP
            hint = f"--on-fault skip converts the {len(entries)} picture(s) without a fault" if can_skip else None
            raise InvalidData(source, faults, hint)
        for fault in faults:
            self.change(fault.target, fault.message)
        warnings = (f"{what}: {count} (first: {self.examples[what]})" for what, count in self.tally.items())
        return Conversion(task, entries, tuple(warnings), frozenset(self.named_images), tuple(self.changes))

    def _one_for_each_file(self, entries: Sequence[Entry]) -> list[Entry]:
        kept: dict[tuple[Part | None, Path], Entry] = {}
        doubtful = set()
        for entry, file in zip(entries, real_paths(entry.image for entry in entries), strict=True):
            key = entry.part, file
            first = kept.setdefault(key, entry)
            if first is entry:
                continue
            if _as_compared(first.label) == _as_compared(entry.label):
                self.count("picture that several records name with the same label: kept once", entry.location)
            else:
                doubtful.add(key)
                rule = "a picture must have one record, with all of its labels"
                self.fault(entry.location, f"{rule}, but {first.location} labels {file} too, and differently")
        return [entry for key, entry in kept.items() if key not in doubtful]


def source_refused(source: Path, message: str, file: Path | None = None) -> InvalidData:
    """The error of a source that cannot be read at all, or of one file of it."""
    return InvalidData(str(source), [Fault("BAD_DATA_REF", str(file or source), message)])


def is_of_system(path: Path) -> bool:
    """Whether a name is one that systems give to their own files: hidden ones, thumbnails, folder settings."""
    return path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def _as_compared(label: Any) -> Any:
    return sorted(label) if isinstance(label, list) else label
