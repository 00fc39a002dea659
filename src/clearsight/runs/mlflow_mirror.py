"""A mirror of the run folders in MLflow, so that its UI, its client and `runs:/` URIs work.

The run folder is written first and remains authoritative; a mirror that fails only causes a warning. MLflow takes
seconds to import and to set up its store, so all of it happens in a thread of the parent process, beside the trial.

As on Azure, a run's id is its name: `MlflowClient().get_run("<job>_HD_0")` works. MLflow's public calls choose ids of
their own, so a run is renamed in the SQLite store right after its creation, before anything refers to it. Its
artifact location is the run folder itself: nothing is copied, and `runs:/<run>/outputs/mlflow-model` loads.
"""

import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from clearsight.runs.run_folder import RunFolder, State
from clearsight.runs.workspace import Workspace

__all__ = ["MlflowMirror"]

BEST_CHILD_TAG: Final = "automl_best_child_run_id"
"""Azure's tag on a job's run: the id of its best trial."""

_FINISHED: Final[Mapping[State, str]] = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}
_LOCK_TIMEOUT_S: Final = 30.0


class MlflowMirror:
    """Mirrors runs into the workspace's MLflow store, in the order of the calls, on a thread of its own.

    After the first failure nothing more is mirrored; `close` returns it.
    """

    def __init__(self, workspace: Workspace, experiment_name: str) -> None:
        self._workspace = workspace
        self._experiment_name = experiment_name
        self._calls: queue.Queue[Callable[[Any, str], None] | None] = queue.Queue()
        self._failure: Exception | None = None
        self._logged: dict[str, set[int]] = {}  # run -> steps; of the thread alone
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def start_run(
        self,
        folder: RunFolder,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        parent: str | None = None,
        exists_ok: bool = False,
    ) -> None:
        """Create the run of a folder; its id is the folder's name.

        With `exists_ok`, a run of that name is continued: it is set to running again, and validation passes of the
        folder that it lacks are logged. A run of that name is a failure otherwise.
        """
        from_time = _milliseconds(time.time())
        all_tags = {**tags, **({} if parent is None else {"mlflow.parentRunId": parent})}

        def call(client: Any, experiment: str) -> None:
            if exists_ok and _reopen(self._workspace.mlflow_db, folder.run_id):
                for name, value in all_tags.items():
                    client.set_tag(folder.run_id, name, value)
                self._logged[folder.run_id] = _logged_steps(client, folder.run_id)
            else:
                self._create(client, experiment, folder, all_tags, from_time)
            _log_params(client, folder.run_id, params)
            if exists_ok:
                for one in folder.read_metrics():
                    self._log(client, folder.run_id, one["metrics"], one["epoch"], _timestamp(one["time"]))

        self._calls.put(call)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Log one validation pass; the step is its epoch. A step that is logged already stays as it is."""
        at = _milliseconds(time.time())
        self._calls.put(lambda client, experiment: self._log(client, run_id, metrics, step, at))

    def end_run(self, run_id: str, state: State, ended_at: str | None, tags: Mapping[str, str]) -> None:
        """Set the final state of a run, with its last tags."""
        at = None if ended_at is None else _timestamp(ended_at)

        def call(client: Any, experiment: str) -> None:
            for name, value in tags.items():
                client.set_tag(run_id, name, value)
            client.set_terminated(run_id, _FINISHED.get(state, "FAILED"), at)

        self._calls.put(call)

    def close(self) -> Exception | None:
        """Finish the queued calls; return the first failure, or None."""
        self._calls.put(None)
        self._thread.join()
        return self._failure

    def _work(self) -> None:
        connection: tuple[Any, str] | None = None
        while (call := self._calls.get()) is not None:
            if self._failure is not None:
                continue
            try:
                connection = connection or self._connect()
                call(*connection)
            except Exception as error:  # any error of MLflow or SQLite: the run itself must not fail by it
                self._failure = error

    def _connect(self) -> tuple[Any, str]:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # no telemetry: what is trained stays private
        import mlflow

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._workspace.root.mkdir(parents=True, exist_ok=True)
        client = mlflow.MlflowClient(self._workspace.mlflow_uri)
        experiment = client.get_experiment_by_name(self._experiment_name)
        if experiment is not None:
            return client, experiment.experiment_id
        return client, client.create_experiment(self._experiment_name, self._workspace.runs.as_uri())

    def _create(
        self, client: Any, experiment_id: str, folder: RunFolder, tags: Mapping[str, str], start_time: int
    ) -> None:
        run = client.create_run(experiment_id, start_time=start_time, tags=dict(tags), run_name=folder.run_id)
        try:
            _rename(self._workspace.mlflow_db, run.info.run_id, folder.run_id, folder.root.as_uri())
        except sqlite3.IntegrityError:
            client.delete_run(run.info.run_id)
            raise ValueError(f"MLflow knows a run {folder.run_id!r} already; give the job another name") from None

    def _log(self, client: Any, run_id: str, metrics: Mapping[str, float], step: int, at: int) -> None:
        from mlflow.entities import Metric

        logged = self._logged.setdefault(run_id, set())
        if step not in logged:  # MLflow keeps both values of a step, and a trial that goes on repeats its last epoch
            client.log_batch(run_id, metrics=[Metric(name, value, at, step) for name, value in metrics.items()])
            logged.add(step)


def _log_params(client: Any, run_id: str, params: Mapping[str, str]) -> None:
    """Log the hyperparameters; those of a run that goes on are equal, which MLflow accepts."""
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])


def _logged_steps(client: Any, run_id: str) -> set[int]:
    names = client.get_run(run_id).data.metrics
    return {metric.step for name in names for metric in client.get_metric_history(run_id, name)}


def _reopen(database: Path, run_id: str) -> bool:
    """Set a run that exists to running again; False if there is none. MLflow's client cannot take back an end time."""
    with closing(sqlite3.connect(database, timeout=_LOCK_TIMEOUT_S)) as connection, connection:
        update = "UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE run_uuid = ?"
        return connection.execute(update, (run_id,)).rowcount > 0


def _rename(database: Path, run_id: str, new_id: str, artifact_uri: str) -> None:
    """Give a run that was just created, with nothing but tags, another id and artifact location; all or nothing."""
    with closing(sqlite3.connect(database, timeout=_LOCK_TIMEOUT_S)) as connection, connection:
        connection.execute(
            "UPDATE runs SET run_uuid = ?, artifact_uri = ? WHERE run_uuid = ?", (new_id, artifact_uri, run_id)
        )
        connection.execute("UPDATE tags SET run_uuid = ? WHERE run_uuid = ?", (new_id, run_id))


def _timestamp(time_iso: str) -> int:
    return _milliseconds(datetime.fromisoformat(time_iso).timestamp())


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
