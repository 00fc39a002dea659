"""Files appear whole or not at all, and datastores come from the workspace's configuration."""

import stat
from pathlib import Path

import pytest

from clearsight import environment
from clearsight.errors import UserError
from clearsight.files import write_atomically
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task


def test_an_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    write_atomically(target, "old")
    write_atomically(target, b"new", mode=0o600)
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_atomically(target, "old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_workspace_without_configuration_has_no_datastores(tmp_path: Path) -> None:
    assert Workspace(tmp_path / "home").datastores() == {}


def test_a_relative_datastore_is_beside_the_workspace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / ".clearsight")
    write_atomically(workspace.config_file, f"datastores: {{near: pictures, far: {tmp_path}/elsewhere}}")
    assert workspace.datastores() == {"near": tmp_path / "pictures", "far": tmp_path / "elsewhere"}


def test_a_malformed_configuration_names_the_file(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_atomically(workspace.config_file, "datastores: [a, b]")
    with pytest.raises(UserError, match=r"config\.yaml must hold"):
        workspace.datastores()


def test_the_environment_names_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARSIGHT_HOME", str(tmp_path))
    assert Workspace.default().root == tmp_path
    monkeypatch.delenv("CLEARSIGHT_HOME")
    assert Workspace.default().root == Path.cwd() / ".clearsight"


@pytest.mark.parametrize(
    ("value", "offline"), [("", False), ("0", False), ("false", False), ("1", True), ("yes", True)]
)
def test_offline_is_anything_but_no(value: str, offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARSIGHT_OFFLINE", value)
    assert environment.is_offline() is offline


@pytest.mark.parametrize(
    ("task", "wire", "mlflow", "metric"),
    [
        ("image_classification", "ImageClassification", "image-classification", "accuracy"),
        ("image_classification_multilabel", "ImageClassificationMultilabel", "image-classification-multilabel", "iou"),
        ("image_object_detection", "ImageObjectDetection", "image-object-detection", "mean_average_precision"),
        (
            "image_instance_segmentation",
            "ImageInstanceSegmentation",
            "image-instance-segmentation",
            "mean_average_precision",
        ),
    ],
)
def test_tasks_have_azures_names(task: str, wire: str, mlflow: str, metric: str) -> None:
    parsed = Task(task)
    assert (parsed.wire_name, parsed.mlflow_name, parsed.primary_metric) == (wire, mlflow, metric)
