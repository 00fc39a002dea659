"""The mirror of runs in MLflow, read through its own client."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearsight.runs import mlflow_mirror
from clearsight.runs.mlflow_mirror import MlflowMirror
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task
from clearsight.training.charts import write_charts

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow

PARAMS = {"learning_rate": "0.01", "training_batch_size": "8"}


@dataclass(frozen=True)
class Mirrored:
    workspace: Workspace
    client: Any

    def folder(self, name: str) -> RunFolder:
        folder = RunFolder(self.workspace.runs / name)
        folder.root.mkdir(parents=True)
        return folder

    def history(self, run_id: str, name: str) -> list[tuple[int, float]]:
        return [(metric.step, metric.value) for metric in self.client.get_metric_history(run_id, name)]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Mirrored:
    """A workspace with an empty MLflow store, which takes seconds to make."""
    workspace = Workspace(tmp_path_factory.mktemp("mirror") / "ws")
    import mlflow

    return Mirrored(workspace, mlflow.MlflowClient(workspace.mlflow_uri))


def log(folder: RunFolder, mirror: MlflowMirror, epoch: int, accuracy: float) -> None:
    folder.append_metrics(epoch, epoch, {"accuracy": accuracy, "log_loss": 1 - accuracy})
    mirror.log_metrics(folder.run_id, {"accuracy": accuracy, "log_loss": 1 - accuracy}, epoch)


def test_a_finished_trial_has_its_tags_parameters_metrics_and_charts(mirrored: Mirrored) -> None:
    mirror = MlflowMirror(mirrored.workspace, "charts")
    job, trial = mirrored.folder("done"), mirrored.folder("done_HD_0")
    mirror.start_run(job, {"team": "vision"}, {})
    mirror.start_run(trial, {"model_name": "resnet18"}, PARAMS, parent="done")
    log(trial, mirror, 0, 0.5)
    log(trial, mirror, 1, 0.75)
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
    charts = write_charts(trial.root / "metrics", np.array([0, 1, 1]), probs, ("can", "carton"), Task.MULTI_CLASS)
    mirror.end_run("done_HD_0", "Completed", "2026-11-21T12:00:00.000+00:00", {})
    mirror.end_run("done", "Completed", None, {"automl_best_child_run_id": "done_HD_0"})
    assert mirror.close() is None
    parent, run = (mirrored.client.get_run(name) for name in ("done", "done_HD_0"))
    assert parent.data.tags["automl_best_child_run_id"] == "done_HD_0"
    assert parent.data.tags["team"] == "vision"
    assert (parent.info.status, run.info.status) == ("FINISHED", "FINISHED")
    assert run.info.end_time == 1_795_262_400_000  # 2026-11-21 12:00 UTC
    assert run.data.params == PARAMS
    assert run.data.tags["model_name"] == "resnet18"
    assert run.data.metrics == {"accuracy": 0.75, "log_loss": 0.25}
    assert mirrored.history("done_HD_0", "accuracy") == [(0, 0.5), (1, 0.75)]
    listed = [file.path for file in mirrored.client.list_artifacts("done_HD_0", "metrics")]
    assert listed == sorted(f"metrics/{file.name}" for file in charts)
    copy = mirrored.client.download_artifacts("done_HD_0", "metrics/confusion_matrix.json")
    assert json.loads(Path(copy).read_text())["data"]["matrix"] == [[1, 0], [1, 1]]


def test_a_resumed_run_is_running_again_and_logs_no_pass_twice(mirrored: Mirrored) -> None:
    trial = mirrored.folder("again_HD_0")
    first = MlflowMirror(mirrored.workspace, "charts")
    first.start_run(trial, {"model_name": "resnet18"}, PARAMS)
    log(trial, first, 0, 0.5)
    first.end_run("again_HD_0", "Canceled", None, {})
    assert first.close() is None
    trial.append_metrics(1, 2, {"accuracy": 0.6, "log_loss": 0.4})  # while no mirror ran

    second = MlflowMirror(mirrored.workspace, "charts")
    second.start_run(trial, {"model_name": "resnet18"}, PARAMS, exists_ok=True)
    second.log_metrics("again_HD_0", {"accuracy": 0.5, "log_loss": 0.5}, 0)  # its reader starts at the first event
    log(trial, second, 1, 0.6)  # the epoch of the last checkpoint, trained again
    log(trial, second, 2, 0.7)
    assert second.close() is None
    run = mirrored.client.get_run("again_HD_0")
    assert (run.info.status, run.info.end_time) == ("RUNNING", None)
    assert run.data.params == PARAMS
    assert mirrored.history("again_HD_0", "accuracy") == [(0, 0.5), (1, 0.6), (2, 0.7)]
    assert mirrored.history("again_HD_0", "log_loss") == [(0, 0.5), (1, 0.4), (2, pytest.approx(0.3))]

    third = MlflowMirror(mirrored.workspace, "charts")
    third.start_run(trial, {}, PARAMS, exists_ok=True)
    third.end_run("again_HD_0", "Completed", None, {})
    assert third.close() is None
    assert mirrored.client.get_run("again_HD_0").info.status == "FINISHED"
    experiment = run.info.experiment_id
    [found] = mirrored.client.search_runs([experiment], "attributes.run_name = 'again_HD_0'")
    assert found.info.run_id == "again_HD_0"


def test_a_run_that_was_never_mirrored_is_caught_up(mirrored: Mirrored) -> None:
    trial = mirrored.folder("late_HD_0")
    trial.append_metrics(0, 3, {"accuracy": 0.9})
    mirror = MlflowMirror(mirrored.workspace, "charts")
    mirror.start_run(trial, {"model_name": "vitb16r224"}, PARAMS, exists_ok=True)
    assert mirror.close() is None
    assert mirrored.history("late_HD_0", "accuracy") == [(0, 0.9)]


def test_a_name_that_mlflow_knows_is_a_failure_unless_it_may_go_on(mirrored: Mirrored) -> None:
    trial = mirrored.folder("twice_HD_0")
    failures = []
    for _ in range(2):
        mirror = MlflowMirror(mirrored.workspace, "charts")
        mirror.start_run(trial, {}, {})
        failures.append(mirror.close())
    assert failures[0] is None
    assert "another name" in str(failures[1])


def places_of(database: Path, text: str) -> set[str]:
    """`table.column` of every column of the store that holds this text."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [
            (table, row[1]) for table in tables for row in connection.execute(f"PRAGMA table_info({table})").fetchall()
        ]
        return {
            f"{table}.{column}"
            for table, column in columns
            if connection.execute(f'SELECT 1 FROM "{table}" WHERE "{column}" = ? LIMIT 1', (text,)).fetchone()
        }


