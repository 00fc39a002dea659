"""The contract of each family of networks, the tables bound to the catalogue, and the cost of new ones."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pkgutil import resolve_name
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from clearsight.catalogue import models
from clearsight.catalogue.models import FAMILIES, MODELS, YOLO_STRIDE
from clearsight.documents.settings import SETTINGS_TYPES
from clearsight.networks.families.rcnn.batch import TrainingTarget, pad_together
from clearsight.networks.families.rcnn.options import RcnnOptions
from clearsight.networks.families.table import build_network
from clearsight.networks.families.yolov5.head import STRIDES
from clearsight.networks.families.yolov5.loss import Yolov5Loss
from clearsight.testing.families import NUM_CLASSES, FamilyContract

FEW = {"options": asdict(RcnnOptions(64, 32, 64, 32, 64, 32))}
BOXES = [torch.tensor([[8.0, 8.0, 40.0, 60.0]]), torch.tensor([[20.0, 20.0, 60.0, 60.0]])]
CLASS_IDS = [torch.tensor([0]), torch.tensor([2])]


class TestClassifier(FamilyContract):
    model_name = "mobilenetv2"
    crop_size = 32

    @pytest.fixture
    def loss(self) -> Callable[[nn.Module], torch.Tensor]:
        images_NCHW, targets = torch.rand(4, 3, 32, 32), torch.arange(4) % NUM_CLASSES
        return lambda network: nn.functional.cross_entropy(network(images_NCHW), targets)


class TestYolov5(FamilyContract):
    model_name = "yolov5"
    architecture: ClassVar = {"model_size": "nano"}

    @pytest.fixture
    def loss(self) -> Callable[[Any], torch.Tensor]:
        images_NCHW = torch.rand(2, 3, 64, 64)
        return lambda network: (
            Yolov5Loss(network.head.anchors, NUM_CLASSES, 64)(network(images_NCHW), BOXES, CLASS_IDS).total
        )


class _OfPyramids(FamilyContract):
    architecture = FEW

    @pytest.fixture
    def loss(self) -> Callable[[nn.Module], torch.Tensor]:
        images_NCHW, sizes = pad_together([torch.rand(3, 64, 64), torch.rand(3, 64, 64)])
        masks = torch.ones(1, 64, 64, dtype=torch.uint8)
        targets = [TrainingTarget(*pair, masks) for pair in zip(BOXES, CLASS_IDS, strict=True)]
        return lambda network: torch.stack(list(network(images_NCHW, sizes, targets).values())).sum()


class TestMaskRcnn(_OfPyramids):
    model_name = "maskrcnn_resnet18_fpn"


class TestRetinaNet(_OfPyramids):
    model_name = "retinanet_resnet50_fpn"


def test_every_family_has_code_in_the_layers_that_its_models_need() -> None:
    assert {row.family for row in MODELS.values()} == FAMILIES.keys()
    for row in MODELS.values():
        family = FAMILIES[row.family]
        layers = {"networks": family.network, "handlers": family.pipeline, "exporters": family.export}
        if not row.tasks[0].is_classification:
            layers |= {"training": str(family.training), "handlers.explain": str(family.forward)}
        for layer, name in layers.items():
            assert name.startswith(f"clearsight.{layer}."), row.model_name
            assert callable(resolve_name(name))


def test_the_catalogue_agrees_with_itself() -> None:
    assert {row.settings for row in MODELS.values()} == SETTINGS_TYPES.keys()
    assert all(row.model_name == name for name, row in MODELS.items())
    assert all(row.backbone in MODELS for row in MODELS.values() if row.backbone is not None)
    assert MODELS["yolov5"].size_multiple == YOLO_STRIDE == STRIDES[-1]


def test_a_new_classifier_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(MODELS["resnet18"], model_name="resnext50", builder="resnext50_32x4d")
    monkeypatch.setitem(models._ROWS, row.model_name, row)
    with torch.device("meta"):
        network = build_network("resnext50", 1000)
    # https://arxiv.org/abs/1611.05431, as torchvision publishes it.
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_028_904
