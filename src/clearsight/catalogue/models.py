"""The models that this version trains and serves: one row per model, with every fact that needs no network.

Job documents, defaults, `settings.json`, weights and serving all read these rows. A row names its family, and the row
of the family in `FAMILIES` names the code of every layer. A rule asks a field of the row, never a name.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-hyperparameters ("Model-specific defaults")
and https://learn.microsoft.com/azure/machine-learning/how-to-auto-train-image-models (names, default models).
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal

from clearsight.errors import UserError
from clearsight.tasks import Task

__all__ = [
    "DEFAULT_MODELS",
    "FAMILIES",
    "HUGGING_FACE_NAMES",
    "MODELS",
    "YOLO_STRIDE",
    "FamilyRow",
    "ModelRow",
    "UnknownModel",
    "find_row",
    "models_of",
]

YOLO_STRIDE: Final = 32
"""Pixels of the network's input in a cell of yolov5's coarsest grid; sides of its input are multiples of this."""

_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_HALF: Final = (0.5, 0.5, 0.5)


class UnknownModel(UserError):
    """No row has this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRow:
    """The code of a family of networks, layer by layer, as names `module:object` that are imported on first use."""

    network: str
    """Class without arguments: a `networks.families.family.Family`."""
    weights: str
    """Callable: finds the pretrained weights of a row, see `networks.weight_search`. Without torch."""
    pipeline: str
    """Callable with the arguments of `handlers.scoring.pipeline.open_pipeline`: from an image to an answer."""
    export: str
    """Callable: an `exporters.trained.Export` of a `TrainedModel`."""
    training: str | None = None
    """Class without arguments: a `training.detection.family.DetectorTraining`. Detectors only."""
    forward: str | None = None
    """Callable that runs a network on a view, (1, C, H, W), for explanations; it gives a
    `handlers.explain.objects.network.DetectorForward`. Detectors only."""


_FAMILIES: Final[dict[str, FamilyRow]] = {
    "classifier": FamilyRow(
        network="clearsight.networks.families.classifiers:ClassifierFamily",
        weights="clearsight.networks.weight_search:find_classifier_weights",
        pipeline="clearsight.handlers.scoring.classification:ClassificationPipeline",
        export="clearsight.exporters.classifier:ClassifierExport",
    ),
    "yolov5": FamilyRow(
        network="clearsight.networks.families.yolov5.family:YoloFamily",
        weights="clearsight.networks.weight_search:find_yolov5_weights",
        pipeline="clearsight.handlers.scoring.detectors:open_yolov5",
        export="clearsight.exporters.detector:YoloExport",
        training="clearsight.training.detection.yolov5:Yolov5Training",
        forward="clearsight.handlers.explain.objects.network:OneStageForward",
    ),
    "rcnn": FamilyRow(
        network="clearsight.networks.families.rcnn.family:RcnnFamily",
        weights="clearsight.networks.weight_search:find_detector_weights",
        pipeline="clearsight.handlers.scoring.detectors:open_rcnn",
        export="clearsight.exporters.detector:RcnnExport",
        training="clearsight.training.detection.rcnn:RcnnTraining",
        forward="clearsight.handlers.explain.objects.network:TwoStageForward",
    ),
}
_FAMILIES["retinanet"] = replace(
    _FAMILIES["rcnn"],
    network="clearsight.networks.families.rcnn.family:RetinaFamily",
    forward=_FAMILIES["yolov5"].forward,
)

