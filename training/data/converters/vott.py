"""VoTT: its JSON export with all assets, or one file per asset.

https://github.com/microsoft/VoTT

An asset is an image with its size and regions in pixels: rectangles, or polygons. A region with several tags is an
object of each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from clearsight.documents.data.text import BadText, read_json
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import Conversion, ConversionNotes, ConversionRequest, source_refused
from clearsight.training.data.converters.finder import ImageFinder
from clearsight.training.data.converters.json_values import finite_number, list_of, mapping_of, mappings_of
from clearsight.training.data.converters.objects import (
    AnnotatedImage,
    BadAnnotation,
    MarkedObject,
    frame_size,
    to_entries,
)

__all__ = ["read_vott"]

_EXPORTS: Final = ("*-export.json", "vott-json-export/*-export.json", "*-asset.json")
_BOXES: Final = ("RECTANGLE", "SQUARE")
_NOT_VISITED: Final = 0


@dataclass(frozen=True, slots=True)
class _Asset:
    location: str
    asset: Mapping[str, Any]
    regions: list[Mapping[str, Any]]


def read_vott(request: ConversionRequest) -> Conversion:
    """One entry per asset that was visited, in the order of the export. Raises `InvalidData` with every fault."""
    notes = ConversionNotes(request)
    assets = list(_assets(request.source, notes))
    types = {str(region.get("type")) for asset in assets for region in asset.regions}
    task = request.task or (Task.SEGMENTATION if "POLYGON" in types else Task.DETECTION)
    top = request.source if request.source.is_dir() else request.source.parent
    finder = ImageFinder([top, top.parent, top / "images"], notes)
    read = partial(_image, task=task, finder=finder, notes=notes)
    return notes.finish(task, to_entries(request.progress(assets), lambda asset: asset.location, read, task, notes))


def _assets(source: Path, notes: ConversionNotes) -> Iterator[_Asset]:
    files = [source]
    if source.is_dir():
        files = next((found for pattern in _EXPORTS if (found := sorted(source.glob(pattern)))), [])
    for file in files:
        try:
            document = read_json(file)
            assets = document.get("assets", {"": document}) if isinstance(document, dict) else None
            items = list(assets.values()) if isinstance(assets, dict) else None
            if items is None or not all(isinstance(item, dict) and "asset" in item for item in items):
                raise BadText("must be an export of VoTT with assets, or one of its asset files")
        except BadText as error:
            raise source_refused(source, str(error), file) from None
        for index, item in enumerate(items, 1):
            location = str(file)
            try:
                asset = mapping_of(item["asset"], "asset")
                location = str(file) if len(items) == 1 else f"{file}: asset {asset.get('name', index)}"
                regions = mappings_of(item.get("regions"), "regions")
            except BadAnnotation as error:
                notes.fault(location, str(error))
                continue
            if not regions and asset.get("state") == _NOT_VISITED:
                notes.count("asset that was not visited left out", location)
            else:
                yield _Asset(location, asset, regions)


def _image(item: _Asset, task: Task, finder: ImageFinder, notes: ConversionNotes) -> AnnotatedImage:
    names = [str(item.asset[key]) for key in ("name", "path") if item.asset.get(key)]
    if not names:
        raise BadAnnotation("asset must have a name, but has none")
    image = finder.find(*names)
    size = mapping_of(item.asset.get("size"), "size")
    width, height = (finite_number(size.get(side) or 0, f"size.{side}") for side in ("width", "height"))
    size_wh, frame_wh = frame_size(image, (width, height), notes)
    objects: list[MarkedObject] = []
    for index, region in enumerate(item.regions, 1):
        location = f"{item.location}: region {index}"
        try:
            objects += _objects(region, location, task, notes)
        except BadAnnotation as error:
            notes.fault(location, str(error))
    return AnnotatedImage(image, size_wh, frame_wh, objects)


def _objects(region: Mapping[str, Any], location: str, task: Task, notes: ConversionNotes) -> list[MarkedObject]:
    """The object of a region for each of its tags; none for a line or a point, which is counted."""
    kind = str(region.get("type"))
    tags = [str(tag).strip() for tag in list_of(region.get("tags"), "tags")]
    if not tags or not all(tags):
        raise BadAnnotation(f"must have tags, but got {tags or 'none'}")
    if task.is_classification:
        return [MarkedObject(location, tag) for tag in tags]
    if len(tags) > 1:
        notes.count("region with several tags: an object for each", location)
    if kind in _BOXES:
        box = mapping_of(region.get("boundingBox"), "boundingBox")
        left, top, width, height = (finite_number(box.get(key), key) for key in ("left", "top", "width", "height"))
        return [MarkedObject(location, tag, (left, top, left + width, top + height)) for tag in tags]
    if kind != "POLYGON":
        notes.count(f"region of type {kind} dropped", location)
        return []
    points = mappings_of(region.get("points"), "points")
    polygon = [finite_number(point.get(axis), axis) for point in points for axis in ("x", "y")]
    return [MarkedObject(location, tag, polygons=[polygon]) for tag in tags]
