"""The command line reads flags as `az` does, and prints results in its formats."""

from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from clearsight.cli import NOUNS, root
from clearsight.console import AZ_ONLY, AzCommand, LazyCommand, LazyGroup, emit, parse_assignments, result_options, run
from clearsight.errors import Fault, InvalidDocument, NotFound


@click.command(cls=AzCommand)
@click.option("--endpoint-name", "-e")
@click.option("--set", "assignments", multiple=True)
@click.option("--yes", "-y", is_flag=True)
@click.argument("images", nargs=-1)
@result_options
def show(endpoint_name: str | None, assignments: tuple[str, ...], yes: bool, images: tuple[str, ...]) -> dict[str, Any]:
    return {"endpoint": endpoint_name, "set": list(assignments), "yes": yes, "images": list(images)}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], {"endpoint": None, "set": [], "yes": False, "images": []}),
        (["--endpoint", "a"], {"endpoint": "a"}),
        (["--endpoint=a"], {"endpoint": "a"}),
        (["--set", "a=1", "b=2", "-e", "x"], {"set": ["a=1", "b=2"], "endpoint": "x"}),
        (["--set", "a=1", "--set", "b=2", "c=3"], {"set": ["a=1", "b=2", "c=3"]}),
        (["--set", "a=-1"], {"set": ["a=-1"]}),
        (["one.jpg", "--yes", "two.jpg"], {"images": ["one.jpg", "two.jpg"], "yes": True}),
        (["--", "--yes"], {"images": ["--yes"], "yes": False}),
        (["-g", "group", "--workspace-name", "w", "--subscription", "s"], {"endpoint": None}),
    ],
)
def test_flags_are_read_as_az_reads_them(args: list[str], expected: dict[str, Any]) -> None:
    result = CliRunner().invoke(show, ["--output", "yaml", *args])
    assert result.exit_code == 0, result.output
    assert {**yaml.safe_load(result.stdout), **expected} == yaml.safe_load(result.stdout)


@pytest.mark.parametrize(
    ("value", "output_format", "query", "printed"),
    [
        ([], "json", None, "[]\n"),
        ([], "tsv", None, "\n"),
        ({"a": 1, "b": None}, "tsv", None, "1\t\n"),
        ({"a": {"b": "x"}}, "tsv", "a.b", "x\n"),
        ([{"n": "one", "ok": True}, {"n": "two", "ok": False}], "tsv", None, "one\ttrue\ntwo\tfalse\n"),
        ([{"n": 1}, {"n": 2}], "jsonl", None, '{"n":1}\n{"n":2}\n'),
        ({"a": [1, 2]}, "yaml", None, "a:\n- 1\n- 2\n"),
        ({"a": 1}, "none", None, ""),
        ({"a": 1}, "json", "missing", "null\n"),
    ],
)
def test_results_are_printed_in_the_asked_format(
    value: Any, output_format: str, query: str | None, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(value, output_format, query)
    assert capsys.readouterr().out == printed


def test_a_table_has_the_keys_as_columns(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"name": "blue", "traffic": 90}, {"name": "green", "traffic": 10}], "table")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["name", "traffic"], ["blue", "90"], ["green", "10"]]


def test_a_table_leaves_nested_values_out(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"name": "blue", "tags": {"a": "b"}}], "table")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["name"], ["blue"]]


def test_a_wrong_query_is_a_usage_error() -> None:
    with pytest.raises(click.UsageError, match="JMESPath"):
        emit({}, "json", "a..b")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("a.b=2", {"a.b": 2}),
        ("a='2'", {"a": "2"}),
        ("a=", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("a=[1, x]", {"a": [1, "x"]}),
    ],
)
def test_assignments_hold_yaml_values(assignment: str, expected: dict[str, Any]) -> None:
    assert parse_assignments([assignment]) == expected


def test_an_assignment_without_a_value_is_refused() -> None:
    with pytest.raises(click.UsageError, match="KEY=VALUE"):
        parse_assignments(["a"])


def test_a_near_command_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, ["online-endpont"]) == 2
    assert "Did you mean 'online-endpoint'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("workspace show", "CLEARSIGHT_HOME"),
        ("data mount -n x", "by path"),
        ("job archive -n x", "runs/"),
        ("model archive -n x", "models/"),
    ],
)
def test_a_command_that_only_az_has_gets_advice_and_no_name_spelled_alike(
    line: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, line.split()) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "`az ml` has it; here" in said
    assert advice in said
    assert "Did you mean" not in said


def test_a_flag_of_azures_client_without_effect_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLEARSIGHT_HOME", str(tmp_path))
    for flag, said in (("--web", True), ("-e", True), ("-ojson", False)):
        assert run(root, ["job", "show", "-n", "night", flag]) == 1
        err = " ".join(capsys.readouterr().err.split())
        assert ("note: --web has no effect: jobs have no page" in err) is said
        assert "the job 'night' does not exist" in err


def test_no_command_is_among_those_that_only_az_has() -> None:
    context = click.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        below = command.list_commands(context) if isinstance(command, click.Group) else []
        assert not {name, *(f"{name} {each}" for each in below)} & set(AZ_ONLY)


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_has_a_help_page(noun: str) -> None:
    result = CliRunner().invoke(root, [noun, "--help"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Usage:")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NotFound("no endpoint 'a'"), 1, "error: no endpoint 'a'"),
        (
            InvalidDocument("job.yml", [Fault("MISSING_KEY", "task", "is required")]),
            1,
            "task: is required [MISSING_KEY]",
        ),
        (click.UsageError("wrong"), 2, "wrong"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_a_line_and_an_exit_code(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def fail() -> None:
        raise error

    assert run(fail, []) == code
    assert text in capsys.readouterr().err


def test_a_lazy_group_lists_commands_without_importing_them() -> None:
    group = LazyGroup("g", lazy={"heavy": LazyCommand("no.such.module:command", "Does much.", "train")})
    result = CliRunner().invoke(group, ["--help"])
    assert result.exit_code == 0
    assert "Does much." in result.stdout


def test_a_missing_extra_names_the_install_command(capsys: pytest.CaptureFixture[str]) -> None:
    group = LazyGroup("g", lazy={"heavy": LazyCommand("no_such_package:command", "Does much.", "train")})
    assert run(group, ["heavy"]) == 1
    assert "pip install 'clearsight[train]'" in capsys.readouterr().err


def test_a_command_chooses_its_exit_code() -> None:
    @click.command()
    @click.pass_context
    def leave(ctx: click.Context) -> None:
        ctx.exit(3)

    assert run(leave, []) == 3
    assert run(leave, ["--help"]) == 0
