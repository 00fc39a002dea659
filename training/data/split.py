"""The split of labelled images into those that train and those that validate."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from clearsight.errors import Fault, InvalidData
from clearsight.files import real_paths
from clearsight.tasks import Task
from clearsight.training.data.records import Record

__all__ = ["learnable_names", "overlap_warnings", "require_objects", "split_indices", "split_warnings"]

_MIN_PER_CLASS: Final = 5
"""Images of a class of which a split of 80 to 20 % leaves one for validation."""

_MAX_LISTED: Final = 10


def learnable_names(record: Record) -> tuple[str, ...]:
    """The classes that a record shows: of detection and segmentation those of objects that are no crowd."""
    objects = record.instances or record.boxes
    return tuple(dict.fromkeys(one.label for one in objects if not one.is_crowd)) if objects else record.labels


def split_indices(
    records: Sequence[Record], fraction: float, seed: int, task: Task, *, validates_every_class: bool = False
) -> tuple[list[int], list[int]]:
    """Choose `max(1, round(fraction * len))` records for validation; return ascending (training, validation) indices.

    Multi-class splits keep the share of each class. For the other tasks the choice is random, and then records are
    exchanged until every class trains and validates, where that is possible without taking another one from its part.
    A class with a single record trains. `validates_every_class` chooses more records where a class with two records
    would not validate otherwise. The same seed and records give the same split on every machine. Raises `InvalidData`
    for fewer than two records.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, both excluded, but got {fraction}")
    if len(records) < 2:
        message = f"a split into training and validation needs at least 2 pictures, but got {len(records)}"
        raise InvalidData("split", [Fault("BAD_DATA", "validation data", message)])
    num_validation = min(max(1, round(fraction * len(records))), len(records) - 1)
    generator = random.Random(seed)  # noqa: S311
    groups: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        groups[record.labels[0] if task is Task.MULTI_CLASS else ""].append(index)
    if min(len(indices) for indices in groups.values()) < 2:
        # Classes of one record train, unless there are no others.
        groups = {name: indices for name, indices in groups.items() if len(indices) > 1} or {"": [*range(len(records))]}
        num_validation = min(num_validation, max(1, sum(map(len, groups.values())) - len(groups)))
    if validates_every_class:
        num_validation = max(num_validation, len(groups))
    shares = _shares({name: len(indices) for name, indices in groups.items()}, num_validation)
    # Sorting by drawn keys, since `shuffle` may change between versions of Python and `random()` may not.
    keys = {index: generator.random() for name in sorted(groups) for index in groups[name]}
    order = {name: sorted(groups[name], key=keys.__getitem__) for name in sorted(groups)}
    chosen = set(chain.from_iterable(indices[: shares[name]] for name, indices in order.items()))
    if task is not Task.MULTI_CLASS:
        _exchange(records, chosen, order[""], validates_every_class)
    return [index for index in range(len(records)) if index not in chosen], sorted(chosen)


def _exchange(records: Sequence[Record], validation: set[int], order: Sequence[int], may_grow: bool) -> None:
    """Exchange records until every class trains and, if it has two, validates; the rarest classes come first.

    A record moves if that takes no class from its part; into training, where no such record is, the first one. Where no
    other record can come in exchange, it moves alone if `may_grow` is true, and not at all otherwise.
    """
    training = set(order) - validation
    names = [learnable_names(record) for record in records]
    sizes = Counter(chain.from_iterable(names))
    members = (training, validation)
    shown = [Counter(name for index in part for name in names[index]) for part in members]

    def spare(part: int, name: str | None = None) -> Iterator[int]:
        """Records of a part, of a class if one is named, whose classes other records of the part show too."""
        for index in order:
            if (
                index in members[part]
                and name in (None, *names[index])
                and all(shown[part][one] > 1 for one in names[index])
            ):
                yield index

    def move(index: int, part: int) -> None:
        members[1 - part].remove(index)
        members[part].add(index)
        shown[1 - part].subtract(names[index])
        shown[part].update(names[index])

    for name in sorted(sizes, key=lambda name: (sizes[name], name)):
        for part in (0, 1) if sizes[name] > 1 else (0,):
            if shown[part][name]:
                continue
            moved = next(spare(1 - part, name), None)
            if moved is None and part == 0:
                moved = next(index for index in order if index in validation and name in names[index])
            if moved is None:
                continue
            move(moved, part)
            back = next((index for index in spare(part) if index != moved), None)
            if back is not None:
                move(back, 1 - part)
            elif not may_grow or not members[1 - part]:
                move(moved, 1 - part)


def _shares(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Integers that add up to `total`, as proportional to `sizes` as possible (largest remainder).

    Each is at least 1 if `total` allows it, and leaves at least 1 of its size if the rest allows it.
    """
    num_records = sum(sizes.values())
    low = 1 if total >= len(sizes) else 0
    spare = 1 if num_records - total >= len(sizes) else 0
    quota = {name: total * size / num_records for name, size in sizes.items()}
    share = {name: min(max(math.floor(quota[name]), low), size - spare) for name, size in sizes.items()}
    while (missing := total - sum(share.values())) != 0:
        step = 1 if missing > 0 else -1
        movable = [name for name in sorted(sizes) if low <= share[name] + step <= sizes[name] - spare]
        share[max(movable, key=lambda name: step * (quota[name] - share[name]))] += step
    return share


def split_warnings(training: Iterable[Record], validation: Iterable[Record]) -> list[str]:
    """Sentences on classes that only one part shows, and on those with very few images in both together."""
    trained, validated = (Counter(chain.from_iterable(map(learnable_names, part))) for part in (training, validation))
    sizes = trained + validated
    only_validate, only_train = sorted(validated.keys() - trained), sorted(trained.keys() - validated)
    few = [f"{name} ({size})" for name, size in sorted(sizes.items()) if size < _MIN_PER_CLASS]
    warnings = [] if trained else ["the training pictures show nothing to learn: no labels, or crowds alone"]
    if only_validate:
        warnings.append(f"no training picture shows {_listed(only_validate)}: these classes cannot be learnt")
    if only_train:
        warnings.append(
            f"no validation picture shows {_listed(only_train)}: no metric says anything about these classes"
        )
    if few:
        warnings.append(f"classes with fewer than {_MIN_PER_CLASS} pictures: {_listed(few)}")
    return warnings


def overlap_warnings(training: Iterable[Record], validation: Iterable[Record]) -> list[str]:
    """A sentence on images that both parts name, by whatever path, if there are any."""
    trained, validated = (dict.fromkeys(real_paths(record.image for record in part)) for part in (training, validation))
    both = [image for image in validated if image in trained]
    return [f"{len(both)} picture(s) train and validate, first {both[0]}: metrics come out too high"] if both else []


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def require_objects(training: Sequence[Record], validation: Sequence[Record] | None) -> None:
    """Raise `InvalidData` unless each part has an object that is no crowd; None: no metric needs validation objects."""
    for name, part in (("training", training), ("validation", validation)):
        if part is None or any(not one.is_crowd for record in part for one in record.instances or record.boxes):
            continue
        remedy = "" if name == "training" else ", or set validation_metric_type to none"
        message = (
            f"at least one {name} picture must show an object that is no crowd, but none of {len(part)} does; "
            f"label some{remedy}"
        )
        raise InvalidData(f"{name} data", [Fault("BAD_DATA", name, message)])