FAMILIES: Final[Mapping[str, FamilyRow]] = MappingProxyType(_FAMILIES)
"""Rows by `ModelRow.family`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """The facts about one model that job documents, settings, weights and serving need."""

    model_name: str
    """As in job files, case-sensitive."""
    tasks: tuple[Task, ...]
    """Tasks that it is trained for."""
    family: str
    """Key of `FAMILIES`."""
    settings: Literal["classification", "yolov5", "rcnn", "segmentation"]
    """Which keys its `settings.json` has: key of `documents.settings.SETTINGS_TYPES`."""
    parameter_groups: tuple[str, ...]
    """Groups of hyperparameters that it uses, beside those that every model uses."""

    library: Literal["torchvision", "timm", "clearsight"]
    builder: str
    """Name of the builder in the library; also the prefix of its weight files."""
    weights_tag: str | None = None
    """The library's name of the published weights of the whole network; None where there are none."""
    weights_file: str | None = None
    """Name of torchvision's file of these weights, which torchvision's table has too; it ends with the start of the
    sha256."""
    licence: str | None = None
    """SPDX id of the published weights, those of `backbone` included."""
    backbone: str | None = None
    """Name of the classifier that a detector is built on; its published weights can start the detector."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the library's builder beyond the number of classes."""
    head: tuple[str, ...]
    """Names of the modules whose shape follows the number of classes."""
    freeze_groups: tuple[tuple[str, ...], ...]
    """Prefixes of parameter names, from the input on: `layers_to_freeze: n` freezes the first n groups."""

    learning_rate: float
    multilabel_learning_rate: float | None = None
    """Default rate of multi-label classification; None: the same as `learning_rate`."""
    training_batch_size: int
    """Default number of images per step and process."""
    validation_batch_size: int
    number_of_epochs: int = 15
    box_score_threshold: float | None = None
    """Default of the hyperparameter of that name where the model has its own, in [0, 1]."""

    resize_size: int = 256
    """Shorter side before the centre crop, pixels, that the published weights were evaluated with."""
    crop_size: int = 224
    """Side of the centre crop, pixels, that the published weights were evaluated with."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the resize, as for the published weights."""
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    """Per channel, of values in [0, 1], as for the published weights."""
    std: tuple[float, float, float] = _IMAGENET_STD
    """Per channel, of values in [0, 1], as for the published weights."""
    size_multiple: int = 1
    """Sides of the network's input are multiples of this, pixels."""
    smallest_size: int = 32
    """Smallest side of a classifier's input, pixels."""
    fixed_size: bool = False
    """Whether a network, once built, takes images of one size only."""

    has_masks: bool = False
    """Whether it finds instance masks beside boxes."""
    has_proposals: bool = False
    """Whether a first stage proposes boxes, whose number `x_light_detector` lowers."""
    has_model_sizes: bool = False
    """Whether it comes in several sizes, which `model_size` chooses from."""

    def uses(self, parameter_group: str) -> bool:
        """Whether the model uses the hyperparameters of a group; `all` are used by every model."""
        return parameter_group == "all" or parameter_group in self.parameter_groups

    def frozen_prefixes(self, layers_to_freeze: int) -> tuple[str, ...]:
        """Parameter-name prefixes of the first `layers_to_freeze` groups; 0 freezes nothing. Raises `UserError`."""
        count = len(self.freeze_groups)
        if not 0 <= layers_to_freeze <= count:
            raise UserError(f"layers_to_freeze must be 0 to {count} for {self.model_name}, but got {layers_to_freeze}")
        return tuple(prefix for group in self.freeze_groups[:layers_to_freeze] for prefix in group)


_STEM: Final = ("conv1.", "bn1.")
_STAGES: Final = tuple((f"layer{stage}.",) for stage in range(1, 5))
_CLASSIFICATION: Final = (Task.MULTI_CLASS, Task.MULTI_LABEL)


def _cnn(model_name: str, **facts: Any) -> ModelRow:
    """Make the row of a convolutional classifier, by default one with the stem and four stages of a ResNet.

    Azure calls the stem of SE-ResNeXt `layer0`; in timm it is conv1 and bn1, as in every ResNet.
    """
    row: dict[str, Any] = {
        "tasks": _CLASSIFICATION,
        "family": "classifier",
        "settings": "classification",
        "parameter_groups": ("classifier",),
        "builder": model_name,
        "head": ("fc",),
        "freeze_groups": (_STEM, *_STAGES),
        "learning_rate": 0.01,
        "multilabel_learning_rate": 0.035,
        "training_batch_size": 78,
        "validation_batch_size": 78,
    }
    return ModelRow(model_name=model_name, **{**row, **facts})


def _torchvision_cnn(model_name: str, weights_tag: str, weights_file: str, resize_size: int, **facts: Any) -> ModelRow:
    """Make a row.

    The deep ResNets take the later weights, 80.9 against 76.1 % top-1 for resnet50 (torchvision's tables of weights);
    the shallow ones have only the first.
    """
    published = {"library": "torchvision", "weights_tag": weights_tag, "weights_file": weights_file}
    return _cnn(model_name, resize_size=resize_size, licence="BSD-3-Clause", **published, **facts)


def _timm_cnn(model_name: str, builder: str, weights_tag: str, **facts: Any) -> ModelRow:
    published = {"library": "timm", "builder": builder, "weights_tag": weights_tag, "licence": "Apache-2.0"}
    return _cnn(model_name, **published, **facts)


def _vit(
    model_name: str, builder: str, learning_rate: float, multilabel_learning_rate: float, batch_size: int
) -> ModelRow:
    """Make a row. Azure names 13 groups to freeze, for ViT-L too: the patch embedding and the first twelve blocks.

    Class token and position embeddings are in none, so that positions made for another image size go on learning.
    """
    return _timm_cnn(
        model_name,
        builder,
        "augreg_in21k_ft_in1k",
        head=("head",),
        freeze_groups=(("patch_embed.",), *((f"blocks.{index}.",) for index in range(12))),
        learning_rate=learning_rate,
        multilabel_learning_rate=multilabel_learning_rate,
        training_batch_size=batch_size,
        validation_batch_size=batch_size,
        resize_size=248,
        interpolation="bicubic",
        mean=_HALF,
        std=_HALF,
        size_multiple=16,  # side of the patches that it cuts an image into
        fixed_size=True,
    )


