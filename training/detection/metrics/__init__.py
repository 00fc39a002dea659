"""Metrics of detection and instance segmentation, by the rules of Pascal VOC and of COCO, on plain arrays.

objects (predictions and ground truth) -> regions (their overlaps) -> voc, coco -> metrics (Azure's names).
"""

from clearsight.training.detection.metrics.metrics import (
    DetectionMetrics,
    MetricOptions,
    detection_metrics,
    metrics_of_resamples,
)
from clearsight.training.detection.metrics.objects import GroundTruth, Predictions, Rle

__all__ = [
    "DetectionMetrics",
    "GroundTruth",
    "MetricOptions",
    "Predictions",
    "Rle",
    "detection_metrics",
    "metrics_of_resamples",
]
