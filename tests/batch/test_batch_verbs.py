"""The verbs of batch endpoints and deployments as typed, and their store."""

import json
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clearsight.cli import root
from clearsight.console import run
from clearsight.documents.batch.document import BatchDeployment, BatchEndpoint
from clearsight.errors import ClearsightError, Conflict, NotFound, UserError
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.package import ModelPackage
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.store import BatchEndpointStore

Typed = Callable[[str], Any]

DEPLOYMENT = """
name: blue
endpoint_name: fridge
type: model
model: {path: package}
compute: azureml:cpu-cluster
settings: {mini_batch_size: 2, error_threshold: 0}
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_package: ModelPackage) -> Workspace:
    """An empty workspace; the working directory holds a deployment file and a link to its package."""
    workspace = Workspace(tmp_path / "home")
    monkeypatch.setenv("CLEARSIGHT_HOME", str(workspace.root))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package").symlink_to(tiny_package.root)
    (tmp_path / "deployment.yml").write_text(DEPLOYMENT)
    return workspace


@pytest.fixture
def typed(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs a line; returns the printed object, or of a line that fails what stands on stderr."""

    def type_line(line: str) -> Any:
        code = run(root, line.split())
        out, err = capsys.readouterr()
        return " ".join(err.split()) if code else json.loads(out or "null")

    return type_line


def test_the_commands_of_azures_samples_work_one_after_the_other(typed: Typed, tiny_package: ModelPackage) -> None:
    assert typed("batch-endpoint list") == []
    endpoint = typed("batch-endpoint create --name Fridge -g group -w space --subscription s")
    assert endpoint == {
        "name": "fridge",
        "description": "",
        "tags": {},
        "properties": {},
        "auth_mode": "aad_token",
        "defaults": {"deployment_name": None},
        "provisioning_state": "Succeeded",
    }
    created = typed("batch-deployment create --file deployment.yml --endpoint-name Fridge --set-default")
    assert created["model"] == {"path": str(tiny_package.root.resolve())}
    assert (created["mini_batch_size"], created["error_threshold"], created["compute"]) == (2, 0, "cpu-cluster")
    assert created["resources"] == {"instance_count": 1}
    assert created["retry_settings"] == {"max_retries": 3, "timeout": 30}
    assert typed("batch-deployment show --name blue --endpoint fridge") == created
    assert typed("batch-endpoint show --name fridge --query defaults") == {"deployment_name": "blue"}

    green = "batch-deployment create -f deployment.yml --set name=Green settings.mini_batch_size=7 compute=local"
    assert typed(f"{green} --skip-script-validation --no-wait")["mini_batch_size"] == 7
    assert typed("batch-deployment list -e fridge --query [].name") == ["blue", "green"]
    assert typed("batch-endpoint update --name fridge --set defaults.deployment_name=Green tags.team=vision") == {
        **endpoint,
        "tags": {"team": "vision"},
        "defaults": {"deployment_name": "green"},
    }
    assert typed("batch-endpoint list --query [*].[name]") == [["fridge"]]

    refused = typed("batch-deployment delete --name green --endpoint-name fridge --yes")
    assert "`clearsight batch-endpoint update -n fridge --set defaults.deployment_name=blue`" in refused
    assert typed("batch-deployment delete --name blue --endpoint-name fridge --yes") is None
    assert typed("batch-deployment delete --name green --endpoint-name fridge --yes") is None
    assert typed("batch-endpoint show -n fridge --query defaults.deployment_name") is None
    assert typed("batch-endpoint delete -n fridge -y") is None
    assert typed("batch-endpoint list") == []


def test_a_second_create_replaces_and_keeps_what_it_does_not_name(typed: Typed) -> None:
    typed("batch-endpoint create -n fridge --set tags.team=vision")
    typed("batch-deployment create -f deployment.yml --set-default")
    again = typed("batch-endpoint create -n fridge --set description=new")
    assert (again["tags"], again["description"], again["defaults"]) == ({}, "new", {"deployment_name": "blue"})
    assert typed("batch-deployment create -f deployment.yml --set settings.mini_batch_size=3")["mini_batch_size"] == 3
    assert typed("batch-deployment list -e fridge --query [].mini_batch_size") == [3]


def test_a_deployment_is_changed_by_keys_of_either_layout(typed: Typed) -> None:
    typed("batch-endpoint create -n fridge")
    typed("batch-deployment create -f deployment.yml")
    update = "batch-deployment update -n blue -e fridge --set"
    assert typed(f"{update} mini_batch_size=20 settings.error_threshold=-1")["mini_batch_size"] == 20
    for key in ("resources.instance_count", "settings.instance_count", "instance_count"):
        assert typed(f"{update} {key}=4")["resources"] == {"instance_count": 4}
    changed = typed(f"{update} output_action=summary_only retry_settings.timeout=60")
    assert "output_file_name" not in changed
    assert (changed["output_action"], changed["error_threshold"], changed["retry_settings"]["timeout"]) == (
        "summary_only",
        -1,
        60,
    )
    assert "summary_only" in typed(f"{update} output_file_name=a.csv")
    assert typed(f"{update} output_action=append_row")["output_file_name"] == "predictions.csv"
    assert typed("batch-deployment update -f deployment.yml")["mini_batch_size"] == 2


