"""Charts of the best validation pass: values as JSON, images as PNG; and validation images with their detections."""

from clearsight.training.charts.samples import write_samples
from clearsight.training.charts.write import write_charts
from clearsight.training.charts.write_detection import write_detection_charts

__all__ = ["write_charts", "write_detection_charts", "write_samples"]
