"""Exported graphs answer as the network does, at sizes and thresholds that they were not traced with."""

import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]
import openvino  # type: ignore[import-untyped]
import pytest
import torch
from torch import nn

from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.options import RcnnOptions
from clearsight.networks.families.rcnn.selection import SelectionLimits
from clearsight.networks.families.rcnn.serving import (
    DYNAMIC_AXES,
    INPUT_NAMES,
    ServingGraph,
    example_inputs,
    output_names,
)
from clearsight.networks.families.table import build_network
from clearsight.vision.boxes import iou_matrix

NUM_CLASSES = 3
TRACED_WITH = SelectionLimits(0.2, 0.5, 10)
ASKED = [
    (128, 160, SelectionLimits(0.2, 0.5, 10)),
    (150, 100, SelectionLimits(0.0, 0.3, 15)),
    (128, 160, SelectionLimits(0.0, 0.9, 1000)),
    (96, 200, SelectionLimits(1.0, 0.5, 10)),
]


OPTIONS = RcnnOptions(proposals_before_nms=32, proposals=16)


def make_network(model_name: str) -> Detector:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(model_name, NUM_CLASSES, architecture={"options": asdict(OPTIONS)})
        for block in network.modules():
            if hasattr(block, "downsample"):  # else answers of random weights explode
                nn.init.constant_((block.bn3 if hasattr(block, "bn3") else block.bn2).weight, 0.2)
        if model_name.startswith("retinanet"):
            nn.init.normal_(network.head.classification_head.cls_logits.weight, std=0.1)
            nn.init.zeros_(network.head.classification_head.cls_logits.bias)
    return network


def export(graph: ServingGraph, folder: Path) -> None:
    inputs = example_inputs(128, 160, TRACED_WITH)
    names = output_names(graph.network.has_masks)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of both formats, tracer warnings of torchvision
        traced = torch.jit.trace(graph, inputs, check_trace=False)
        torch.jit.freeze(traced).save(str(folder / "model.torchscript.pt"))
        torch.onnx.export(
            graph,
            inputs,
            folder / "model.onnx",
            input_names=list(INPUT_NAMES),
            output_names=list(names),
            opset_version=18,
            dynamo=False,
            dynamic_axes={name: dict(axes) for name, axes in DYNAMIC_AXES.items() if name in (*INPUT_NAMES, *names)},
        )


def same_detections(expected: list[npt.NDArray], found: list[npt.NDArray]) -> None:
    """As sets: each box has a partner of its class, its score, nearly its box, and its mask."""
    assert [array.shape for array in found] == [array.shape for array in expected]
    boxes, scores, class_ids, *masks = expected
    overlaps = iou_matrix(boxes, found[0])
    overlaps[class_ids[:, None] != found[2]] = 0
    overlaps[np.abs(scores[:, None] - found[1]) > 1e-4] = 0
    partners = overlaps.argmax(axis=1) if len(boxes) else np.zeros(0, int)
    assert sorted(partners) == list(range(len(boxes)))
    assert (overlaps[np.arange(len(boxes)), partners] > 0.999).all()
    for own, other in zip(masks, found[3:], strict=True):
        np.testing.assert_allclose(own, other[partners], atol=1e-3)


def require_parity(model_name: str, folder: Path) -> None:
    graph = ServingGraph(make_network(model_name))
    export(graph, folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        script = torch.jit.load(str(folder / "model.torchscript.pt"))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    compiled = openvino.compile_model(folder / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert [node.name for node in session.get_inputs()] == list(INPUT_NAMES)
    counts = []
    for height, width, limits in ASKED:
        inputs = example_inputs(height, width, limits)
        arrays = dict(zip(INPUT_NAMES, (tensor.numpy() for tensor in inputs), strict=True))
        with torch.inference_mode():
            expected = [tensor.numpy() for tensor in graph(*inputs)]
            same_detections(expected, [tensor.numpy() for tensor in script(*inputs)])
        same_detections(expected, session.run(list(output_names(graph.network.has_masks)), arrays))
        same_detections(expected, [np.array(value) for value in compiled(arrays).values()])
        counts.append(len(expected[0]))
    assert counts[0] == 10
    assert counts[1] == 15
    assert counts[2] > 15
    assert counts[3] == 0


@pytest.mark.slow
def test_graphs_of_mask_rcnn_answer_as_the_network_at_other_sizes_and_thresholds(tmp_path: Path) -> None:
    require_parity("maskrcnn_resnet18_fpn", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model_name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "maskrcnn_resnet50_fpn"])
def test_graphs_of_every_family_answer_as_the_network_at_other_sizes_and_thresholds(
    model_name: str, tmp_path: Path
) -> None:
    require_parity(model_name, tmp_path)
