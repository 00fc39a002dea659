"""The table of layouts that can be converted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from clearsight.tasks import Task
from clearsight.training.data.converters.class_folders import read_class_folders
from clearsight.training.data.converters.coco import read_coco
from clearsight.training.data.converters.csv_list import read_csv
from clearsight.training.data.converters.customvision import read_custom_vision
from clearsight.training.data.converters.cvat import read_cvat
from clearsight.training.data.converters.entries import Conversion, ConversionRequest
from clearsight.training.data.converters.label_studio import read_label_studio
from clearsight.training.data.converters.labelme import read_labelme
from clearsight.training.data.converters.masks import read_masks
from clearsight.training.data.converters.voc import read_voc
from clearsight.training.data.converters.vott import read_vott
from clearsight.training.data.converters.yolo import read_yolo

__all__ = ["LAYOUTS", "LabelLayout"]


@dataclass(frozen=True, slots=True)
class LabelLayout:
    """A layout of labelled images: its reader, and the tasks that it serves."""

    read: Callable[[ConversionRequest], Conversion]
    tasks: tuple[Task, ...]
    """Tasks that its labels can serve."""
    names_classes: bool = True
    """False: the user names the one class of all objects."""
    label_files: tuple[str, ...] = ()
    """Patterns of its label files, the most specific first, for a layout that reads one file; a folder may hold it."""
    says_parts: bool = False
    """Whether its reader finds the parts of a source itself."""


_ALL: Final = (Task.DETECTION, Task.SEGMENTATION, Task.MULTI_CLASS, Task.MULTI_LABEL)

LAYOUTS: Final[Mapping[str, LabelLayout]] = MappingProxyType(
    {
        "folders": LabelLayout(read_class_folders, (Task.MULTI_CLASS,)),
        "csv": LabelLayout(
            read_csv,
            (Task.MULTI_CLASS, Task.MULTI_LABEL, Task.DETECTION, Task.SEGMENTATION),
            label_files=("_annotations.csv", "_classes.csv", "*.csv"),
        ),
        "voc": LabelLayout(read_voc, (Task.DETECTION, Task.MULTI_CLASS, Task.MULTI_LABEL)),
        "coco": LabelLayout(
            read_coco, tuple(Task), label_files=("_annotations.coco.json", "instances_*.json", "*.json")
        ),
        "yolo": LabelLayout(read_yolo, _ALL, says_parts=True),
        "labelme": LabelLayout(read_labelme, _ALL),
        "labelstudio": LabelLayout(read_label_studio, _ALL, label_files=("*.json",)),
        "cvat": LabelLayout(read_cvat, _ALL, label_files=("annotations.xml", "*.xml")),
        "customvision": LabelLayout(
            read_custom_vision, (Task.DETECTION, Task.MULTI_CLASS, Task.MULTI_LABEL), label_files=("*.json",)
        ),
        "vott": LabelLayout(read_vott, _ALL),
        "masks": LabelLayout(read_masks, (Task.SEGMENTATION, Task.DETECTION), names_classes=False),
    }
)
