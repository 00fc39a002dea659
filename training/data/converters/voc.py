"""Pascal VOC: one XML file per image, with boxes.

Layout: a folder `Annotations` of XML files beside `JPEGImages` (or `images`), or XML files beside their images.
Coordinates are pixels counted from 1, both ends included: a box over the whole image is (1, 1, width, height). Many
programs write them counted from 0 instead, as distances from the left and upper edge: (0, 0, width, height).
`difficult` objects become crowd objects, as in Azure's converter.
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf
"""

from functools import partial
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from clearsight.documents.data.text import BadText, read_xml
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import Conversion, ConversionNotes, ConversionRequest, source_refused
from clearsight.training.data.converters.finder import ImageFinder, fold_name
from clearsight.training.data.converters.objects import (
    AnnotatedImage,
    BadAnnotation,
    MarkedObject,
    frame_size,
    to_entries,
)
from clearsight.training.data.keys import likely_meant

__all__ = ["read_voc"]

_ANNOTATION_FOLDERS: Final = ("Annotations", "annotations")
_IMAGE_FOLDERS: Final = ("JPEGImages", "images", ".")


def read_voc(request: ConversionRequest) -> Conversion:
    """One entry per XML file, in the order of their names. Raises `InvalidData` with every fault."""
    task = request.task or Task.DETECTION
    notes = ConversionNotes(request)
    files = _files(request.source, notes)
    top = files[0].parent.parent if files[0].parent.name in _ANNOTATION_FOLDERS else files[0].parent
    finder = ImageFinder([top / folder for folder in _IMAGE_FOLDERS], notes)
    origin = request.voc_origin
    if origin is None:
        zero = next((file for file in files if _has_coordinate_below_one(file)), None)
        origin = 1 if zero is None else 0
        if zero is not None:
            notes.count(
                "pixels taken as counted from 0, since a file has one below 1; --voc-origin says it otherwise",
                str(zero),
            )
    read = partial(_image, origin=origin, finder=finder, notes=notes)
    return notes.finish(task, to_entries(request.progress(files), str, read, task, notes))


def _files(source: Path, notes: ConversionNotes) -> list[Path]:
    listed = sorted(source.iterdir()) if source.is_dir() else []
    folders = [path for path in listed if path.name in _ANNOTATION_FOLDERS and path.is_dir()]
    folder, *others = [*folders, source]
    files = _xml_files(folder)
    for other in (*others, *(path for path in sorted(folder.glob("*/")))):
        notes.pass_over(f"XML file outside of {folder}", _xml_files(other))
    if folders:
        others = [path for path in sorted(folder.iterdir()) if path.is_file() and path not in files]
        notes.pass_over("file without the suffix .xml", others)
    if not files:
        message = f"must be a folder with XML files, in it or in {_ANNOTATION_FOLDERS[0]}, but there are none"
        raise source_refused(source, message)
    return files


def _xml_files(folder: Path) -> list[Path]:
    listed = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in listed if file.suffix.lower() == ".xml" and file.is_file())


def _has_coordinate_below_one(file: Path) -> bool:
    """Whether a left or upper end is below 1, which cannot be when coordinates count from 1."""
    try:
        ends = [_number(box, key) for box in read_xml(file).iterfind("object/bndbox") for key in ("xmin", "ymin")]
    except (BadText, BadAnnotation):
        return False  # a fault, which is reported when the file is read
    return any(0 <= end < 1 for end in ends)


def _image(file: Path, origin: int, finder: ImageFinder, notes: ConversionNotes) -> AnnotatedImage:
    try:
        root = read_xml(file)
    except BadText as error:
        raise BadAnnotation(str(error)) from None
    image = _find(file, (root.findtext("filename") or "").strip(), finder, notes)
    stated = (_number(root, "size/width", 0.0), _number(root, "size/height", 0.0))
    size_wh, frame_wh = frame_size(image, stated, notes)
    objects = []
    _count_unknown(root, ("object",), str(file), notes)
    for index, element in enumerate(root.iter("object"), 1):
        location = f"{file}: object {index}"
        _count_unknown(element, ("name", "difficult", "bndbox"), location, notes)
        try:
            objects.append(_object(element, location, origin, notes))
        except BadAnnotation as error:
            notes.fault(location, str(error))
    return AnnotatedImage(image, size_wh, frame_wh, objects)


def _find(file: Path, name: str, finder: ImageFinder, notes: ConversionNotes) -> Path:
    """The image of an XML file: the one of its own name goes before the one that its `filename` names.

    Programs copy XML files and leave the old `filename` in them.
    """
    named = finder.search(name) if name else None
    if named is not None and fold_name(named.stem) == fold_name(file.stem):
        return finder.find(name)
    if finder.search(file.stem) is None:
        return finder.find(name or file.stem)
    if name:
        notes.count("XML file with another <filename>: the picture of its own name taken", str(file))
    return finder.find(file.stem)


def _object(element: ElementTree.Element, location: str, origin: int, notes: ConversionNotes) -> MarkedObject:
    label = (element.findtext("name") or "").strip()
    if not label:
        raise BadAnnotation("must have a name, but has none")
    xmin, ymin, xmax, ymax = (_number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
    is_crowd = (element.findtext("difficult") or "0").strip() == "1"
    # A box whose ends are equal would be one pixel wide; in practice it is a mistake in drawing, and gets no extent.
    if xmax <= xmin or ymax <= ymin:
        return MarkedObject(location, label, box_xyxy=(xmin, ymin, xmin, ymin), is_crowd=is_crowd)
    left, top = (end if end < 0 else max(end - origin, 0.0) for end in (xmin, ymin))
    if origin and 0 <= min(xmin, ymin) < 1:
        notes.count("box that starts at 0, although coordinates count from 1: clipped", location)
    return MarkedObject(location, label, box_xyxy=(left, top, xmax, ymax), is_crowd=is_crowd)


def _count_unknown(element: ElementTree.Element, known: tuple[str, ...], location: str, notes: ConversionNotes) -> None:
    for key, meant in likely_meant(tuple(child.tag for child in element), known):
        notes.count(f"<{key}>, which is ignored; is <{meant}> meant?", location)


def _number(element: ElementTree.Element, path: str, default: float | None = None) -> float:
    text = element.findtext(path)
    if default is not None and not (text or "").strip():
        return default
    try:
        return float(text or "")
    except ValueError:
        raise BadAnnotation(f"{path} must be a number of pixels, but got {text!r}") from None
