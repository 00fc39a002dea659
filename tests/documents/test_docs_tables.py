"""The tables of keys in the docs have every key of the JSON Schema of its document, with its default."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.documents.deployment.variables import KNOWN_VARIABLES
from clearsight.documents.job.parameters import AdvancedSettings
from clearsight.documents.settings.document import settings_class
from clearsight.errors import Fault
from clearsight.fields import json_schema, read
from clearsight.handlers.explain.options import PREFIX, ExplainOptions
from clearsight.serving.supervisor.layout import Overrides
from clearsight.tasks import Task

DOCS = Path(__file__).resolve().parents[2] / "docs"


def table(file: str, header: str) -> Iterator[list[str]]:
    """The cells of each row below a header that begins with `header`."""
    lines = (DOCS / file).read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(header)) + 2
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start:]):
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def keys_of(cell: str) -> list[str]:
    """The names in a cell; `…_DTYPE` has the prefix of the variables of explanations."""
    return [name.replace("…_", PREFIX) for name in re.findall(r"`([^`:]+)[^`]*`", cell)]


def defaults_in(file: str, header: str) -> dict[str, set[str]]:
    """Key -> words in the cell of its default."""
    rows = table(file, header)
    return {key: set(re.findall(r"[\w.]+", cells[1])) for cells in rows for key in keys_of(cells[0])}


def defaults_of(schema: Mapping[str, Any]) -> dict[str, str]:
    """Key -> default as the docs write it, of keys that have one."""
    values = {key: row["default"] for key, row in schema["properties"].items() if "default" in row}
    return {key: "none" if value is None else json.dumps(value).strip('"') for key, value in values.items()}


def assert_has(documented: Mapping[str, set[str]], defaults: Mapping[str, str], in_words: set[str]) -> None:
    """Keys of `in_words` have a default that depends on the model or the machine."""
    wrong = {key: (documented[key], defaults[key]) for key in defaults if defaults[key] not in documented[key]}
    assert wrong.keys() == in_words


EXPLAIN_OPTIONS = {
    PREFIX + key.upper(): default
    for key, default in defaults_of(json_schema(ExplainOptions, "options")).items()
    if key != "max_answer_bytes"
}
LANE_OPTIONS = {
    key: default
    for key, default in defaults_of(json_schema(Overrides, "overrides")).items()
    if key.startswith("CLEARSIGHT_EXPLAIN")
}


@pytest.mark.parametrize(
    ("file", "header", "expected", "in_words"),
    [
        ("35-explanations.md", "| variable |", EXPLAIN_OPTIONS, {"CHUNK"}),
        (
            "60-serving.md",
            "| in `environment_variables` |",
            {**LANE_OPTIONS, **EXPLAIN_OPTIONS},
            {"CHUNK", "THREADS", "MAX_IN_FLIGHT"},
        ),
    ],
)
def test_variables_of_explanations(file: str, header: str, expected: dict[str, str], in_words: set[str]) -> None:
    documented = defaults_in(file, header)
    assert set(documented) == set(expected)
    in_words = {PREFIX + name for name in in_words} | ({"CLEARSIGHT_EXPLAIN"} & expected.keys())
    assert_has(documented, {key: default.removesuffix(".0") for key, default in expected.items()}, in_words)


def test_the_variables_that_deployments_may_set_are_those_that_are_read() -> None:
    read_by_lanes = {name for name in Overrides.field_names() if name.startswith("CLEARSIGHT_")}
    assert set(KNOWN_VARIABLES) == read_by_lanes | EXPLAIN_OPTIONS.keys()


def test_settings_of_detectors() -> None:
    documented = defaults_in("30-scoring.md", "| key | default |")
    settings: dict[str, str] = {}
    for model_name in ("maskrcnn_resnet50_fpn", "yolov5"):
        task = Task.DETECTION if model_name == "yolov5" else Task.SEGMENTATION
        defaults = defaults_of(json_schema(settings_class(task, model_name), "settings"))
        del defaults["exif_orientation"]  # in the text, since classifiers have it too
        assert_has(documented, defaults, {"mean", "std"})
        settings |= defaults
    assert documented.keys() == settings.keys()


def test_advanced_settings_of_jobs() -> None:
    cells = [
        row[0].strip("`")
        for header in ("| key | meaning |", "| key of `advanced_settings` |")
        for row in table("20-training.md", header)
    ]
    properties = json_schema(AdvancedSettings, "advanced")["properties"]
    assert {cell.partition(":")[0] for cell in cells} == properties.keys() - {"stream_image_files"}
    for example in (yaml.safe_load(cell) for cell in cells if ":" in cell):
        faults: list[Fault] = []
        assert read(AdvancedSettings, example, "", faults) != AdvancedSettings()
        assert faults == []
