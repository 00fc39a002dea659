"""Charts of a classification trial at its best pass: values as JSON, pictures as PNG."""

from clearsight.training.charts.write import write_charts

__all__ = ["write_charts"]
