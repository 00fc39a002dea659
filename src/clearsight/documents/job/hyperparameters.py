"""Every hyperparameter of Azure's image jobs: type, range, default, and which models use it.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-hyperparameters. Where its prose and the
files that Azure runs disagree (`layers_to_freeze`, `warmup_cosine_lr_warmup_epochs`: "positive", yet 0 in its
samples), the files win.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

from pydantic import ConfigDict
from pydantic_core import PydanticCustomError

from clearsight.fields import (
    Anything,
    Integer,
    Number,
    OneOf,
    Rule,
    Section,
    Text,
    Truth,
    broken_rule,
    given_values,
    nearest,
    refused,
)
from clearsight.tasks import Task

__all__ = ["HYPERPARAMETERS", "LEGACY_NAMES", "Hyperparameter", "HyperparameterSection", "Kind", "Value"]

Value = bool | int | float | str
Kind = Literal["bool", "int", "float", "enum", "text"]
Group = Literal["common", "classification", "detection"]

_RCNN: Final = "rcnn"
_YOLO: Final = "yolov5"


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """One row of the table."""

    name: str
    kind: Kind
    rule: Rule
    default: Value | None = None
    """None: unset, or dependent on the model (`ModelRow`) or the machine."""
    group: Group = "common"
    used_by: str = "all"
    """Models that use it, a group of `ModelRow.parameter_groups`; for the others it is ignored with a warning."""
    legacy_name: str | None = None
    """Name in Azure's older SDK and in `settings.json`; not accepted in job files."""
    sweepable: bool = True

    def is_known_to(self, task: Task) -> bool:
        """Whether the name is legal in jobs of a task. Azure does not tile for segmentation."""
        if task is Task.SEGMENTATION and self.name.startswith("tile_"):
            return False
        return self.group in ("common", "classification" if task.is_classification else "detection")


@dataclass(frozen=True, slots=True)
class _OneOfOrNone(OneOf):
    """Azure's enums also have a member `none`, which means "not set"; it is read as None."""

    def read(self, value: Any) -> Any:
        is_none = isinstance(value, str) and value.strip().lower() == "none"
        return None if is_none else OneOf.read(self, value)

    def json_schema(self) -> dict[str, Any]:
        return OneOf((*self.members, "none"), self.aliases).json_schema()


def _row(name: str, kind: Kind, rule: Rule, default: Value | None = None, **more: Any) -> Hyperparameter:
    return Hyperparameter(name, kind, rule, default, **more)


def _enum(name: str, members: tuple[str, ...], default: Value | None = None, **more: Any) -> Hyperparameter:
    return _row(name, "enum", _OneOfOrNone(members), default, **more)


def _classification(name: str, kind: Kind, rule: Rule, default: Value | None, legacy: str | None) -> Any:
    return _row(name, kind, rule, default, group="classification", used_by="classifier", legacy_name=legacy)


def _detection(
    name: str,
    kind: Kind,
    rule: Rule,
    default: Value | None,
    legacy_name: str | None = None,
    used_by: str = "detector",
    sweepable: bool = True,
) -> Hyperparameter:
    return Hyperparameter(name, kind, rule, default, "detection", used_by, legacy_name, sweepable)


_GRID: Final = re.compile(r"(\d{1,3})[xX](\d{1,3})|\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)")
_MAX_TILES_PER_SIDE: Final = 20


@dataclass(frozen=True, slots=True)
class _TileGrid(Rule):
    """`3x2` is three tiles across, two down; the older form `(3, 2)` means the same."""

    def read(self, value: Any) -> str:
        match = _GRID.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise refused("BAD_TYPE", "must be tiles across x tiles down as text, like '3x2'")
        across, down = (int(number) for number in match.groups() if number is not None)
        if not (1 <= across <= _MAX_TILES_PER_SIDE and 1 <= down <= _MAX_TILES_PER_SIDE):
            raise refused("OUT_OF_RANGE", f"must have 1 to {_MAX_TILES_PER_SIDE} tiles per side")
        return f"{across}x{down}"

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": rf"^\s*({_GRID.pattern})\s*$"}


_fraction: Final = Number(0, 1)
_count: Final = Integer(1)
_switch: Final = OneOf(
    ("Enable", "Disable"),
    # Azure's client dumps the members of its enums under their full names.
    {
        f"{owner}.{member}": member
        for owner in ("LogTrainingMetrics", "LogValidationLoss")
        for member in ("Enable", "Disable")
    },
)

