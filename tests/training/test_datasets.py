from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from clearsight.documents.settings import ClassificationSettings
from clearsight.tasks import Task
from clearsight.training.classification.augmentation import Augmentation
from clearsight.training.classification.datasets import (
    EvaluationSet,
    ImageCache,
    TrainingSet,
    encode_targets,
    find_unreadable,
)
from clearsight.training.data.image_file import ImageFile
from clearsight.training.data.records import Record
from clearsight.training.engine.batch_stream import BatchOptions
from clearsight.vision.preprocess import preprocess


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Nine images; image i is filled with the grey level 20 i."""
    made = [tmp_path / f"{index}.png" for index in range(9)]
    for index, file in enumerate(made):
        cv2.imwrite(str(file), np.full((48, 64, 3), 20 * index, np.uint8))
    return made


def training_set(
    files: list[Path], batch_size: int = 4, num_workers: int = 0, seed: int = 1, **part: int
) -> TrainingSet:
    images = ImageCache(files, largest_side=1000, max_bytes=10**9)
    targets = np.arange(len(files), dtype=np.int64)
    return TrainingSet(images, targets, Augmentation(16), BatchOptions(batch_size, seed, num_workers), **part)


def test_a_batch_holds_the_targets_of_its_images(files: list[Path]) -> None:
    images = ImageCache(files, largest_side=1000, max_bytes=10**9)
    plain = Augmentation(16, brightness=0, contrast=0, saturation=0, hue=0)
    for batch in TrainingSet(images, np.arange(9), plain, BatchOptions(4)).epoch(0):
        assert [int(image.mean()) // 20 for image in batch.images_NPPC] == batch.targets.tolist()


def test_a_last_batch_of_one_is_left_out(files: list[Path]) -> None:
    sizes = [len(batch.targets) for batch in training_set(files, batch_size=4).epoch(0)]
    assert sizes == [4, 4]
    assert training_set(files, batch_size=4).num_batches == 2
    assert training_set(files, batch_size=5).num_batches == 2
    assert training_set(files, batch_size=1).num_batches == 9
    assert training_set(files[:1], batch_size=4).num_batches == 1


def test_a_last_batch_of_one_is_kept_without_batch_norm(files: list[Path]) -> None:
    data = training_set(files, batch_size=4, smallest_batch=1)
    assert [len(batch.targets) for batch in data.epoch(0)] == [4, 4, 1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_processes_share_each_batch_of_the_same_order(files: list[Path], num_workers: int) -> None:
    """Nine images, two processes of batch 2: batches of 4, 4 and 1, of which the last cannot be shared."""
    whole = [batch.targets.tolist() for batch in training_set(files, batch_size=4).epoch(3)]
    parts = [
        [batch.targets.tolist() for batch in training_set(files, 2, num_workers, rank=rank, num_ranks=2).epoch(3)]
        for rank in range(2)
    ]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole


def test_shares_of_a_batch_are_weighted_by_their_size(files: list[Path]) -> None:
    """Seven images, two processes of batch 1 to 4: of a last batch of 7 they get 4 and 3, 3.5 is the mean."""
    [first], [second] = (list(training_set(files[:7], 4, rank=rank, num_ranks=2).epoch(0)) for rank in range(2))
    assert (len(first.targets), len(second.targets)) == (4, 3)
    assert (first.weight, second.weight) == pytest.approx((4 / 3.5, 3 / 3.5))
    assert {batch.weight for batch in training_set(files).epoch(0)} == {1.0}


def test_a_last_batch_too_small_for_every_process_is_left_out(files: list[Path]) -> None:
    assert training_set(files[:7], batch_size=2, num_ranks=2).num_batches == 1
    assert training_set(files[:8], batch_size=2, num_ranks=2).num_batches == 2
    assert training_set(files[:7], batch_size=2, num_ranks=2, smallest_batch=1).num_batches == 2
    assert training_set(files[:5], batch_size=2, num_ranks=2, smallest_batch=1).num_batches == 1


def test_each_epoch_shows_every_image_once_in_another_order(files: list[Path]) -> None:
    data = training_set(files, batch_size=3)
    orders = [[int(target) for batch in data.epoch(epoch) for target in batch.targets] for epoch in range(3)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing_about_the_batches(files: list[Path], num_workers: int) -> None:
    plain, threaded = training_set(files).epoch(2), training_set(files, num_workers=num_workers).epoch(2)
    for ours, theirs in zip(plain, threaded, strict=True):
        assert np.array_equal(ours.images_NPPC, theirs.images_NPPC)
        assert np.array_equal(ours.targets, theirs.targets)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_epoch_continues_where_it_stopped(files: list[Path], num_workers: int) -> None:
    data = training_set(files, batch_size=2, num_workers=num_workers)
    whole, rest = list(data.epoch(1)), list(data.epoch(1, first_batch=3))
    assert len(rest) == len(whole) - 3
    assert np.array_equal(rest[0].images_NPPC, whole[3].images_NPPC)


def test_leaving_an_epoch_early_ends_its_workers(files: list[Path]) -> None:
    batches = training_set(files, batch_size=2, num_workers=2).epoch(0)
    next(batches)
    batches.close()


def test_a_cache_without_room_decodes_each_time(files: list[Path]) -> None:
    for room in (0, 48 * 64 * 3, 10**9):
        cache = ImageCache(files, largest_side=1000, max_bytes=room)
        assert [int(cache[index].mean()) for index in range(9)] == [20 * index for index in range(9)]
        files[0].touch()
        assert int(cache[0].mean()) == 0


def test_images_beyond_the_memory_are_kept_on_disk(files: list[Path], tmp_path: Path) -> None:
    room_for_two = 2 * 48 * 64 * 3
    cache = ImageCache(files, 1000, max_bytes=room_for_two, overflow=ImageFile(tmp_path, 3 * room_for_two))
    levels = [int(cache[index].mean()) for index in range(9)]
    for file in files[:8]:  # two in memory, six on disk: only the ninth is decoded again
        file.unlink()
    assert [int(cache[index].mean()) for index in range(9)] == levels == [20 * index for index in range(9)]
    assert list(tmp_path.glob("tmp*")) == []


def test_an_image_file_gives_back_what_fits(tmp_path: Path) -> None:
    images = [np.random.default_rng(seed).integers(0, 256, (4 + seed, 5, 3)).astype(np.uint8) for seed in range(3)]
    empty, small = ImageFile(tmp_path, 0), ImageFile(tmp_path, images[0].nbytes + images[1].nbytes)
    for index, image in enumerate(images):
        empty.put(index, image)
        small.put(index, image)
        small.put(index, image)
    assert [empty.get(index) for index in range(3)] == [None, None, None]
    assert np.array_equal(small.get(0), images[0])
    assert np.array_equal(small.get(1), images[1])
    assert small.get(2) is None


def test_large_images_are_reduced_to_the_useful_size(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((300, 500, 3), np.uint8))
    assert ImageCache([tmp_path / "a.png"], largest_side=150, max_bytes=0)[0].shape == (150, 250, 3)


def test_the_smallest_crop_of_a_reduced_image_still_fills_the_network() -> None:
    options = Augmentation(224)
    side = options.largest_useful_side
    smallest_crop_side = np.sqrt(side * side * options.scale[0] * options.ratio[0])
    assert smallest_crop_side >= 224


def test_training_images_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg", exif=exif)
    assert ImageCache([tmp_path / "a.jpg"], largest_side=1000, max_bytes=0)[0].shape == (64, 48, 3)


@pytest.mark.parametrize("max_bytes", [0, 10**9])
def test_evaluation_inputs_are_those_of_serving(files: list[Path], max_bytes: int) -> None:
    settings = ClassificationSettings(valid_resize_size=40, valid_crop_size=32)
    data = EvaluationSet(files, np.arange(9), settings, batch_size=4, max_bytes=max_bytes)
    for _ in range(2):
        batches = list(data.batches(range(9)))
        assert [len(batch) for batch in batches] == [4, 4, 1]
        image = cv2.cvtColor(cv2.imread(str(files[5])), cv2.COLOR_BGR2RGB)
        assert np.array_equal(batches[1][1], preprocess(image, settings))


def test_unreadable_images_are_found_with_their_reason(files: list[Path]) -> None:
    files[2].write_bytes(b"not a picture")
    files[4].unlink()
    cache = ImageCache(files, largest_side=100, max_bytes=10**9)
    unreadable = find_unreadable(files, range(9), cache.__getitem__, num_threads=2, should_stop=lambda: False)
    assert set(unreadable) == {2, 4}
    assert str(files[4]) in unreadable[4]
    assert find_unreadable(files, range(3, 9, 2), cache.__getitem__, 1, lambda: False) == {}


def test_targets_are_ids_or_rows_of_zeros_and_ones() -> None:
    records = [Record(Path("a"), labels, "a:1") for labels in (("b",), ("a",))]
    assert encode_targets(records, ("a", "b"), Task.MULTI_CLASS).tolist() == [1, 0]
    records = [Record(Path("a"), labels, "a:1") for labels in ((), ("a",), ("b", "a"))]
    assert encode_targets(records, ("a", "b"), Task.MULTI_LABEL).tolist() == [[0, 0], [1, 0], [1, 1]]
