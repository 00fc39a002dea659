from pathlib import Path

import cv2
import numpy as np
import pytest

from clearsight.documents.settings import RcnnSettings, YoloSettings
from clearsight.training.data.records import Box, Instance, Record
from clearsight.training.detection.data import DetectionEvaluationSet
from clearsight.vision.letterbox import letterbox, place
from clearsight.vision.rle import decode_rle

CLASSES = ("can", "cup")


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Seven images of 48 x 64 in noise, with one box each; the sixth has none."""
    made = []
    for index in range(7):
        image = tmp_path / f"{index}.png"
        cv2.imwrite(str(image), np.random.default_rng(index).integers(0, 256, (48, 64, 3)).astype(np.uint8))
        box = Box("cup", (0.25, 0.25, 0.5, 0.5 + 0.05 * index))
        made.append(Record(image, ("cup",), f"a:{index}", boxes=() if index == 5 else (box,)))
    return made


@pytest.mark.parametrize("max_bytes", [0, 10**9])
def test_evaluation_inputs_are_placed_as_in_serving(records, max_bytes):
    data = DetectionEvaluationSet(records, CLASSES, YoloSettings(img_size=32), batch_size=3, max_bytes=max_bytes)
    for _ in range(2):
        batches = list(data.batches(range(len(data))))
        assert [len(batch) for batch in batches] == [3, 3, 1]
        image = batches[0][2]
        image_HWC = cv2.cvtColor(cv2.imread(str(records[2].image)), cv2.COLOR_BGR2RGB)
        assert np.array_equal(image.images_HWC[0], place(image_HWC, letterbox(48, 64, 32)))
        assert np.allclose(image.truth.boxes_xyxy_N4, [[16, 12, 32, 0.6 * 48]])
        assert len(batches[1][2].truth.boxes_xyxy_N4) == 0


def test_evaluation_with_tiles_has_one_input_for_each(records):
    settings = RcnnSettings(min_size=24, max_size=100, tile_grid_size=(2, 1))
    image = DetectionEvaluationSet(records, CLASSES, settings, 4, 0).load(0)
    assert len(image.views) == len(image.images_HWC) == 3
    assert image.images_HWC[0].shape == (24, 32, 3)


def test_evaluation_knows_crowds_and_masks(records):
    polygons = ((0.0, 0.0, 0.5, 0.0, 0.5, 0.5, 0.0, 0.5),)
    record = Record(records[0].image, ("cup",), "a:1", instances=(Instance("cup", polygons, is_crowd=True),))
    truth = DetectionEvaluationSet([record], CLASSES, RcnnSettings(), 4, 0).load(0).truth
    assert truth.is_crowd_N.tolist() == [True]
    [mask] = truth.masks_N
    expected_HW = np.zeros((48, 64), np.bool_)
    expected_HW[:24, :32] = True
    assert np.array_equal(decode_rle(mask["counts"], *mask["size"]), expected_HW)
