import random
from collections.abc import Callable
from pathlib import Path

import pytest

from clearsight.documents.data.mltable import MLTABLE_TEXT, read_mltable
from clearsight.errors import InvalidData

ROWS = [{"image_url": f"{index}.jpg", "label": index} for index in range(10)]
READ = "- read_json_lines:\n"


def labels(folder: Path) -> list[object]:
    return [row.values.get("label") for row in read_mltable(folder, {}).rows]


def faults(folder: Path) -> list[tuple[str, str]]:
    """(code, target and message) of an unusable folder."""
    with pytest.raises(InvalidData) as raised:
        read_mltable(folder, {})
    return [(fault.code, f"{fault.target}: {fault.message}") for fault in raised.value.faults]


def test_an_empty_label_file_has_no_rows(write_folder: Callable[..., Path]) -> None:
    assert read_mltable(write_folder([]), {}).rows == []
    assert read_mltable(write_folder(["", "  "]), {}).rows == []


def test_rows_know_their_line(write_folder: Callable[..., Path]) -> None:
    folder = write_folder(b'{"label": "a"}\r\n\r\n{"label": "b"}')
    table = read_mltable(folder, {})
    assert [(row.values["label"], row.line) for row in table.rows] == [("a", 1), ("b", 3)]
    assert table.rows[1].source == f"{folder}/annotations.jsonl:3"


def test_the_table_of_our_own_converter_reads_back(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image_url": "1.jpg", "label": "x"}\n')
    (tmp_path / "MLTable").write_text(MLTABLE_TEXT.format(file_name="a.jsonl"))
    table = read_mltable(tmp_path, {})
    assert (table.image_column, len(table.rows), table.faults, table.warnings) == ("image_url", 1, [], [])


def test_a_line_separator_inside_a_string_does_not_end_the_line(write_folder: Callable[..., Path]) -> None:
    assert labels(write_folder(['{"label": "a\u2028b"}'])) == ["a\u2028b"]


def test_an_invalid_line_is_a_fault_with_its_number(write_folder: Callable[..., Path]) -> None:
    table = read_mltable(write_folder(['{"label": 1}', "{oops", '{"label": 3}', "[1]"]), {})
    assert [row.values["label"] for row in table.rows] == [1, 3]
    assert [fault.target.rsplit(":", 1)[1] for fault in table.faults] == ["2", "4"]
    assert {fault.code for fault in table.faults} == {"BAD_DATA"}


def test_invalid_lines_can_be_dropped_but_a_line_that_is_no_object_stays_a_fault(
    write_folder: Callable[..., Path],
) -> None:
    drop = "- read_json_lines: {invalid_lines: drop}"
    table = read_mltable(write_folder(b'{"label": 1}\n{oops\n\xff\xfe\n[1]\n', drop), {})
    assert len(table.rows) == 1
    assert [fault.target.rsplit(":", 1)[1] for fault in table.faults] == ["4"]
    assert "2 invalid JSON line(s) dropped" in table.warnings[0]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("utf8", "utf-8"),
        ("utf8", "utf-8-sig"),
        ("utf8bom", "utf-8-sig"),
        ("iso88591", "iso-8859-1"),
        ("latin1", "latin-1"),
        ("windows1252", "cp1252"),
        ("utf16", "utf-16"),
        ("utf32", "utf-32"),
        ("utf8", "utf-16"),
        ("latin1", "utf-8-sig"),
    ],
)
def test_every_encoding_reads_its_letters(write_folder: Callable[..., Path], name: str, codec: str) -> None:
    content = '{"label": "Büchse"}\n{"label": "é"}\n'.encode(codec)
    assert labels(write_folder(content, f"- read_json_lines: {{encoding: {name}}}")) == ["Büchse", "é"]


