"""Learning to detect and to segment: one objective for all detectors, one file per family for what differs.

objective -> findings (a pass over a validation set, by the functions of serving) -> yolov5 or rcnn.
"""

from clearsight.training.detection.family import Family
from clearsight.training.detection.findings import Findings, find_all
from clearsight.training.detection.objective import DetectionObjective
from clearsight.training.detection.rcnn import RcnnFamily
from clearsight.training.detection.yolov5 import Yolov5Family, autofit_anchors_to

__all__ = [
    "DetectionObjective",
    "Family",
    "Findings",
    "RcnnFamily",
    "Yolov5Family",
    "autofit_anchors_to",
    "find_all",
]
