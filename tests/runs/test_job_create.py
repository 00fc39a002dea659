"""A job from its file to the registered run. The trial runs in this process, except in tests of its process."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors import safe_open

from clearsight.errors import ClearsightError, Conflict
from clearsight.executor import Executor, Exited, Inline, Local, ProcessIdentity, TaskSpec
from clearsight.runs.describe import describe_job, list_jobs
from clearsight.runs.job_run import run_job
from clearsight.runs.kinds import JobPlan, plan_job_file
from clearsight.runs.package import ModelPackage
from clearsight.runs.progress_view import JobView
from clearsight.runs.record import read_record
from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.runs.start import resume_job, start_job
from clearsight.runs.stop_requests import StopRequests
from clearsight.runs.workspace import Workspace

WriteJob = Callable[..., Path]


@dataclass(frozen=True)
class Trained:
    result: dict[str, Any]
    shown: str
    """What a person saw."""
    workspace: Workspace

    @property
    def trial(self) -> RunFolder:
        return RunFolder(self.workspace.runs / self.result["best_child_run_id"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, texture_folder: Path, write_job: WriteJob) -> Trained:
    """A job that ran to its end: four epochs of resnet18 at 64 pixels on 72 textures."""
    folder = tmp_path_factory.mktemp("job")
    workspace = Workspace(folder / "ws")
    file = write_job(folder, texture_folder, number_of_epochs=4)
    name = "a_long_name_that_would_not_fit_into_the_hex_ids_of_mlflow"
    plan = plan_job_file(file, {"description": "by a test"}, name, workspace)
    shown = io.StringIO()
    with warnings.catch_warnings(), start_job(plan, workspace):
        warnings.simplefilter("ignore")  # of torch's exporters and of MLflow
        with JobView(Console(file=shown, width=200), workspace, read_record(workspace, name)) as view:
            view.show_plan()
            result = run_job(workspace, name, Inline(), view.on_event, StopRequests())
    return Trained(result, shown.getvalue(), workspace)


def test_a_job_trains_and_records_how_it_ended(trained: Trained) -> None:
    result = trained.result
    assert result["status"] == "Completed"
    assert result["metrics"]["accuracy"] >= 0.9  # 1.00 was measured for this network and these sizes
    assert result["properties"]["reason"] == "all_epochs"
    assert result["tags"] == {"team": "vision", "automl_best_child_run_id": f"{result['name']}_HD_0"}
    assert result["description"] == "by a test"
    num_images = len(json.loads((trained.trial.outputs / "split.json").read_text())["validation"])
    low, high = result["validation"]["intervals_95"]["accuracy"]
    assert set(result["validation"]["intervals_95"]) <= set(result["metrics"])
    assert result["validation"]["num_images"] == num_images
    assert low < result["metrics"]["accuracy"] <= high
    assert describe_job(trained.workspace, trained.trial.run_id)["validation"] == result["validation"]


def test_a_person_sees_every_setting_with_its_origin_and_every_epoch(trained: Trained) -> None:
    lines = [line.split() for line in trained.shown.splitlines()]
    assert ["number_of_epochs", "4", "user"] in lines
    assert ["beta1", "0.9", "azure-default"] in lines
    assert len([line for line in lines if line[:1] == ["epoch"]]) == 4
    assert f"output: {trained.trial.root}" in trained.shown


def test_the_package_is_complete_and_carries_the_runs_settings(trained: Trained) -> None:
    package = ModelPackage.open(trained.trial.package)
    assert package.run_id == trained.trial.run_id
    assert package.labels == ("checks", "columns", "dots", "rows")
    assert (package.settings().valid_resize_size, package.settings().valid_crop_size) == (72, 64)
    assert package.manifest["pretrained"]["source"] == "none"
    assert json.loads((trained.trial.train_artifacts / "labels.json").read_text()) == list(package.labels)
    assert (trained.trial.train_artifacts / "model.onnx").is_file()


def test_the_best_model_is_copied_to_where_the_job_wants_it(trained: Trained) -> None:
    copy = trained.workspace.root.parent / "copy"
    assert Path(trained.result["outputs"]["best_model"]["path"]) == copy
    assert ModelPackage.open(copy).run_id == trained.trial.run_id


def test_the_package_answers_what_validation_measured(trained: Trained, texture_folder: Path) -> None:
    from clearsight.handlers.scoring.scorer import load_scorer

    lines = (texture_folder / "annotations.jsonl").read_text().splitlines()
    split = json.loads((trained.trial.outputs / "split.json").read_text())
    held_out = [json.loads(lines[index]) for index in split["validation"]]
    scorer = load_scorer(trained.trial.package, backend="onnxruntime")
    answers = scorer.score([(texture_folder / record["image_url"]).read_bytes() for record in held_out])
    right = [
        answer.labels[int(np.argmax(answer.probs))] == record["label"]
        for answer, record in zip(answers, held_out, strict=True)
    ]
    assert np.mean(right) == pytest.approx(trained.result["metrics"]["accuracy"])


def test_the_split_is_kept_and_stratified(trained: Trained) -> None:
    split = json.loads((trained.trial.outputs / "split.json").read_text())
    assert sorted(split["training"] + split["validation"]) == list(range(96))
    assert np.bincount([index % 4 for index in split["validation"]]).tolist() == [6, 6, 6, 6]


@pytest.fixture(scope="module")
def client(trained: Trained) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(trained.workspace.mlflow_uri)
        yield mlflow.MlflowClient()
        mlflow.set_tracking_uri(before)


@pytest.mark.filterwarnings("ignore")
def test_job_and_trial_resolve_by_name_in_a_stock_client(trained: Trained, client: Any) -> None:
    name = trained.result["name"]
    parent = client.get_run(name)
    child = client.get_run(parent.data.tags["automl_best_child_run_id"])
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert child.info.run_name == child.info.run_id == f"{name}_HD_0"
    assert child.data.tags["mlflow.parentRunId"] == name
    assert child.data.tags["model_name"] == "resnet18"
    assert parent.data.tags["team"] == "vision"
    assert client.get_experiment(child.info.experiment_id).name == "textures"
    [found] = client.search_runs([child.info.experiment_id], f"tags.mlflow.parentRunId = '{name}'")
    assert found.info.run_id == child.info.run_id


@pytest.mark.filterwarnings("ignore")
def test_parameters_and_metrics_are_mirrored(trained: Trained, client: Any) -> None:
    run_id = trained.trial.run_id
    assert client.get_run(run_id).data.params["training_batch_size"] == "8"
    history = client.get_metric_history(run_id, "accuracy")
    passes = trained.trial.read_metrics()
    assert [(one.step, one.value) for one in history] == [(p["epoch"], p["metrics"]["accuracy"]) for p in passes]


@pytest.mark.filterwarnings("ignore")
def test_the_run_of_the_job_has_metrics_and_charts_of_its_best_trial(trained: Trained, client: Any) -> None:
    name, status = trained.result["name"], trained.trial.read_status()
    assert client.get_run(name).data.metrics == status.metrics
    [best] = client.get_metric_history(name, "accuracy")
    assert (best.step, best.value) == (status.best_epoch, status.metrics["accuracy"])
    charts = [[file.path for file in client.list_artifacts(run, "metrics")] for run in (name, trained.trial.run_id)]
    assert charts[0] == charts[1]
    assert "metrics/confusion_matrix.png" in charts[0]


@pytest.mark.filterwarnings("ignore")
def test_the_model_loads_by_its_runs_uri(trained: Trained, client: Any, texture_folder: Path) -> None:
    import mlflow
    import pandas

    run_id = trained.trial.run_id
    assert "outputs/mlflow-model" in {file.path for file in client.list_artifacts(run_id, "outputs")}
    model = mlflow.pyfunc.load_model(f"runs:/{run_id}/outputs/mlflow-model")
    assert model.metadata.run_id == run_id
    answers = model.predict(pandas.DataFrame({"image": [(texture_folder / "0.png").read_bytes()]}))
    assert len(answers) == 1


def test_the_run_folder_tells_the_same_afterwards(trained: Trained) -> None:
    assert describe_job(trained.workspace, trained.result["name"]) == trained.result
    [row] = [job for job in list_jobs(trained.workspace) if job["name"] == trained.result["name"]]
    assert row["status"] == "Completed"
    assert row["accuracy"] == trained.result["metrics"]["accuracy"]


def test_a_name_cannot_be_used_twice(
    trained: Trained, texture_folder: Path, tmp_path: Path, write_job: WriteJob
) -> None:
    with pytest.raises(Conflict, match="choose another --name"):
        plan_job_file(write_job(tmp_path, texture_folder), {}, trained.result["name"], trained.workspace)
    plan = plan_job_file(write_job(tmp_path, texture_folder), {}, "free", trained.workspace)
    with pytest.raises(Conflict, match="choose another --name"):  # another process was faster
        start_job(changed(plan, name=trained.result["name"]), trained.workspace)
    assert trained.trial.package.is_dir()


def changed(plan: JobPlan, **fields: Any) -> JobPlan:
    """A plan with other values in its record."""
    return replace(plan, record=plan.record.model_copy(update=fields))


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(trained: Trained, texture_folder: Path, tmp_path: Path, write_job: WriteJob) -> Run:
    """Runs a job in the workspace of the trained one; keywords change its plan."""

    def run_one(name: str, executor: Executor, stop: StopRequests | None = None, **limits: int) -> dict[str, Any]:
        plan = plan_job_file(write_job(tmp_path, texture_folder), {}, name, trained.workspace)
        plan = changed(plan, **limits)
        with start_job(plan, trained.workspace):
            return run_job(trained.workspace, name, executor, lambda event: None, stop or StopRequests())

    return run_one


class KillAtOnce(Local):
    """Ends as if the machine had run out of memory."""

    def submit(self, task: TaskSpec) -> str:
        task_id = super().submit(task)
        os.kill(int(task_id), signal.SIGKILL)
        return task_id


@pytest.mark.filterwarnings("ignore")
def test_a_trial_that_is_killed_is_a_failed_job_that_says_where_to_look(trained: Trained, run: Run) -> None:
    result = run("killed", KillAtOnce())
    assert (result["status"], result["properties"]["reason"]) == ("Failed", "killed")
    for words in ("SIGKILL", "memory", "training_batch_size", "trial.log"):
        assert words in result["properties"]["message"]
    assert "best_model" not in result["outputs"]
    [job] = [job for job in list_jobs(trained.workspace) if job["name"] == "killed"]
    assert job["status"] == "Failed"


@pytest.mark.filterwarnings("ignore")
def test_a_job_beyond_its_time_is_stopped_and_failed(trained: Trained, run: Run) -> None:
    result = run("late", Local(), timeout_minutes=0)
    assert (result["status"], result["properties"]["reason"]) == ("Failed", "timeout")
    assert "limits.timeout_minutes" in result["properties"]["message"]
    status = RunFolder(trained.workspace.runs / "late_HD_0").read_status()
    assert (status.status, status.reason) == ("Canceled", "timeout")


@pytest.mark.filterwarnings("ignore")
def test_a_job_that_is_stopped_at_its_start_is_canceled(run: Run) -> None:
    stop = StopRequests()
    stop.request(signal.SIGTERM)
    result = run("stopped", Local(), stop)
    assert (result["status"], result["properties"]["reason"]) == ("Canceled", "canceled")


class UntilCancelled:
    """An executor whose task starts at once and ends when it is cancelled."""

    def __init__(self, trial: RunFolder) -> None:
        self.trial = trial
        self.is_cancelled = False

    def submit(self, task: TaskSpec) -> str:
        self.trial.append_event("started")
        return "task"

    def wait(self, timeout_s: float) -> list[Exited]:
        return [Exited("task", 130)] if self.is_cancelled else []

    def cancel(self, task_id: str, grace_s: float) -> None:
        self.is_cancelled = True


@pytest.mark.filterwarnings("ignore")
def test_a_full_disk_stops_the_trial_and_is_one_clear_error(
    trained: Trained, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RunFolder.write_status

    def write_until_preparing(folder: RunFolder, status: RunStatus) -> None:
        if status.status == "Preparing":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.status_file))
        write(folder, status)

    monkeypatch.setattr(RunFolder, "write_status", write_until_preparing)
    executor = UntilCancelled(RunFolder(trained.workspace.runs / "full_HD_0"))
    with pytest.raises(ClearsightError, match=r"No space left on device.*clearsight job resume -n full"):
        run("full", executor)
    assert executor.is_cancelled
    described = describe_job(trained.workspace, "full")
    assert (described["status"], described["properties"]["reason"]) == ("Failed", "disk_full")
    assert "No space left on device" in described["properties"]["message"]


class NeverStarted(Local):
    """An executor that must not be used."""

    def submit(self, task: TaskSpec) -> str:
        raise AssertionError


@pytest.mark.filterwarnings("ignore")
def test_a_job_lost_after_its_trial_completed_is_only_concluded(trained: Trained) -> None:
    """The process died after the end of the trial, before it wrote its own status: nothing is trained again."""
    name = trained.result["name"]
    folder = RunFolder(trained.workspace.runs / name)
    before = folder.read_status()
    folder.write_status(replace(before, status="Finalizing", ended_at=None, metrics={}, best_epoch=None))
    with resume_job(trained.workspace, name, 0, lambda: None):
        result = run_job(trained.workspace, name, NeverStarted(), lambda event: None, StopRequests())
    assert result["status"] == "Completed"
    assert result["metrics"] == trained.result["metrics"]
    folder.write_status(before)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_stops_the_whole_program(
    texture_folder: Path, tmp_path: Path, write_job: WriteJob
) -> None:
    file = write_job(tmp_path, texture_folder, number_of_epochs=500, early_stopping=0)
    process = subprocess.Popen(
        [sys.executable, "-c", "from clearsight.cli import main; main()", "job", "create", "-f", str(file), "-n", "s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CLEARSIGHT_HOME": str(tmp_path / "ws")},
    )
    folder = RunFolder(tmp_path / "ws" / "runs" / "s_HD_0")
    while not folder.read_metrics():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert json.loads(stdout)["status"] == "Canceled"
    assert "stopped in epoch" in stderr.splitlines()[-1]
    assert "clearsight job resume -n s" in stderr.splitlines()[-1]
    with safe_open(folder.checkpoints / "last.safetensors", framework="np") as checkpoint:
        counters = json.loads(checkpoint.metadata()["counters"])
    assert (folder.checkpoints / f"best_{counters['best_epoch']:04}.safetensors").is_file()
    assert not folder.package.exists()
    assert ProcessIdentity.of(folder.read_status().pid or 0) is None
