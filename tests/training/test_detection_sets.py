from pathlib import Path

import cv2
import numpy as np
import pytest

from clearsight.training.classification.datasets import ImageCache
from clearsight.training.data.records import Box, Instance, Record
from clearsight.training.detection.data import (
    DetectionBatch,
    DetectionTrainingSet,
    RcnnAugmentation,
    TileGrid,
    YoloAugmentation,
    useful_side,
)
from clearsight.training.engine.batch_stream import BatchOptions

CLASSES = ("can", "cup")
PLAIN = RcnnAugmentation(48, 200, with_geometry=False)
FULL_RCNN, FULL_YOLO = RcnnAugmentation(48, 200), YoloAugmentation(64, multi_scale=True)


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Seven images of 48 x 64; image i has level 30 i and one box, a cup where i is odd; the sixth has none."""
    made = []
    for index in range(7):
        image = tmp_path / f"{index}.png"
        cv2.imwrite(str(image), np.full((48, 64, 3), 30 * index, np.uint8))
        box = Box(CLASSES[index % 2], (0.25, 0.25, 0.5, 0.5 + 0.05 * index))
        made.append(Record(image, (box.label,), f"a:{index}", boxes=() if index == 5 else (box,)))
    return made


def training_set(records, augmentation=FULL_RCNN, batch_size=2, num_workers=0, seed=1, **more) -> DetectionTrainingSet:
    images = ImageCache([record.image for record in records], 1000, 10**9)
    options = BatchOptions(batch_size, seed, num_workers)
    return DetectionTrainingSet(images, records, CLASSES, augmentation, options, **more)


def are_equal(ours: DetectionBatch, theirs: DetectionBatch) -> bool:
    return len(ours.images_HWC) == len(theirs.images_HWC) and all(
        np.array_equal(image, other)
        and np.array_equal(target.boxes_xyxy_N4, expected.boxes_xyxy_N4)
        and np.array_equal(target.class_ids_N, expected.class_ids_N)
        for image, other, target, expected in zip(
            ours.images_HWC, theirs.images_HWC, ours.targets, theirs.targets, strict=True
        )
    )


def test_an_epoch_shows_every_image_once_with_its_boxes_and_negatives_too(records):
    seen = {}
    for batch in training_set(records, PLAIN).epoch(0):
        for image_HWC, target in zip(batch.images_HWC, batch.targets, strict=True):
            seen[int(image_HWC.mean()) // 30] = target
    assert sorted(seen) == list(range(7))
    assert [target.class_ids_N.tolist() for _, target in sorted(seen.items())] == [[0], [1], [0], [1], [0], [], [0]]
    assert np.allclose(seen[2].boxes_xyxy_N4, [[16, 12, 32, 0.6 * 48]])
    assert seen[2].boxes_xyxy_N4.dtype == np.float32
    assert seen[5].boxes_xyxy_N4.shape == (0, 4)
    assert seen[2].masks_N is None


@pytest.mark.parametrize("augmentation", [FULL_RCNN, FULL_YOLO])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_equal_seeds_give_equal_batches_for_any_number_of_workers(records, augmentation, num_workers):
    alone = list(training_set(records, augmentation).epoch(2))
    for ours, theirs in zip(alone, training_set(records, augmentation, 2, num_workers).epoch(2), strict=True):
        assert are_equal(ours, theirs)
    other_seed = list(training_set(records, augmentation, seed=2).epoch(2))
    other_epoch = list(training_set(records, augmentation).epoch(1))
    assert not all(are_equal(ours, theirs) for ours, theirs in zip(alone, other_seed, strict=True))
    assert not all(are_equal(ours, theirs) for ours, theirs in zip(alone, other_epoch, strict=True))


@pytest.mark.parametrize("augmentation", [FULL_RCNN, FULL_YOLO])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_epoch_continues_where_it_stopped(records, augmentation, num_workers):
    data = training_set(records, augmentation, num_workers=num_workers)
    whole, rest = list(data.epoch(1)), list(data.epoch(1, first_batch=2))
    assert len(whole) == data.num_batches == 4
    assert len(rest) == 2
    assert are_equal(rest[0], whole[2])


def test_processes_share_each_batch(records):
    """Seven images, two processes of batch 2: batches of 4 and 3, of which they get 2 and 2, then 2 and 1."""
    whole = list(training_set(records, FULL_YOLO, batch_size=4).epoch(3))
    parts = [list(training_set(records, FULL_YOLO, rank=rank, num_ranks=2).epoch(3)) for rank in range(2)]
    for together, first, second in zip(whole, *parts, strict=True):
        joined = DetectionBatch(first.images_HWC + second.images_HWC, first.targets + second.targets)
        assert are_equal(joined, together)
    assert [part[1].weight for part in parts] == pytest.approx([2 / 1.5, 1 / 1.5])


def test_views_of_a_batch_have_one_drawn_size(records):
    data = training_set(records, FULL_YOLO)
    sizes = [{image.shape for image in batch.images_HWC} for epoch in range(6) for batch in data.epoch(epoch)]
    assert all(len(shapes) == 1 for shapes in sizes)
    assert {shape for shapes in sizes for shape in shapes} == {(side, side, 3) for side in (32, 64, 96)}


def test_crowds_are_no_targets(records):
    boxes = (Box("can", (0, 0, 0.5, 0.5), is_crowd=True), Box("cup", (0.5, 0.5, 1, 1)))
    [batch] = training_set([Record(records[0].image, CLASSES, "a:1", boxes=boxes)], PLAIN).epoch(0)
    assert batch.targets[0].class_ids_N.tolist() == [1]


def test_tiles_that_show_something_are_images_of_their_own(records):
    """A 2 x 1 grid on 64 x 48: every box lies in the left tile, the negative and the right tiles are left out."""
    [batch] = training_set(records, PLAIN, batch_size=50, grid=TileGrid(2, 1, 0.0)).epoch(0)
    assert len(batch.images_HWC) == 7 + 6
    shapes = [image.shape[:2] for image in batch.images_HWC]
    assert sorted(set(shapes)) == [(48, 64), (72, 48)]  # whole; a tile of 32 x 48, its shorter side made 48
    tiles = [target for shape, target in zip(shapes, batch.targets, strict=True) if shape == (72, 48)]
    assert len(tiles) == 6
    assert all(np.allclose(tile.boxes_xyxy_N4[0, :3], [24, 18, 48]) for tile in tiles)


def test_a_cache_of_a_tiled_set_keeps_the_detail_of_tiles(records):
    """Three tiles that share a quarter: the image is 3 - 2 / 4 tiles wide."""
    assert useful_side(YoloAugmentation(640), None) == 640
    assert useful_side(YoloAugmentation(640), TileGrid(3, 2)) == 1600
    assert useful_side(YoloAugmentation(640, multi_scale=True), None) == 960
    reduced = ImageCache([records[0].image], 24, 10**9)
    assert reduced.size_wh(0) == (32, 24) == reduced[0].shape[1::-1]


def test_instances_come_with_masks(records):
    polygons = ((0.0, 0.0, 0.5, 0.0, 0.5, 0.5, 0.0, 0.5), (0.75, 0.75, 1.0, 0.75, 1.0, 1.0, 0.75, 1.0))
    thin = ((0.5, 0.505, 1.0, 0.505, 1.0, 0.53, 0.5, 0.53),)  # 1.2 pixels high, but across one row's middle only
    instances = (Instance("cup", polygons), Instance("can", polygons, is_crowd=True), Instance("can", thin))
    known = [
        Record(records[0].image, CLASSES, "a:1", instances=instances),
        Record(records[1].image, (), "a:2"),
    ]
    data = training_set(known, PLAIN)
    targets = [target for batch in data.epoch(0) for target in batch.targets]
    full, empty = sorted(targets, key=lambda target: -len(target.class_ids_N))
    assert empty.masks_N == ()
    assert full.class_ids_N.tolist() == [1, 0]
    expected_HW = np.zeros((48, 64), np.bool_)
    expected_HW[:24, :32] = expected_HW[36:, 48:] = True
    assert np.array_equal(full.masks_N[0].to_full_size(48, 64), expected_HW)
    assert full.boxes_xyxy_N4[0].tolist() == [0, 0, 64, 48]
    assert full.masks_N[1].area == 32
