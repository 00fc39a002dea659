"""D-RISE as an algorithm, with the detections of a detector that depends on known pixels."""

import numpy as np
import pytest
import torch

from clearsight.errors import BadRequest
from clearsight.handlers.explain.algorithms.rise import random_masks
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.objects.d_rise import d_rise, similarity
from clearsight.handlers.explain.objects.masking import mask_image
from clearsight.handlers.explain.parameters import XaiParameters, parse_xai_parameters, require_short
from clearsight.handlers.explain.telemetry import watched
from clearsight.handlers.scoring.detection import Detections
from clearsight.vision.letterbox import letterbox

BOX = (10.0, 4.0, 40.0, 30.0)
SIZE_HW = (32, 48)
NOTHING = (np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, np.int64))


def found(*rows):
    """Detections of (box, score, class)."""
    if not rows:
        return Detections(*NOTHING, None)
    boxes, scores, ids = zip(*rows, strict=True)
    return Detections(np.array(boxes, np.float64), np.array(scores, np.float32), np.array(ids, np.int64), None)


def explain(detect, boxes=(BOX,), ids=(0,), num_masks=60, grid=6, seed=0, deadline=None, chunk=8):
    return d_rise(
        detect, np.array(boxes), np.array(ids), SIZE_HW, num_masks, grid, seed, deadline or Deadline(None), chunk
    )


def patch_score(masks):
    """One box, whose score is the visible share of a patch."""
    return [found((BOX, float(mask_HW[20:26, 30:36].mean()), 0)) for mask_HW in masks]


def at_random(seed):
    """Detections that do not depend on the masks; some images have none."""
    random = np.random.default_rng(seed)
    seen = []

    def detect(masks):
        for _ in masks:
            rows = []
            for _ in range(random.integers(0, 4)):
                left, top = random.uniform(0, 30), random.uniform(0, 20)
                box = (left, top, left + random.uniform(5, 20), top + random.uniform(5, 12))
                rows.append((box, random.uniform(0.01, 1), random.integers(0, 2)))
            seen.append(rows)
            yield found(*rows)

    return detect, seen


def plain_iou(one, other):
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], [0, 0]),
        ([(BOX, 0.9, 0)], [0.9, 0]),
        ([(BOX, 0.9, 1)], [0, 0.9 * 300 / 780]),
        ([(BOX, 0.9, 2)], [0, 0]),
        ([((10, 4, 25, 30), 0.8, 0), (BOX, 0.3, 0)], [0.4, 0]),  # the most similar one counts, by IoU times score
        ([((100, 100, 120, 120), 1.0, 0)], [0, 0]),
    ],
)
def test_a_box_is_like_an_object_by_overlap_and_score_if_it_has_its_class(rows, expected):
    objects = np.array([BOX, (10, 4, 40, 14)])
    np.testing.assert_allclose(similarity(found(*rows), objects, np.array([0, 1])), expected, rtol=1e-6)


def test_the_maximum_is_where_the_score_depends_on_the_image():
    result = explain(patch_score, num_masks=400, grid=8)
    row, column = np.unravel_index(result.maps_KHW[0].argmax(), SIZE_HW)
    assert 20 <= row < 26
    assert 30 <= column < 36
    assert (result.masks_used, result.deadline_hit) == (400, False)
    assert result.maps_KHW.min() >= 0


def test_the_map_is_that_of_a_plain_double_loop():
    boxes, ids = [BOX, (2.0, 2.0, 20.0, 16.0), (8.0, 6.0, 30.0, 20.0)], [0, 1, 1]
    detect, seen = at_random(3)
    result = explain(detect, boxes, ids, num_masks=23, seed=5)
    assert [] in seen
    generator = torch.Generator().manual_seed(5)
    sums = np.zeros((3, *SIZE_HW))
    shown = np.zeros(SIZE_HW)
    for rows in seen:
        mask_HW = random_masks(1, 6, *SIZE_HW, generator)[0].numpy().astype(np.float64)
        shown += mask_HW
        for k, (box, class_id) in enumerate(zip(boxes, ids, strict=True)):
            weight = 0.0
            for other, score, other_id in rows:
                cosine = float(np.eye(2)[class_id] @ np.eye(2)[other_id])
                weight = max(weight, plain_iou(box, other) * cosine * score)
            sums[k] += weight * mask_HW
    np.testing.assert_allclose(result.maps_KHW, sums / shown, rtol=1e-5, atol=1e-8)


