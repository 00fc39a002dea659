import hashlib
import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clearsight.errors import Conflict, InvalidDocument, NotFound, UserError
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.workspace import Workspace
from clearsight.serving.management.service import EndpointService
from clearsight.serving.management.store import EndpointStore, StoreInUse
from clearsight.serving.supervisor.deployment_logs import log_file
from clearsight.serving.supervisor.torchserve_process import WorkersFailed


async def test_an_empty_workspace_has_no_endpoints(service: EndpointService, workspace: Workspace) -> None:
    assert await service.list_endpoints() == []
    assert not workspace.root.exists()
    with pytest.raises(NotFound, match="there are: none"):
        await service.show_endpoint("fridge")


async def test_an_endpoint_is_shown_with_azures_keys(service: EndpointService, runtime: Any) -> None:
    created = await service.create_endpoint({"name": "fridge", "tags": {"team": "vision"}})
    assert created == await service.show_endpoint("fridge")
    assert created["scoring_uri"] == "http://127.0.0.1:8000/endpoints/fridge/score"
    assert (created["auth_mode"], created["traffic"], created["provisioning_state"]) == ("key", {}, "Succeeded")
    assert runtime.notes == ["publish"]


async def test_the_store_survives_a_restart_and_is_readable_by_its_owner_only(
    service: EndpointService, workspace: Workspace, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    await service.create_deployment(blue, all_traffic=True)
    again = EndpointStore(workspace)
    assert again.endpoints() == service.store.endpoints()
    assert stat.S_IMODE(again.file.stat().st_mode) == 0o600


async def test_keys_are_32_random_bytes_and_only_their_hashes_leave(service: EndpointService) -> None:
    await service.create_endpoint({"name": "fridge"})
    keys = await service.get_credentials("fridge")
    assert set(keys) == {"primaryKey", "secondaryKey"}
    assert all(len(key) == 43 for key in keys.values())
    record = service.store.get("fridge")
    assert set(record.key_hashes(0)) == {hashlib.sha256(key.encode()).hexdigest() for key in keys.values()}
    assert keys["primaryKey"] not in repr(record)


async def test_regenerating_replaces_one_key_and_publishes(service: EndpointService, runtime: Any) -> None:
    await service.create_endpoint({"name": "fridge"})
    before = await service.get_credentials("fridge")
    await service.regenerate_keys("fridge", "Secondary")
    after = await service.get_credentials("fridge")
    assert after["primaryKey"] == before["primaryKey"]
    assert after["secondaryKey"] != before["secondaryKey"]
    assert runtime.notes == ["publish", "publish"]
    with pytest.raises(UserError, match="'primary' or 'secondary'"):
        await service.regenerate_keys("fridge", "third")


async def test_an_aml_token_lives_an_hour_and_is_renewed_after_half_of_it(service: EndpointService) -> None:
    await service.create_endpoint({"name": "fridge", "auth_mode": "aml_token"})
    first = await service.get_credentials("fridge")
    assert (first["expiryTimeUtc"], first["refreshAfterTimeUtc"], first["tokenType"]) == (4600, 2800, "Bearer")
    assert await service.get_credentials("fridge") == first
    service.clock = lambda: 2801.0
    second = await service.get_credentials("fridge")
    assert second["accessToken"] != first["accessToken"]
    record = service.store.get("fridge")
    assert [len(record.key_hashes(now)) for now in (2801, 4601, 6402)] == [2, 1, 0]
    with pytest.raises(UserError, match="does not use keys"):
        await service.regenerate_keys("fridge")


async def test_creating_an_endpoint_again_keeps_keys_deployments_and_traffic(
    service: EndpointService, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    keys = await service.get_credentials("fridge")
    await service.create_deployment(blue, all_traffic=True)
    again = await service.create_endpoint({"name": "fridge", "description": "new"})
    assert (again["description"], again["traffic"]) == ("new", {"blue": 100})
    assert await service.get_credentials("fridge") == keys


@pytest.mark.parametrize("document", [{"auth_mode": "aad_token"}, {"mirror_traffic": {"blue": 10}}])
async def test_unsupported_settings_are_refused_and_nothing_is_stored(
    service: EndpointService, document: dict[str, Any]
) -> None:
    with pytest.raises(UserError):
        await service.create_endpoint({"name": "fridge", **document})
    assert await service.list_endpoints() == []


async def test_a_deployment_goes_through_creating_to_succeeded_without_traffic(
    service: EndpointService, runtime: Any, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    steps: list[str] = []
    states: list[str] = []

    def on_step(step: str) -> None:
        steps.append(step)
        deployments = service.store.get("fridge").deployments
        states.extend(record.state for record in deployments.values())

    shown = await service.create_deployment(blue, on_step=on_step)
    assert (steps, states) == (["resolving the model", "starting"], ["Creating"])
    assert (shown["provisioning_state"], shown["serving"]) == ("Succeeded", {"workers": 1})
    assert (await service.show_endpoint("fridge"))["traffic"] == {}
    assert shown == await service.show_deployment("fridge", "Blue")
    assert runtime.notes == ["publish", "roll out blue 1", "publish"]


async def test_a_deployment_needs_its_endpoint_and_a_free_name(service: EndpointService, blue: dict[str, Any]) -> None:
    with pytest.raises(NotFound, match="no endpoint 'fridge'"):
        await service.create_deployment(blue)
    await service.create_endpoint({"name": "fridge"})
    await service.create_deployment(blue)
    with pytest.raises(Conflict, match="already has a deployment 'blue'"):
        await service.create_deployment(blue)


async def test_a_failed_deployment_keeps_its_reason_and_may_be_created_again(
    service: EndpointService, runtime: Any, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    runtime.failure = WorkersFailed("no such runtime")
    with pytest.raises(WorkersFailed):
        await service.create_deployment(blue, all_traffic=True)
    shown = await service.show_deployment("fridge", "blue")
    assert (shown["provisioning_state"], shown["error"]) == (
        "Failed",
        {"code": "ResourceNotReady", "message": "no such runtime"},
    )
    assert (await service.show_endpoint("fridge"))["traffic"] == {}
    assert (await service.create_deployment(blue))["provisioning_state"] == "Succeeded"
    assert runtime.notes[-2:] == ["roll out blue 2", "publish"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorkersFailed("x"), "ResourceNotReady"),
        (NotFound("x"), "ResourceNotFound"),
        (UserError("x"), "BadArgument"),
    ],
)
async def test_a_failure_has_azures_code(
    service: EndpointService, runtime: Any, blue: dict[str, Any], error: Any, code: str
) -> None:
    await service.create_endpoint({"name": "fridge"})
    runtime.failure = error
    with pytest.raises(type(error)):
        await service.create_deployment(blue)
    assert (await service.show_deployment("fridge", "blue"))["error"]["code"] == code


async def test_an_update_rolls_and_a_failed_one_leaves_the_old_version(
    service: EndpointService, runtime: Any, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    await service.create_deployment(blue, all_traffic=True)
    updated = await service.update_deployment(
        "fridge", "blue", {"instance_count": 2, "request_settings.request_timeout_ms": 90_000}
    )
    assert (updated["instance_count"], updated["serving"]) == (2, {"workers": 2})
    runtime.failure = WorkersFailed("no room")
    with pytest.raises(WorkersFailed):
        await service.update_deployment("fridge", "blue", {"instance_count": 3})
    kept = await service.show_deployment("fridge", "blue")
    assert (kept["instance_count"], kept["provisioning_state"]) == (2, "Succeeded")
    assert kept["error"]["code"] == "ResourceNotReady"
    assert [note for note in runtime.notes if "roll" in note] == [f"roll out blue {number}" for number in (1, 2, 3)]


async def test_an_update_of_descriptive_fields_starts_no_process(
    service: EndpointService, runtime: Any, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    await service.create_deployment(blue)
    runtime.notes.clear()
    assert (await service.update_deployment("fridge", "blue", {"tags.team": "vision"}))["tags"] == {"team": "vision"}
    assert runtime.notes == []


async def test_an_update_without_changes_restarts_the_deployment(
    service: EndpointService, runtime: Any, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    await service.create_deployment(blue)
    await service.update_deployment("fridge", "blue")
    assert [note for note in runtime.notes if "roll" in note] == ["roll out blue 1", "roll out blue 2"]


@pytest.mark.parametrize("overrides", [{"instance_count": 0}, {"instance_cuont": 2}, {"name": "green"}])
async def test_a_wrong_update_changes_nothing(
    service: EndpointService, blue: dict[str, Any], overrides: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    before = await service.create_deployment(blue)
    with pytest.raises(UserError):
        await service.update_deployment("fridge", "blue", overrides)
    assert await service.show_deployment("fridge", "blue") == before


async def test_traffic_replaces_the_table_and_names_existing_deployments(
    service: EndpointService, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    await service.create_deployment(blue, all_traffic=True)
    with pytest.raises(NotFound, match="no deployment 'green'"):
        await service.update_endpoint("fridge", traffic={"blue": 90, "green": 10})
    await service.create_deployment({**blue, "name": "green"})
    assert (await service.update_endpoint("fridge", traffic={"blue": "90", "Green": 10}))["traffic"] == {
        "blue": 90,
        "green": 10,
    }
    with pytest.raises(InvalidDocument, match="sum to 95"):
        await service.update_endpoint("fridge", traffic={"blue": 90, "green": 5})
    assert (await service.update_endpoint("fridge", traffic={"green": 100}))["traffic"] == {"green": 100}
    assert (await service.update_endpoint("fridge", {"traffic.green": 0}))["traffic"] == {}


async def test_a_deployment_with_traffic_is_not_deleted_and_one_without_is_drained(
    service: EndpointService, runtime: Any, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    await service.create_deployment(blue, all_traffic=True)
    with pytest.raises(Conflict, match="has 100 %"):
        await service.delete_deployment("fridge", "blue")
    await service.update_endpoint("fridge", traffic={})
    runtime.notes.clear()
    await service.delete_deployment("fridge", "blue")
    assert runtime.notes == ["publish", "retire blue"]
    assert await service.list_deployments("fridge") == []


async def test_deleting_an_endpoint_deletes_its_deployments(
    service: EndpointService, runtime: Any, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    await service.create_deployment(blue, all_traffic=True)
    runtime.notes.clear()
    await service.delete_endpoint("fridge")
    assert runtime.notes == ["publish", "retire blue"]
    assert await service.list_endpoints() == []


async def test_a_restart_starts_every_deployment_even_if_one_fails(
    service: EndpointService, runtime: Any, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    for name in ("blue", "green"):
        await service.create_deployment({**blue, "name": name})
    runtime.notes.clear()
    runtime.failure = WorkersFailed("port taken")
    seen: list[tuple[str, str]] = []
    await service.restore(lambda name, step: seen.append((name, step)))
    assert [note for note in runtime.notes if "roll" in note] == ["roll out blue 2", "roll out green 2"]
    assert ("fridge/blue", "failed: port taken") in seen
    assert ("fridge/green", "ready") in seen
    states = [(shown["name"], shown["provisioning_state"]) for shown in await service.list_deployments("fridge")]
    assert states == [("blue", "Failed"), ("green", "Succeeded")]


async def test_without_a_server_a_deployment_is_stored_as_creating(
    service: EndpointService, runtime: Any, blue: dict[str, Any]
) -> None:
    runtime.is_serving = False
    await service.create_endpoint({"name": "fridge"})
    assert (await service.create_deployment(blue, all_traffic=True))["provisioning_state"] == "Creating"
    assert (await service.update_deployment("fridge", "blue", {"instance_count": 2}))["instance_count"] == 2
    assert not [note for note in runtime.notes if "roll" in note]


def test_one_process_at_a_time_locks_the_store(workspace: Workspace) -> None:
    with EndpointStore(workspace).lock(), pytest.raises(StoreInUse), EndpointStore(workspace).lock():
        pass
    with EndpointStore(workspace).lock():
        pass


async def test_a_damaged_store_is_reported_and_not_overwritten(service: EndpointService, workspace: Workspace) -> None:
    await service.create_endpoint({"name": "fridge"})
    service.store.file.write_text('{"schema_version": 2}')
    with pytest.raises(Exception, match="schema_version must be 1"):
        EndpointStore(workspace)
    assert service.store.file.read_text() == '{"schema_version": 2}'


@pytest.mark.parametrize(
    ("model", "folder", "stored"),
    [
        ("azureml:od-fridge:3", "models/od-fridge/3/mlflow-model", "azureml:od-fridge:3"),
        ("azureml:od-fridge@latest", "models/od-fridge/4/mlflow-model", "azureml:od-fridge:4"),
        ("runs:/fridge_HD_0/outputs/mlflow-model", "runs/fridge_HD_0/outputs/mlflow-model",
         "runs:/fridge_HD_0/outputs/mlflow-model"),
        ({"path": "azureml://jobs/fridge_HD_0/outputs/artifacts/outputs/mlflow-model/"},
         "runs/fridge_HD_0/outputs/mlflow-model", "runs:/fridge_HD_0/outputs/mlflow-model"),
    ],
)  # fmt: skip
async def test_a_moved_workspace_finds_its_packages_and_a_copied_one_its_own(
    service: EndpointService, workspace: Workspace, blue: dict[str, Any], model: Any, folder: str, stored: str
) -> None:
    (workspace.root / folder).mkdir(parents=True)
    service.registry = ModelRegistry(workspace)
    if stored.startswith("azureml:"):
        (workspace.root / folder).with_name("model.json").write_text(record_of(stored))
    await service.create_endpoint({"name": "fridge"})
    await service.create_deployment({**blue, "model": model})
    assert str(workspace.root) not in service.store.file.read_text()
    document = json.loads(service.store.file.read_text())["endpoints"]["fridge"]["deployments"]["blue"]
    assert document["package"] == stored
    copy = Workspace(workspace.root.with_name("copy"))
    shutil.copytree(workspace.root, copy.root)
    assert EndpointStore(copy).get("fridge").deployment("blue").package == copy.root / folder
    moved = Workspace(workspace.root.rename(workspace.root.with_name("moved")))
    assert EndpointStore(moved).get("fridge").deployment("blue").package == moved.root / folder


def record_of(reference: str) -> str:
    """A record of the registry with nothing but what it must hold."""
    _, name, version = reference.split(":")
    empty = dict.fromkeys(("source", "description", "task", "model_name", "run_id", "settings_sha256"), "")
    mappings = {key: {} for key in ("tags", "properties", "settings", "files_sha256")}
    return json.dumps({"name": name, "version": version, "created_at": "2026", "labels": [], **empty, **mappings})


async def test_a_package_elsewhere_keeps_its_path(
    service: EndpointService, workspace: Workspace, blue: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "a" / "1" / "mlflow-model"
    folder.mkdir(parents=True)
    service.registry = ModelRegistry(workspace)
    await service.create_endpoint({"name": "fridge"})
    await service.create_deployment({**blue, "model": {"path": str(folder)}})
    assert EndpointStore(workspace).get("fridge").deployment("blue").package == folder


async def test_logs_of_several_processes_are_printed_one_after_the_other(
    service: EndpointService, workspace: Workspace, blue: dict[str, Any]
) -> None:
    await service.create_endpoint({"name": "fridge"})
    await service.create_deployment({**blue, "instance_count": 2})
    assert await service.get_logs("fridge", "blue") == ""
    record = service.store.get("fridge").deployment("blue")
    folder = log_file(workspace, record).parent
    folder.mkdir(parents=True)
    log_file(workspace, record).write_text("a\nb\nc\n")
    assert await service.get_logs("fridge", "blue", lines=2) == "b\nc\n"
    for index in (10, 1):
        log_file(workspace, record, index).write_text(f"server {index}\n")
    log_file(workspace, replace(record, generation=11), 1).write_text("of another generation\n")
    names = [log_file(workspace, record, index).name for index in (0, 1, 10)]
    assert (await service.get_logs("fridge", "blue", lines=2)).splitlines() == [
        f"==> {names[0]} <==", "b", "c", f"==> {names[1]} <==", "server 1", f"==> {names[2]} <==", "server 10"
    ]  # fmt: skip
