"""A nano network learns eight drawn images, and its graphs give the same outputs."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision

from clearsight.networks.families.yolov5.decode import boxes_and_scores
from clearsight.networks.families.yolov5.loss import LOSS_OPTIONS, Yolov5Loss
from clearsight.networks.families.yolov5.network import Yolov5, build_yolov5
from clearsight.networks.families.yolov5.parameters import parameter_groups

pytestmark = pytest.mark.slow

SIDE = 96
COLOURS = ((0.9, 0.2, 0.1), (0.1, 0.3, 0.9))


@dataclass(frozen=True)
class Learned:
    network: Yolov5
    """In evaluation mode."""
    images_NCHW: torch.Tensor
    boxes_xyxy: list[torch.Tensor]
    class_ids: list[torch.Tensor]
    totals: list[float]
    """The loss of each step."""


def draw(count: int) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Grey images with one rectangle each; its colour is its class."""
    random = np.random.default_rng(4)
    images, boxes, ids = torch.full((count, 3, SIDE, SIDE), 0.45), [], []
    for index in range(count):
        width, height = random.integers(24, 48, 2)
        left, top = random.integers(0, SIDE - width), random.integers(0, SIDE - height)
        colour = torch.tensor(COLOURS[index % 2])
        images[index, :, top : top + height, left : left + width] = colour[:, None, None]
        boxes.append(torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32))
        ids.append(torch.tensor([index % 2]))
    return images, boxes, ids


@pytest.fixture(scope="module")
def learned() -> Learned:
    images, boxes, ids = draw(8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_yolov5("nano", len(COLOURS))
    loss = Yolov5Loss(network.head.anchors, len(COLOURS), SIDE, LOSS_OPTIONS["nano"])
    groups = parameter_groups(network)
    optimizer = torch.optim.SGD(
        [{"params": groups.weights, "weight_decay": 5e-4}, {"params": groups.norms + groups.biases}],
        lr=0.01,
        momentum=0.9,
        nesterov=True,
    )
    totals = []
    for _ in range(60):
        total = loss(network(images), boxes, ids).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    # Sixty steps are too few for running statistics at the network's momentum.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        network(images)
    return Learned(network.eval(), images, boxes, ids, totals)


def test_the_loss_falls_to_less_than_half(learned: Learned) -> None:
    assert all(np.isfinite(learned.totals))
    assert np.mean(learned.totals[-5:]) < 0.55 * np.mean(learned.totals[:5])


def test_the_best_box_of_each_image_is_its_rectangle(learned: Learned) -> None:
    with torch.no_grad():
        boxes_NC4, scores_NCK = boxes_and_scores(learned.network(learned.images_NCHW))
    for boxes, scores, box, class_id in zip(boxes_NC4, scores_NCK, learned.boxes_xyxy, learned.class_ids, strict=True):
        best = scores.amax(dim=1).argmax()
        assert scores[best].argmax() == class_id[0]
        assert torchvision.ops.box_iou(boxes[best][None], box).item() > 0.5


def images_of_other_sizes(learned: Learned) -> list[torch.Tensor]:
    """None has the batch, height and width of what the graphs are made from."""
    return [learned.images_NCHW[:1, :, :64, :], learned.images_NCHW[:3, :, :, 32:], learned.images_NCHW]


def require_parity(actual_NCV: np.ndarray, network: Yolov5, images_NCHW: torch.Tensor) -> None:
    """Within 1e-4 of a probability, and 1e-4 of a box's side or centre."""
    with torch.no_grad():
        expected_NCV = network(images_NCHW).numpy()
    assert np.ptp(expected_NCV[..., 4]) > 0.1  # objects are found, or the comparison says little
    np.testing.assert_allclose(actual_NCV, expected_NCV, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_traced_and_frozen_graph_takes_other_batches_and_sizes(learned: Learned) -> None:
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(learned.network, torch.zeros(2, 3, 64, 64), check_trace=False))
        for images in images_of_other_sizes(learned):
            require_parity(traced(images).numpy(), learned.network, images)


def test_an_onnx_graph_takes_other_batches_and_sizes(learned: Learned) -> None:
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of the TorchScript-based exporter
        torch.onnx.export(
            learned.network,
            (torch.zeros(2, 3, 64, 64),),
            file,
            input_names=["input"],
            output_names=["output"],
            opset_version=18,
            dynamo=False,
            dynamic_axes={
                "input": {0: "batch", 2: "height", 3: "width"},
                "output": {0: "batch", 1: "candidates"},
            },
        )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for images in images_of_other_sizes(learned):
        require_parity(session.run(None, {"input": images.numpy()})[0], learned.network, images)
