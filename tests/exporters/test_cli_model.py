"""`clearsight model`, as typed."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import onnxruntime
import pytest
from click.testing import CliRunner

from clearsight.cli import root
from clearsight.console import run
from clearsight.exporters.cli_model import model
from clearsight.runs.package import SETTINGS_FILE, ModelPackage

Call = Callable[..., Any]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `clearsight model …` in an own workspace: parsed JSON, or with `fails` the text of stderr."""
    monkeypatch.setenv("CLEARSIGHT_HOME", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)

    def run_model(*args: str | Path, fails: int = 0) -> Any:
        code = run(root, ["model", *map(str, args)])
        printed = capsys.readouterr()
        assert code == fails, printed.err
        if fails:
            assert printed.out == ""
            assert "Traceback" not in printed.err
            return " ".join(printed.err.split())
        return json.loads(printed.out)

    return run_model


def test_an_empty_workspace_lists_nothing(call: Call) -> None:
    assert call("list") == []
    assert "there is no model 'fridge'; the workspace has no models yet" in call("show", "-n", "fridge", fails=1)


def test_a_model_file_registers_and_flags_win_over_it(call: Call, tiny_package: ModelPackage, tmp_path: Path) -> None:
    shutil.copytree(tiny_package.root, tmp_path / "jobs" / "mlflow-model")
    (tmp_path / "jobs" / "model.yml").write_text(
        "$schema: https://azuremlschemas.azureedge.net/latest/model.schema.json\n"
        "name: fridge\nversion: 3\npath: ./mlflow-model\ntype: mlflow_model\n"
        "description: four things\ntags: {team: store, stable: true}\n"
    )
    made = call("create", "--file", "jobs/model.yml")
    assert (made["name"], made["version"], made["description"]) == ("fridge", "3", "four things")
    assert made["tags"] == {"team": "store", "stable": "true"}
    again = call("create", "-f", "jobs/model.yml", "--version", "4", "--tags", "team=kiosk", "--set", "description=x")
    assert (again["version"], again["description"]) == ("4", "x")
    assert again["tags"] == {"team": "kiosk", "stable": "true"}
    assert "version 4 already" in call("create", "-f", "jobs/model.yml", "--set", "version=4", fails=1)
    assert [row["version"] for row in call("list", "--name", "fridge")] == ["4", "3"]
    assert [row["id"] for row in call("list")] == ["azureml:fridge:4"]
    assert call("show", "--name", "fridge", "--version", "3") == made
    assert call("show", "-n", "fridge", "--label", "latest") == again


def test_a_path_on_the_command_line_is_relative_to_the_working_directory(
    call: Call, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    shutil.copytree(tiny_package.root, tmp_path / "here")
    assert call("create", "--name", "fridge", "--path", "here", "--type", "mlflow_model")["version"] == "1"
    run_folder = tmp_path / "workspace" / "runs" / "fridge_HD_0" / "outputs" / "mlflow-model"
    shutil.copytree(tiny_package.root, run_folder)
    for uri in (
        "azureml://jobs/fridge_HD_0/outputs/artifacts/outputs/mlflow-model/",
        "runs:/fridge_HD_0/outputs/mlflow-model",
    ):
        assert call("create", "-n", "fridge", "-p", uri)["properties"]["source"] == uri


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name: is required"),
        (["-n", "a"], "path: is required"),
        (["-n", "a", "-p", "x", "--type", "custom_model"], "must be mlflow_model, the only type"),
        (["-n", "a", "-p", "nowhere"], "must be a package folder"),
        (["-n", "a b", "-p", "."], "a model name must start with a letter or digit"),
        (["-n", "a", "-p", "."], "must hold manifest.json"),
        (["-n", "a", "-p", ".", "--set", "nmae=b"], "nmae: Unknown field"),
    ],
)
def test_a_mistake_is_one_message_and_registers_nothing(
    args: list[str], message: str, call: Call, tmp_path: Path
) -> None:
    assert message in call("create", *args, fails=1)
    assert call("list") == []


def test_unknown_settings_are_registered_with_a_warning(
    tiny_package: ModelPackage, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_package.root, tmp_path / "edited")
    (tmp_path / "edited" / SETTINGS_FILE).write_text('{"valid_crop_sise": 1}')
    assert run(root, ["model", "create", "-n", "fridge", "-p", "edited"]) == 0
    assert "warning: settings.json: unknown key 'valid_crop_sise' is ignored" in capsys.readouterr().err


def test_create_and_verify_name_what_the_manifest_does_not_guard(
    call: Call, tiny_package: ModelPackage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_package.root, tmp_path / "mlflow-model"))
    (folder / "registered_model_meta").write_text("model_name: fridge\nmodel_version: '1'\n")
    for command in (("create", "-n", "fridge", "-p", str(folder)), ("verify", "-n", "fridge")):
        assert run(root, ["model", *command]) == 0
        assert "note: the manifest does not guard registered_model_meta" in " ".join(capsys.readouterr().err.split())
    (folder / "code").mkdir()
    (folder / "code" / "loader.py").touch()
    assert "must hold no code" in call("verify", "--path", folder, fails=1)
    assert "must hold no code" in call("create", "-n", "fridge", "-p", folder, fails=1)


def test_download_edit_verify(call: Call, tiny_package: ModelPackage, tmp_path: Path) -> None:
    call("create", "-n", "fridge", "-p", tiny_package.root)
    found = call("download", "--name", "fridge", "--version", "1", "--download-path", "out")
    folder = Path(found["path"])
    assert folder == tmp_path / "out" / "fridge" / "mlflow-model"
    assert call("verify", "--path", folder) == {"path": str(folder), "verified": True, "settings": "as trained"}
    assert call("verify", "--name", "fridge")["settings"] == "as registered"
    (folder / SETTINGS_FILE).write_text('{"valid_crop_size": 48}')
    assert call("verify", "--path", folder)["settings"] == "edited"
    weights = folder / "artifacts" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert "weights.safetensors" in call("verify", "--path", folder, fails=1)
    assert "either --name or --path" in call("verify", fails=2)


def test_exported_graphs_run_and_the_archive_holds_the_package(
    call: Call, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    call("create", "-n", "fridge", "-p", tiny_package.root)
    call("export", "--package", "azureml:fridge:1", "--format", "onnx", "--output", "deep/fridge.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "deep" / "fridge.onnx"), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["images"]
    call("export", "-p", tiny_package.root, "-f", "torchscript", "-o", "fridge.pt")
    assert (tmp_path / "fridge.pt").read_bytes() == tiny_package.torchscript_file.read_bytes()
    found = call("export", "-p", "azureml:fridge@latest", "-f", "mar", "-o", "fridge.mar")
    assert found["num_bytes"] == (tmp_path / "fridge.mar").stat().st_size
    with zipfile.ZipFile(tmp_path / "fridge.mar") as archive:
        assert any(name.endswith("artifacts/weights.safetensors") for name in archive.namelist())
    assert "has no version '9'" in call("export", "-p", "azureml:fridge:9", "-f", "onnx", "-o", "x.onnx", fails=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "fridge.mar", "fridge.pt", "workspace"]


@pytest.mark.parametrize("name", ["create", "list", "show", "download", "verify", "export"])
def test_every_verb_shows_examples(name: str) -> None:
    command = model.get_command(click.Context(model), name)
    assert command is not None
    result = CliRunner().invoke(command, ["--help"])
    assert "Examples:\n" in result.output
    assert f"clearsight model {name} " in result.output
