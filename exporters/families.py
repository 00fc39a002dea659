"""How each family of networks is exported."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from clearsight.catalogue.models import find_row
from clearsight.documents.settings import SETTINGS_TYPES
from clearsight.errors import ExportError
from clearsight.exporters.classifier import ClassifierExport
from clearsight.exporters.detector import RcnnExport, YoloExport
from clearsight.exporters.trained import Export, TrainedModel

__all__ = ["EXPORTS", "export_of"]

_EXPORTS: Final[dict[str, Callable[[TrainedModel[Any, Any]], Export]]] = {
    "classifier": ClassifierExport,
    "yolov5": YoloExport,
    "rcnn": RcnnExport,
    "retinanet": RcnnExport,
}

EXPORTS: Final[Mapping[str, Callable[[TrainedModel[Any, Any]], Export]]] = MappingProxyType(_EXPORTS)
"""By `ModelRow.family`."""


def export_of(model: TrainedModel[Any, Any]) -> Export:
    """How a model is exported. Raises `ExportError` when its settings are those of another kind of model."""
    row = find_row(model.model_name)
    if type(model.settings) is not SETTINGS_TYPES[row.settings]:
        raise ExportError(
            f"a network must come with settings of its kind, but got a {type(model.network).__name__} with "
            f"{type(model.settings).__name__}"
        )
    return EXPORTS[row.family](model)
