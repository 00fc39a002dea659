"""What is refused before anything starts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.errors import Conflict, InvalidDocument, NotFound, UserError
from clearsight.training.job import describe_job, list_jobs, plan_job
from clearsight.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


@pytest.fixture
def data(texture_folder: Path, tmp_path: Path) -> Path:
    """A copy of the textures beside the job file."""
    return Path(shutil.copytree(texture_folder, tmp_path / "data"))


def write_job(folder: Path, **changes: Any) -> Path:
    document = {
        "type": "automl",
        "task": "image_classification",
        "target_column_name": "label",
        "training_data": {"path": "data"},
        "training_parameters": {"model_name": "resnet18"},
        **changes,
    }
    file = folder / "job.yml"
    file.write_text(yaml.safe_dump(document))
    return file


def faults(error: pytest.ExceptionInfo[InvalidDocument]) -> set[tuple[str, str]]:
    return {(fault.code, fault.target) for fault in error.value.faults}


def test_faults_of_document_and_data_come_together(tmp_path: Path, workspace: Workspace) -> None:
    file = write_job(tmp_path, training_data={"path": "nowhere"}, validation_data={"path": "azureml:d:1"}, typo=1)
    with pytest.raises(InvalidDocument) as caught:
        plan_job(file, {"limits.max_trials": 0}, None, workspace)
    assert faults(caught) == {
        ("OUT_OF_RANGE", "limits.max_trials"),
        ("UNKNOWN_KEY", "typo"),
        ("BAD_DATA_REF", str(tmp_path / "nowhere")),
        ("BAD_DATA_REF", "validation_data.path"),
    }
    assert not workspace.root.exists()


def test_paths_are_relative_to_the_job_file(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    file = write_job(
        tmp_path, training_parameters={"model_name": "resnet18", "advanced_settings": '{"x_weights_dir": "w"}'}
    )
    spec = plan_job(file, {}, "named", workspace).spec
    assert spec.training_data == data
    assert spec.weights_dir == tmp_path / "w"
    assert (spec.job_name, spec.run_id) == ("named", "named_HD_0")


def test_a_datastore_leads_to_its_folder(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    workspace.root.mkdir()
    workspace.config_file.write_text(f"datastores: {{pictures: {tmp_path}}}")
    file = write_job(tmp_path, training_data={"path": "azureml://datastores/pictures/paths/data"})
    assert plan_job(file, {}, None, workspace).spec.training_data == data


def test_a_folder_written_in_the_clients_form_is_found(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    file = write_job(tmp_path, training_data={"path": "azureml:data"})
    assert plan_job(file, {}, None, workspace).spec.training_data == data


def test_too_few_pictures_are_refused(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    lines = (data / "annotations.jsonl").read_text().splitlines()
    (data / "annotations.jsonl").write_text("\n".join(lines[:9]))
    with pytest.raises(InvalidDocument, match="at least 10 pictures"):
        plan_job(write_job(tmp_path), {}, None, workspace)


def test_a_wrong_target_column_is_refused(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(InvalidDocument, match="'class' is in no record"):
        plan_job(write_job(tmp_path, target_column_name="class"), {}, None, workspace)


@pytest.mark.parametrize(("num_missing", "is_fault"), [(4, False), (5, True)])
def test_more_than_five_percent_missing_pictures_are_refused(
    data: Path, tmp_path: Path, workspace: Workspace, num_missing: int, is_fault: bool
) -> None:
    for index in range(num_missing):
        (data / f"{index}.png").unlink()
    file = write_job(tmp_path)
    if not is_fault:
        plan_job(file, {}, None, workspace)
        return
    with pytest.raises(InvalidDocument, match="does not exist") as caught:
        plan_job(file, {}, None, workspace)
    assert len(caught.value.faults) == num_missing


def test_a_valid_job_of_a_later_version_is_one_line(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(UserError, match="cannot run yet") as caught:
        plan_job(write_job(tmp_path), {"limits.max_trials": 3}, None, workspace)
    assert not isinstance(caught.value, InvalidDocument)


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [("data", Conflict, "must be a new folder"), ("azureml://datastores/x/paths/y", InvalidDocument, "must be mapped")],
)
def test_a_place_for_the_model_that_cannot_be_written_is_refused_before_training(
    path: str, error: type[Exception], words: str, data: Path, tmp_path: Path, workspace: Workspace
) -> None:
    with pytest.raises(error, match=words):
        plan_job(write_job(tmp_path, outputs={"best_model": {"path": path}}), {}, None, workspace)


def test_a_seed_is_drawn_and_recorded_when_none_is_given(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    specs = [plan_job(write_job(tmp_path), {}, None, workspace).spec for _ in range(2)]
    seeds = [spec.hyperparameters["random_seed"] for spec in specs]
    assert {seed.origin for seed in seeds} == {"drawn"}
    assert seeds[0].value != seeds[1].value
    assert [spec.split_seed for spec in specs] == [0, 0]
    given = plan_job(write_job(tmp_path), {"training_parameters.random_seed": 7}, None, workspace).spec
    assert (given.split_seed, given.deterministic, given.value("random_seed")) == (7, True, 7)


def test_a_workspace_without_jobs_lists_none(workspace: Workspace) -> None:
    assert list_jobs(workspace) == []
    with pytest.raises(NotFound, match="job list"):
        describe_job(workspace, "x")


def test_a_job_whose_process_is_gone_does_not_respond(workspace: Workspace) -> None:
    folder = workspace.runs / "lost"
    folder.mkdir(parents=True)
    document = {"name": "lost", "display_name": None, "description": None, "experiment_name": "e", "tags": {}}
    document |= {
        "task": "image_classification",
        "primary_metric": "accuracy",
        "properties": {},
        "trials": ["lost_HD_0"],
    }
    (folder / "job.json").write_text(json.dumps({**document, "best_model_path": None, "document": {}}))
    (folder / "status.json").write_text(json.dumps({"status": "Running", "created_at": "2026-01-01", "pid": 2**22 + 1}))
    assert describe_job(workspace, "lost")["status"] == "NotResponding"
