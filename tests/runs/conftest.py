from collections.abc import Callable
from typing import Any

import pytest

from clearsight.documents.job import resolve_parameters
from clearsight.runs.record import JobRecord, write_record
from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.runs.trials import append_trial
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task
from clearsight.training.trial.spec import Setting, TrialSpec

MakeJob = Callable[..., RunFolder]


@pytest.fixture
def make_job(workspace: Workspace) -> MakeJob:
    """Writes the folders of a job as another process would have left them; nothing is trained.

    Keywords are those of the job's status; the trials, `num_trials`, have the same state.
    """

    def make(
        name: str = "fridge",
        experiment_name: str = "e",
        created_at: str = "2026-01-01",
        num_trials: int = 1,
        **status: Any,
    ) -> RunFolder:
        resolved = resolve_parameters(Task.MULTI_CLASS, {"number_of_epochs": 4, "training_batch_size": 8}, "resnet18")
        spec = TrialSpec(
            run_id=f"{name}_HD_0",
            job_name=name,
            task=Task.MULTI_CLASS,
            target_column="label",
            training_data=workspace.root / "data",
            validation_data=None,
            validation_size=0.2,
            split_seed=0,
            datastores={},
            hyperparameters={key: Setting(value=one.value, origin=one.origin) for key, one in resolved.items()},
            deterministic=True,
            pretrained=False,
            weights_dir=None,
            min_crop_scale=0.08,
            log_verbosity="error",
        )
        record = JobRecord(
            name=name,
            display_name=None,
            description=None,
            experiment_name=experiment_name,
            task=Task.MULTI_CLASS,
            primary_metric="accuracy",
            tags={},
            properties={},
            created_at=created_at,
            best_model_path=None,
            document={},
        )
        folder = RunFolder(workspace.runs / name)
        folder.root.mkdir(parents=True)
        write_record(folder, record)
        for number in range(num_trials):
            trial = RunFolder(workspace.runs / f"{name}_HD_{number}")
            trial.root.mkdir()
            trial.spec_file.write_text(spec.model_copy(update={"run_id": trial.run_id}).model_dump_json())
            trial.write_status(RunStatus(**status))
            append_trial(folder, trial.run_id)
        folder.write_status(RunStatus(**status))
        return folder

    return make
