"""The settings file as a whole: which keys a model has, and their spellings.

Reading accepts every spelling that Azure's own pages use and warns about unknown keys; writing uses the first
spelling. A missing key takes its default.
"""

import difflib
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Final

from clearsight.catalogue.models import models_of
from clearsight.documents.settings.classification import ClassificationSettings
from clearsight.documents.settings.detection import DetectorSettings, RcnnSettings, SegmentationSettings, YoloSettings
from clearsight.errors import Fault, InvalidDocument
from clearsight.fields import read
from clearsight.tasks import Task

__all__ = ["ALIASES", "SETTINGS_TYPES", "Settings", "parse_settings", "settings_class", "to_document"]

Settings = ClassificationSettings | DetectorSettings

SETTINGS_TYPES: Final[Mapping[str, type[Settings]]] = MappingProxyType(
    {
        "classification": ClassificationSettings,
        "yolov5": YoloSettings,
        "rcnn": RcnnSettings,
        "segmentation": SegmentationSettings,
    }
)
"""By `ModelRow.settings`."""

_DEFAULT_TYPES: Final = {Task.DETECTION: "rcnn", Task.SEGMENTATION: "segmentation"}
"""For a model that the catalogue does not know; every other task is one of classification."""

INFORMATIONAL: Final = ("task_type", "model_name", "labels", "schema_version")
"""Keys that describe the package. They are accepted in the file and change nothing."""

ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "validation_resize_size": "valid_resize_size",
        "validation_crop_size": "valid_crop_size",
        "box_score_threshold": "box_score_thresh",
        "nms_iou_threshold": "nms_iou_thresh",
        "box_nms_thresh": "nms_iou_thresh",
        "box_iou_thresh": "nms_iou_thresh",
        "box_detections_per_image": "box_detections_per_img",
        "tile_predictions_nms_threshold": "tile_predictions_nms_thresh",
        "image_size": "img_size",
    }
)
"""Azure's other spellings -> the spelling of the settings file (hyperparameter page, ONNX sample, component pages)."""


def parse_settings(document: Mapping[str, Any], task: Task, model_name: str = "") -> tuple[Settings, list[str]]:
    """Read a settings document; the second value has one sentence for each key that changes nothing or was changed.

    The model's row in the catalogue says which keys there are; without a known name, the task does. Raises
    `InvalidDocument` listing every bad value with its key, two spellings of a key that disagree included.
    """
    kind = settings_class(task, model_name)
    own = kind.field_names()
    values, faults = _canonical(document)
    others = [key for key in values if key not in own and key not in INFORMATIONAL]
    warnings = [_unused(key, own, model_name or task.value) for key in others]
    known = {key: value for key, value in values.items() if key in own}
    settings: Settings | None = read(kind, known, "", faults, value_code="BAD_VALUE")
    if settings is not None and not faults:
        faults += settings.faults()
    if settings is None or faults:
        raise InvalidDocument("settings.json", faults)
    settings, changes = settings.rounded()
    return settings, warnings + changes


def to_document(settings: Settings) -> dict[str, Any]:
    """Make the plain data of a settings file, every key written out; `parse_settings` reads it back unchanged."""
    document = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()}
    if document.get("tile_grid_size") is not None:
        document["tile_grid_size"] = "x".join(map(str, document["tile_grid_size"]))
    return document


def settings_class(task: Task, model_name: str = "") -> type[Settings]:
    """The settings of a model: those that its row names, else the task's."""
    row = models_of(task).get(model_name)
    return SETTINGS_TYPES[_DEFAULT_TYPES.get(task, "classification") if row is None else row.settings]


def _unused(key: str, own: list[str], model: str) -> str:
    if any(key in kind.field_names() for kind in SETTINGS_TYPES.values()):
        return f"settings.json: {key!r} is ignored: {model} does not use it"
    near = difflib.get_close_matches(str(key), [*own, *ALIASES], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"settings.json: unknown key {key!r} is ignored{hint}"


def _canonical(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """Rename aliases; two spellings of one key may stand together only with the same value."""
    values: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    faults = []
    for spelling, value in document.items():
        key = ALIASES.get(spelling, spelling)
        if key in values and values[key] != value:
            message = f"is given as {spelled[key]!r}: {values[key]!r} and as {spelling!r}: {value!r}; keep one of them"
            faults.append(Fault("BAD_VALUE", key, message))
        values.setdefault(key, value)
        spelled.setdefault(key, spelling)
    return values, faults
