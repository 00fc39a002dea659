"""One trial of a running job: submit its program, read its events, write its final status when it could not.

All of it happens in the process of the job. The trial is a process of its own, which locks its run folder.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from clearsight.executor import Executor, Resources, TaskSpec
from clearsight.runs.kinds import JOB_KINDS, TrialFacts
from clearsight.runs.mlflow_mirror import MlflowMirror
from clearsight.runs.record import JobRecord
from clearsight.runs.run_folder import LineReader, RunFolder, RunStatus
from clearsight.runs.trial_ending import StopReason, final_status

__all__ = ["TrialRun"]

_ENVIRONMENT: Final[Mapping[str, str]] = {
    # Threads that wait must sleep: beside any other load, spinning ones made a step of mobilenetv2 three times as slow
    # and cost four times the CPU (measured on two cores); on an idle machine there is no difference.
    "OMP_WAIT_POLICY": "PASSIVE",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a fixed workspace (PyTorch's notes)
}


class TrialRun:
    """One trial, and the position up to which its events were read. Raises `UserError` for a damaged `spec.json`."""

    def __init__(self, record: JobRecord, folder: RunFolder) -> None:
        self.folder = folder
        self._record = record
        self._module = JOB_KINDS[record.type].trial_module
        self._facts: TrialFacts = JOB_KINDS[record.type].read_spec(folder).facts()
        self._reader = LineReader(folder.events_file)

    @property
    def run_id(self) -> str:
        return self.folder.run_id

    def start_mirror(self, mirror: MlflowMirror, exists_ok: bool) -> None:
        """Create the MLflow run of the trial below that of its job, see `MlflowMirror.start_run`."""
        params = {one.name: str(one.value) for one in self._facts.parameters if one.value is not None}
        mirror.start_run(self.folder, self._facts.tags, params, parent=self._record.name, exists_ok=exists_ok)

    def submit(self, executor: Executor) -> str:
        """Start the program of the trial; return the id of its task."""
        record = self._record
        variables = {name: value or "" for name, value in record.environment_variables.items()}
        return executor.submit(
            TaskSpec(
                self._module,
                (str(self.folder.root),),
                self.folder.log_file,
                {**_ENVIRONMENT, **variables},
                Resources(record.num_processes),
            )
        )

    def new_events(self) -> Iterator[dict[str, Any]]:
        """The events since the last call, each with the trial's `run_id`."""
        for event in self._reader.new():
            yield {**event, "run_id": self.run_id}

    def skip_events(self) -> None:
        """Skip all events so far: those of earlier attempts."""
        for _ in self._reader.new():
            pass

    def conclude(self, code: int, stop_reason: StopReason | None) -> RunStatus:
        """Return the final status of the trial, whose program ended with `code`; write it when the trial did not."""
        reported = self.folder.read_status()
        status = final_status(reported, self.folder, code, stop_reason)
        if status != reported:
            self.folder.write_status(status)
        return status