def test_ascii_refuses_other_letters(write_folder: Callable[..., Path]) -> None:
    table = read_mltable(write_folder(['{"label": "a"}', '{"label": "ü"}'], "- read_json_lines: {encoding: ascii}"), {})
    assert [fault.target.rsplit(":", 1)[1] for fault in table.faults] == ["2"]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("- take: 3", [0, 1, 2]),
        ("- take: 0", []),
        ("- skip: 8", [8, 9]),
        ("- skip: 2\n- take: 3", [2, 3, 4]),
        ("- take: 3\n- skip: 2", [2]),
        ("- take_random_sample: {probability: 0}", []),
        ("- take_random_sample: {probability: 1, seed: 3}", list(range(10))),
        ("- drop_columns: label", [None] * 10),
        ("- keep_columns: [image_url]\n- take: 1", [None]),
        ("- convert_column_types: [{columns: label, column_type: string}]\n- take: 2", ["0", "1"]),
        ("- convert_column_types: [{columns: [label], column_type: float}]\n- take: 1", [0.0]),
        ("- convert_column_types: [{columns: [label], column_type: boolean}]\n- take: 2", [0, 1]),
    ],
)
def test_transformations_apply_in_order(write_folder: Callable[..., Path], steps: str, expected: list[object]) -> None:
    folder = write_folder(ROWS, READ + steps)
    table = read_mltable(folder, {})
    assert [row.values.get("label") for row in table.rows] == expected


def test_a_random_sample_keeps_each_row_with_the_given_probability(write_folder: Callable[..., Path]) -> None:
    rows = [{"label": index} for index in range(2000)]
    first = labels(write_folder(rows, READ + "- take_random_sample: {probability: 0.3, seed: 7}"))
    again = labels(write_folder(rows, READ + "- take_random_sample: {probability: 0.3, seed: 7}"))
    other = labels(write_folder(rows, READ + "- take_random_sample: {probability: 0.3, seed: 8}"))
    oracle = random.Random(7)
    assert first == again == [index for index in range(2000) if oracle.random() < 0.3]
    assert first != other
    assert 500 < len(first) < 700


def test_datetimes_become_iso_text(write_folder: Callable[..., Path]) -> None:
    kind = "{datetime: {formats: ['%d.%m.%Y', '%d/%m/%Y']}}"
    steps = READ + f"- convert_column_types: [{{columns: label, column_type: {kind}}}]"
    assert labels(write_folder(['{"label": "24/12/2025"}'], steps)) == ["2025-12-24T00:00:00"]


def test_a_cell_that_does_not_convert_is_a_fault_of_its_line(write_folder: Callable[..., Path]) -> None:
    steps = READ + "- convert_column_types: [{columns: label, column_type: int}]"
    table = read_mltable(write_folder(['{"label": "4"}', '{"label": "four"}', '{"label": null}'], steps), {})
    assert [row.values["label"] for row in table.rows] == [4, "four", None]
    [fault] = table.faults
    assert fault.target.endswith(":2")
    assert "must convert to int, but got 'four'" in fault.message


@pytest.mark.parametrize(
    ("steps", "column"),
    [
        ("", "image_url"),
        ("- convert_column_types: [{columns: image_url, column_type: stream_info}]", "image_url"),
        ("- convert_column_types: [{columns: photo, column_type: stream_info}]", "photo"),
        ("- convert_column_types: [{columns: [photo, image_url], column_type: stream_info}]", "image_url"),
    ],
)
def test_the_image_column_is_the_one_converted_to_stream_info(
    write_folder: Callable[..., Path], steps: str, column: str
) -> None:
    assert read_mltable(write_folder([], READ + steps), {}).image_column == column


def test_the_path_column_holds_the_file(write_folder: Callable[..., Path]) -> None:
    folder = write_folder(['{"label": 1}'], "- read_json_lines: {include_path_column: true}")
    assert read_mltable(folder, {}).rows[0].values["Path"] == str(folder / "annotations.jsonl")


def test_files_come_in_the_order_of_paths_and_patterns_sorted(write_folder: Callable[..., Path]) -> None:
    folder = write_folder(
        ['{"label": "z"}'],
        paths="- file: ./annotations.jsonl\n- pattern: ./parts/**/*[0-9].jsonl\n- folder: ./more",
    )
    for name in (
        "parts/b2.jsonl",
        "parts/a1.jsonl",
        "parts/deep/c3.jsonl",
        "parts/no.jsonl",
        "more/y/1.jsonl",
        "more/x",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"label": "{path.name}"}}\n')
    assert labels(folder) == ["z", "a1.jsonl", "b2.jsonl", "c3.jsonl", "x", "1.jsonl"]


