"""The data of one trial: tables, classes, split, and the sets that the loop iterates over."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clearsight.errors import Fault, InvalidData
from clearsight.settings import ClassificationSettings
from clearsight.training.augment import Augmentation
from clearsight.training.datasets import EvaluationSet, PictureCache, TrainingSet, encode_targets, find_unreadable
from clearsight.training.records import Record
from clearsight.training.table import class_names, load_table, split_indices, validation_only_classes
from clearsight.training.trial_spec import TrialSpec

__all__ = ["Sets", "TrialRecords", "load_records", "make_sets"]

MAX_UNREADABLE_SHARE: Final = 0.05
"""Share of a part's pictures that may be missing or damaged; they are left out with a warning."""

_CACHE_SHARE: Final = 0.2  # of the memory, for decoded training pictures; half as much for validation inputs
_MAX_CACHE_BYTES: Final = 4 * 1024**3
_LISTED: Final = 20


@dataclass(frozen=True, slots=True)
class TrialRecords:
    """What the label files say."""

    classes: tuple[str, ...]
    training: tuple[Record, ...]
    validation: tuple[Record, ...]
    split: dict[str, list[int]] | None
    """Record indices, when a part of the training records was held out."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sets:
    """What the loop needs."""

    training: TrainingSet
    validation: EvaluationSet
    training_records: tuple[Record, ...]
    validation_records: tuple[Record, ...]
    warnings: tuple[str, ...]


def load_records(spec: TrialSpec) -> TrialRecords:
    """Read the label files and split them. Raises `InvalidData` with every fault."""
    train = load_table(spec.training_data, spec.task, spec.target_column, spec.datastores)
    warnings = list(train.warnings)
    if spec.validation_data is None:
        kept, held_out = split_indices(train.records, spec.validation_size, spec.split_seed, spec.task)
        return TrialRecords(
            class_names(train),
            tuple(train.records[index] for index in kept),
            tuple(train.records[index] for index in held_out),
            {"training": kept, "validation": held_out},
            tuple(warnings),
        )
    validation = load_table(spec.validation_data, spec.task, spec.target_column, spec.datastores)
    warnings += validation.warnings
    if unlearnt := validation_only_classes(train, validation):
        warnings.append(f"no training picture shows {', '.join(unlearnt)}: these classes cannot be learnt")
    return TrialRecords(
        class_names(train, validation), tuple(train.records), tuple(validation.records), None, tuple(warnings)
    )


def make_sets(
    records: TrialRecords,
    spec: TrialSpec,
    settings: ClassificationSettings,
    augmentation: Augmentation,
    seed: int,
    num_threads: int,
    should_stop: Callable[[], bool],
) -> Sets:
    """Open every picture once and build the two sets without those that cannot be read.

    Raises `InvalidData` when more than `MAX_UNREADABLE_SHARE` of a part cannot be read.
    """
    batch_size, validation_batch_size, num_workers = (
        int(spec.value(name)) for name in ("training_batch_size", "validation_batch_size", "number_of_workers")
    )
    budget = min(_MAX_CACHE_BYTES, int(_CACHE_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    warnings: list[str] = []

    def cache(part: Sequence[Record]) -> PictureCache:
        return PictureCache([record.image for record in part], augmentation.largest_useful_side, budget)

    def evaluation(part: Sequence[Record]) -> EvaluationSet:
        targets = encode_targets(part, records.classes, spec.task)
        files = [record.image for record in part]
        return EvaluationSet(files, targets, settings, validation_batch_size, budget // 2)

    training, pictures = records.training, cache(records.training)
    unreadable = find_unreadable(_files(training), pictures.__getitem__, num_threads, should_stop)
    if unreadable:
        training = _without("training", training, unreadable, warnings)
        pictures = cache(training)
    validation, evaluation_set = records.validation, evaluation(records.validation)
    unreadable = find_unreadable(_files(validation), evaluation_set.load, num_threads, should_stop)
    if unreadable:
        validation = _without("validation", validation, unreadable, warnings)
        evaluation_set = evaluation(validation)
    targets = encode_targets(training, records.classes, spec.task)
    training_set = TrainingSet(pictures, targets, augmentation, batch_size, seed, num_workers)
    return Sets(training_set, evaluation_set, training, validation, tuple(warnings))


def _files(records: Sequence[Record]) -> list[Path]:
    return [record.image for record in records]


def _without(
    part: str, records: tuple[Record, ...], unreadable: dict[int, str], warnings: list[str]
) -> tuple[Record, ...]:
    described = [f"{records[index].image}: {reason}" for index, reason in list(unreadable.items())[:_LISTED]]
    if len(unreadable) > MAX_UNREADABLE_SHARE * len(records):
        message = (
            f"at most {MAX_UNREADABLE_SHARE:.0%} of the pictures may be unreadable, but {len(unreadable)} of "
            f"{len(records)} are: {'; '.join(described)}"
        )
        raise InvalidData(f"{part} data", [Fault("BAD_DATA", part, message)])
    warnings.append(f"{len(unreadable)} unreadable {part} pictures are left out: {'; '.join(described)}")
    return tuple(record for index, record in enumerate(records) if index not in unreadable)
