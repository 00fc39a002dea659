from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from clearsight.errors import InvalidData
from clearsight.tasks import Task
from clearsight.training.data.check import check_folder
from clearsight.training.data.split import overlap_warnings, split_indices, split_warnings
from clearsight.training.data.table import (
    Record,
    Table,
    class_names,
    load_table,
    read_table,
    require_trainable,
)


def table_of(*labels: tuple[str, ...], task: Task = Task.MULTI_CLASS) -> Table:
    records = [Record(Path(f"{index}.jpg"), names, f"a.jsonl:{index}") for index, names in enumerate(labels)]
    return Table(Path("data"), task, "image_url", "label", records)


def records_of(**sizes: int) -> list[Record]:
    return [Record(Path("x.jpg"), (name,), "") for name, size in sizes.items() for _ in range(size)]


def test_no_records_at_all_is_a_fault(write_folder: Callable[..., Path]) -> None:
    with pytest.raises(InvalidData, match="at least one record"):
        load_table(write_folder([]), Task.MULTI_CLASS, "label", {})


def test_records_have_image_labels_and_location(write_folder: Callable[..., Path]) -> None:
    folder = write_folder([{"image_url": "../images/1.jpg", "label": "can", "extra": 1}])
    table = load_table(folder, Task.MULTI_CLASS, "label", {})
    [record] = table.records
    assert record.image == folder / "../images/1.jpg"
    assert record.labels == ("can",)
    assert record.source == f"{folder}/annotations.jsonl:1"
    assert table.warnings == ()


def test_an_image_path_is_relative_to_its_label_file_not_to_the_table(write_folder: Callable[..., Path]) -> None:
    folder = write_folder([], paths="- file: ./parts/a.jsonl")
    (folder / "parts").mkdir()
    (folder / "parts" / "a.jsonl").write_text('{"image_url": "1.jpg", "label": "can"}')
    assert load_table(folder, Task.MULTI_CLASS, "label", {}).records[0].image == folder / "parts" / "1.jpg"


def test_every_fault_of_every_line_is_listed(write_folder: Callable[..., Path]) -> None:
    folder = write_folder(
        [
            {"image_url": "1.jpg", "label": "can"},
            {"image_url": "https://example.com/2.jpg", "label": ""},
            {"label": "can"},
            {"image_url": "4.jpg"},
            "{",
        ]
    )
    table, faults = read_table(folder, Task.MULTI_CLASS, "label", {})
    found = Counter((int(fault.target.rsplit(":", 1)[1]), fault.code) for fault in faults)
    assert found == {
        (2, "BAD_DATA_REF"): 1,
        (2, "BAD_DATA"): 1,
        (3, "BAD_DATA"): 1,
        (4, "BAD_DATA"): 1,
        (5, "BAD_DATA"): 1,
    }
    assert len(table.records) == 1


def test_loading_lists_the_first_twenty_faults_and_counts_the_rest(write_folder: Callable[..., Path]) -> None:
    folder = write_folder([{"image_url": "1.jpg", "label": ""}] * 50)
    with pytest.raises(InvalidData, match="and 30 more faults") as raised:
        load_table(folder, Task.MULTI_CLASS, "label", {})
    assert len(raised.value.faults) == 21


def test_an_absent_target_column_is_one_fault_that_names_the_columns(write_folder: Callable[..., Path]) -> None:
    folder = write_folder([{"image_url": "1.jpg", "labels": ["a"]}] * 5)
    _, [fault] = read_table(folder, Task.MULTI_CLASS, "label", {})
    assert "'label' is in no record; columns are labels" in fault.message


def test_repairs_become_counted_warnings(write_folder: Callable[..., Path], write_image: Callable[..., Path]) -> None:
    write_image("1.jpg", (50, 50))
    whole = {"label": "can", "topX": -0.005, "topY": 0, "bottomX": 1, "bottomY": 1.004}
    thin = {"label": "can", "topX": 0.5, "topY": 0, "bottomX": 0.5001, "bottomY": 1}
    rows = [{"image_url": "1.jpg", "label": [whole, thin]}] * 2
    folder = write_folder(rows)
    table = load_table(folder, Task.DETECTION, "label", {})
    assert [len(record.boxes) for record in table.records] == [1, 1]
    assert sorted(table.warnings) == [
        f"{folder}: box narrower than one pixel dropped: 2",
        f"{folder}: coordinate just outside [0, 1] clipped: 4",
    ]


