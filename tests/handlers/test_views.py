"""Views of an image: tiles as input of the network, and merging of their detections."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.documents.settings import DetectorSettings, RcnnSettings, SegmentationSettings, YoloSettings
from clearsight.handlers.scoring.detection import Detections
from clearsight.handlers.scoring.views import View, merge_views, to_answer, views_of
from clearsight.vision.boxes import box_areas, clip_boxes
from clearsight.vision.candidates import Candidates
from clearsight.vision.tiles import Tile

LABELS = ("can", "carton")

Row = tuple[tuple[float, float, float, float], float]


def seen(view: View, *rows: Row) -> Candidates:
    """Candidates of class 0 for boxes of the whole image, as the network would give them for a view."""
    boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    boxes -= np.array([view.tile.left, view.tile.top] * 2, np.float32)
    masks = np.ones((len(rows), 28, 28), np.float32)
    scores = np.array([score for _, score in rows], np.float32)
    return Candidates(view.placement.to_canvas(boxes), scores, np.zeros(len(rows), np.int64), masks)


def find_all(views: tuple[View, ...], options: DetectorSettings, rows: dict[int, list[Row]]) -> list[Detections]:
    return [view.find(seen(view, *rows.get(number, [])), options) for number, view in enumerate(views)]


def test_without_a_grid_the_image_is_scored_whole():
    (view,) = views_of(480, 640, RcnnSettings())
    assert view.tile == Tile(0, 0, 640, 480)


def test_a_grid_of_three_by_two_calls_the_network_seven_times():
    views = views_of(720, 1280, RcnnSettings(tile_grid_size=(3, 2)))
    assert [view.tile for view in views] == [
        Tile(0, 0, 1280, 720),
        *(Tile(left, top, 512, 412) for top in (0, 308) for left in (0, 384, 768)),
    ]
    assert len({view.placement for view in views[1:]}) == 1


def test_a_view_is_cut_and_placed():
    image_HWC = np.arange(64 * 96 * 3, dtype=np.uint32).reshape(64, 96, 3).astype(np.uint8)
    options = YoloSettings(img_size=64, tile_grid_size=(2, 1), tile_overlap_ratio=0.0)
    whole, left, right = (view.network_input(image_HWC) for view in views_of(64, 96, options))
    assert whole.shape == left.shape == right.shape == (64, 64, 3)
    assert np.array_equal(left[:, 8:56], image_HWC[:, :48])
    assert np.array_equal(right[:, 8:56], image_HWC[:, 48:])
    assert (left[:, :8] == 114).all()


@pytest.mark.parametrize("kind", [RcnnSettings, YoloSettings, SegmentationSettings])
def test_one_object_seen_three_times_is_one_box(kind):
    # Azure's page has no numbers; these are worked out in whole pixels: IoU of cut and full box is 32 * 60 / 3600.
    options = kind(tile_grid_size=(3, 2))
    views = views_of(720, 1280, options)
    rows = {
        0: [((481, 101, 540, 160), 0.55)],
        1: [((480, 100, 512, 160), 0.70)],
        2: [((480, 100, 540, 160), 0.92)],
    }
    (found,) = to_answer(views, find_all(views, options, rows), options, LABELS).boxes
    assert found.box_xyxy_unit == pytest.approx((0.375, 0.138889, 0.421875, 0.222222), abs=1e-5)
    assert found.score == pytest.approx(0.92)


def test_strips_survive_as_on_azure_unless_a_margin_drops_them():
    # The strip that tile 0 sees is 10 of 60 pixels: IoU 1/6.
    rows = {1: [((502, 100, 512, 160), 0.7)], 2: [((502, 100, 562, 160), 0.9)]}
    for margin, expected in ((None, [0.9, 0.7]), (2.0, [0.9])):
        options = RcnnSettings(tile_grid_size=(3, 2), tile_border_margin=margin)
        views = views_of(720, 1280, options)
        answer = to_answer(views, find_all(views, options, rows), options, LABELS)
        assert [round(found.score, 3) for found in answer.boxes] == expected


@pytest.mark.parametrize("kind", [RcnnSettings, YoloSettings, SegmentationSettings])
@pytest.mark.parametrize("grid", [(2, 2), (3, 2), (4, 4)])
def test_parts_at_seams_are_no_objects_by_default(kind: type[DetectorSettings], grid: tuple[int, int]) -> None:
    """Eighty objects stand apart from each other; every view finds the part of each that it shows."""
    random = np.random.default_rng(1)
    corners = [(160 * x + random.integers(104), 120 * y + random.integers(80)) for x in range(10) for y in range(8)]
    objects = [(left, top, left + 56, top + 40) for left, top in corners]
    by_default, as_on_azure = kind(tile_grid_size=grid), kind(tile_grid_size=grid, tile_border_margin=None)
    views = views_of(960, 1604, by_default)
    found = [_parts(view.tile, objects) for view in views]
    assert len(merge_views(views, found, by_default)) == 80
    assert len(merge_views(views, found, as_on_azure)) > 80


def _parts(tile: Tile, boxes: list[tuple[int, int, int, int]]) -> Detections:
    """What a tile shows of each box, if that is at least a tenth; scored by the share."""
    whole = np.array(boxes, np.float32)
    shown = clip_boxes(whole - np.array([tile.left, tile.top] * 2, np.float32), tile.height, tile.width)
    shares = box_areas(shown) / box_areas(whole)
    kept = shown[shares >= 0.1] + np.array([tile.left, tile.top] * 2, np.float32)
    masks = np.ones((len(kept), 28, 28), np.float32)
    return Detections(kept, shares[shares >= 0.1], np.zeros(len(kept), np.int64), masks)


def test_the_limit_holds_for_the_merged_answer():
    options = RcnnSettings(tile_grid_size=(3, 2), box_detections_per_img=2)
    views = views_of(720, 1280, options)
    rows = {number: [((80.0 * number, 50, 80.0 * number + 20, 70), 0.5 + number / 100)] for number in (0, 1)}
    rows[2] = [((600, 300, 620, 320), 0.9), ((700, 300, 720, 320), 0.8), ((650, 300, 670, 320), 0.7)]
    answer = to_answer(views, find_all(views, options, rows), options, LABELS)
    assert [round(found.score, 3) for found in answer.boxes] == [0.9, 0.8]


def test_objects_whose_boxes_overlap_and_whose_masks_do_not_both_stay():
    options = SegmentationSettings(tile_grid_size=(2, 1), nms_iou_thresh=1.0)
    views = views_of(200, 200, options)
    lower_left = np.tril(np.ones((28, 28), np.float32), -2)
    box = np.array([[10, 10, 90, 90]], np.float32)
    found = [
        Detections(box, np.array([0.9], np.float32), np.zeros(1, np.int64), lower_left[None]),
        Detections(box, np.array([0.8], np.float32), np.zeros(1, np.int64), lower_left.T[None]),
        Detections(box, np.array([0.7], np.float32), np.zeros(1, np.int64), lower_left[None]),
    ]
    assert [round(float(score), 3) for score in merge_views(views, found, options).scores_N] == [0.9, 0.8]
    plain = RcnnSettings(tile_grid_size=(2, 1))
    assert len(merge_views(views, found, plain)) == 1


def test_one_view_is_passed_on_as_it_is():
    options = SegmentationSettings()
    views = views_of(100, 100, options)
    found = find_all(views, options, {0: [((0, 0, 10, 10), 0.9)]})
    assert merge_views(views, found, options) is found[0]


def test_nothing_found_in_any_view_is_an_empty_answer():
    for options in (
        RcnnSettings(tile_grid_size=(2, 2), tile_border_margin=1.0),
        SegmentationSettings(tile_grid_size=(2, 2)),
    ):
        views = views_of(300, 300, options)
        assert to_answer(views, find_all(views, options, {}), options, LABELS).boxes == ()


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.tuples(st.integers(0, 180), st.integers(0, 130), st.integers(1, 99)), max_size=12, unique=True),
    order=st.permutations(range(1, 5)),
)
def test_the_order_of_tiles_changes_nothing(rows, order):
    options = RcnnSettings(tile_grid_size=(2, 2), box_score_thresh=0.0)
    views = views_of(150, 200, options)
    at = {
        number: [((x, y, x + 15, y + 15), s / 100 + number / 1000) for x, y, s in rows[number::5]]
        for number in range(5)
    }
    found = find_all(views, options, at)
    shuffled = [0, *order]
    one = to_answer(views, found, options, LABELS)
    other = to_answer([views[k] for k in shuffled], [found[k] for k in shuffled], options, LABELS)
    assert one == other