_COCO_DIGITS: Final = {"fasterrcnn": "258fb6c6", "retinanet": "eeacb38b", "maskrcnn": "bf2d0c1e"}


def _rcnn(kind: Literal["fasterrcnn", "maskrcnn", "retinanet"], depth: int) -> ModelRow:
    """Make the row of a detector on a ResNet with a feature pyramid; torchvision has COCO weights for depth 50."""
    model_name, has_masks, has_proposals = f"{kind}_resnet{depth}_fpn", kind == "maskrcnn", kind != "retinanet"
    masks = ("roi_heads.mask_predictor.mask_fcn_logits",) if has_masks else ()
    return ModelRow(
        model_name=model_name,
        tasks=(Task.SEGMENTATION if has_masks else Task.DETECTION,),
        family="rcnn" if has_proposals else "retinanet",
        settings="segmentation" if has_masks else "rcnn",
        parameter_groups=("detector", "rcnn"),
        library="torchvision",
        builder=model_name,
        weights_tag="COCO_V1" if depth == 50 else None,
        weights_file=f"{model_name}_coco-{_COCO_DIGITS[kind]}.pth" if depth == 50 else None,
        licence="BSD-3-Clause",
        backbone=f"resnet{depth}",
        head=("roi_heads.box_predictor", *masks) if has_proposals else ("head.classification_head.cls_logits",),
        freeze_groups=tuple(tuple(f"backbone.body.{prefix}" for prefix in group) for group in (_STEM, *_STAGES)),
        learning_rate=0.005,
        training_batch_size=2,
        validation_batch_size=1,
        has_masks=has_masks,
        has_proposals=has_proposals,
    )


_DEPTHS: Final = (18, 34, 50, 101, 152)

_ALL: Final = (
    _torchvision_cnn(
        "mobilenetv2",
        "IMAGENET1K_V2",
        "mobilenet_v2-7ebf99e0.pth",
        232,
        builder="mobilenet_v2",
        head=("classifier.1",),
        freeze_groups=tuple((f"features.{index}.",) for index in range(19)),
    ),
    _torchvision_cnn("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth", 256),
    _torchvision_cnn("resnet34", "IMAGENET1K_V1", "resnet34-b627a593.pth", 256),
    _torchvision_cnn("resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth", 232),
    _torchvision_cnn("resnet101", "IMAGENET1K_V2", "resnet101-cd907fc2.pth", 232),
    _torchvision_cnn("resnet152", "IMAGENET1K_V2", "resnet152-f82ba261.pth", 232),
    _timm_cnn("resnest50", "resnest50d", "in1k"),
    _timm_cnn("resnest101", "resnest101e", "in1k", resize_size=292, crop_size=256),
    _timm_cnn(
        "seresnext", "seresnext50_32x4d", "racm_in1k", interpolation="bicubic", size_multiple=32, smallest_size=64
    ),
    _vit("vits16r224", "vit_small_patch16_224", 0.0125, 0.025, 128),
    _vit("vitb16r224", "vit_base_patch16_224", 0.0125, 0.025, 48),
    _vit("vitl16r224", "vit_large_patch16_224", 0.001, 0.002, 10),
    ModelRow(
        model_name="yolov5",
        tasks=(Task.DETECTION,),
        family="yolov5",
        settings="yolov5",
        parameter_groups=("detector", "yolov5"),
        library="clearsight",
        builder="yolov5",
        head=("model.24.m",),
        freeze_groups=tuple((f"model.{index}.",) for index in range(10)),  # the layers of the backbone
        learning_rate=0.01,
        training_batch_size=16,
        validation_batch_size=16,
        number_of_epochs=30,
        box_score_threshold=0.1,  # its score is objectness times class probability
        size_multiple=YOLO_STRIDE,
        has_model_sizes=True,
    ),
    *(_rcnn("fasterrcnn", depth) for depth in _DEPTHS),
    _rcnn("retinanet", 50),
    *(_rcnn("maskrcnn", depth) for depth in _DEPTHS),
)

_ROWS: Final[dict[str, ModelRow]] = {row.model_name: row for row in _ALL}

MODELS: Final[Mapping[str, ModelRow]] = MappingProxyType(_ROWS)
"""The rows by model name."""

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


def models_of(task: Task) -> dict[str, ModelRow]:
    """The rows of a task by model name."""
    return {name: row for name, row in MODELS.items() if task in row.tasks}


def find_row(model_name: str, task: Task | None = None) -> ModelRow:
    """Look up a row, with `task` among those of the task; an unknown name raises `UnknownModel` listing the known."""
    rows = MODELS if task is None else models_of(task)
    if model_name not in rows:
        near = difflib.get_close_matches(model_name, rows, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownModel(f"model_name must be one of {sorted(rows)}, but got {model_name!r}{hint}")
    return rows[model_name]