def test_the_file_tells_whether_a_box_has_a_pixel(
    write_folder: Callable[..., Path], write_image: Callable[..., Path]
) -> None:
    write_image("upright.jpg", (200, 10))
    write_image("turned.jpg", (10, 200), orientation=6)
    box = {"label": "can", "topX": 0, "topY": 0, "bottomX": 0.006, "bottomY": 1}
    folder = write_folder([{"image_url": name, "label": [box]} for name in ("upright.jpg", "turned.jpg", "none.jpg")])
    table = load_table(folder, Task.DETECTION, "label", {})
    assert [len(record.boxes) for record in table.records] == [1, 1, 1]
    folder = write_folder([{"image_url": "upright.jpg", "label": [box | {"bottomX": 0.004}]}])
    assert load_table(folder, Task.DETECTION, "label", {}).records[0].boxes == ()


def test_no_hint_refuses_a_record_or_drops_a_box(
    write_folder: Callable[..., Path], write_image: Callable[..., Path], check_rows: Callable[..., None]
) -> None:
    """The file has 40x30 pixels: the first box is 4 pixels wide, the second half a pixel."""
    write_image("1.jpg", (40, 30))
    boxes = [{"label": "can", "topX": 0, "topY": 0, "bottomX": right, "bottomY": 1} for right in (0.1, 0.0125)]

    def check(details: object) -> None:
        folder = write_folder([{"image_url": "1.jpg", "image_details": details, "label": boxes}])
        table = load_table(folder, Task.DETECTION, "label", {})
        assert [box.xyxy_unit for box in table.records[0].boxes] == [(0, 0, 0.1, 1)]
        assert table.warnings == (f"{folder}: box narrower than one pixel dropped: 1",)
        report = check_folder(folder, Task.DETECTION, "label", {})
        is_wrong = details not in (None, {}, {"format": "image/webp"}, {"width": "40px", "height": 30.0})
        assert report.faults == ()
        assert report.warnings[1:] == (
            (f"image_details disagree with the file in 1 record(s), first {folder}/annotations.jsonl:1: files win",)
            if is_wrong
            else ()
        )

    rows: list[object] = [None, {}, {"format": "image/webp"}, {"width": "40px", "height": 30.0}]
    rows += ["40x30", [40, 30], 7, {"width": 4, "height": 3}, {"width": 4000, "height": 3000}, {"width": "wide"}]
    rows += [{"height": 0}, {"width": -40}, {"width": True}, {"height": 30.5}, {"format": 3, "width": []}]
    check_rows(check, rows)


def test_class_names_are_sorted_by_code_point_over_both_tables() -> None:
    assert class_names(table_of()) == ()
    train, validation = table_of(("b",), ("Z",), ("a",)), table_of(("ä",), ("b",), ("10",), ("9",))
    assert class_names(train, validation) == ("10", "9", "Z", "a", "b", "ä")


def test_training_needs_enough_images_and_classes() -> None:
    require_trainable(table_of(*[("a",), ("b",)] * 5))
    require_trainable(table_of(*[("a",)] * 10, task=Task.MULTI_LABEL))
    require_trainable(table_of(*[("a",)] * 10), table_of(("b",)))
    with pytest.raises(InvalidData, match="at least 10 pictures, but got 9"):
        require_trainable(table_of(*[("a",), ("b",), ("c",)] * 3))
    with pytest.raises(InvalidData, match="2 faults"):
        require_trainable(table_of(("a",)))
    with pytest.raises(InvalidData, match="at least 1 different labels, but got none"):
        require_trainable(table_of(*[()] * 10, task=Task.DETECTION))


@pytest.mark.parametrize("seed", range(20))
def test_a_stratified_split_keeps_every_share_within_one_record(seed: int) -> None:
    sizes = {"a": 50, "b": 30, "c": 13, "d": 2}
    records = records_of(**sizes)
    train, validation = split_indices(records, 0.2, seed, Task.MULTI_CLASS)
    assert len(validation) == round(0.2 * 95)
    assert sorted(train + validation) == list(range(95))
    assert train == sorted(train)
    assert validation == sorted(validation)
    held = Counter(records[index].labels[0] for index in validation)
    assert all(1 <= held[name] <= size - 1 and abs(held[name] - 0.2 * size) <= 1 for name, size in sizes.items())


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    records = records_of(a=40, b=40)
    splits = [tuple(split_indices(records, 0.25, seed, Task.MULTI_CLASS)[1]) for seed in (0, 0, 1, 2)]
    assert splits[0] == splits[1]
    assert len(set(splits)) == 3


def test_a_class_of_one_record_trains_and_the_others_keep_their_shares() -> None:
    records = records_of(a=60, b=1, c=30, d=1)
    for seed in range(20):
        train, validation = split_indices(records, 0.2, seed, Task.MULTI_CLASS)
        assert Counter(records[index].labels[0] for index in validation) == {"a": 12, "c": 6}
        assert len(train) == 74
    assert [len(part) for part in split_indices(records_of(a=1, b=1, c=1), 0.5, 0, Task.MULTI_CLASS)] == [1, 2]
    assert [len(part) for part in split_indices(records_of(a=2, b=1), 0.9, 0, Task.MULTI_CLASS)] == [2, 1]


