"""Raw masks to polygons. The oracle is torchvision's pasting."""

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from clearsight.documents.settings import SegmentationSettings
from clearsight.errors import ClearsightError
from clearsight.handlers.scoring.detection import Detections
from clearsight.handlers.scoring.segmentation import image_mask, to_segmentation_answer
from clearsight.vision.polygons import polygons_to_mask
from clearsight.vision.rle import decode_rle

LABELS = ("can", "milk_bottle")


def detections(*rows: tuple[tuple[float, float, float, float], np.ndarray]) -> Detections:
    boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    masks = np.array([probs for _, probs in rows], np.float32).reshape(-1, 28, 28)
    scores = np.linspace(0.9, 0.5, len(rows)).astype(np.float32)
    return Detections(boxes, scores, np.zeros(len(rows), np.int64), masks)


def disc(radius: float = 11.0) -> np.ndarray:
    y, x = np.mgrid[:28, :28] - 13.5
    return np.clip((radius - np.hypot(x, y)) / 4 + 0.5, 0, 1)


def blobs(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :28]
    return np.max([np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 30) for cx, cy in rng.uniform(4, 24, (3, 2))], axis=0)


def test_nothing_found_is_an_empty_answer():
    assert to_segmentation_answer(detections(), 40, 60, LABELS, SegmentationSettings()).boxes == ()


def test_a_full_mask_is_the_rectangle_of_its_box():
    found = detections(((8, 4, 24, 12), np.ones((28, 28))))
    (answer,) = to_segmentation_answer(found, 16, 32, LABELS, SegmentationSettings()).boxes
    assert answer.box_xyxy_unit == (0.25, 0.25, 0.75, 0.75)
    ((*polygon,),) = answer.polygon
    corners = {(polygon[k] * 32, polygon[k + 1] * 16) for k in range(0, len(polygon), 2)}
    # torchvision stretches masks over one pixel more than the box, which lands on either side of its border.
    assert len(corners) == 4
    assert {x for x, _ in corners} <= {7, 8, 9, 23, 24, 25}
    assert {y for _, y in corners} <= {3, 4, 5, 11, 12, 13}
    assert answer.rle is None


def test_the_largest_part_comes_first_and_small_ones_follow():
    probs = np.zeros((28, 28))
    probs[2:8, 2:8] = 1
    probs[12:27, 12:27] = 1
    (answer,) = to_segmentation_answer(
        detections(((10, 10, 94, 94), probs)), 100, 100, LABELS, SegmentationSettings()
    ).boxes
    first, second = answer.polygon
    assert min(first) > 0.4
    assert max(second) < 0.4


def test_a_detection_without_a_pixel_of_mask_is_left_out():
    found = detections(((0, 0, 20, 20), np.full((28, 28), 0.5)), ((0, 0, 20, 20), np.full((28, 28), 0.51)))
    (answer,) = to_segmentation_answer(found, 40, 40, LABELS, SegmentationSettings()).boxes
    assert answer.score == 0.5
    both = SegmentationSettings(mask_pixel_score_threshold=0.4)
    assert len(to_segmentation_answer(found, 40, 40, LABELS, both).boxes) == 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_masks_are_torchvisions_and_polygons_fill_them(seed, threshold):
    rng = np.random.default_rng(seed)
    height, width = 240, 320
    corners = rng.uniform(-10, 180, (3, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(40, 120, (3, 2))], axis=1)
    boxes = np.clip(boxes, 0, [width, height] * 2)
    found = detections(*((tuple(box), blobs(seed + k)) for k, box in enumerate(boxes)))
    pasted = paste_masks_in_image(
        torch.from_numpy(found.mask_probs_NMM[:, None]), torch.from_numpy(found.boxes_xyxy_N4), (height, width)
    )
    options = SegmentationSettings(mask_pixel_score_threshold=threshold, mask_rle=True)
    answers = to_segmentation_answer(found, height, width, LABELS, options).boxes
    assert len(answers) == 3
    for index, answer in enumerate(answers):
        expected = pasted[index, 0].numpy() > threshold
        mask = image_mask(found, index, height, width, threshold).to_full_size(height, width)
        assert (mask != expected).sum() <= 2  # a probability within rounding of the threshold
        assert np.array_equal(decode_rle(answer.rle["counts"], height, width), mask)
        filled = polygons_to_mask(answer.polygon, height, width).to_full_size(height, width)
        assert (filled & mask).sum() / (filled | mask).sum() >= 0.9  # holes and simplification


@pytest.mark.parametrize("most", [3, 4, 10, 100])
def test_parts_have_at_most_the_points_that_the_settings_allow(most):
    found = detections(((10, 10, 390, 290), disc()))
    options = SegmentationSettings(max_number_of_polygon_points=most)
    (answer,) = to_segmentation_answer(found, 300, 400, LABELS, options).boxes
    assert all(6 <= len(part) <= 2 * most for part in answer.polygon)


def test_a_model_without_masks_is_told_apart():
    found = detections(((0, 0, 9, 9), disc()))
    without = Detections(found.boxes_xyxy_N4, found.scores_N, found.class_ids_N, None)
    with pytest.raises(ClearsightError, match="no masks"):
        to_segmentation_answer(without, 40, 40, LABELS, SegmentationSettings())
