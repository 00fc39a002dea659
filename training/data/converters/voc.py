"""Pascal VOC: one XML file per image, with boxes.

Layout: a folder `Annotations` of XML files beside `JPEGImages` (or `images`), or XML files beside their images.
Coordinates are pixels counted from 1, both ends included: a box over the whole image is (1, 1, width, height).
`difficult` objects become crowd objects, as in Azure's converter.
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from clearsight.errors import Fault, InvalidData
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import Conversion, ConversionNotes, ConversionRequest
from clearsight.training.data.converters.objects import (
    AnnotatedImage,
    BadAnnotation,
    MarkedObject,
    find_image,
    frame_size,
    to_entries,
)

__all__ = ["read_voc"]

_ANNOTATION_FOLDERS: Final = ("Annotations", "annotations")
_IMAGE_FOLDERS: Final = ("JPEGImages", "images", ".")


def read_voc(request: ConversionRequest) -> Conversion:
    """One entry per XML file, in the order of their names. Raises `InvalidData` with every fault."""
    task = request.task or Task.DETECTION
    notes = ConversionNotes(request.source)
    files = _files(request.source)
    entries = to_entries(_images(files, request, notes), task, notes)
    return Conversion(task, entries, notes.finish(len(entries)))


def _files(source: Path) -> list[Path]:
    folders = [source / name for name in _ANNOTATION_FOLDERS if (source / name).is_dir()]
    files = sorted((folders[0] if folders else source).glob("*.xml")) if source.is_dir() else []
    if not files:
        message = f"must be a folder with XML files, in it or in {_ANNOTATION_FOLDERS[0]}, but there are none"
        raise InvalidData(str(source), [Fault("BAD_DATA_REF", str(source), message)])
    return files


def _images(files: list[Path], request: ConversionRequest, notes: ConversionNotes) -> Iterator[AnnotatedImage]:
    for file in request.progress(files):
        try:
            yield _image(file, request.images, notes)
        except BadAnnotation as error:
            notes.fault(str(file), str(error))


def _image(file: Path, images: Path | None, notes: ConversionNotes) -> AnnotatedImage:
    try:
        root = ElementTree.parse(file).getroot()  # noqa: S314 - expat refuses entities that expand without end
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise BadAnnotation(f"must be an XML file, but: {error}") from None
    name = (root.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
    top = file.parent.parent if file.parent.name in _ANNOTATION_FOLDERS else file.parent
    folders = [images] if images is not None else [top / folder for folder in _IMAGE_FOLDERS]
    image = find_image([name, file.stem] if name else [file.stem], folders)
    if image is None:
        raise BadAnnotation(f"the picture {name or file.stem!r} is in none of {', '.join(map(str, folders))}")
    stated = (_number(root, "size/width", 0.0), _number(root, "size/height", 0.0))
    size_wh, frame_wh = frame_size(image, stated, notes)
    objects = []
    for index, element in enumerate(root.iter("object"), 1):
        location = f"{file}: object {index}"
        try:
            objects.append(_object(element, location))
        except BadAnnotation as error:
            notes.fault(location, str(error))
    return AnnotatedImage(image, str(file), size_wh, frame_wh, objects)


def _object(element: ElementTree.Element, location: str) -> MarkedObject:
    label = (element.findtext("name") or "").strip()
    if not label:
        raise BadAnnotation("must have a name, but has none")
    xmin, ymin, xmax, ymax = (_number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
    is_crowd = (element.findtext("difficult") or "0").strip() == "1"
    # A box whose ends are equal would be one pixel wide; in practice it is a mistake in drawing, and gets no extent.
    box = (xmin, ymin, xmin, ymin) if xmax <= xmin or ymax <= ymin else (xmin - 1, ymin - 1, xmax, ymax)
    return MarkedObject(location, label, box_xyxy=box, is_crowd=is_crowd)


def _number(element: ElementTree.Element, path: str, default: float | None = None) -> float:
    text = element.findtext(path)
    if text is None and default is not None:
        return default
    try:
        return float(text or "")
    except ValueError:
        raise BadAnnotation(f"{path} must be a number of pixels, but got {text!r}") from None
