"""The family of yolov5."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from clearsight.catalogue.models import ModelRow
from clearsight.errors import UserError
from clearsight.networks.families.yolov5 import serving
from clearsight.networks.families.yolov5.network import Yolov5, build_yolov5, name_of_size
from clearsight.networks.families.yolov5.weights import load_own_yolov5
from clearsight.networks.serving import GraphSignature
from clearsight.networks.weights import PretrainedRecord

__all__ = ["YoloFamily"]


class YoloFamily:
    """`Family` of yolov5, which comes in sizes; its architecture record names one, `model_size`."""

    default_architecture: ClassVar[Mapping[str, Any]] = MappingProxyType({"model_size": "medium"})

    def build(
        self, row: ModelRow, num_classes: int, architecture: Mapping[str, Any], crop_size: int | None = None
    ) -> Yolov5:
        if "model_size" not in architecture:
            raise UserError(f"the architecture of {row.model_name} must name its model_size, but it does not")
        return build_yolov5(str(architecture["model_size"]), num_classes)

    def architecture(self, network: Yolov5) -> dict[str, Any]:
        return {"model_size": name_of_size(network.size)}

    def load_pretrained(
        self, network: Yolov5, row: ModelRow, weights_dir: Path | None, pretrained: bool
    ) -> PretrainedRecord:
        return load_own_yolov5(network, weights_dir, pretrained)

    def prepare_pretrained(self, network: Yolov5) -> None:
        """Change nothing."""

    def serving_module(self, network: Yolov5) -> serving.ServingGraph:
        return serving.ServingGraph(network)

    def signature(self, row: ModelRow) -> GraphSignature:
        return GraphSignature(serving.INPUT_NAMES, serving.OUTPUT_NAMES, serving.DYNAMIC_AXES)

    def example_inputs(self, crop_size: int | None) -> tuple[torch.Tensor, ...]:
        return (torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)),)
