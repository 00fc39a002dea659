"""Training and validation data of object detection and instance segmentation, as plain arrays.

polygons and scene (an image with its objects) -> crop, canvas, affine, mosaic (one geometric step each) and tiling ->
augmentation (the two recipes) -> training_set, evaluation_set.
"""

from clearsight.training.detection.data.augmentation import DetectionAugmentation, RcnnAugmentation, YoloAugmentation
from clearsight.training.detection.data.evaluation_set import DetectionEvaluationSet, EvaluationImage
from clearsight.training.detection.data.tiling import TileGrid
from clearsight.training.detection.data.training_set import (
    DetectionBatch,
    DetectionTarget,
    DetectionTrainingSet,
    useful_side,
)

__all__ = [
    "DetectionAugmentation",
    "DetectionBatch",
    "DetectionEvaluationSet",
    "DetectionTarget",
    "DetectionTrainingSet",
    "EvaluationImage",
    "RcnnAugmentation",
    "TileGrid",
    "YoloAugmentation",
    "useful_side",
]