def test_every_class_of_two_records_validates_if_that_is_asked_for() -> None:
    records = records_of(a=20, b=2, c=2, d=2, e=2, f=2, g=1)
    for is_asked, expected in ((False, 5), (True, 6)):
        for seed in range(10):
            _, validation = split_indices(records, 0.15, seed, Task.MULTI_CLASS, validates_every_class=is_asked)
            held = Counter(records[index].labels[0] for index in validation)
            assert held.total() == expected
            assert not is_asked or set(held) == set("abcdef")


def test_records_are_exchanged_until_every_class_trains_and_validates() -> None:
    """Of 20 images, two show a, two b, and one c: a random choice of four leaves a or b out more often than not."""
    labels = [("a",), ("a", "c"), ("b",), ("b", "d"), *[("d",)] * 12, *[()] * 4]
    records = table_of(*labels, task=Task.DETECTION).records
    for seed in range(40):
        parts = split_indices(records, 0.2, seed, Task.DETECTION)
        assert (parts, len(parts[1])) == (split_indices(records, 0.2, seed, Task.DETECTION), 4)
        train, validation = ({name for index in part for name in records[index].labels} for part in parts)
        assert (train, validation) == (set("abcd"), set("abd"))


def test_classes_that_one_part_lacks_are_named() -> None:
    rows = table_of(*[("a",), ("b",), ("0",)] * 5, ("Test",)).records
    assert split_warnings(rows[:15], rows[:15]) == []
    assert split_warnings(rows[:15], rows) == [
        "no training picture shows Test: these classes cannot be learnt",
        "classes with fewer than 5 pictures: Test (1)",
    ]
    assert split_warnings(rows[:15], [row for row in rows[:15] if row.labels != ("0",)]) == [
        "no validation picture shows 0: no metric says anything about these classes"
    ]
    many = table_of(*[(f"{index:02}",) for index in range(12)]).records
    assert split_warnings(many, []) == [
        "no validation picture shows 00, 01, 02, 03, 04, 05, 06, 07, 08, 09 and 2 more: no metric says anything about "
        "these classes",
        "classes with fewer than 5 pictures: " + ", ".join(f"{index:02} (1)" for index in range(10)) + " and 2 more",
    ]


def test_images_that_train_and_validate_are_said(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "link.jpg").symlink_to("2.jpg")
    (tmp_path / "more").symlink_to(tmp_path)
    (tmp_path / "sub").mkdir()
    training = [Record(tmp_path / name, ("a",), "") for name in ("1.jpg", "2.jpg", "none.jpg")]

    def both(*names: str) -> list[str]:
        return overlap_warnings(training, [Record(tmp_path / name, ("a",), "") for name in names])

    assert both() == both("3.jpg", "sub/1.jpg") == []
    names = ("3.jpg", "link.jpg", "sub/../1.jpg", "more/1.jpg", "sub/../none.jpg")
    first = tmp_path.resolve() / "2.jpg"
    assert both(*names) == [f"3 picture(s) train and validate, first {first}: metrics come out too high"]


def test_other_tasks_split_uniformly_and_every_record_can_be_chosen() -> None:
    records = records_of(a=5, b=5)
    chosen = Counter(index for seed in range(400) for index in split_indices(records, 0.3, seed, Task.MULTI_LABEL)[1])
    # 400 draws of 3 in 10: 120 expected per record, standard deviation 9.2.
    assert all(abs(chosen[index] - 120) < 5 * 9.2 for index in range(10))


@pytest.mark.parametrize(
    ("num_records", "fraction", "num_validation"),
    [(2, 0.01, 1), (2, 0.99, 1), (10, 0.2, 2), (7, 0.2, 1), (68, 0.2, 14)],
)
def test_both_splits_have_a_record(num_records: int, fraction: float, num_validation: int) -> None:
    train, validation = split_indices(records_of(a=num_records), fraction, 0, Task.DETECTION)
    assert (len(train), len(validation)) == (num_records - num_validation, num_validation)


def test_one_record_cannot_be_split() -> None:
    with pytest.raises(InvalidData, match="at least 2 pictures, but got 1"):
        split_indices(records_of(a=1), 0.2, 0, Task.MULTI_CLASS)
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_indices(records_of(a=5), 1.0, 0, Task.MULTI_CLASS)


def test_a_key_of_the_image_that_is_almost_right_is_named(write_folder: Callable[..., Path]) -> None:
    folder = write_folder([{"imageUrl": "1.jpg", "label": "a"}])
    with pytest.raises(InvalidData, match="got None; the record has 'imageUrl', is 'image_url' meant"):
        load_table(folder, Task.MULTI_CLASS, "label", {})
