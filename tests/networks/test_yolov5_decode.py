"""Raw values to boxes: by hand, and against a slow plain version."""

import math

import torch

from clearsight.networks.families.yolov5.anchors import DEFAULT_ANCHORS
from clearsight.networks.families.yolov5.decode import boxes_and_scores, decode

STRIDES = (8, 16, 32)
ANCHORS_CELLS = torch.from_numpy(DEFAULT_ANCHORS) / torch.tensor(STRIDES).view(3, 1, 1)


def raw_levels(batch: int, height: int, width: int, num_classes: int, scale: float) -> list[torch.Tensor]:
    """Levels of an input of `height` x `width` pixels with random logits."""
    random = torch.Generator().manual_seed(5)
    return [
        scale * torch.randn(batch, 3, height // stride, width // stride, 5 + num_classes, generator=random)
        for stride in STRIDES
    ]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_no_images_give_no_predictions() -> None:
    assert decode(raw_levels(0, 64, 32, 2, 1.0), ANCHORS_CELLS).shape == (0, 3 * (32 + 8 + 2), 7)


def test_logits_of_zero_are_the_middle_of_the_cell_and_the_anchor_itself() -> None:
    predictions = decode(raw_levels(1, 64, 96, 2, 0.0), ANCHORS_CELLS)[0]
    # The first level is 8 rows x 12 columns: anchor 1 (16 x 30), row 2, column 5.
    torch.testing.assert_close(
        predictions[1 * 96 + 2 * 12 + 5], torch.tensor([5.5 * 8, 2.5 * 8, 16.0, 30.0, 0.5, 0.5, 0.5])
    )
    # The last candidate: third level of 2 x 3, anchor 2 (373 x 326), row 1, column 2.
    torch.testing.assert_close(predictions[-1], torch.tensor([80.0, 48.0, 373.0, 326.0, 0.5, 0.5, 0.5]))


def test_a_box_reaches_half_a_cell_beyond_its_own_and_four_times_its_anchor() -> None:
    largest, smallest = (
        decode([torch.full_like(level, sign * 40.0) for level in raw_levels(1, 32, 32, 1, 0.0)], ANCHORS_CELLS)[0]
        for sign in (1, -1)
    )
    torch.testing.assert_close(largest[0], torch.tensor([1.5 * 8, 1.5 * 8, 40.0, 52.0, 1.0, 1.0]))
    torch.testing.assert_close(smallest[0], torch.tensor([-0.5 * 8, -0.5 * 8, 0.0, 0.0, 0.0, 0.0]))


def test_decoding_equals_a_plain_loop_over_levels_anchors_rows_and_columns() -> None:
    levels = raw_levels(2, 64, 32, 3, 2.0)
    expected = []
    for image in range(2):
        rows = []
        for level, anchors, stride in zip(levels, DEFAULT_ANCHORS.tolist(), STRIDES, strict=True):
            for anchor in range(3):
                for row in range(level.shape[2]):
                    for column in range(level.shape[3]):
                        values = [sigmoid(value) for value in level[image, anchor, row, column].tolist()]
                        rows.append(
                            [
                                (2 * values[0] - 0.5 + column) * stride,
                                (2 * values[1] - 0.5 + row) * stride,
                                (2 * values[2]) ** 2 * anchors[anchor][0],
                                (2 * values[3]) ** 2 * anchors[anchor][1],
                                *values[4:],
                            ]
                        )
        expected.append(rows)
    torch.testing.assert_close(decode(levels, ANCHORS_CELLS), torch.tensor(expected), rtol=1e-5, atol=1e-4)


def test_half_precision_is_decoded_in_float32() -> None:
    """A bfloat16 has 8 bits: a centre at 600 pixels would be off by two."""
    levels = [level.bfloat16() for level in raw_levels(1, 640, 640, 1, 1.0)]
    predictions = decode(levels, ANCHORS_CELLS)
    assert predictions.dtype == torch.float32
    torch.testing.assert_close(predictions, decode([level.float() for level in levels], ANCHORS_CELLS))


def test_boxes_become_corners_and_scores_are_objectness_times_class() -> None:
    boxes_xyxy, scores = boxes_and_scores(torch.tensor([[[20.0, 30.0, 8.0, 20.0, 0.5, 0.8, 0.1]]]))
    assert boxes_xyxy.tolist() == [[[16.0, 20.0, 24.0, 40.0]]]
    torch.testing.assert_close(scores, torch.tensor([[[0.4, 0.05]]]))


def test_no_candidates_give_no_boxes() -> None:
    boxes_xyxy, scores = boxes_and_scores(torch.zeros(2, 0, 7))
    assert boxes_xyxy.shape == (2, 0, 4)
    assert scores.shape == (2, 0, 2)
