"""Rows of algorithms and keys: bound to code, and equal to what the command line, swagger and the docs show."""

import json
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from pkgutil import resolve_name

import pytest

from clearsight.catalogue.algorithms import ALGORITHMS, CLASSIFIER_ALGORITHMS, DETECTOR_ALGORITHMS, PARAMETERS
from clearsight.handlers.cli_explain import explain
from clearsight.handlers.explain.parameters import XaiLimits, XaiParameters
from clearsight.serving.gateway.swagger import VERSIONS, swagger_document

DOCS = Path(__file__).resolve().parents[2] / "docs" / "35-explanations.md"


def test_every_row_has_code():
    assert (*CLASSIFIER_ALGORITHMS, *DETECTOR_ALGORITHMS) == (*ALGORITHMS,)
    assert all(callable(resolve_name(row.function)) for row in ALGORITHMS.values())


def test_every_key_is_an_attribute_and_is_read_by_an_algorithm():
    assert {row.name for row in PARAMETERS.values()} == {field.name for field in fields(XaiParameters)} - {
        "algorithm",
        "most_steps",
    }
    assert [key for key, row in PARAMETERS.items() if not row.algorithms] == []


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=lambda row: row.name)
def test_a_row_names_keys_and_values_that_exist(row):
    assert set(row.parameters) <= set(PARAMETERS)
    assert len(set(row.parameters)) == len(row.parameters)
    for key, value in {**row.defaults, **row.fixed}.items():
        assert PARAMETERS[key].rule.read(value) == value
    assert set(row.limit_defaults.values()) <= {field.name for field in fields(XaiLimits)}
    assert bool(row.targets) == (row.explains == "detector")


def test_the_command_line_has_an_option_for_each_row_that_names_one():
    options = {option for parameter in explain.params for option in parameter.opts}
    assert options >= {
        "--algorithm", "--approximation-method", "--baseline", "--contrast-label", "--details", "--detections",
        "--format", "--full", "--masks", "--max-seconds", "--n-steps", "--target", "--target-label", "--threshold",
    }  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_swagger_describes_every_key(version):
    document = json.loads(swagger_document("fridge", f"version={version}").body)
    schemas = document["definitions"] if version == "2" else document["components"]["schemas"]
    params = schemas["ServiceInput"]["properties"]["params"]
    properties = params["properties"]["xai_parameters"]["properties"]
    assert set(properties) == {"xai_algorithm", *PARAMETERS}
    assert properties["xai_algorithm"]["enum"][:2] == ["xrai", "integrated_gradients"]
    assert properties["target"]["enum"] == ["score", "mask", "box"]
    assert (properties["grid_size"]["minimum"], properties["grid_size"]["maximum"]) == (2, 64)
    assert "maximum" not in properties["n_steps"]  # a deployment sets it
    open_ends = {"2": (0, True), "3": (0, True), "3.1": (None, 0)}
    max_seconds = properties["max_seconds"]
    assert (max_seconds.get("minimum"), max_seconds["exclusiveMinimum"]) == open_ends[version]
    assert ("anyOf" in properties["detections"]) == (version != "2")


def test_the_docs_have_the_table_of_algorithms():
    rows = [ALGORITHMS[name] for name in CLASSIFIER_ALGORITHMS]
    lines = []
    for _, group in groupby(rows, lambda row: (row.shows, row.cost, row.suits)):
        same = list(group)
        names = ", ".join(f"`{row.name}`" for row in same) + (" (default)" if same[0] is rows[0] else "")
        lines.append(f"| {names} | {same[0].shows} | {same[0].cost} | {same[0].suits} |")
    assert docs_table("| `xai_algorithm` | what it shows |") == lines


def test_the_docs_have_the_tables_of_keys():
    azures = [f"| `xai_algorithm` | `{CLASSIFIER_ALGORITHMS[0]}` | all | see above |"]
    first, second = docs_table("| Azure's key |"), docs_table("| our key |")
    assert first == azures + [docs_line(row) for row in PARAMETERS.values() if row.is_azures]
    assert second == [docs_line(row) for row in PARAMETERS.values() if not row.is_azures]


def docs_line(row):
    return f"| `{row.key}` | {row.shown_default} | {readers(row)} | {row.meaning} |"


def readers(row):
    """The column "read by": algorithms that read a key, grouped."""
    words = []
    for group, name in ((CLASSIFIER_ALGORITHMS, "classifiers"), (DETECTOR_ALGORITHMS, "detectors")):
        inside = [one for one in group if one in row.algorithms]
        outside = [one for one in group if one not in row.algorithms]
        if len(inside) > 1 and len(outside) < 2:
            words.append(" but ".join([name, *(f"`{one}`" for one in outside)]))
        else:
            words += [f"`{one}`" for one in inside]
    return "all" if words == ["classifiers", "detectors"] else ", ".join(words)


def docs_table(header):
    """The lines of a table of the docs, without its header."""
    lines = DOCS.read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(header)) + 2
    end = next(index for index in range(start, len(lines)) if not lines[index].startswith("|"))
    return lines[start:end]
