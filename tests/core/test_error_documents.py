"""Errors for programs: the body of Azure's REST APIs."""

import json

import click
import pytest
from click.testing import CliRunner

from clearsight.console import result_options, run
from clearsight.errors import ClearsightError, Fault, InvalidDocument, UserError

FAULTS = [
    Fault("OUT_OF_RANGE", "limits.max_trials", "must be in [1, 1000], but got 0"),
    Fault("UNKNOWN_KEY", "typo", "unknown key"),
]


def test_an_error_without_faults_has_no_details() -> None:
    assert UserError("no").to_document() == {"error": {"code": "UserError", "message": "no", "details": []}}
    assert ClearsightError("our fault").to_document()["error"]["code"] == "SystemError"


def test_every_fault_is_a_detail() -> None:
    assert InvalidDocument("job.yml", FAULTS).to_document() == {
        "error": {
            "code": "UserError",
            "message": "job.yml: 2 faults",
            "details": [
                {
                    "code": "OUT_OF_RANGE",
                    "target": "limits.max_trials",
                    "message": "must be in [1, 1000], but got 0",
                },
                {"code": "UNKNOWN_KEY", "target": "typo", "message": "unknown key"},
            ],
        }
    }


@click.command()
@result_options
def refuse() -> None:
    raise InvalidDocument("job.yml", FAULTS)


def test_json_that_was_asked_for_holds_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(refuse, ["--output", "json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == InvalidDocument("job.yml", FAULTS).to_document()
    assert "limits.max_trials: must be" in printed.err


@pytest.mark.parametrize("args", [[], ["-o", "table"], ["-o", "none"]])
def test_other_formats_leave_the_error_to_people(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(refuse, args) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "2 faults" in printed.err


def test_a_runner_without_a_console_sees_the_error_too() -> None:
    result = CliRunner().invoke(refuse, ["-o", "json"])
    assert isinstance(result.exception, InvalidDocument)
    assert json.loads(result.stdout)["error"]["code"] == "UserError"