def test_mistakes_are_one_line_each(typed: Typed) -> None:
    typed("batch-endpoint create -n fridge")
    create = "batch-deployment create -f deployment.yml"
    assert "there is no batch endpoint 'oven'; there are: fridge" in typed(f"{create} -e oven")
    assert "no deployment 'blue'; it has: none" in typed("batch-deployment show -n blue -e fridge")
    assert "no deployment 'blue'; it has: none" in typed(
        "batch-endpoint update -n fridge --set defaults.deployment_name=blue"
    )
    assert "no deployment 'blue'; it has: none" in typed("batch-deployment update -f deployment.yml")
    assert "there is no model 'oven'" in typed(f"{create} --set model=azureml:oven@latest")
    assert "model.path: must exist" in typed(f"{create} --set model.path=nowhere")
    assert "must hold manifest.json" in typed(f"{create} --set model.path=.")
    assert "must be a YAML file" in typed("batch-deployment create -f nowhere.yml -e fridge")
    assert "--name and --endpoint-name are required" in typed("batch-deployment update -n blue")
    typed(create)
    assert "must keep its name" in typed("batch-deployment update -n blue -e fridge --set name=green")
    assert "must keep its name" in typed("batch-endpoint update -n fridge --set name=oven")
    assert typed("batch-deployment list -e fridge --query [].name") == ["blue"]


def test_keys_without_effect_are_noted(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    typed("batch-endpoint create -n fridge")
    line = "batch-deployment create -f deployment.yml --set environment=azureml:own:1"
    assert run(root, line.split()) == 0
    assert "note: environment has no effect here" in capsys.readouterr().err


def test_the_version_of_a_model_is_fixed_when_it_is_deployed(
    typed: Typed, workspace: Workspace, tiny_package: ModelPackage
) -> None:
    registry = ModelRegistry(workspace)
    registry.create(tiny_package.root, "fridge")
    typed("batch-endpoint create -n fridge")
    create = "batch-deployment create -f deployment.yml --set"
    for reference in ("azureml:fridge@latest", "azureml://registries/r/models/fridge/versions/1"):
        assert typed(f"{create} model={reference}")["model"] == "azureml:fridge:1"
    run_model = workspace.runs / "run_1" / "outputs" / "mlflow-model"
    shutil.copytree(tiny_package.root, run_model)
    uri = "azureml://jobs/run_1/outputs/artifacts/paths/outputs/mlflow-model/"
    assert typed(f"{create} model={uri}")["model"] == "runs:/run_1/outputs/mlflow-model"


def test_a_job_without_a_deployment_gets_azures_sentence(workspace: Workspace) -> None:
    store = BatchEndpointStore(workspace)
    store.put_endpoint(BatchEndpoint("fridge"))
    with pytest.raises(UserError, match="No valid deployments to route to"):
        store.get("fridge").deployment()
    store.put_deployment(BatchDeployment("blue", "fridge", "/model", "local"))
    with pytest.raises(UserError, match=r"name one with --deployment-name.*it has: blue"):
        store.get("fridge").deployment()
    store.put_deployment(BatchDeployment("blue", "fridge", "/model", "local"), is_default=True)
    assert store.get("Fridge").deployment() == store.get("fridge").deployment("BLUE")


def test_programs_that_write_at_once_lose_nothing(workspace: Workspace) -> None:
    def write(number: int) -> None:
        store = BatchEndpointStore(workspace)
        store.put_endpoint(BatchEndpoint(f"fridge{number}"))
        store.put_deployment(BatchDeployment("blue", f"fridge{number}", "/model", "local"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(16)))
    records = BatchEndpointStore(workspace).list()
    assert sorted(record.endpoint.name for record in records) == sorted(f"fridge{number}" for number in range(16))
    assert all(record.deployments.keys() == {"blue"} for record in records)


def test_a_change_that_fails_changes_nothing(workspace: Workspace) -> None:
    store = BatchEndpointStore(workspace)
    store.put_endpoint(BatchEndpoint("fridge"))
    for name in ("blue", "green"):
        store.put_deployment(BatchDeployment(name, "fridge", "/model", "local"), is_default=True)
    before = workspace.endpoints.joinpath("batch.json").read_bytes()
    with pytest.raises(Conflict):
        store.delete_deployment("fridge", "green")
    with pytest.raises(NotFound):
        store.put_endpoint(BatchEndpoint("fridge", default_deployment="red"))
    with pytest.raises(NotFound):
        store.put_deployment(BatchDeployment("blue", "oven", "/model", "local"))
    assert workspace.endpoints.joinpath("batch.json").read_bytes() == before


def test_the_store_is_private_and_a_damaged_one_is_named(workspace: Workspace) -> None:
    store = BatchEndpointStore(workspace)
    store.put_endpoint(BatchEndpoint("fridge"))
    file = workspace.endpoints / "batch.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for content in ("", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1, "endpoints": {"x": {}}}'):
        file.write_text(content)
        with pytest.raises(ClearsightError, match="cannot be read"):
            store.list()
