"""A mirror of the run folders in MLflow, so that its UI, its client and `runs:/` URIs work.

The run folder is written first and stays the truth; a mirror that fails costs a warning. MLflow takes seconds to
import and to set up its store, so all of it happens in a thread of the parent process, beside the trial.

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

from clearsight.training.run_folder import RunFolder, State
from clearsight.workspace import Workspace

__all__ = ["MlflowMirror"]

BEST_CHILD_TAG: Final = "automl_best_child_run_id"
"""Azure's tag on a job's run: the id of its best trial."""

_FINISHED: Final[Mapping[State, str]] = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}
_LOCK_TIMEOUT_S: Final = 30.0


class MlflowMirror:
    """Mirrors runs into the workspace's MLflow store, in the order of the calls, on a thread of its own.

    After the first failure nothing more is tried; `close` returns it.
    """

    def __init__(self, workspace: Workspace, experiment_name: str) -> None:
        self._workspace = workspace
        self._experiment_name = experiment_name
        self._calls: queue.Queue[Callable[[Any, str], None] | None] = queue.Queue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def start_run(
        self, folder: RunFolder, tags: Mapping[str, str], params: Mapping[str, str], parent: str | None = None
    ) -> None:
        """Create the run of a folder; its id is the folder's name."""
        from_time = _milliseconds(time.time())
        all_tags = {**tags, **({} if parent is None else {"mlflow.parentRunId": parent})}
        self._calls.put(
            lambda client, experiment: self._create(client, experiment, folder, all_tags, params, from_time)
        )

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Log one validation pass; the step is its epoch."""
        at = _milliseconds(time.time())

        def call(client: Any, experiment: str) -> None:
            from mlflow.entities import Metric

            client.log_batch(run_id, metrics=[Metric(name, value, at, step) for name, value in metrics.items()])

        self._calls.put(call)

    def end_run(self, run_id: str, state: State, ended_at: str | None, tags: Mapping[str, str]) -> None:
        """Set the final state of a run, with its last tags."""
        at = None if ended_at is None else _milliseconds(datetime.fromisoformat(ended_at).timestamp())

        def call(client: Any, experiment: str) -> None:
            for name, value in tags.items():
                client.set_tag(run_id, name, value)
            client.set_terminated(run_id, _FINISHED.get(state, "FAILED"), at)

        self._calls.put(call)

    def close(self) -> Exception | None:
        """Finish what is queued; return what went wrong, if anything did."""
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
            except Exception as error:  # whatever MLflow and SQLite raise: the run itself must not suffer
                self._failure = error

    def _connect(self) -> tuple[Any, str]:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # this product tells nobody what it trains
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
        self,
        client: Any,
        experiment_id: str,
        folder: RunFolder,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        start_time: int,
    ) -> None:
        from mlflow.entities import Param

        run = client.create_run(experiment_id, start_time=start_time, tags=dict(tags), run_name=folder.run_id)
        try:
            _rename(self._workspace.mlflow_db, run.info.run_id, folder.run_id, folder.root.as_uri())
        except sqlite3.IntegrityError:
            client.delete_run(run.info.run_id)
            raise ValueError(f"MLflow knows a run {folder.run_id!r} already; give the job another name") from None
        client.log_batch(folder.run_id, params=[Param(name, value) for name, value in params.items()])


def _rename(database: Path, run_id: str, new_id: str, artifact_uri: str) -> None:
    """Give a run that was just created, with nothing but tags, another id and artifact location; all or nothing."""
    with closing(sqlite3.connect(database, timeout=_LOCK_TIMEOUT_S)) as connection, connection:
        connection.execute(
            "UPDATE runs SET run_uuid = ?, artifact_uri = ? WHERE run_uuid = ?", (new_id, artifact_uri, run_id)
        )
        connection.execute("UPDATE tags SET run_uuid = ? WHERE run_uuid = ?", (new_id, run_id))


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
