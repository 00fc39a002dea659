"""Faults of jobs that are reported before anything starts."""

import contextlib
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from clearsight.console import parse_assignments
from clearsight.documents.data_asset import parse_data_asset
from clearsight.errors import Conflict, InvalidDocument, UserError, WeightsMissing
from clearsight.networks.families.rcnn.options import DEFAULT, LIGHT
from clearsight.runs.data_registry import DataRegistry
from clearsight.runs.kinds import JobPlan, plan_job_file
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task
from clearsight.training.data.check import check_folder
from clearsight.training.detection.rcnn import RcnnTraining
from clearsight.training.detection.trial import detection_options
from clearsight.training.trial.spec import TrialSpec

SPACE = [{"model_name": {"type": "choice", "values": ["resnet18"]}, "learning_rate": "uniform(0.001,0.01)"}]


@pytest.fixture
def data(texture_folder: Path, tmp_path: Path) -> Path:
    """A copy of the textures beside the job file."""
    return Path(shutil.copytree(texture_folder, tmp_path / "data"))


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of `CLEARSIGHT_WEIGHTS` with a file for the model of `write_job`, whose content nobody reads here."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "resnet18.pth").touch()
    monkeypatch.setenv("CLEARSIGHT_WEIGHTS", str(folder))
    monkeypatch.setenv("CLEARSIGHT_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return folder


def write_job(folder: Path, **changes: Any) -> Path:
    document = {
        "type": "automl",
        "task": "image_classification",
        "target_column_name": "label",
        "training_data": {"path": "data"},
        "training_parameters": {"model_name": "resnet18", "training_batch_size": 8},
        **changes,
    }
    file = folder / "job.yml"
    file.write_text(yaml.safe_dump(document))
    return file


def spec_of(plan: JobPlan) -> TrialSpec:
    [spec] = plan.trials
    assert isinstance(spec, TrialSpec)
    return spec


def faults(error: pytest.ExceptionInfo[InvalidDocument]) -> set[tuple[str, str]]:
    return {(fault.code, fault.target) for fault in error.value.faults}


def test_faults_of_document_and_data_come_together(tmp_path: Path, workspace: Workspace) -> None:
    file = write_job(tmp_path, training_data={"path": "nowhere"}, validation_data={"path": "azureml:d:1"}, typo=1)
    with pytest.raises(InvalidDocument) as caught:
        plan_job_file(file, {"limits.max_trials": 0}, None, workspace)
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
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "resnet18-f37072fd.pth").touch()
    spec = spec_of(plan_job_file(file, {}, "named", workspace))
    assert spec.training_data == data
    assert spec.weights_dir == tmp_path / "w"
    assert (spec.job_name, spec.run_id) == ("named", "named_HD_0")