_ROWS: Final = (
    _row("model_name", "text", Text()),
    _row("number_of_epochs", "int", _count),
    _row("training_batch_size", "int", _count),
    _row("validation_batch_size", "int", _count),
    _row("gradient_accumulation_step", "int", _count, 1, legacy_name="grad_accumulation_step"),
    _row("learning_rate", "float", _fraction),
    _enum("learning_rate_scheduler", ("warmup_cosine", "step"), "warmup_cosine", legacy_name="lr_scheduler"),
    _row("warmup_cosine_lr_cycles", "float", _fraction, 0.45),
    _row("warmup_cosine_lr_warmup_epochs", "int", Integer(0), 2),
    _row("step_lr_gamma", "float", _fraction, 0.5),
    _row("step_lr_step_size", "int", _count, 5),
    _enum("optimizer", ("sgd", "adam", "adamw"), "sgd"),
    _row("momentum", "float", _fraction, 0.9),
    _row("nesterov", "bool", Truth(), True),
    _row("weight_decay", "float", _fraction, 1e-4),
    _row("beta1", "float", _fraction, 0.9),
    _row("beta2", "float", _fraction, 0.999),
    _row("ams_gradient", "bool", Truth(), False, legacy_name="amsgrad"),
    _row("early_stopping", "bool", Truth(), True),
    _row("early_stopping_patience", "int", _count, 5),
    _row("early_stopping_delay", "int", _count, 5),
    _row("evaluation_frequency", "int", _count, 1),
    _row("checkpoint_frequency", "int", _count, sweepable=False),
    _row("checkpoint_run_id", "text", Text(), sweepable=False),
    _row("layers_to_freeze", "int", Integer(0), 0),
    _row("distributed", "bool", Truth(), True),
    _row("number_of_workers", "int", Integer(0)),
    _row("random_seed", "int", Integer(0, 2**63 - 1)),
    _row("enable_onnx_normalization", "bool", Truth(), False),
    _row("advanced_settings", "text", Anything(), sweepable=False),
    _classification("weighted_loss", "int", Integer(0, 2), 0, None),
    _classification("training_crop_size", "int", _count, None, "train_crop_size"),
    _classification("validation_crop_size", "int", _count, None, "valid_crop_size"),
    _classification("validation_resize_size", "int", _count, None, "valid_resize_size"),
    _detection("min_size", "int", _count, 600, used_by=_RCNN),
    _detection("max_size", "int", _count, 1333, used_by=_RCNN),
    _detection("box_score_threshold", "float", _fraction, 0.3, "box_score_thresh"),
    _detection("nms_iou_threshold", "float", _fraction, 0.5, "nms_iou_thresh"),
    _detection("box_detections_per_image", "int", _count, 100, "box_detections_per_img", _RCNN),
    _detection("validation_metric_type", "enum", OneOf(("none", "coco", "voc", "coco_voc")), "voc"),
    _detection("validation_iou_threshold", "float", Number(0.1, 1), 0.5),
    _detection("tile_grid_size", "text", _TileGrid(), None),
    _detection("tile_overlap_ratio", "float", Number(0, 1, high_open=True), 0.25),
    _detection("tile_predictions_nms_threshold", "float", _fraction, 0.25, "tile_predictions_nms_thresh"),
    _detection("log_training_metrics", "enum", _switch, "Disable", sweepable=False),
    _detection("log_validation_loss", "enum", _switch, "Enable", sweepable=False),
    _detection("image_size", "int", _count, 640, "img_size", _YOLO),
    _detection(
        "model_size",
        "enum",
        _OneOfOrNone(("small", "medium", "large", "extra_large"), {"xlarge": "extra_large"}),
        "medium",
        None,
        _YOLO,
    ),
    _detection("multi_scale", "bool", Truth(), False, None, _YOLO),
)

HYPERPARAMETERS: Final[Mapping[str, Hyperparameter]] = MappingProxyType({row.name: row for row in _ROWS})

LEGACY_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {row.legacy_name: row.name for row in _ROWS if row.legacy_name is not None}
)
"""Older name -> name in job files, for suggestions."""

_INFERENCE_ONLY: Final = (
    "mask_pixel_score_threshold",
    "max_number_of_polygon_points",
    "export_as_image",
    "image_type",
)
"""Settings of a package that Azure's page lists among the hyperparameters and its loader refuses."""

_NOT_FOR_TRAINING: Final = "is no training parameter; edit settings.json of the package instead"


class HyperparameterSection(Section):
    """Base class of sections whose keys are the hyperparameters of one task."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # made classes have no source to search
    task: ClassVar[Task]

    @classmethod
    def known_keys(cls) -> Collection[str]:
        return HYPERPARAMETERS

    @classmethod
    def unknown_key(cls, key: str) -> PydanticCustomError:
        if key in _INFERENCE_ONLY:
            return broken_rule("BAD_PARAM_FOR_TASK", _NOT_FOR_TRAINING)
        if key in HYPERPARAMETERS:
            return broken_rule("BAD_PARAM_FOR_TASK", f"is not a hyperparameter of {cls.task.value}")
        own = [name for name, row in HYPERPARAMETERS.items() if row.is_known_to(cls.task)]
        today = LEGACY_NAMES.get(key)
        suggestion = f"; did you mean {today!r}?" if today in own else nearest(key, own)
        return broken_rule("UNKNOWN_KEY", f"unknown key{suggestion}")

    def values(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """Key -> value, in the order of the document, of the keys that are set."""
        values = given_values(self)
        return {key: values[key] for key in written if key in values}
