"""A drawn data set on disk: images, and the data folders of all four tasks.

```
output/
    images/single/0000.jpg …     one object in front of clutter
    images/several/0000.jpg …    a shelf with none to five objects, or a rack with many small ones
    multiclass/ multilabel/ detection/ segmentation/
        training-mltable-folder/   validation-mltable-folder/
```
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from PIL import Image

from clearsight.demo.containers import CONTAINERS
from clearsight.demo.outlines import box_from_polygons, polygons_from_coverage
from clearsight.demo.palette import Bytes
from clearsight.demo.rack import Outlined, draw_rack
from clearsight.demo.scene import DrawnScene, draw_scene
from clearsight.tasks import Task
from clearsight.training.data.converters import Entry, split_every, write_folders

__all__ = ["TASK_FOLDERS", "DemoOptions", "draw_dataset", "write_tables"]

TASK_FOLDERS: Final[Mapping[Task, str]] = MappingProxyType(
    {
        Task.MULTI_CLASS: "multiclass",
        Task.MULTI_LABEL: "multilabel",
        Task.DETECTION: "detection",
        Task.SEGMENTATION: "segmentation",
    }
)

SINGLE, SEVERAL = "single", "several"
JPEG_QUALITY: Final = 90
_VALIDATION_EVERY: Final = 5


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Options of a drawn data set."""

    num_images: int = 240
    """Images of each kind: with a single object (multi-class), and with several (the other tasks)."""
    seed: int = 0
    """The same seed, sizes and library versions give the same bytes."""
    width: int = 320
    height: int = 240
    tasks: tuple[Task, ...] = tuple(Task)
    object_px: tuple[int, int] | None = None
    """Least and greatest longer side of objects: many of them, on racks seen from afar, for detection and segmentation.
    None: fridges seen from near."""
    is_easy: bool = False
    """Fridges without clutter, in which each class has a colour of its own: a small detector is trained in a minute."""

    @property
    def kinds(self) -> tuple[str, ...]:
        single = [SINGLE] if Task.MULTI_CLASS in self.tasks else []
        return (*single, *([SEVERAL] if set(self.tasks) - {Task.MULTI_CLASS} else []))

    @property
    def num_images_in_all(self) -> int:
        return self.num_images * len(self.kinds)


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """One image on disk, and its objects as (class, polygons)."""

    kind: str
    image: Path
    size_wh: tuple[int, int]
    objects: tuple[Outlined, ...]


def draw_dataset(output: Path, options: DemoOptions) -> Iterator[DrawnImage]:
    """Draw and write the images, one by one. No label file refers to them before `write_tables` has run."""
    for kind in options.kinds:
        for index in range(options.num_images):
            rng = np.random.default_rng([options.seed, (SINGLE, SEVERAL).index(kind), index])
            image_HW3, objects = _draw(rng, kind, index, options)
            image = output / "images" / kind / f"{index:04d}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(_jpeg(image_HW3))
            yield DrawnImage(kind, image, (options.width, options.height), objects)


def _draw(rng: np.random.Generator, kind: str, index: int, options: DemoOptions) -> tuple[Bytes, tuple[Outlined, ...]]:
    if options.object_px is not None:
        rack = draw_rack(rng, options.height, options.width, options.object_px)
        return rack.image_HW3, rack.objects
    scene = draw_scene(rng, options.height, options.width, _labels(rng, kind, index), is_easy=options.is_easy)
    return scene.image_HW3, _outlines(scene)


def _labels(rng: np.random.Generator, kind: str, index: int) -> tuple[str, ...]:
    """Single images go through the classes in turn; a shelf holds any, sometimes none."""
    names = tuple(CONTAINERS)
    if kind == SINGLE:
        # Every fifth image validates: 5 and 4 share no factor, so both splits get all classes equally often.
        return (names[index % len(names)],)
    count = int(rng.choice(6, p=[0.06, 0.0, 0.34, 0.3, 0.2, 0.1]))
    return tuple(names[choice] for choice in rng.integers(len(names), size=count))


def _jpeg(image_HW3: Bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HW3).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _outlines(scene: DrawnScene) -> tuple[Outlined, ...]:
    outlined = ((item.label, polygons_from_coverage(item.visible_HW)) for item in scene.objects)
    return tuple((label, polygons) for label, polygons in outlined if polygons)


def write_tables(output: Path, options: DemoOptions, images: Sequence[DrawnImage]) -> dict[Task, dict[str, int]]:
    """Write the data folders of every task; return the number of records in each."""
    written = {}
    for task in options.tasks:
        kind = SINGLE if task is Task.MULTI_CLASS else SEVERAL
        entries = [Entry(image.image, _target(task, image), image.size_wh) for image in images if image.kind == kind]
        written[task] = write_folders(output / TASK_FOLDERS[task], *split_every(entries, _VALIDATION_EVERY))
    return written


def _target(task: Task, image: DrawnImage) -> Any:
    match task:
        case Task.MULTI_CLASS:
            return image.objects[0][0]
        case Task.MULTI_LABEL:
            return sorted({label for label, _ in image.objects})
        case Task.DETECTION:
            keys = ("topX", "topY", "bottomX", "bottomY")
            boxes = [(label, box_from_polygons(polygons)) for label, polygons in image.objects]
            return [{"label": label, **dict(zip(keys, box, strict=True)), "isCrowd": 0} for label, box in boxes]
        case _:
            return [{"label": label, "isCrowd": 0, "polygon": polygons} for label, polygons in image.objects]
