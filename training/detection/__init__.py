"""Learning to detect and to segment: one objective for all detectors, one object per family for what differs.

objective -> findings (a pass over a validation set, by the functions of serving) -> yolov5 or rcnn.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from clearsight.training.detection.family import DetectorSteps, DetectorTraining
from clearsight.training.detection.findings import Findings, find_all
from clearsight.training.detection.objective import DetectionObjective
from clearsight.training.detection.rcnn import RcnnTraining
from clearsight.training.detection.yolov5 import Yolov5Training

__all__ = [
    "DETECTOR_FAMILIES",
    "DetectionObjective",
    "DetectorSteps",
    "DetectorTraining",
    "Findings",
    "find_all",
]

_FAMILIES: Final[dict[str, DetectorTraining[Any, Any]]] = {
    "yolov5": Yolov5Training(),
    "rcnn": RcnnTraining(),
    "retinanet": RcnnTraining(),
}

DETECTOR_FAMILIES: Final[Mapping[str, DetectorTraining[Any, Any]]] = MappingProxyType(_FAMILIES)
"""How the families of detectors are trained, by `ModelRow.family`."""
