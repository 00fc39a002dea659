"""How images go through a detector: batches, order and memory, with a network that is a plain function of pixels."""

import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.documents.settings import DetectorSettings, RcnnSettings, YoloSettings
from clearsight.handlers.backends import OpenOptions
from clearsight.handlers.scoring.detectors import MAX_INPUT_BYTES, DetectionPipeline, RcnnNetwork, YoloNetwork

LABELS = ("can", "carton")
PACKAGE: Any = SimpleNamespace(
    root="a package", model_name="a model", task=SimpleNamespace(value="a task"), labels=LABELS
)
CELL = 16


class Blocks:
    """Proposes every block of 16 x 16 pixels, with its mean brightness as score and a class by its colour."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def run(self, inputs):
        images_NCHW, *limits = inputs
        assert images_NCHW.flags.c_contiguous
        self.calls.append(len(images_NCHW))
        found = [self._predict_candidates(image_CHW) for image_CHW in images_NCHW]
        return found[0] if limits else tuple(np.stack(part) for part in zip(*found, strict=True))

    def _predict_candidates(self, image_CHW):
        rows, columns = image_CHW.shape[1] // CELL, image_CHW.shape[2] // CELL
        cells = image_CHW[:, : rows * CELL, : columns * CELL].reshape(3, rows, CELL, columns, CELL).mean(axis=(2, 4))
        tops, lefts = (grid.ravel() * CELL for grid in np.mgrid[0:rows, 0:columns])
        boxes = np.stack([lefts, tops, lefts + CELL, tops + CELL], axis=1).astype(np.float32)
        scores = np.clip(cells.mean(axis=0).ravel(), 0, 1).astype(np.float32)
        return boxes, scores, (cells[0] > cells[2]).ravel().astype(np.int64)


def yolo(max_batch_size: int = 8, **keys: Any) -> tuple[DetectionPipeline, Blocks]:
    options = YoloSettings(img_size=64, box_score_thresh=0.3, **keys)
    blocks = Blocks()
    network = YoloNetwork(blocks, options, PACKAGE, OpenOptions(), max_batch_size)
    blocks.calls.clear()
    return DetectionPipeline(network, options, LABELS, max_batch_size), blocks


def rcnn(**keys: Any) -> tuple[DetectionPipeline, Blocks]:
    options = RcnnSettings(min_size=64, max_size=128, box_score_thresh=0.3, mean=(0, 0, 0), std=(1, 1, 1), **keys)
    blocks = Blocks()
    network = RcnnNetwork(blocks, options, PACKAGE)
    blocks.calls.clear()
    return DetectionPipeline(network, options, LABELS, 8), blocks


def image(height: int, width: int, seed: int) -> np.ndarray:
    return (
        np.random.default_rng(seed)
        .integers(0, 256, (-(-height // 9), -(-width // 9), 3), np.uint8)
        .repeat(9, axis=0)
        .repeat(9, axis=1)[:height, :width]
    )


def answers(pipeline: DetectionPipeline, *images: np.ndarray):
    return pipeline.answer([pipeline.prepare(image_HWC) for image_HWC in images])


@pytest.mark.parametrize("make", [yolo, rcnn])
def test_no_images_call_no_network(make):
    pipeline, blocks = make()
    assert answers(pipeline) == []
    assert blocks.calls == []


@pytest.mark.parametrize("make", [yolo, rcnn])
def test_nothing_found_is_an_empty_answer(make):
    pipeline, _ = make(tile_grid_size=(2, 2))
    (answer,) = answers(pipeline, np.zeros((100, 100, 3), np.uint8))
    assert answer.boxes == ()


def test_views_of_all_images_share_the_calls_of_yolov5():
    pipeline, blocks = yolo(max_batch_size=4, tile_grid_size=(3, 2))
    answers(pipeline, image(90, 120, 0), image(120, 90, 1))
    assert blocks.calls == [4, 4, 4, 2]


def test_views_go_one_by_one_through_other_networks():
    pipeline, blocks = rcnn(tile_grid_size=(3, 2))
    answers(pipeline, image(90, 120, 0), image(120, 90, 1))
    assert blocks.calls == [1] * 14


def test_a_batch_of_large_inputs_is_smaller():
    options = YoloSettings(img_size=1024)
    blocks = Blocks()
    network = YoloNetwork(blocks, options, PACKAGE, OpenOptions(), 8)
    blocks.calls.clear()
    assert len([*network.predict_candidates(np.zeros((1024, 1024, 3), np.uint8) for _ in range(5))]) == 5
    assert blocks.calls == [2, 2, 1]  # an image of 1024 x 1024 has 12 MiB as float32
    assert 2 * 12 * 2**20 <= MAX_INPUT_BYTES < 3 * 12 * 2**20


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.tuples(st.integers(8, 150), st.integers(8, 150)), min_size=1, max_size=4),
    grid=st.sampled_from([None, (2, 1), (2, 2), (3, 2)]),
    batch_size=st.integers(1, 9),
    data=st.data(),
)
def test_batched_is_one_by_one_in_any_order(sizes, grid, batch_size, data):
    images = [image(height, width, seed) for seed, (height, width) in enumerate(sizes)]
    order = data.draw(st.permutations(range(len(images))))
    one_by_one, blocks = yolo(1, tile_grid_size=grid)
    expected = [answers(one_by_one, image_HWC)[0] for image_HWC in images]
    assert set(blocks.calls) == {1}
    batched, _ = yolo(batch_size, tile_grid_size=grid)
    assert answers(batched, *(images[index] for index in order)) == [expected[index] for index in order]


@pytest.mark.parametrize("make", [yolo, rcnn])
def test_an_image_too_small_for_the_grid_is_scored_whole(make):
    tiled, blocks = make(tile_grid_size=(5, 3))
    plain, _ = make()
    assert answers(tiled, image(12, 20, 0)) == answers(plain, image(12, 20, 0))
    assert blocks.calls == [1]


@pytest.mark.parametrize("family", ["yolov5", "rcnn"])
def test_a_image_of_100_megapixels_in_tiles_takes_the_memory_of_one_call(family):
    """All sixteen views as float32: 79 MB of yolov5's, 143 MB of the others'."""
    grid: dict[str, Any] = {"tile_grid_size": (5, 3), "box_score_thresh": 1.0}
    options: DetectorSettings = YoloSettings(**grid) if family == "yolov5" else RcnnSettings(**grid)
    blocks = Blocks()
    if family == "yolov5":
        network: Any = YoloNetwork(blocks, options, PACKAGE, OpenOptions(), 2)
    else:
        network = RcnnNetwork(blocks, options, PACKAGE)
    blocks.calls.clear()
    pipeline = DetectionPipeline(network, options, LABELS, 2)
    assert pipeline.images_at_once == 1
    image_HWC = np.zeros((10_000, 10_000, 3), np.uint8)
    tracemalloc.start()
    try:
        answers(pipeline, image_HWC)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(blocks.calls) == 16
    assert peak < 24_000_000


def test_without_tiles_a_prepared_image_is_as_large_as_the_networks_input():
    pipeline, _ = yolo()
    prepared = pipeline.prepare(image(500, 700, 0))
    assert prepared.image_HWC is None
    assert prepared.whole_HWC.shape == (64, 64, 3)
    assert prepared.whole_HWC.base is None or prepared.whole_HWC.base.size < 500 * 700