def test_the_installed_mlflow_keeps_runs_where_renaming_writes_them(mirrored: Mirrored) -> None:
    """A contract with MLflow's store: runs are renamed by SQL, not by MLflow's interface."""
    client, database = mirrored.client, mirrored.workspace.mlflow_db
    experiment = client.create_experiment("contract", mirrored.workspace.runs.as_uri())
    old = client.create_run(experiment, tags={"team": "vision"}, run_name="renamed_HD_0").info.run_id
    with closing(sqlite3.connect(database)) as connection:
        types = {
            table: {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")}
            for table in ("runs", "tags")
        }
    of_runs = {name: types["runs"].get(name) for name in ("run_uuid", "artifact_uri", "status", "end_time")}
    assert of_runs == {
        "run_uuid": "VARCHAR(32)",  # SQLite does not enforce the length
        "artifact_uri": "VARCHAR(200)",
        "status": "VARCHAR(9)",
        "end_time": "BIGINT",
    }
    assert types["tags"].get("run_uuid") == "VARCHAR(32)"
    assert places_of(database, old) == {"runs.run_uuid", "tags.run_uuid"}  # all columns that hold the id of a new run

    new = "renamed_HD_0_by_a_name_of_more_than_32_characters"
    mlflow_mirror._rename(database, old, new, "file:///elsewhere")
    assert places_of(database, old) == set()
    found = client.get_run(new)
    assert (found.info.run_id, found.info.artifact_uri, found.info.status) == (new, "file:///elsewhere", "RUNNING")
    assert found.data.tags["team"] == "vision"
    assert [run.info.run_id for run in client.search_runs([experiment])] == [new]
    with pytest.raises(Exception, match="not found"):
        client.get_run(old)
    client.log_metric(new, "accuracy", 0.5, step=3)
    assert mirrored.history(new, "accuracy") == [(3, 0.5)]
    client.set_terminated(new)
    assert mlflow_mirror._reopen(database, new)
    assert (client.get_run(new).info.status, client.get_run(new).info.end_time) == ("RUNNING", None)
