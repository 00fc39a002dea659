"""The data of one trial: tables, classes, split, and the sets that the loop iterates over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from clearsight.errors import Fault, InvalidData, UserError
from clearsight.training.classification.datasets import ImageCache, find_unreadable
from clearsight.training.data.image_file import ImageFile
from clearsight.training.data.records import Record
from clearsight.training.data.split import split_indices
from clearsight.training.data.table import MAX_UNREADABLE_SHARE, class_names, load_table
from clearsight.training.engine.hardware import usable_memory_bytes
from clearsight.training.engine.ranks import Ranks
from clearsight.training.trial.spec import TrialSpec

__all__ = ["Loadable", "SetMaker", "Sets", "TrialRecords", "load_records", "make_sets"]

TrainingT = TypeVar("TrainingT")
EvaluationT = TypeVar("EvaluationT", bound="Loadable")
TrainingT_co = TypeVar("TrainingT_co", covariant=True)
EvaluationT_co = TypeVar("EvaluationT_co", bound="Loadable", covariant=True)

_CACHE_SHARE: Final = 0.2  # of the memory, for decoded training images; half as much for validation inputs
_MAX_CACHE_BYTES: Final = 4 * 1024**3
_MAX_DISK_BYTES: Final = 32 * 1024**3
_LISTED: Final = 20


@dataclass(frozen=True, slots=True)
class TrialRecords:
    """The records of the label files, split into training and validation."""

    classes: tuple[str, ...]
    training: tuple[Record, ...]
    validation: tuple[Record, ...]
    split: dict[str, list[int]] | None
    """Indices of the training and of the held-out records; None when there is a table of validation records."""


@dataclass(frozen=True, slots=True)
class Sets(Generic[TrainingT, EvaluationT]):
    """The two sets that the loop uses, and their records without unreadable images."""

    training: TrainingT
    validation: EvaluationT
    training_records: tuple[Record, ...]
    validation_records: tuple[Record, ...]
    warnings: tuple[str, ...]


class Loadable(Protocol):
    """A set of images that can be loaded one by one."""

    def load(self, index: int) -> object:
        """Load one image. Raises `BadImage` or `OSError`."""


class SetMaker(Protocol[TrainingT_co, EvaluationT_co]):
    """Makes the training set and the evaluation set of a task, from records whose images can be read."""

    @property
    def largest_useful_side(self) -> int:
        """Shorter side, in pixels, beyond which training images are reduced, see `ImageCache`."""

    def training_set(
        self, images: ImageCache, records: Sequence[Record], smallest_batch: int, ranks: Ranks
    ) -> TrainingT_co:
        """Make the set that gives shuffled, augmented batches."""

    def evaluation_set(self, records: Sequence[Record], max_bytes: int) -> EvaluationT_co:
        """Make the set that gives inputs as in serving, kept in memory up to `max_bytes`."""


def load_records(spec: TrialSpec) -> TrialRecords:
    """Read the label files and split them. Raises `InvalidData` with every fault."""
    train = load_table(spec.training_data, spec.task, spec.target_column, spec.datastores)
    if spec.validation_data is None:
        kept, held_out = split_indices(train.records, spec.validation_size, spec.split_seed, spec.task)
        return TrialRecords(
            class_names(train),
            tuple(train.records[index] for index in kept),
            tuple(train.records[index] for index in held_out),
            {"training": kept, "validation": held_out},
        )
    validation = load_table(spec.validation_data, spec.task, spec.target_column, spec.datastores)
    return TrialRecords(class_names(train, validation), tuple(train.records), tuple(validation.records), None)


def make_sets(
    records: TrialRecords,
    maker: SetMaker[TrainingT, EvaluationT],
    smallest_batch: int,
    num_threads: int,
    cache_folder: Path,
    should_stop: Callable[[], bool],
    ranks: Ranks,
) -> Sets[TrainingT, EvaluationT]:
    """Open every image once and build the two sets without those that cannot be read.

    Each of several processes opens its share and gets the results of the others. Decoded training images that exceed
    the memory limit go to an unnamed file in `cache_folder`. Raises `InvalidData` when more than
    `MAX_UNREADABLE_SHARE` of the images of a split cannot be read.
    """
    budget = min(_MAX_CACHE_BYTES, int(_CACHE_SHARE * usable_memory_bytes())) // ranks.size
    warnings: list[str] = []

    def cache(records: Sequence[Record]) -> ImageCache:
        overflow = ImageFile(cache_folder, _MAX_DISK_BYTES // ranks.size)
        return ImageCache(_files(records), maker.largest_useful_side, budget, overflow)

    def unreadable(split: str, records: Sequence[Record], load: Callable[[int], object]) -> dict[int, str]:
        files = _files(records)
        found = find_unreadable(files, ranks.share(len(files)), load, num_threads, should_stop)
        everywhere = ranks.all_gather_documents(f"unreadable {split} pictures", sorted(found.items()))
        return dict(sorted((index, reason) for process in everywhere for index, reason in process))

    training, images = records.training, cache(records.training)
    if found := unreadable("training", training, images.__getitem__):
        training = _without("training", training, found, warnings)
        images = cache(training)
    validation, evaluation_set = records.validation, maker.evaluation_set(records.validation, budget // 2)
    if found := unreadable("validation", validation, evaluation_set.load):
        validation = _without("validation", validation, found, warnings)
        evaluation_set = maker.evaluation_set(validation, budget // 2)
    if len(training) < ranks.size:
        raise UserError(f"each of {ranks.size} processes must get a picture, but there are only {len(training)}")
    training_set = maker.training_set(images, training, smallest_batch, ranks)
    return Sets(training_set, evaluation_set, training, validation, tuple(warnings))


def _files(records: Sequence[Record]) -> list[Path]:
    return [record.image for record in records]


def _without(
    split: str, records: tuple[Record, ...], unreadable: dict[int, str], warnings: list[str]
) -> tuple[Record, ...]:
    listed = "; ".join(list(unreadable.values())[:_LISTED])
    if len(unreadable) > MAX_UNREADABLE_SHARE * len(records):
        message = (
            f"at most {MAX_UNREADABLE_SHARE:.0%} of the pictures may be unreadable, but {len(unreadable)} of "
            f"{len(records)} are: {listed}"
        )
        raise InvalidData(f"{split} data", [Fault("BAD_DATA", split, message)])
    warnings.append(f"{len(unreadable)} unreadable {split} pictures are left out: {listed}")
    return tuple(record for index, record in enumerate(records) if index not in unreadable)
