"""Jobs of several trials: which of them run, which is the best, and the output for each. Nothing is trained."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from clearsight.errors import NotFound, UserError
from clearsight.executor import Exited, TaskSpec
from clearsight.runs.cli_job import job
from clearsight.runs.control import follow_job
from clearsight.runs.describe import describe_job, list_jobs
from clearsight.runs.job_run import run_job
from clearsight.runs.outputs import download_outputs
from clearsight.runs.progress_view import JobView
from clearsight.runs.record import JobRecord, read_record
from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.runs.start import resume_job
from clearsight.runs.stop_requests import StopRequests
from clearsight.runs.trials import append_trial, best_trial, trial_folders
from clearsight.runs.workspace import Workspace

MakeJob = Callable[..., RunFolder]

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow


class Scripted:
    """An executor whose tasks end in their next poll: with an accuracy, or with nothing but an exit code."""

    def __init__(self, *accuracies: float | None, stop: StopRequests | None = None) -> None:
        self.accuracies = accuracies
        self.stop = stop
        self.submitted: list[str] = []
        self.greatest_number = 0
        self._running: list[RunFolder] = []

    def submit(self, task: TaskSpec) -> str:
        assert (task.module, len(task.args)) == ("clearsight.training.trial", 1)
        folder = RunFolder(Path(task.args[0]))
        self.submitted.append(folder.run_id)
        self._running.append(folder)
        self.greatest_number = max(self.greatest_number, len(self._running))
        folder.append_event("started", pid=1)
        return folder.run_id

    def wait(self, timeout_s: float) -> list[Exited]:
        ended, self._running = self._running, []
        for folder in ended:
            accuracy = self.accuracies[int(folder.run_id.rpartition("_")[2])]
            folder.append_event("exporting")
            if accuracy is not None:
                folder.write_status(RunStatus("Completed", best_epoch=2, metrics={"accuracy": accuracy}))
        if self.stop is not None:
            self.stop.request()
        return [Exited(folder.run_id, 1) for folder in ended]

    def cancel(self, task_id: str, grace_s: float) -> None:
        pass


def run(workspace: Workspace, executor: Scripted, stop: StopRequests | None = None) -> tuple[dict[str, Any], list[Any]]:
    events: list[Any] = []
    with resume_job(workspace, "fridge", 0, lambda: None):
        result = run_job(workspace, "fridge", executor, events.append, stop or StopRequests())
    return result, events


def change_record(folder: RunFolder, **fields: Any) -> None:
    file = folder.root / "job.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_trials_run_one_after_the_other_and_the_best_is_that_of_the_metric(
    workspace: Workspace, make_job: MakeJob
) -> None:
    folder = make_job(num_trials=3, status="Canceled")
    executor = Scripted(0.5, 0.75, 0.25)
    result, events = run(workspace, executor)
    assert executor.submitted == ["fridge_HD_0", "fridge_HD_1", "fridge_HD_2"]
    assert executor.greatest_number == 1
    assert (result["status"], result["best_child_run_id"]) == ("Completed", "fridge_HD_1")
    assert result["metrics"] == {"accuracy": 0.75}
    assert [trial["status"] for trial in result["trials"]] == ["Completed"] * 3
    assert [row["best_child_run_id"] for row in list_jobs(workspace)] == ["fridge_HD_1"]
    assert [event["run_id"] for event in events if event["kind"] == "started"] == executor.submitted
    change_record(folder, goal="minimize")
    assert describe_job(workspace, "fridge")["best_child_run_id"] == "fridge_HD_2"


def test_as_many_trials_run_at_once_as_the_record_allows(workspace: Workspace, make_job: MakeJob) -> None:
    folder = make_job(num_trials=3, status="Canceled")
    change_record(folder, max_concurrent_trials=2)
    executor = Scripted(0.5, 0.75, 0.25)
    assert run(workspace, executor)[0]["status"] == "Completed"
    assert executor.greatest_number == 2


def test_a_failed_trial_does_not_fail_the_others(workspace: Workspace, make_job: MakeJob) -> None:
    make_job(num_trials=2, status="Canceled")
    result, events = run(workspace, Scripted(None, 0.5))
    assert (result["status"], result["best_child_run_id"]) == ("Completed", "fridge_HD_1")
    assert [trial["status"] for trial in result["trials"]] == ["Failed", "Completed"]
    assert "log" in [event["kind"] for event in events]


def test_only_trials_that_are_not_completed_run_again(workspace: Workspace, make_job: MakeJob) -> None:
    make_job(num_trials=2, status="Running")
    done = RunFolder(workspace.runs / "fridge_HD_0")
    done.write_status(RunStatus("Completed", best_epoch=0, metrics={"accuracy": 0.75}))
    executor = Scripted(0.0, 0.5)
    result, _ = run(workspace, executor)
    assert executor.submitted == ["fridge_HD_1"]
    assert (result["status"], result["best_child_run_id"]) == ("Completed", "fridge_HD_0")


def test_a_stop_request_cancels_trials_that_did_not_start(workspace: Workspace, make_job: MakeJob) -> None:
    make_job(num_trials=3, status="Canceled")
    stop = StopRequests()
    executor = Scripted(0.5, 0.5, 0.5, stop=stop)
    result, _ = run(workspace, executor, stop)
    assert executor.submitted == ["fridge_HD_0"]
    assert (result["status"], result["properties"]["reason"]) == ("Canceled", "canceled")
    assert [trial["status"] for trial in result["trials"]] == ["Completed", "Canceled", "Canceled"]


def test_at_the_time_limit_a_completed_trial_completes_the_job(workspace: Workspace, make_job: MakeJob) -> None:
    change_record(make_job(num_trials=2, status="Canceled"), timeout_minutes=0)
    result, _ = run(workspace, Scripted(0.5, 0.5))
    assert (result["status"], result["best_child_run_id"]) == ("Completed", "fridge_HD_0")
    assert [trial["status"] for trial in result["trials"]] == ["Completed", "Canceled"]


def test_the_best_trial_is_completed_and_has_a_value_and_is_the_first_of_equals(
    workspace: Workspace, make_job: MakeJob
) -> None:
    make_job(num_trials=5, status="Running")
    record = read_record(workspace, "fridge")
    trials = trial_folders(workspace, record)
    assert best_trial(record, trials) is None
    trials[0].write_status(RunStatus("Completed", metrics={}))
    assert best_trial(record, trials) == trials[0]
    trials[1].write_status(RunStatus("Completed", metrics={"accuracy": float("nan")}))
    trials[2].write_status(RunStatus("Failed", metrics={"accuracy": 0.9}))
    trials[3].write_status(RunStatus("Completed", metrics={"accuracy": 0.5}))
    trials[4].write_status(RunStatus("Completed", metrics={"accuracy": 0.5}))
    assert best_trial(record, trials) == trials[3]


def test_a_trial_is_shown_streamed_and_downloaded_by_its_name(
    workspace: Workspace, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEARSIGHT_HOME", str(workspace.root))
    make_job(num_trials=2, status="Completed", message="of the job")
    trial = RunFolder(workspace.runs / "fridge_HD_1")
    trial.package.mkdir(parents=True)
    (trial.package / "MLmodel").write_text("second")
    status = RunStatus("Completed", best_epoch=2, message="own", metrics={"accuracy": 0.5})
    trial.write_status(replace(status, num_validation_images=14, intervals_95={"accuracy": [0.2304, 0.7696]}))
    trial.append_event("warning", message="of the second")
    RunFolder(workspace.runs / "fridge_HD_0").append_event("warning", message="of the first")

    shown = json.loads(CliRunner().invoke(job, ["show", "-n", "fridge_HD_1"]).stdout)
    assert (shown["name"], shown["parent_job_name"], shown["status"]) == ("fridge_HD_1", "fridge", "Completed")
    assert (shown["metrics"], shown["best_epoch"]) == ({"accuracy": 0.5}, 2)
    assert shown["parameters"]["number_of_epochs"] == 4
    assert shown["outputs"]["best_model"]["path"] == str(trial.package)

    streamed = CliRunner().invoke(job, ["stream", "-n", "fridge_HD_1"])
    assert streamed.exit_code == 0
    assert "warning: of the second" in streamed.stderr
    assert "of the first" not in streamed.stderr
    assert streamed.stderr.splitlines()[-1].startswith(
        "Completed: own; best accuracy 0.5000 (14 validation pictures, 95 % interval 0.230 to 0.770) in epoch 3; "
    )

    copied = download_outputs(workspace, "fridge_HD_1", ("best_model",), tmp_path)
    assert (copied["best_model"] / "MLmodel").read_text() == "second"


@pytest.mark.parametrize("name", ["fridge_HD_2", "oven_HD_0", "fridge_HD_", "_HD_0"])
def test_a_trial_that_does_not_exist_is_not_found(workspace: Workspace, make_job: MakeJob, name: str) -> None:
    make_job(num_trials=2, status="Completed")
    with pytest.raises(NotFound, match=f"the job '{name}' does not exist"):
        describe_job(workspace, name)


def test_a_job_with_the_name_of_a_trial_is_a_job(workspace: Workspace, make_job: MakeJob) -> None:
    make_job("fridge_HD_0", status="Completed")
    assert describe_job(workspace, "fridge_HD_0")["trials"][0]["run_id"] == "fridge_HD_0_HD_0"


def test_trials_that_start_while_a_job_is_followed_are_followed_too(workspace: Workspace, make_job: MakeJob) -> None:
    folder = make_job(num_trials=2, status="Failed")
    log = (folder.root / "trials.jsonl").read_text()
    (folder.root / "trials.jsonl").write_text(log.splitlines(keepends=True)[0])
    folder.append_event("warning", message="first")
    RunFolder(workspace.runs / "fridge_HD_1").append_event("started")
    seen: list[Any] = []

    def append_the_second_and_end(event: Any) -> None:
        seen.append((event["kind"], event.get("run_id")))
        if event["kind"] == "started":
            append_trial(folder, "fridge_HD_1")
            folder.write_status(RunStatus("Failed"))

    RunFolder(workspace.runs / "fridge_HD_0").append_event("started")
    with folder.own():
        folder.write_status(RunStatus("Running"))
        follow_job(workspace, "fridge", append_the_second_and_end)
    assert seen == [("warning", None), ("started", "fridge_HD_0"), ("started", "fridge_HD_1")]


def test_lines_of_several_trials_begin_with_their_names(workspace: Workspace, make_job: MakeJob) -> None:
    make_job(num_trials=2, status="Running")
    file = io.StringIO()
    with JobView(Console(file=file, width=300), workspace, read_record(workspace, "fridge")) as view:
        for run_id in ("fridge_HD_0", "fridge_HD_1"):
            view.on_event({"kind": "weights", "source": "none", "run_id": run_id})
        view.on_event({"kind": "warning", "message": "of the job"})
        view.on_event({"kind": "warning", "message": "of a trial", "run_id": "fridge_HD_1"})
    assert file.getvalue().splitlines() == [
        "fridge_HD_0  starts from random weights",
        "fridge_HD_1  starts from random weights",
        "warning: of the job",
        "fridge_HD_1  warning: of a trial",
    ]


def test_a_record_of_a_version_without_a_trial_log_lists_its_trials_itself(
    workspace: Workspace, make_job: MakeJob
) -> None:
    folder = make_job(status="Running")
    (folder.root / "trials.jsonl").unlink()
    file = folder.root / "job.json"
    document = json.loads(file.read_text())
    for key in ("type", "goal", "max_concurrent_trials"):
        del document[key]
    file.write_text(json.dumps({**document, "trials": ["fridge_HD_0"]}))
    assert describe_job(workspace, "fridge")["type"] == "automl"
    result, _ = run(workspace, Scripted(0.5, 0.75))
    assert (result["status"], result["best_child_run_id"]) == ("Completed", "fridge_HD_0")
    append_trial(folder, "fridge_HD_1")
    names = [trial.run_id for trial in trial_folders(workspace, read_record(workspace, "fridge"))]
    assert names == ["fridge_HD_0", "fridge_HD_1"]


def test_a_job_without_any_trial_is_damaged(workspace: Workspace, make_job: MakeJob) -> None:
    folder = make_job(status="Running")
    (folder.root / "trials.jsonl").unlink()
    with pytest.raises(UserError, match=r"trials\.jsonl must be as it was written"):
        describe_job(workspace, "fridge")
    assert [row["status"] for row in list_jobs(workspace)] == ["Unknown"]


def test_a_new_record_does_not_list_trials(workspace: Workspace, make_job: MakeJob) -> None:
    document = json.loads((make_job().root / "job.json").read_text())
    assert "trials" not in document
    assert JobRecord.model_validate(document).trials == []
