"""The live view of a job, which is made from events alone."""

import io
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from clearsight.runs import progress_view
from clearsight.runs.kinds import Parameter, ProgressLine, TrialFacts
from clearsight.runs.progress_view import JobView
from clearsight.runs.record import JobRecord, read_record
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.workspace import Workspace

MakeView = Callable[..., JobView]


@pytest.fixture
def make_view(workspace: Workspace, make_job: Callable[..., RunFolder]) -> MakeView:
    """A view of a job of 4 epochs and batches of 8 images."""
    make_job("fridge", status="Running")

    def make(console: Console) -> JobView:
        return JobView(console, workspace, read_record(workspace, "fridge"))

    return make


def at(seconds: float, kind: str, **fields: Any) -> dict[str, Any]:
    time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    document = {"time": time.isoformat(timespec="milliseconds"), "kind": kind, **fields}
    return (
        document if kind in ("log", "warning") else {**document, "run_id": "fridge_HD_0"}
    )  # all others are events of the trial


def progress(seconds: float, epoch: int, batch: int) -> dict[str, Any]:
    return at(seconds, "progress", epoch=epoch, batch=batch, num_batches=10, loss=0.5, learning_rate=0.01)


def evaluated(seconds: float, epoch: int, accuracy: float, improved: bool) -> dict[str, Any]:
    metrics = {"accuracy": accuracy, "training_loss": 0.5, "log_loss": 0.25}
    return at(seconds, "evaluated", epoch=epoch, improved=improved, metrics=metrics)


def shown(make_view: MakeView, *events: dict[str, Any], terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=300, force_terminal=terminal, color_system=None)
    with make_view(console) as view:
        for event in events:
            view.on_event(event)
    return file.getvalue()


def test_nothing_is_shown_of_nothing(make_view: MakeView) -> None:
    assert shown(make_view) == ""


def test_without_a_terminal_there_is_one_plain_line_per_pass(make_view: MakeView) -> None:
    text = shown(
        make_view,
        at(0, "started"),
        progress(0, 0, 0),
        progress(5, 0, 5),
        progress(10, 0, 10),
        evaluated(12, 0, 0.75, improved=True),
        progress(22, 1, 10),
        evaluated(24, 1, 0.5, improved=False),
    )
    first, second = text.splitlines()
    # 5 batches of 8 in 5 s; 10 batches took 10 s, 30 are left
    expected = "epoch 1/4 accuracy 0.7500 * loss 0.5000 log_loss 0.2500 8 images/s 12 s 0:00:30 left"
    assert " ".join(first.split()) == expected
    assert " * " not in second
    assert "\x1b" not in text


def test_a_terminal_shows_speed_time_and_best_pass(make_view: MakeView) -> None:
    text = shown(
        make_view,
        at(0, "started"),
        progress(0, 0, 0),
        evaluated(1, 0, 0.75, improved=True),
        evaluated(2, 1, 0.5, improved=False),
        progress(10, 2, 0),
        progress(12, 2, 4),
        terminal=True,
    )
    assert "epoch 3/4" in text
    assert (
        "batch 4/10  0:00:08 left  16 images/s  loss 0.5000  accuracy 0.5000 (best 0.7500 in epoch 1)  lr 0.01" in text
    )


def test_what_an_earlier_attempt_reached_is_remembered(make_view: MakeView) -> None:
    file = io.StringIO()
    with make_view(Console(file=file, width=300, force_terminal=True, color_system=None)) as view:
        view.recall(evaluated(1, 0, 0.75, improved=True))
        assert "0.75" not in file.getvalue()
        view.on_event(progress(10, 2, 0))
    assert "best 0.7500 in epoch 1" in file.getvalue()


def test_a_second_start_is_shown_and_its_pace_begins_anew(make_view: MakeView) -> None:
    text = shown(
        make_view,
        at(0, "started"),
        progress(0, 0, 0),
        at(1000, "started"),
        progress(1000, 0, 5),
        progress(1005, 0, 10),
        evaluated(1006, 0, 0.5, improved=True),
    )
    first, second = text.splitlines()
    assert first == "resumed"
    assert "6 s  0:00:30 left" in second


def test_the_last_lines_of_a_log_are_shown(make_view: MakeView) -> None:
    assert shown(make_view, at(0, "log", file="/x/trial.log", lines=["[red]a[/red]", "b"])).splitlines() == [
        "the last lines of /x/trial.log:",
        "  [red]a[/red]",
        "  b",
    ]


def test_the_plan_names_origins_and_the_run_folder(make_view: MakeView, workspace: Workspace) -> None:
    file = io.StringIO()
    with make_view(Console(file=file, width=300)) as view:
        view.show_plan()
    lines = [line.split() for line in file.getvalue().splitlines()]
    assert ["number_of_epochs", "4", "user"] in lines
    assert ["beta1", "0.9", "azure-default"] in lines
    assert ["output:", str(workspace.runs / "fridge_HD_0")] in lines


class _Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_does_not_disturb(make_view: MakeView) -> None:
    console = Console(file=_Broken(), width=300)
    with make_view(console) as view:
        view.show_plan()
        view.on_event(at(0, "warning", message="x"))
    assert console.quiet


def test_colours_can_be_refused(make_view: MakeView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    with make_view(Console(file=file, width=300, force_terminal=True)) as view:
        view.show_plan()
    assert "\x1b[3" not in file.getvalue()


class CountedFiles:
    """Spec and progress of a trial that has neither epochs nor batches."""

    def facts(self) -> TrialFacts:
        return TrialFacts((Parameter("folder", "photos", "user"),), {})

    def progress(self, record: JobRecord) -> "CountedFiles":
        return self

    def show(self, event: Mapping[str, Any]) -> tuple[list[str], ProgressLine | None]:
        done, total = event["done"], event["total"]
        return ["all files are done"] if done == total else [], ProgressLine("files", f"{done} of {total}", total, done)

    def recall(self, event: Mapping[str, Any]) -> None: ...


def test_a_kind_says_itself_what_its_trials_show(make_view: MakeView, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = SimpleNamespace(read_spec=lambda folder: CountedFiles())
    monkeypatch.setattr(progress_view, "JOB_KINDS", {"automl": kind})
    text = shown(make_view, at(0, "counted", done=3, total=9), at(1, "counted", done=9, total=9), terminal=True)
    assert "files" in text
    assert "9 of 9" in text
    assert "all files are done" in text