def test_paths_may_point_into_a_datastore(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.jsonl").write_text('{"label": "far"}\n')
    folder = write_folder([], paths='- file: "azureml://datastores/store/paths/a.jsonl"')
    assert [row.values["label"] for row in read_mltable(folder, {"store": tmp_path / "store"}).rows] == ["far"]
    assert "'store' must be mapped" in faults(folder)[0][1]


@pytest.mark.parametrize("name", ["filter", "read_delimited", "read_parquet", "read_delta_lake"])
def test_a_transformation_for_other_tables_is_refused_by_name(write_folder: Callable[..., Path], name: str) -> None:
    [(code, text)] = faults(write_folder([], f"- {name}: x"))
    assert code == "BAD_DATA_REF"
    assert f"{name!r} is not supported" in text


def test_a_misspelt_transformation_suggests_the_near_one(write_folder: Callable[..., Path]) -> None:
    [(_, text)] = faults(write_folder([], READ + "- take_random_sampel: {probability: 0.1}"))
    assert "did you mean 'take_random_sample'?" in text


def test_all_faults_of_an_mltable_file_are_listed_at_once(write_folder: Callable[..., Path]) -> None:
    steps = "- read_json_lines: {encoding: utf7, invalid_lines: skip}\n- take: -1\n"
    steps += "- convert_column_types: x\n- a: 1\n  b: 2"
    found = faults(write_folder([], steps, paths="- file: ./no.jsonl\n- {file: a, folder: b}"))
    places = [text.split(":")[0] for _, text in found]
    assert places == [
        "MLTable transformations[0].read_json_lines.encoding",
        "MLTable transformations[0].read_json_lines.invalid_lines",
        "MLTable transformations[1].take",
        "MLTable transformations[2].convert_column_types",
        "MLTable transformations[3]",
        "MLTable paths[0].file",
        "MLTable paths[1]",
    ]


def test_faults_of_options_say_what_must_hold(write_folder: Callable[..., Path]) -> None:
    steps = "- read_json_lines: {encodings: utf8}\n- take_random_sample: {seed: 1.5}\n- convert_column_types:\n"
    steps += "  - {columns: a, column_type: real}\n  - {columns: a, column_type: {}}\n  - 3"
    found = [text.split(": ", 1) for _, text in faults(write_folder([], steps))]
    assert [(place.removeprefix("MLTable transformations"), message) for place, message in found] == [
        ("[0].read_json_lines.encodings", "unknown key; did you mean 'encoding'?"),
        ("[1].take_random_sample.probability", "is required"),
        ("[1].take_random_sample.seed", "must be a whole number, but got 1.5"),
        (
            "[2].convert_column_types[0].column_type",
            "must be one of int, float, string, boolean, datetime, stream_info, but got 'real'",
        ),
        ("[2].convert_column_types[1].column_type", "must hold one of datetime and boolean"),
        ("[2].convert_column_types[2]", "must be a mapping, but got 3"),
    ]


@pytest.mark.parametrize("steps", ["- take: 1", "- take: 1\n- read_json_lines", "- read_json_lines\n- read_json_lines"])
def test_read_json_lines_stands_first_and_once(write_folder: Callable[..., Path], steps: str) -> None:
    assert "read_json_lines exactly once" in faults(write_folder([], steps))[0][1]


def test_a_missing_folder_or_mltable_file_says_so(tmp_path: Path) -> None:
    assert "does not exist" in faults(tmp_path / "no")[0][1]
    (tmp_path / "a.csv").touch()
    assert "but it is a file" in faults(tmp_path / "a.csv")[0][1]
    assert "named exactly MLTable" in faults(tmp_path)[0][1]
    for content in ("- a", "type: uri_file", "a: [", ""):
        (tmp_path / "MLTable").write_text(content)
        assert faults(tmp_path)[0][0] == "BAD_DATA_REF"


def test_an_unknown_key_is_ignored_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "MLTable").write_text(MLTABLE_TEXT.format(file_name="a.jsonl") + "type: mltable\nmetadata: {}\n")
    assert read_mltable(tmp_path, {}).warnings == [f"{tmp_path}/MLTable: key 'metadata' is ignored"]
