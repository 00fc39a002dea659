"""Boxes and labels on images of any size."""

import io

import numpy as np
import pytest
from PIL import Image

from clearsight.handlers.drawing.overlay import draw_overlay, to_jpeg
from clearsight.wire.answers import DetectedObject, DetectionAnswer

LABELS = ("can", "a name that is much too long to fit into any of the small pictures at all", "Müsli 瓶", "")
SIZES = [(1, 1), (48, 64), (3000, 2), (2, 3000), (480, 640), (3000, 4000)]
GREY = 90


def image(size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), GREY, np.uint8)


def found(box: tuple[float, float, float, float], label: str = "can", polygon=None) -> DetectedObject:
    return DetectedObject(box, label, 0.875, polygon)


def changed(canvas: Image.Image) -> np.ndarray:
    """Which pixels differ from the plain image."""
    return (np.asarray(canvas) != GREY).any(axis=-1)


@pytest.mark.parametrize("size", SIZES)
def test_without_objects_the_image_is_unchanged(size):
    canvas = draw_overlay(image(size), DetectionAnswer(()), LABELS)
    assert max(canvas.size) in (640, 2048)
    assert set(np.unique(np.asarray(canvas))) <= {GREY, 255}


@pytest.mark.parametrize("size", SIZES[:-1])
def test_every_label_is_completely_on_the_canvas(size):
    corners = [(0, 0, 0.01, 0.01), (0.99, 0, 1, 0.01), (0, 0.99, 0.01, 1), (0.99, 0.99, 1, 1), (0, 0, 1, 1)]
    ground = draw_overlay(image(size), DetectionAnswer(()), LABELS)
    for label in LABELS:
        for box in corners:
            canvas = draw_overlay(image(size), DetectionAnswer((found(box, label),)), LABELS)
            drawn = (np.asarray(canvas) != np.asarray(ground)).any(axis=-1)
            text_size = max(15, max(canvas.size) // 60)
            rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
            # A score alone is some three letters wide and a line high; a label cut off at the border would be less.
            assert rows[-1] - rows[0] + 1 >= text_size
            assert columns[-1] - columns[0] + 1 >= 1.5 * text_size
    with Image.open(io.BytesIO(to_jpeg(canvas))) as again:
        assert again.size == canvas.size


def test_a_box_is_drawn_where_it_is():
    canvas = draw_overlay(image((600, 800)), DetectionAnswer((found((0.25, 0.5, 0.75, 1.0)),)), LABELS)
    frame = changed(canvas)[305:]  # below the label
    assert np.flatnonzero(frame.any(axis=0))[[0, -1]].tolist() == [200, 599]
    assert not frame[10:-10, 220:580].any()


def test_labels_do_not_overlap_while_there_is_space():
    boxes = [found((0.3, 0.3, 0.6, 0.6)), found((0.31, 0.31, 0.61, 0.61)), found((0.3, 0.31, 0.6, 0.62))]
    areas = []
    for objects in (boxes[:1], boxes):
        canvas = draw_overlay(image((480, 640)), DetectionAnswer(tuple(objects)), ("can",))
        colour = np.array((230, 159, 0))
        areas.append(int((np.asarray(canvas) == colour).all(axis=-1).sum()))
    # Frames and labels of one, then of three; frames cover each other a little, labels that did would halve the sum.
    assert areas[1] > 2.3 * areas[0]


def test_classes_keep_their_colours_from_image_to_image():
    def colours(*labels: str) -> list[set[tuple[int, ...]]]:
        canvas = draw_overlay(
            image((480, 640)), DetectionAnswer(tuple(found((0.1, 0.5, 0.9, 0.9), label) for label in labels)), many
        )
        return [{tuple(pixel) for pixel in np.asarray(canvas)[row, 64:70].tolist()} for row in (240, 241, 242)]

    many = tuple(f"class {number}" for number in range(21))
    assert colours(many[5]) == colours(many[5])
    assert len({str(colours(label)) for label in many}) == len(many)


def test_masks_tint_what_they_cover_and_nothing_else():
    polygon = ((0.25, 0.25, 0.75, 0.25, 0.75, 0.75, 0.25, 0.75),)
    canvas = draw_overlay(image((640, 640)), DetectionAnswer((found((0.2, 0.2, 0.8, 0.8), "can", polygon),)), LABELS)
    pixels = np.asarray(canvas).astype(int)
    inside = pixels[170:470, 170:470].reshape(-1, 3)
    assert (inside == inside[0]).all()
    assert inside[0].tolist() != [GREY] * 3
    assert (pixels[140:150, 140:500] == GREY).all()


def test_a_label_that_is_not_among_the_models_is_drawn_all_the_same():
    answer = DetectionAnswer((found((0.1, 0.5, 0.9, 0.9), "stranger"),))
    assert changed(draw_overlay(image((480, 640)), answer, LABELS)).any()


def crowd(count: int) -> DetectionAnswer:
    """Boxes side by side, with space between them, of two classes in turn."""
    places = [(k % 10 / 10, k // 10 / 10) for k in range(count)]
    boxes = [
        found((x + 0.02, y + 0.02, x + 0.08, y + 0.08), LABELS[0] if k % 2 else "") for k, (x, y) in enumerate(places)
    ]
    return DetectionAnswer(tuple(boxes))


def test_from_thirty_objects_on_numbers_stand_in_the_image_and_scores_below_it():
    few, many = (draw_overlay(image((800, 800)), crowd(count), LABELS, 0.3) for count in (29, 30))
    assert few.size == (800, 800)
    assert (many.width, many.height > 800) == (800, True)
    # Pixels of the image that are drawn on, per object: frames are half as wide, numbers shorter than labels.
    drawn = [changed(canvas.crop((0, 0, 800, 800))).sum() / count for canvas, count in ((few, 29), (many, 30))]
    assert drawn[1] < 0.4 * drawn[0]
    # Every tag is where its box is: no object without one.
    for x, y in [(k % 10, k // 10) for k in range(30)]:
        assert changed(many)[y * 80 : y * 80 + 66, x * 80 : x * 80 + 66].any()


def test_the_legend_grows_with_classes_and_objects_and_is_different_for_another_threshold():
    heights = [draw_overlay(image((800, 800)), crowd(count), LABELS, 0.3).height for count in (30, 60, 100)]
    assert heights == sorted(set(heights))
    legends = [
        np.asarray(draw_overlay(image((800, 800)), crowd(40), LABELS, threshold))[800:]
        for threshold in (None, 0.3, 0.5)
    ]
    assert not np.array_equal(legends[0], legends[1])
    assert not np.array_equal(legends[1], legends[2])


@pytest.mark.parametrize("size", SIZES)
def test_a_crowd_is_drawn_at_any_size(size):
    assert max(draw_overlay(image(size), crowd(100), LABELS).size) >= 640


def test_a_hundred_objects_are_drawn_quickly():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.8, (100, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.001, 0.2, (100, 2))], axis=1)
    answer = DetectionAnswer(tuple(found(tuple(box), LABELS[k % 3]) for k, box in enumerate(boxes.tolist())))
    assert changed(draw_overlay(image((480, 640)), answer)).mean() > 0.2
