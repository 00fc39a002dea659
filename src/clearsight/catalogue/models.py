"""Model names that job files may give, per task, with the defaults that depend on them.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-hyperparameters ("Model-specific defaults")
and https://learn.microsoft.com/azure/machine-learning/how-to-auto-train-image-models (names, default models).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from clearsight.tasks import Task

__all__ = ["DEFAULT_MODELS", "HUGGING_FACE_NAMES", "NATIVE_MODELS", "TRAINABLE", "Family", "ModelFacts"]

Family = Literal["cnn", "vit", "yolov5", "rcnn", "maskrcnn"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a job file's defaults and checks need to know about a network, without building it."""

    model_name: str
    family: Family
    num_freeze_groups: int
    """Longest `layers_to_freeze`."""
    learning_rate: float
    multilabel_learning_rate: float
    training_batch_size: int
    validation_batch_size: int
    number_of_epochs: int = 15
    resize_size: int = 256
    """Shorter side before the centre crop, pixels, that the published weights were evaluated with."""
    crop_size: int = 224


def _cnn(model_name: str, num_freeze_groups: int, resize_size: int = 256, crop_size: int = 224) -> ModelFacts:
    return ModelFacts(
        model_name, "cnn", num_freeze_groups, 0.01, 0.035, 78, 78, resize_size=resize_size, crop_size=crop_size
    )


def _vit(model_name: str, learning_rate: float, multilabel_learning_rate: float, batch_size: int) -> ModelFacts:
    return ModelFacts(
        model_name, "vit", 13, learning_rate, multilabel_learning_rate, batch_size, batch_size, resize_size=248
    )


def _detector(model_name: str, family: Family) -> ModelFacts:
    return ModelFacts(model_name, family, 5, 0.005, 0.005, 2, 1)


_DEPTHS: Final = (18, 34, 50, 101, 152)

_CLASSIFIERS: Final = (
    _cnn("mobilenetv2", 19, resize_size=232),
    _cnn("resnet18", 5),
    _cnn("resnet34", 5),
    _cnn("resnet50", 5, resize_size=232),
    _cnn("resnet101", 5, resize_size=232),
    _cnn("resnet152", 5, resize_size=232),
    _cnn("resnest50", 5),
    _cnn("resnest101", 5, resize_size=292, crop_size=256),
    _cnn("seresnext", 5),
    _vit("vits16r224", 0.0125, 0.025, 128),
    _vit("vitb16r224", 0.0125, 0.025, 48),
    _vit("vitl16r224", 0.001, 0.002, 10),
)
_DETECTORS: Final = (
    ModelFacts("yolov5", "yolov5", 10, 0.01, 0.01, 16, 16, number_of_epochs=30),
    *(_detector(f"fasterrcnn_resnet{depth}_fpn", "rcnn") for depth in _DEPTHS),
    _detector("retinanet_resnet50_fpn", "rcnn"),
)
_SEGMENTERS: Final = tuple(_detector(f"maskrcnn_resnet{depth}_fpn", "maskrcnn") for depth in _DEPTHS)


def _by_name(rows: tuple[ModelFacts, ...]) -> Mapping[str, ModelFacts]:
    return MappingProxyType({facts.model_name: facts for facts in rows})


NATIVE_MODELS: Final[Mapping[Task, Mapping[str, ModelFacts]]] = MappingProxyType(
    {
        Task.MULTI_CLASS: _by_name(_CLASSIFIERS),
        Task.MULTI_LABEL: _by_name(_CLASSIFIERS),
        Task.DETECTION: _by_name(_DETECTORS),
        Task.SEGMENTATION: _by_name(_SEGMENTERS),
    }
)

DEFAULT_MODELS: Final[Mapping[Task, str]] = MappingProxyType(
    {
        Task.MULTI_CLASS: "vitb16r224",
        Task.MULTI_LABEL: "vitb16r224",
        Task.DETECTION: "yolov5",
        Task.SEGMENTATION: "maskrcnn_resnet50_fpn",
    }
)

HUGGING_FACE_NAMES: Final = (
    "microsoft/beit-base-patch16-224-pt22k-ft22k",
    "google/vit-base-patch16-224",
    "facebook/deit-base-patch16-224",
    "microsoft/swinv2-base-patch4-window12-192-22k",
)
"""Curated by Azure; its registry writes them with `-` for `/`. Any other `owner/name` is legal too."""

TRAINABLE: Final = tuple(facts.model_name for facts in (*_CLASSIFIERS, *_DETECTORS, *_SEGMENTERS))
"""What this version trains; the names that `clearsight.networks` builds."""
