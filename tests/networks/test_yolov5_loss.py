"""The loss by hand, against a slow plain version, and against torchvision's complete IoU."""

import math

import pytest
import torch
import torchvision

from clearsight.networks.families.yolov5.anchors import DEFAULT_ANCHORS
from clearsight.networks.families.yolov5.loss import LOSS_OPTIONS, LossOptions, Yolov5Loss, complete_iou
from clearsight.networks.families.yolov5.network import SIZES

STRIDES = (8, 16, 32)
ANCHORS_CELLS = torch.from_numpy(DEFAULT_ANCHORS) / torch.tensor(STRIDES).view(3, 1, 1)
NO_BOXES, NO_IDS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)


def flat_levels(batch: int, num_classes: int, value: float = 0.0, side: int = 64) -> list[torch.Tensor]:
    return [torch.full((batch, 3, side // stride, side // stride, 5 + num_classes), value) for stride in STRIDES]


def random_levels(batch: int, num_classes: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(11)
    return [torch.randn(level.shape, generator=random) for level in flat_levels(batch, num_classes)]


def corners(boxes_cxcywh: torch.Tensor) -> torch.Tensor:
    converted: torch.Tensor = torchvision.ops.box_convert(boxes_cxcywh, "cxcywh", "xyxy")
    return converted


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def cross_entropy(logit: float, target: float) -> float:
    return -target * math.log(sigmoid(logit)) - (1 - target) * math.log(sigmoid(-logit))


def plain_ciou(first: list[float], second: list[float]) -> float:
    """Equations 7 to 11 of arXiv 1911.08287 on centre, width, height."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first, second
    overlap = [
        max(0.0, min(a + p / 2, b + q / 2) - max(a - p / 2, b - q / 2))
        for a, b, p, q in ((x1, x2, w1, w2), (y1, y2, h1, h2))
    ]
    hull = [
        max(a + p / 2, b + q / 2) - min(a - p / 2, b - q / 2) for a, b, p, q in ((x1, x2, w1, w2), (y1, y2, h1, h2))
    ]
    shared = overlap[0] * overlap[1]
    iou = shared / (w1 * h1 + w2 * h2 - shared)
    shape = 4 / math.pi**2 * (math.atan(w2 / h2) - math.atan(w1 / h1)) ** 2
    weight = shape / (1 - iou + shape) if shape else 0.0
    return iou - ((x1 - x2) ** 2 + (y1 - y2) ** 2) / (hull[0] ** 2 + hull[1] ** 2) - weight * shape


def plain_loss(
    levels: list[torch.Tensor], boxes: list[list[list[float]]], ids: list[list[int]], options: LossOptions
) -> tuple[float, float, float]:
    """Box, objectness and class terms before gains, one value at a time."""
    box_term = objectness_term = class_term = 0.0
    smooth = options.label_smoothing / 2
    for level, anchors, stride, balance in zip(levels, ANCHORS_CELLS.tolist(), STRIDES, (4.0, 1.0, 0.4), strict=True):
        height, width = level.shape[2:4]
        targets: dict[tuple[int, int, int, int], float] = {}
        misses, class_losses = [], []
        for kind in ("own", "left", "above", "right", "below"):
            for index, anchor in enumerate(anchors):
                for image, image_boxes in enumerate(boxes):
                    for box, class_id in zip(image_boxes, ids[image], strict=True):
                        w, h = (box[2] - box[0]) / stride, (box[3] - box[1]) / stride
                        x, y = (box[0] + box[2]) / 2 / stride, (box[1] + box[3]) / 2 / stride
                        if max(w / anchor[0], anchor[0] / w, h / anchor[1], anchor[1] / h) >= 4:
                            continue
                        part_x, part_y = x % 1, y % 1
                        if not {
                            "own": True,
                            "left": part_x < 0.5 and x > 1,
                            "above": part_y < 0.5 and y > 1,
                            "right": part_x > 0.5 and width - x > 1,
                            "below": part_y > 0.5 and height - y > 1,
                        }[kind]:
                            continue
                        column = int(x) + {"left": -1, "right": 1}.get(kind, 0)
                        row = int(y) + {"above": -1, "below": 1}.get(kind, 0)
                        values = level[image, index, row, column].tolist()
                        predicted = [
                            2 * sigmoid(values[0]) - 0.5 + column,
                            2 * sigmoid(values[1]) - 0.5 + row,
                            (2 * sigmoid(values[2])) ** 2 * anchor[0],
                            (2 * sigmoid(values[3])) ** 2 * anchor[1],
                        ]
                        overlap = plain_ciou(predicted, [x, y, w, h])
                        misses.append(1 - overlap)
                        targets[image, index, row, column] = max(overlap, 0.0)
                        class_losses += [
                            cross_entropy(logit, 1 - smooth if k == class_id else smooth)
                            for k, logit in enumerate(values[5:])
                        ]
        if misses:
            box_term += sum(misses) / len(misses)
            class_term += sum(class_losses) / len(class_losses)
        cells = [
            cross_entropy(level[n, a, r, c, 4].item(), targets.get((n, a, r, c), 0.0))
            for n in range(level.shape[0])
            for a in range(3)
            for r in range(height)
            for c in range(width)
        ]
        objectness_term += balance * sum(cells) / len(cells)
    return box_term, objectness_term, class_term


def test_a_batch_without_boxes_has_the_objectness_term_only() -> None:
    """Logits of zero: ln 2 everywhere, balanced 4 + 1 + 0.4, at a tenth of the width and so the smallest factor."""
    loss = Yolov5Loss(ANCHORS_CELLS, 4, 64, LossOptions(objectness_gain=1.0))
    levels = [level.requires_grad_() for level in flat_levels(2, 4)]
    losses = loss(levels, [NO_BOXES, NO_BOXES], [NO_IDS, NO_IDS])
    assert losses.box == losses.classification == 0
    assert losses.objectness.item() == pytest.approx(5.4 * math.log(2) * 0.25)
    assert losses.total.item() == pytest.approx(2 * 5.4 * math.log(2) * 0.25)
    losses.total.backward()
    assert all(level.grad is not None and level.grad.isfinite().all() for level in levels)


def test_a_perfect_prediction_of_the_only_box_costs_no_box_term() -> None:
    """Logits of zero are the anchor at the middle of its cell: no neighbour is assigned, no other anchor is near."""
    anchors = torch.tensor([[[1.0, 1.0], [50.0, 50.0], [60.0, 60.0]]] * 3) * torch.tensor([1.0, 9.0, 9.0]).view(3, 1, 1)
    loss = Yolov5Loss(anchors, 2, 640, LossOptions(box_gain=1, objectness_gain=1, class_gain=40))
    losses = loss(flat_levels(1, 2), [torch.tensor([[24.0, 16.0, 32.0, 24.0]])], [torch.tensor([1])])
    assert losses.box.item() == pytest.approx(0, abs=1e-6)
    # Binary cross-entropy of a logit of zero is ln 2 for any target; the class gain is 40 * 2 / 80.
    assert losses.objectness.item() == pytest.approx(5.4 * math.log(2), rel=1e-5)
    assert losses.classification.item() == pytest.approx(math.log(2), rel=1e-5)


def test_objectness_learns_the_overlap_and_only_there() -> None:
    anchors = torch.tensor([[[1.0, 1.0], [50.0, 50.0], [60.0, 60.0]]] * 3) * torch.tensor([1.0, 9.0, 9.0]).view(3, 1, 1)
    loss = Yolov5Loss(anchors, 1, 640, LossOptions(objectness_gain=1))
    levels = [level.requires_grad_() for level in flat_levels(1, 1)]
    # Half as wide, same centre: IoU 0.5, no distance, shape term by hand.
    boxes = torch.tensor([[26.0, 16.0, 30.0, 24.0]])
    loss(levels, [boxes], [torch.tensor([0])]).total.backward()
    shape = 4 / math.pi**2 * (math.atan(0.5) - math.atan(1)) ** 2
    overlap = 0.5 - shape**2 / (0.5 + shape)
    grad = levels[0].grad
    assert grad is not None
    # d BCE / d logit = 0.5 - target, times balance 4, over 3 x 8 x 8 predictions.
    assert grad[0, 0, 2, 3, 4].item() == pytest.approx(4 * (0.5 - overlap) / 192, rel=1e-4)
    assert grad[0, 1, 2, 3, 4].item() == pytest.approx(4 * 0.5 / 192, rel=1e-4)
    assert grad[0, 0, 2, 2, :4].abs().sum() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_terms_equal_a_plain_loop(smoothing: float) -> None:
    options = LossOptions(box_gain=0.05, objectness_gain=0.7, class_gain=0.3, label_smoothing=smoothing)
    levels = random_levels(3, 3)
    boxes = [
        [[3.0, 5.0, 25.0, 40.0], [30.0, 2.0, 61.0, 63.0]],
        [],
        [[10.0, 10.0, 22.0, 21.0], [11.0, 10.5, 23.0, 20.0], [0.0, 40.0, 13.0, 64.0]],
    ]
    ids = [[0, 2], [], [1, 0, 2]]
    expected = plain_loss(levels, boxes, ids, options)
    losses = Yolov5Loss(ANCHORS_CELLS, 3, 480, options)(
        levels,
        [torch.tensor(image).reshape(-1, 4) for image in boxes],
        [torch.tensor(image, dtype=torch.int64) for image in ids],
    )
    gains = (0.05, 0.7 * (480 / 640) ** 2, 0.3 * 3 / 80)
    parts = [gain * term for gain, term in zip(gains, expected, strict=True)]
    assert [losses.box.item(), losses.objectness.item(), losses.classification.item()] == pytest.approx(parts, rel=1e-4)
    assert losses.total.item() == pytest.approx(3 * sum(parts), rel=1e-4)


def test_a_single_class_has_no_class_term() -> None:
    losses = Yolov5Loss(ANCHORS_CELLS, 1, 64)(
        random_levels(1, 1), [torch.tensor([[3.0, 5.0, 25.0, 40.0]])], [torch.tensor([0])]
    )
    assert losses.classification == 0
    assert losses.box > 0


@pytest.mark.parametrize(
    ("image_size", "smallest", "factor"), [(1280, 0.25, 4.0), (640, 0.25, 1.0), (160, 0.25, 0.25), (160, 0.0, 1 / 16)]
)
def test_objectness_counts_by_the_area_of_the_input_down_to_a_limit(
    image_size: int, smallest: float, factor: float
) -> None:
    loss = Yolov5Loss(ANCHORS_CELLS, 2, image_size, LossOptions(objectness_gain=1, smallest_objectness_factor=smallest))
    losses = loss(flat_levels(1, 2), [NO_BOXES], [NO_IDS])
    assert losses.objectness.item() == pytest.approx(factor * 5.4 * math.log(2))


def test_extreme_logits_keep_loss_and_gradients_finite() -> None:
    boxes, ids = [torch.tensor([[3.0, 5.0, 25.0, 40.0]])], [torch.tensor([1])]
    for value in (-300.0, -20.0, 20.0, 300.0):
        levels = [level.requires_grad_() for level in flat_levels(1, 2, value)]
        total = Yolov5Loss(ANCHORS_CELLS, 2, 64)(levels, boxes, ids).total
        total.backward()
        assert total.isfinite()
        assert all(level.grad is not None and level.grad.isfinite().all() for level in levels)


def test_half_precision_levels_are_summed_in_float32() -> None:
    boxes, ids = [torch.tensor([[3.0, 5.0, 25.0, 40.0]])], [torch.tensor([1])]
    levels = [level.bfloat16() for level in random_levels(1, 2)]
    loss = Yolov5Loss(ANCHORS_CELLS, 2, 64)
    assert loss(levels, boxes, ids).total == loss([level.float() for level in levels], boxes, ids).total


def test_complete_iou_of_the_reference_pair() -> None:
    """(0, 0, 10, 10) and (2, 3, 14, 9) as corners."""
    first, second = torch.tensor([[5.0, 5.0, 10.0, 10.0]]), torch.tensor([[8.0, 6.0, 12.0, 6.0]])
    assert complete_iou(first, second).item() == pytest.approx(0.350625, abs=1e-6)
    assert complete_iou(first, first).item() == pytest.approx(1, abs=1e-6)
    assert complete_iou(first[:0], second[:0]).shape == (0,)


def test_complete_iou_and_its_gradient_equal_torchvisions() -> None:
    random = torch.Generator().manual_seed(2)
    first, second = (torch.rand(200, 4, generator=random, dtype=torch.float64) * 9 + 1 for _ in range(2))
    grads = []
    for overlap_of in (
        complete_iou,
        lambda a, b: 1 - torchvision.ops.complete_box_iou_loss(corners(a), corners(b), reduction="none"),
    ):
        variable = first.clone().requires_grad_()
        overlap = overlap_of(variable, second)
        grads.append((overlap.detach(), *torch.autograd.grad(overlap.sum(), variable)))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-6)


def test_every_size_has_its_recipe() -> None:
    assert set(LOSS_OPTIONS) == set(SIZES)
    assert (LOSS_OPTIONS["small"].objectness_gain, LOSS_OPTIONS["small"].class_gain) == (1.0, 0.5)
    assert (LOSS_OPTIONS["medium"].objectness_gain, LOSS_OPTIONS["medium"].class_gain) == (0.7, 0.3)