def test_a_datastore_leads_to_its_folder(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    workspace.root.mkdir()
    workspace.config_file.write_text(f"datastores: {{pictures: {tmp_path}}}")
    file = write_job(tmp_path, training_data={"path": "azureml://datastores/pictures/paths/data"})
    assert spec_of(plan_job_file(file, {}, None, workspace)).training_data == data


def test_registered_data_is_the_folder_that_it_names(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    registry = DataRegistry(workspace)
    registry.create(parse_data_asset({"name": "shelf", "path": "data", "type": "mltable"}, tmp_path))
    for path in ("azureml:shelf:1", "azureml:shelf@latest", "azureml://registries/r/data/shelf/versions/1"):
        file = write_job(tmp_path, training_data={"path": path})
        assert spec_of(plan_job_file(file, {}, None, workspace)).training_data == data
    for path, message in (
        ("azureml:shelf:2", "it has 1"),
        ("azureml:shelf", "azureml:shelf:1 or azureml:shelf@latest"),
    ):
        with pytest.raises(InvalidDocument, match=message) as caught:
            plan_job_file(write_job(tmp_path, training_data={"path": path}), {}, None, workspace)
        assert faults(caught) == {("BAD_DATA_REF", "training_data.path")}


def test_a_folder_written_in_the_clients_form_is_found(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    file = write_job(tmp_path, training_data={"path": "azureml:data"})
    assert spec_of(plan_job_file(file, {}, None, workspace)).training_data == data


def test_too_few_images_are_refused(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    lines = (data / "annotations.jsonl").read_text().splitlines()
    (data / "annotations.jsonl").write_text("\n".join(lines[:9]))
    with pytest.raises(InvalidDocument, match="at least 10 pictures"):
        plan_job_file(write_job(tmp_path), {}, None, workspace)


def test_a_wrong_target_column_is_refused(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(InvalidDocument, match="'class' is in no record"):
        plan_job_file(write_job(tmp_path, target_column_name="class"), {}, None, workspace)


@pytest.mark.parametrize(("num_missing", "is_fault"), [(4, False), (5, True)])
def test_more_than_five_percent_missing_images_are_refused(
    data: Path, tmp_path: Path, workspace: Workspace, num_missing: int, is_fault: bool
) -> None:
    for index in range(num_missing):
        (data / f"{index}.png").unlink()
    file = write_job(tmp_path)
    if not is_fault:
        plan_job_file(file, {}, None, workspace)
        return
    with pytest.raises(InvalidDocument, match="does not exist") as caught:
        plan_job_file(file, {}, None, workspace)
    assert len(caught.value.faults) == num_missing


@pytest.mark.parametrize(("num_bad", "is_fault"), [(4, False), (5, True)])
def test_images_of_a_format_that_training_refuses_are_refused_before_it(
    data: Path, tmp_path: Path, workspace: Workspace, num_bad: int, is_fault: bool
) -> None:
    for index in range(num_bad):
        Image.new("RGB", (8, 8)).save(data / f"{index}.png", format="PPM")
    if not is_fault:
        [warning] = [
            one for one in plan_job_file(write_job(tmp_path), {}, None, workspace).record.warnings if "4" in one
        ]
        assert "cannot be read and will be left out: 4 (first: " in warning
        return
    with pytest.raises(InvalidDocument, match=r"must be one of jpeg, png, .*, but got PPM") as caught:
        plan_job_file(write_job(tmp_path), {}, None, workspace)
    assert len(caught.value.faults) == num_bad


def test_classes_that_only_one_part_shows_are_a_warning(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    """The textures have 24 images per class. A stray image of a class of its own trains, whatever is drawn."""
    file = data / "annotations.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    shutil.copy(data / "0.png", data / "stray.png")
    stray = {"image_url": "stray.png", "label": 0}
    file.write_text("\n".join(json.dumps(row) for row in [*rows, stray]))
    expected = [
        "no validation picture shows 0: no metric says anything about these classes",
        "classes with fewer than 5 pictures: 0 (1)",
    ]
    assert plan_job_file(write_job(tmp_path), {}, None, workspace).record.warnings == expected
    validation = Path(shutil.copytree(data, tmp_path / "validation"))
    file.write_text("\n".join(json.dumps(row) for row in rows))
    plan = plan_job_file(write_job(tmp_path, validation_data={"path": str(validation)}), {}, None, workspace)
    assert plan.record.warnings[0] == "no training picture shows 0: these classes cannot be learnt"
    plan = plan_job_file(write_job(tmp_path, validation_data={"path": str(data)}), {}, None, workspace)
    first = data.resolve() / "0.png"
    assert plan.record.warnings == [f"96 picture(s) train and validate, first {first}: metrics come out too high"]


def test_objects_that_are_all_crowds_are_refused_before_anything_starts(
    data: Path, tmp_path: Path, workspace: Workspace
) -> None:
    box = {"label": "can", "topX": 0.1, "topY": 0.1, "bottomX": 0.9, "bottomY": 0.9}
    rows = [{"image_url": f"{index}.png", "label": [box | {"isCrowd": index % 12 > 0}]} for index in range(24)]
    file = data / "annotations.jsonl"
    job = {"task": "image_object_detection", "training_parameters": {"model_name": "yolov5"}}
    file.write_text("\n".join(json.dumps(row) for row in rows))
    plan_job_file(write_job(tmp_path, **job), {}, None, workspace)  # the two objects are in both parts
    shutil.copytree(data, tmp_path / "good")
    file.write_text("\n".join(json.dumps(row | {"label": [box | {"isCrowd": 1}]}) for row in rows))
    with pytest.raises(InvalidDocument, match="at least one training picture must show an object that is no crowd"):
        plan_job_file(write_job(tmp_path, **job), {}, None, workspace)
    report = check_folder(data, Task.DETECTION, "label", {})
    assert "no picture shows anything to learn: no labels, or crowds alone" in report.warnings
    job |= {"training_data": {"path": "good"}, "validation_data": {"path": "data"}}
    with pytest.raises(InvalidDocument, match=r"at least one validation picture .* validation_metric_type to none"):
        plan_job_file(write_job(tmp_path, **job), {}, None, workspace)
    plan_job_file(write_job(tmp_path, **job), {"training_parameters.validation_metric_type": "none"}, None, workspace)


def test_weights_are_looked_for_before_anything_starts(
    data: Path, tmp_path: Path, workspace: Workspace, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the weights folder, in the cache, and then on the server, unless downloads are forbidden."""
    asked: list[tuple[str, str]] = []

    def urlopen(request: urllib.request.Request, timeout: float) -> contextlib.nullcontext[None]:
        asked.append((request.get_method(), request.full_url))
        if "resnet34" in request.full_url:
            raise urllib.error.URLError("[Errno -2] Name or service not known")
        return contextlib.nullcontext()

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)

    def plan(model_name: str, **advanced: object) -> None:
        parameters = {"model_name": model_name, "advanced_settings": advanced}
        plan_job_file(write_job(tmp_path, training_parameters=parameters), {}, "free", workspace)

    for arguments, words in (
        (
            {"model_name": "resnet34"},
            ["resnet34 must be loaded", f"{weights} holds no resnet34-b627a593.pth", "OFFLINE"],
        ),
        ({"model_name": "vits16r224"}, [f"{weights} holds no vit_small_patch16_224.augreg_in21k_ft_in1k.safetensors"]),
        ({"model_name": "resnet18", "x_weights_dir": "nowhere"}, ["weights folder must exist", "nowhere"]),
    ):
        with pytest.raises(WeightsMissing) as caught:
            plan(**arguments)
        assert all(word in str(caught.value) for word in words), caught.value
    plan("resnet34", x_pretrained=False)
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "resnet34-b627a593.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    plan("resnet34")
    cached.unlink()
    assert asked == []
    monkeypatch.delenv("CLEARSIGHT_OFFLINE")
    with pytest.raises(WeightsMissing, match=r"the download of .*resnet34-b627a593\.pth failed .*Name or service"):
        plan("resnet34")
    plan("resnet50")
    assert asked == [
        ("HEAD", "https://download.pytorch.org/models/resnet34-b627a593.pth"),
        ("HEAD", "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"),
    ]
    assert not workspace.root.exists()


def test_a_job_is_checked_without_torch(data: Path, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from clearsight.runs.kinds import plan_job_file
from clearsight.runs.workspace import Workspace
plan_job_file(Path(sys.argv[1]), {}, None, Workspace(Path(sys.argv[2])))
print([name for name in ("torch", "torchvision", "timm") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, write_job(tmp_path), tmp_path / "home"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


def test_a_valid_job_of_a_later_version_is_one_line(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    """It ends with flags that make it one that runs."""
    for changes in (
        {"limits": {"max_trials": 3}},
        {"sweep": {"sampling_algorithm": "random"}, "limits": {"max_trials": 3}, "search_space": SPACE},
    ):
        file = write_job(tmp_path, **{"training_parameters": {}, **changes} if "sweep" in changes else changes)
        with pytest.raises(UserError, match="cannot run yet") as caught:
            plan_job_file(file, {}, None, workspace)
        assert not isinstance(caught.value, InvalidDocument)
        flags = str(caught.value).partition("--set ")[2].split()
        spec = spec_of(plan_job_file(file, parse_assignments(flags), None, workspace))
        assert spec.hyperparameters["model_name"].value == "resnet18"


def test_a_default_that_makes_one_step_an_epoch_is_said(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    """Of 96 images 77 train, in one batch of resnet18's default 78."""
    file = write_job(tmp_path, training_parameters={"model_name": "resnet18"})
    [warning] = plan_job_file(file, {}, None, workspace).record.warnings
    assert warning == (
        "training_batch_size: 78, the default of resnet18, makes one step an epoch of 77 training pictures, 15 steps "
        "in all; with 9 an epoch has 9"
    )
    for changes in ({"training_parameters.training_batch_size": 78}, {"validation_data_size": 0.1}):
        assert plan_job_file(file, changes, None, workspace).record.warnings == []


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [("data", Conflict, "must be a new folder"), ("azureml://datastores/x/paths/y", InvalidDocument, "must be mapped")],
)
def test_a_place_for_the_model_that_cannot_be_written_is_refused_before_training(
    path: str, error: type[Exception], words: str, data: Path, tmp_path: Path, workspace: Workspace
) -> None:
    with pytest.raises(error, match=words):
        plan_job_file(write_job(tmp_path, outputs={"best_model": {"path": path}}), {}, None, workspace)


def test_a_seed_is_drawn_and_recorded_when_none_is_given(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    specs = [spec_of(plan_job_file(write_job(tmp_path), {}, None, workspace)) for _ in range(2)]
    seeds = [spec.hyperparameters["random_seed"] for spec in specs]
    assert {seed.origin for seed in seeds} == {"drawn"}
    assert seeds[0].value != seeds[1].value
    assert [spec.split_seed for spec in specs] == [0, 0]
    given = spec_of(plan_job_file(write_job(tmp_path), {"training_parameters.random_seed": 7}, None, workspace))
    assert (given.split_seed, given.deterministic, given.hyperparameters["random_seed"].value) == (7, True, 7)


@pytest.mark.parametrize(
    ("num_gpus", "parameters", "expected", "warning"),
    [
        (0, {}, 1, None),
        (0, {"advanced_settings": {"x_num_processes": 3}}, 3, None),
        (0, {"advanced_settings": {"x_num_processes": 3}, "distributed": False}, 1, "distributed: false"),
        (4, {}, 4, None),
        (4, {"distributed": False}, 1, None),
        (4, {"advanced_settings": {"x_num_processes": 3}}, 4, "beside 4 GPUs"),
    ],
)
def test_a_model_is_trained_by_a_process_per_gpu_or_as_many_as_are_asked_for(
    data: Path,
    tmp_path: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    num_gpus: int,
    parameters: dict[str, Any],
    expected: int,
    warning: str | None,
) -> None:
    monkeypatch.setattr("clearsight.training.plan.count_gpus", lambda: num_gpus)
    own = {"model_name": "resnet18", "training_batch_size": 8}
    file = write_job(tmp_path, training_parameters={**own, **parameters})
    plan = plan_job_file(file, {}, None, workspace)
    assert plan.record.num_processes == expected
    assert [warning is not None and warning in text for text in plan.record.warnings] == [True] * (warning is not None)


@pytest.mark.parametrize(
    ("advanced", "light", "per_loss"),
    [({}, False, 512), ({"x_light_detector": True}, True, 32), ({"x_proposals_per_loss": 16}, False, 16),
     ({"x_light_detector": True, "x_proposals_per_loss": 8}, True, 8)],
)  # fmt: skip
def test_proposals_are_as_few_as_the_job_says(
    data: Path, tmp_path: Path, workspace: Workspace, advanced: dict[str, Any], light: bool, per_loss: int
) -> None:
    box = {"label": "can", "topX": 0.1, "topY": 0.1, "bottomX": 0.9, "bottomY": 0.9}
    rows = [{"image_url": f"{index}.png", "label": [box]} for index in range(20)]
    (data / "annotations.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def plan(model_name: str) -> JobPlan:
        settings = {"model_name": model_name, "advanced_settings": {"x_pretrained": False, **advanced}}
        job = write_job(tmp_path, task="image_object_detection", training_parameters=settings)
        return plan_job_file(job, {}, None, workspace)

    options = detection_options(spec_of(plan("fasterrcnn_resnet18_fpn")))
    found = RcnnTraining().architecture(options.settings, options.proposals)["options"]
    assert found == asdict(LIGHT if light else DEFAULT) | {"proposals_per_loss": per_loss}
    idle = [text for text in plan("yolov5").record.warnings if "which has no proposals" in text]
    assert len(idle) == len(advanced)


def test_more_than_one_machine_is_a_warning(data: Path, tmp_path: Path, workspace: Workspace) -> None:
    plan = plan_job_file(write_job(tmp_path, properties={"node_count_per_trial": "2"}), {}, None, workspace)
    assert any("this machine is used alone" in warning for warning in plan.record.warnings)
    assert plan.record.num_processes == 1


@pytest.mark.parametrize("value", [0, 65, "many"])
def test_a_number_of_processes_is_checked(data: Path, tmp_path: Path, workspace: Workspace, value: object) -> None:
    settings = {"advanced_settings": {"x_num_processes": value}}
    with pytest.raises(InvalidDocument) as caught:
        plan_job_file(
            write_job(tmp_path, training_parameters={"model_name": "resnet18", **settings}), {}, None, workspace
        )
    target = "training_parameters.advanced_settings.x_num_processes"
    assert faults(caught) == {("BAD_ADVANCED_SETTINGS", target)}
