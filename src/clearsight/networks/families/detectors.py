"""Detectors of all families by Azure's model names: build one, freeze its first layers, start it from weights.

`networks.registry` does the same for classifiers.
"""

import difflib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from clearsight.errors import UserError
from clearsight.networks.families.classifiers import UnknownModel
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.models import FREEZE_GROUPS as RCNN_FREEZE_GROUPS
from clearsight.networks.families.rcnn.models import RCNN_MODELS, build_rcnn
from clearsight.networks.families.rcnn.options import DEFAULT, RcnnOptions
from clearsight.networks.families.rcnn.weights import load_pretrained_rcnn
from clearsight.networks.families.yolov5.network import FREEZE_GROUPS as YOLO_FREEZE_GROUPS
from clearsight.networks.families.yolov5.network import Yolov5, build_yolov5
from clearsight.networks.families.yolov5.weights import load_own_yolov5
from clearsight.networks.weights import PretrainedRecord

__all__ = [
    "DETECTOR_NAMES",
    "architecture_of",
    "build_detector",
    "detector_from_architecture",
    "detector_frozen_prefixes",
    "load_pretrained_detector",
]

_YOLOV5: Final = "yolov5"

DETECTOR_NAMES: Final = (_YOLOV5, *RCNN_MODELS)
"""As in job files, case-sensitive."""

_FREEZE_GROUPS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = MappingProxyType(
    {_YOLOV5: YOLO_FREEZE_GROUPS, **dict.fromkeys(RCNN_MODELS, RCNN_FREEZE_GROUPS)}
)


def build_detector(
    model_name: str, num_classes: int, *, model_size: str = "medium", options: RcnnOptions = DEFAULT
) -> Yolov5 | Detector:
    """Build a detector with random weights (drawn from torch's global generator), in training mode.

    `num_classes` counts no background. `model_size` is for yolov5 only, `options` for the others. Raises
    `UnknownModel`, `UserError`.
    """
    _require_known(model_name)
    if model_name == _YOLOV5:
        return build_yolov5(model_size, num_classes)
    return build_rcnn(model_name, num_classes, options)


def architecture_of(model_name: str, *, model_size: str = "medium", options: RcnnOptions = DEFAULT) -> dict[str, Any]:
    """What a package must remember of the arguments of `build_detector`, as plain data."""
    _require_known(model_name)
    return {"model_size": model_size} if model_name == _YOLOV5 else {"options": asdict(options)}


def detector_from_architecture(model_name: str, num_classes: int, architecture: Mapping[str, Any]) -> Yolov5 | Detector:
    """Build the detector that `architecture_of` describes; keys of others are left alone.

    Raises `UserError` when something is missing or unknown.
    """
    _require_known(model_name)
    if model_name == _YOLOV5:
        if "model_size" not in architecture:
            raise UserError("the architecture of yolov5 must name its model_size, but it does not")
        return build_yolov5(str(architecture["model_size"]), num_classes)
    numbers: Any = architecture.get("options")
    known = asdict(DEFAULT)
    is_whole = isinstance(numbers, Mapping) and numbers.keys() == known.keys()
    if not is_whole or not all(type(number) is int and number > 0 for number in numbers.values()):
        raise UserError(
            f"the architecture of {model_name} must have options {list(known)}, numbers above 0, but got {numbers}"
        )
    return build_rcnn(model_name, num_classes, RcnnOptions(**numbers))


def detector_frozen_prefixes(model_name: str, layers_to_freeze: int) -> tuple[str, ...]:
    """Parameter-name prefixes of the first `layers_to_freeze` groups; 0 freezes nothing."""
    _require_known(model_name)
    groups = _FREEZE_GROUPS[model_name]
    if not 0 <= layers_to_freeze <= len(groups):
        raise UserError(f"layers_to_freeze must be 0 to {len(groups)} for {model_name}, but got {layers_to_freeze}")
    return tuple(prefix for group in groups[:layers_to_freeze] for prefix in group)


def load_pretrained_detector(
    network: Yolov5 | Detector, model_name: str, weights_dir: Path | None = None, pretrained: bool = True
) -> PretrainedRecord:
    """Load pretrained weights into a network made by `build_detector`; return what was loaded.

    The R-CNN families as `load_pretrained_rcnn` does it, yolov5 as `load_own_yolov5`: without a file of the user's it
    starts from random weights, and the record's `notice` says so.
    """
    if isinstance(network, Yolov5):
        return load_own_yolov5(network, weights_dir, pretrained)
    return load_pretrained_rcnn(network, model_name, weights_dir, pretrained)


def _require_known(model_name: str) -> None:
    if model_name not in DETECTOR_NAMES:
        near = difflib.get_close_matches(model_name, DETECTOR_NAMES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownModel(f"model_name must be one of {sorted(DETECTOR_NAMES)}, but got {model_name!r}{hint}")