def test_the_seed_decides_and_the_size_of_chunks_does_not():
    first, alone, many = (explain(patch_score, chunk=chunk).maps_KHW.tobytes() for chunk in (8, 1, 32))
    assert first == alone == many
    assert explain(patch_score, seed=1).maps_KHW.tobytes() != first


def test_an_object_that_is_never_found_again_has_an_empty_map():
    result = explain(lambda masks: [found() for _ in masks], num_masks=3)
    assert result.maps_KHW.shape == (1, *SIZE_HW)
    assert not result.maps_KHW.any()


def test_when_the_time_ends_the_map_is_that_of_the_masks_so_far():
    now_s = [0.0]

    def slowly(masks):
        now_s[0] += len(masks)
        return patch_score(masks)

    result = explain(slowly, num_masks=60, deadline=Deadline(20.0, lambda: now_s[0]))
    assert (result.masks_used, result.deadline_hit) == (21, True)  # 1, then two at a time, a tenth of 20 s
    few = explain(patch_score, num_masks=21)
    np.testing.assert_array_equal(result.maps_KHW, few.maps_KHW)


def test_memory_that_runs_out_changes_no_number():
    def short_of_memory(masks):
        if len(masks) > 3:
            raise MemoryError
        return patch_score(masks)

    np.testing.assert_array_equal(explain(short_of_memory).maps_KHW, explain(patch_score).maps_KHW)


def test_a_watch_receives_the_progress_and_may_end_the_work():
    class Impatient:
        told: list[tuple[int, int]] = []  # noqa: RUF012

        def points_done(self, done, total):
            self.told.append((done, total))

        def checkpoint(self):
            if self.told[-1][0] > 10:
                raise KeyboardInterrupt

    with watched(Impatient()), pytest.raises(KeyboardInterrupt):
        explain(patch_score)
    assert Impatient.told == [(1, 60), (9, 60), (17, 60)]


def test_masked_parts_take_the_mean_colour_and_the_canvas_stays():
    placement = letterbox(20, 40, 64)
    canvas_HWC = np.full((64, 64, 3), 114, np.uint8)
    canvas_HWC[22:42, 12:52] = (200, 100, 0)
    mask_HW = np.ones((20, 40), np.float32)
    np.testing.assert_array_equal(mask_image(canvas_HWC, placement, mask_HW, (0.5, 0.5, 0.5)), canvas_HWC)
    mask_HW[:5] = 0
    mask_HW[5:10] = 0.5
    found_HWC = mask_image(canvas_HWC, placement, mask_HW, (0.4, 0.0, 1.0))
    expected_HWC = canvas_HWC.copy()
    expected_HWC[22:27, 12:52] = (102, 0, 255)
    expected_HWC[27:32, 12:52] = (151, 50, 128)  # half way: 151, 50, and 127.5 to the even level
    np.testing.assert_array_equal(found_HWC, expected_HWC)
    half_HWC = mask_image(canvas_HWC, placement, np.full((5, 10), 0.5, np.float32), (0.0, 0.0, 0.0))  # a smaller mask
    assert (half_HWC[22:42, 12:52] == (100, 50, 0)).all()
    assert (half_HWC[:22] == 114).all()


@pytest.mark.parametrize("masks", [0, 5001, -1, 2.5, "500"])
def test_the_number_of_masks_has_bounds(masks):
    with pytest.raises(BadRequest, match="'masks' must be an integer from 1 to 5000"):
        parse_xai_parameters({"xai_algorithm": "d_rise", "masks": masks}, algorithms=("odam", "d_rise"))


def test_a_request_may_ask_for_few_masks_only():
    require_short(XaiParameters(algorithm="d_rise", masks=100))
    require_short(XaiParameters(algorithm="rise"))
    with pytest.raises(BadRequest, match=r"at most 100 in a request, but is 500; post .*/jobs/explain"):
        require_short(XaiParameters(algorithm="d_rise"))
