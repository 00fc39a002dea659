"""Masks as PNG files, of one class.

Two layouts. One image per object: `SOURCE/<any>/images/<one image>` and `SOURCE/<any>/masks/*.png`, every pixel that is
not 0 belongs to the object. One image per photograph: `SOURCE/images/<name>.jpg` and `SOURCE/masks/<name>.png`, each
value but 0 is one object; in images with a palette, the indices count and 255 is void, as in Pascal VOC
(http://host.robots.ox.ac.uk/pascal/VOC/voc2012/segexamples/index.html); in coloured masks each colour but black is one.
"""

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from clearsight.images.headers import IMAGE_SUFFIXES
from clearsight.tasks import Task
from clearsight.training.data.converters.entries import (
    Conversion,
    ConversionNotes,
    ConversionRequest,
    is_of_system,
    source_refused,
)
from clearsight.training.data.converters.finder import fold_name
from clearsight.training.data.converters.objects import (
    AnnotatedImage,
    BadAnnotation,
    MarkedObject,
    frame_size,
    to_entries,
)
from clearsight.training.data.converters.outlines import polygons_from_mask

__all__ = ["read_masks"]

_VOID: Final = 255
_NO_MASK: Final = "picture without a mask taken as one without objects"
_MASK_SUFFIXES: Final = (".png", ".tif", ".tiff", ".bmp")


def read_masks(request: ConversionRequest) -> Conversion:
    """One entry per image, in the order of their names; every object is of the class `request.label`.

    Raises `InvalidData` with every fault.
    """
    if request.label is None:
        raise ValueError("masks name no class: request.label must")
    task = request.task or Task.SEGMENTATION
    notes = ConversionNotes(request)
    pairs = _pairs(request, notes)
    read = partial(_image, label=request.label, notes=notes)
    return notes.finish(task, to_entries(request.progress(pairs), lambda pair: str(pair[0]), read, task, notes))


def _pairs(request: ConversionRequest, notes: ConversionNotes) -> list[tuple[Path, list[Path], bool]]:
    """Each image, its mask files, and whether each file is one object."""
    source = request.source
    if (source / "masks").is_dir():
        images = request.images or source / "images"
        image_files = _files(images, IMAGE_SUFFIXES, notes)
        masks = _masks_by_image(_files(source / "masks", _MASK_SUFFIXES, notes), image_files, images, notes)
        for image in image_files:
            if image not in masks:
                notes.count(_NO_MASK, str(image))
        return [(image, [masks[image]] if image in masks else [], False) for image in image_files]
    listed = sorted(source.iterdir()) if source.is_dir() else []
    folders = [path for path in listed if (path / "masks").is_dir()]
    if not folders:
        message = "must hold images/ and masks/, or a folder with images/ and masks/ per picture, but holds neither"
        raise source_refused(source, message)
    notes.pass_over("folder without a folder masks", (path for path in listed if path.is_dir() and path not in folders))
    pairs = []
    for folder in folders:
        image_files = _files(folder / "images", IMAGE_SUFFIXES, notes)
        if len(image_files) == 1:
            pairs.append((image_files[0], _files(folder / "masks", _MASK_SUFFIXES, notes), True))
            if not pairs[-1][1]:
                notes.count(_NO_MASK, str(image_files[0]))
        else:
            notes.fault(str(folder), f"must hold one picture in images/, but holds {len(image_files)}")
    return pairs


def _masks_by_image(
    masks: list[Path], image_files: list[Path], folder: Path, notes: ConversionNotes
) -> dict[Path, Path]:
    """The mask of each image, by their stems. What fits none or several is a fault."""
    images_by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in image_files:
        images_by_stem[fold_name(image.stem)].append(image)
    found: dict[Path, Path] = {}
    for mask in masks:
        same_stem = images_by_stem[fold_name(mask.stem)]
        if len(same_stem) != 1:
            names = " and ".join(image.name for image in same_stem)
            came = f"{names} are {len(same_stem)}" if same_stem else "there is none"
            notes.fault(str(mask), f"must have a picture of the same name in {folder}, but {came}")
        elif (other := found.setdefault(same_stem[0], mask)) is not mask:
            notes.fault(str(mask), f"must be the only mask of {same_stem[0]}, but {other} is one too")
    return found


def _files(folder: Path, suffixes: tuple[str, ...], notes: ConversionNotes) -> list[Path]:
    """The files with one of the suffixes; others are counted."""
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [path for path in listed if path.suffix.lower() in suffixes and path.is_file() and not is_of_system(path)]
    notes.pass_over(f"file without a suffix of {', '.join(suffixes)}", (path for path in listed if path not in files))
    return files


def _image(pair: tuple[Path, list[Path], bool], label: str, notes: ConversionNotes) -> AnnotatedImage:
    image, files, is_one_object = pair
    size_wh, frame_wh = frame_size(image, None, notes)
    objects: list[MarkedObject] = []
    for file in files:
        try:
            objects += _objects(file, size_wh, is_one_object, label, notes)
        except BadAnnotation as error:
            notes.fault(str(file), str(error))
    return AnnotatedImage(image, size_wh, frame_wh, objects)


def _objects(
    file: Path, size_wh: tuple[int, int], is_one_object: bool, label: str, notes: ConversionNotes
) -> list[MarkedObject]:
    ids_HW = _read_ids(file)
    height, width = ids_HW.shape
    if (width, height) != size_wh:
        raise BadAnnotation(
            f"must have the size of the upright picture, {size_wh[0]}x{size_wh[1]}, but has {width}x{height}"
        )
    numbers = [None] if is_one_object else [number for number in np.unique(ids_HW) if number != 0]
    objects = []
    for number in numbers:
        location = str(file) if number is None else f"{file}: object {number}"
        polygons, num_holes = polygons_from_mask(ids_HW != 0 if number is None else ids_HW == number)
        if not polygons:
            continue
        if num_holes:
            notes.count("object with holes, which polygons cannot have: filled", location)
        objects.append(MarkedObject(location, label, polygons=polygons))
    if not objects:
        notes.count("mask without an object", str(file))
    return objects


def _read_ids(file: Path) -> NDArray[np.int64]:
    """Number of the object of each pixel; 0: no object."""
    try:
        with Image.open(file) as stored:
            image = ImageOps.exif_transpose(stored)
            mode = image.mode
            pixels = np.asarray(image if mode in ("1", "L", "P", "I", "I;16") else image.convert("RGB"), np.int64)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadAnnotation(f"must be a picture, but: {error}") from None
    if mode == "P":
        return np.where(pixels == _VOID, 0, pixels)
    if pixels.ndim == 2:
        return pixels
    return (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
