"""YOLO: one text file per image, one object per line.

A line is the number of a class, from 0 on, and fractions of the image: the centre, width and height of a box, or the
corners x1 y1 x2 y2 … of a polygon. The file has the name of its image and lies beside it, or in a folder `labels`
where the image lies in `images`; an image without a file, or with an empty one, shows no object.
https://docs.ultralytics.com/datasets/detect, https://docs.ultralytics.com/datasets/segment

Classes are named by `data.yaml` (`names`, a list or by number), by `obj.data` and `obj.names` of Darknet, or by
`classes.txt`. `data.yaml` and `obj.data` may also name the images that train and validate; else folders `train` and
`val` do.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from clearsight.documents.data.text import BadText, read_text
from clearsight.images.headers import IMAGE_SUFFIXES
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import (
    Conversion,
    ConversionNotes,
    ConversionRequest,
    is_of_system,
    source_refused,
)
from clearsight.training.data.converters.finder import ImageFinder
from clearsight.training.data.converters.objects import (
    MAX_FRACTION,
    AnnotatedImage,
    BadAnnotation,
    MarkedObject,
    frame_size,
    to_entries,
)
from clearsight.training.data.converters.parts import TEST_LEFT_OUT, Part, part_named

__all__ = ["read_yolo"]

_SETTINGS_FILES: Final = ("data.yaml", "obj.data", "*.yaml", "*.yml", "*.data")
_CLASS_FILES: Final = ("classes.txt", "obj.names", "_darknet.labels", "*.names")
_LISTS: Final = (("train", "train.txt"), ("val", "val.txt"), ("val", "valid.txt"), ("test", "test.txt"))
_IMAGE_FOLDERS: Final = ("images", "JPEGImages")


@dataclass(frozen=True, slots=True)
class _YoloImage:
    image: Path
    part: Part | None
    label_file: Path | None

    def location(self) -> str:
        return str(self.label_file or self.image)


def read_yolo(request: ConversionRequest) -> Conversion:
    """One entry per image, part after part, in the order of their paths, or of the list that names them.

    The task is segmentation if any line is a polygon, else detection. Raises `InvalidData` with every fault.
    """
    notes = ConversionNotes(request)
    try:
        settings = _Settings.read(request.source)
        images = list(_images_with_labels(settings, request, notes))
        label_files = (image.label_file for image in images if image.label_file is not None)
        names = settings.class_names({file.parent for file in (*(image.image for image in images), *label_files)})
        for name, count in Counter(filter(None, names)).items():
            if count > 1:
                notes.count("class that several numbers name", f"{request.source}: {name}")
        task = request.task or (Task.SEGMENTATION if any(_has_polygon(image) for image in images) else Task.DETECTION)
    except BadText as error:
        raise source_refused(request.source, str(error)) from None
    _count_strays(images, notes)
    first_images = {image.label_file: image.image for image in reversed(images)}
    read = partial(_annotated, first_images=first_images, names=names, notes=notes)
    return notes.finish(task, to_entries(request.progress(images), _YoloImage.location, read, task, notes))


@dataclass(frozen=True, slots=True)
class _Settings:
    """What `data.yaml` or `obj.data` says."""

    root: Path
    """Folder below which images and labels lie."""
    file: Path | None
    values: Mapping[str, Any]

    @classmethod
    def read(cls, source: Path) -> "_Settings":
        """Read the settings file: `source` itself, or the one in it, if any. Raises `BadText`."""
        found = [source]
        if source.is_dir():
            found = next((files for pattern in _SETTINGS_FILES if (files := sorted(source.glob(pattern)))), [])
        if not found:
            lists = ((key, source / name) for key, name in _LISTS)
            return cls(source, None, {key: file.name for key, file in lists if file.is_file() and not _is_labels(file)})
        file = found[0]
        if len(found) > 1:
            raise BadText(f"must hold one file of settings, but holds {', '.join(map(str, found))}; name one as SOURCE")
        text = _read(file)
        if file.suffix == ".data":
            pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
            values = {key.strip(): value.strip() for key, _, value in pairs if value.strip()}
            return cls(file.parent, file, values | {"val": values.get("valid")})
        try:
            # The base loader leaves every value text: a class may be named `no`, which YAML 1.1 takes for false.
            document = yaml.load(text, yaml.BaseLoader)  # noqa: S506
        except yaml.YAMLError as error:
            raise BadText(f"must be YAML, but {file}: {' '.join(str(error).split())}") from None
        if not isinstance(document, dict):
            raise BadText(f"must hold names, train and val, but {file} holds no keys")
        if "kpt_shape" in document:
            raise BadText(f"must have boxes or polygons, but {file} has keypoints (kpt_shape)")
        return cls(file.parent, file, document)

    def images(self, folder: Path | None, notes: ConversionNotes) -> Iterator[tuple[Path, Part | None]]:
        """The images of each part that the settings name, else all below the root or `folder`."""
        named = {part: self.values.get(key) for part, key in zip(Part, ("train", "val", "test"), strict=True)}
        if not named[Part.TRAINING]:
            top = folder or self.root
            images = [(image, _part_of(image.relative_to(top))) for image in _images_below(top)]
            parts = {part for _, part in images}
            if Part.TRAINING in parts and None not in parts:
                yield from sorted(images, key=lambda item: list(Part).index(item[1] or Part.TRAINING))
            else:
                yield from ((image, None) for image, _ in images)
            return
        for part, value in named.items():
            for text in filter(None, [value] if isinstance(value, str) else value or ()):
                path = next((path for path in self._places(str(text)) if path.exists()), None)
                if path is not None:
                    yield from ((image, part) for image in self._images_of(path, notes))
                elif part is not Part.TEST:
                    message = f"must name a folder or a list of pictures, but {text!r} is not below {self.root}"
                    notes.source_fault(str(self.file), message)

    def _images_of(self, path: Path, notes: ConversionNotes) -> Iterable[Path]:
        """The images of a folder or of a list."""
        if path.is_dir():
            return _images_below(path)
        finder = ImageFinder([path.parent, self.root], notes)
        images = []
        for number, line in enumerate(_read(path).splitlines(), 1):
            try:
                images += [finder.find(line.strip())] if line.strip() else []
            except BadAnnotation as error:
                notes.fault(f"{path}:{number}", str(error))
        return images

    def _places(self, text: str) -> Iterator[Path]:
        """Where a path of the settings may lie: below `path`, or below the root, whatever folder it was made in."""
        base = str(self.values.get("path") or "")
        for top in (self.root / base, self.root / Path(base).name, self.root):
            yield top / text
            # What lies beside data.yaml is ../train/images in some exports; beside obj.data, it is data/train.txt.
            parts = [part for part in Path(text).parts if part != ".."]
            yield from (
                top.joinpath(*parts[start:]) for start in range(len(parts)) if not Path(text).is_absolute() or start
            )

    def class_names(self, folders: Iterable[Path]) -> list[str]:
        """The class of each number. Raises `BadText`."""
        names = self.values.get("names")
        if isinstance(names, list):
            return [str(name).strip() for name in names]
        if isinstance(names, dict):
            if sorted(names) == sorted(str(number) for number in range(len(names))):
                return [str(names[str(number)]).strip() for number in range(len(names))]
            raise BadText(
                f"names must have the numbers from 0 to {len(names) - 1}, but {self.file} has {', '.join(names)}"
            )
        places = self._places(names) if isinstance(names, str) else self._class_files(folders)
        found = {file: _read(file).rstrip().splitlines() for file in places if file.is_file()}
        if not found:
            raise BadText(
                f"classes must be named by data.yaml (names), {', '.join(_CLASS_FILES[:3])}, but none is in {self.root}"
            )
        first, *others = found
        if different := [file for file in others if found[file] != found[first]]:
            raise BadText(f"classes must be named once, but {first} and {different[0]} name others")
        return [name.strip() for name in found[first]]

    def _class_files(self, folders: Iterable[Path]) -> Iterator[Path]:
        for folder in dict.fromkeys((self.root, self.root / "labels", *sorted(folders))):
            yield from (file for pattern in _CLASS_FILES for file in sorted(folder.glob(pattern)))


def _read(file: Path) -> str:
    try:
        return read_text(file)
    except BadText as error:
        raise BadText(f"{file}: {error}") from None


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(is_of_system(Path(part)) for part in path.relative_to(folder).parts)
    )


def _part_of(image: Path) -> Part | None:
    """The part that a folder of a relative path names."""
    return next((part for folder in image.parent.parts if (part := part_named(folder))), None)


def _images_with_labels(
    settings: _Settings, request: ConversionRequest, notes: ConversionNotes
) -> Iterator[_YoloImage]:
    for image, part in settings.images(request.images, notes):
        if part is Part.TEST:
            notes.count(TEST_LEFT_OUT, str(image))
        else:
            yield _YoloImage(image, part, _label_file(image, request, settings.root))


def _label_file(image: Path, request: ConversionRequest, root: Path) -> Path | None:
    """The text file of an image: in a folder of labels that mirrors that of images or lies beside it, or beside it."""
    text = image.with_suffix(".txt")
    candidates = [text, image.parent.parent / "labels" / text.name]
    folders = image.parts[:-1]
    if found := [index for index, folder in enumerate(folders) if folder in _IMAGE_FOLDERS]:
        candidates.insert(0, Path(*folders[: found[-1]], "labels", *folders[found[-1] + 1 :], text.name))
    if request.images is not None and image.is_relative_to(request.images):
        inside = text.relative_to(request.images)
        candidates += [root / "labels" / inside, root / inside]
    return next((file for file in candidates if file.is_file()), None)


def _has_polygon(image: _YoloImage) -> bool:
    try:
        lines = read_text(image.label_file).splitlines() if image.label_file is not None else []
    except BadText:  # a fault when its turn comes
        return False
    return any(len(line.split()) > 6 for line in lines)


def _count_strays(images: Sequence[_YoloImage], notes: ConversionNotes) -> None:
    """Count images without a label file, and label files without an image. No label file at all is a fault."""
    if images and not any(image.label_file for image in images):
        where = "beside it or in the folder labels that mirrors images"
        notes.source_fault(str(images[0].image), f"must have a label file {where}, but no picture has one")
        return
    for image in images:
        if image.label_file is None:
            notes.count("picture without a label file: shows no object", str(image.image))
    used = {image.label_file for image in images if image.label_file is not None}
    for folder in sorted({file.parent for file in used}):
        for file in sorted(set(folder.glob("*.txt")) - used):
            if _is_labels(file):
                notes.count("label file without a picture", str(file))


def _is_labels(file: Path) -> bool:
    try:
        fields = read_text(file).partition("\n")[0].split()
        return len(fields) > 4 and all(math.isfinite(float(field)) for field in fields)
    except (BadText, ValueError):
        return False


def _annotated(
    image: _YoloImage, first_images: Mapping[Path | None, Path], names: Sequence[str], notes: ConversionNotes
) -> AnnotatedImage:
    first = first_images[image.label_file]
    if image.label_file is not None and first != image.image:
        raise BadAnnotation(f"must be the labels of one picture, but {first} and {image.image} have its stem")
    size_wh, frame_wh = frame_size(image.image, None, notes)
    try:
        lines = read_text(image.label_file).splitlines() if image.label_file is not None else []
    except BadText as error:
        raise BadAnnotation(str(error)) from None
    objects = []
    for number, line in enumerate(lines, 1):
        location = f"{image.location()}:{number}"
        try:
            if line.strip():
                objects.append(_object(line.split(), location, names, frame_wh))
        except BadAnnotation as error:
            notes.fault(location, str(error))
    return AnnotatedImage(image.image, size_wh, frame_wh, objects, image.part)


def _object(fields: Sequence[str], location: str, names: Sequence[str], frame_wh: tuple[float, float]) -> MarkedObject:
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        raise BadAnnotation(
            "must be a class and 4 numbers of a box or at least 3 corners x y of a polygon, "
            f"but has {len(fields)} fields"
        )
    try:
        numbers = [float(field) for field in fields[1:]]
    except ValueError as error:
        raise BadAnnotation(f"must hold numbers, but {error}") from None
    if not all(abs(number) <= MAX_FRACTION for number in numbers):
        largest = max(numbers, key=lambda number: math.inf if math.isnan(number) else abs(number))
        raise BadAnnotation(f"must hold fractions of the picture in [0, 1], but got {largest:g}")
    label = _class_name(fields[0], names)
    width, height = frame_wh
    if len(numbers) > 4:
        polygon = [number * frame_wh[index % 2] for index, number in enumerate(numbers)]
        return MarkedObject(location, label, polygons=[polygon])
    x, y, box_width, box_height = numbers
    left, top, right, bottom = x - box_width / 2, y - box_height / 2, x + box_width / 2, y + box_height / 2
    return MarkedObject(location, label, (left * width, top * height, right * width, bottom * height))


def _class_name(text: str, names: Sequence[str]) -> str:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer() or not 0 <= number < len(names):
        raise BadAnnotation(f"the class must be a number from 0 to {len(names) - 1}, but got {text!r}")
    if not names[int(number)]:
        raise BadAnnotation(f"class {text} must have a name, but has none")
    return names[int(number)]
