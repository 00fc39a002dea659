"""Models are named, numbered, verified copies of packages."""

import json
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from clearsight.errors import Conflict, InvalidDocument, InvalidPackage, NotFound, UserError
from clearsight.handlers.tuning.precision_gate import record_gate
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.package import GUARDED_FILES, LABELS_FILE, MANIFEST_FILE, SETTINGS_FILE, ModelPackage, sha256_of
from clearsight.runs.workspace import Workspace


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(Workspace(tmp_path / "workspace"))


@pytest.fixture
def copied(tiny_package: ModelPackage, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_package.root, tmp_path / "mlflow-model"))


def test_an_empty_workspace_has_no_models(registry: ModelRegistry, tmp_path: Path) -> None:
    assert registry.list() == []
    with pytest.raises(NotFound, match="no models yet"):
        registry.get("fridge")
    with pytest.raises(NotFound, match="no models yet"):
        registry.resolve("azureml:fridge@latest")
    assert not (tmp_path / "workspace").exists()


def test_versions_count_up_and_latest_is_the_one_created_last(
    registry: ModelRegistry, tiny_package: ModelPackage
) -> None:
    first = registry.create(tiny_package.root, "fridge")
    second = registry.create(tiny_package.root, "fridge")
    named = registry.create(tiny_package.root, "fridge", "2026-11")
    third = registry.create(tiny_package.root, "fridge")
    other = registry.create(tiny_package.root, "door", "7")
    eighth = registry.create(tiny_package.root, "door")
    assert [model.version for model in (first, second, named, third, other, eighth)] == [
        "1",
        "2",
        "2026-11",
        "3",
        "7",
        "8",
    ]
    assert [model.version for model in registry.versions("fridge")] == ["3", "2026-11", "2", "1"]
    assert [model.reference for model in registry.list()] == ["azureml:door:8", "azureml:fridge:3"]
    assert registry.resolve("azureml:fridge:2026-11") == named.package_path
    assert registry.resolve("azureml:fridge@latest") == third.package_path
    assert registry.get("fridge", "2") == second


def test_a_record_survives_a_restart_and_shows_what_was_registered(
    registry: ModelRegistry, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    made = registry.create(
        tiny_package.root, "fridge", description="four things", tags={"team": "store"}, properties={"ticket": 7}
    )
    read = ModelRegistry(Workspace(tmp_path / "workspace")).get("fridge", "1")
    assert read == made
    document = read.to_document()
    assert document["id"] == "azureml:fridge:1"
    assert document["type"] == "mlflow_model"
    assert document["job_name"] == "tiny_HD_0"
    assert document["tags"] == {"team": "store"}
    assert document["properties"]["ticket"] == 7
    assert document["properties"]["settings"]["valid_crop_size"] == 64
    assert document["properties"]["settings_sha256"] == sha256_of(tiny_package.settings_file)
    json.dumps(document)


def test_the_copy_equals_the_package_and_is_independent_of_it(registry: ModelRegistry, copied: Path) -> None:
    registered = registry.create(copied, "fridge")
    files = sorted(file.relative_to(copied) for file in copied.rglob("*") if file.is_file())
    for file in files:
        assert (registered.package_path / file).read_bytes() == (copied / file).read_bytes()
    shutil.rmtree(copied)
    assert not registry.verify("fridge").settings_edited


@pytest.mark.parametrize(
    "uri",
    [
        "azureml://jobs/fridge_HD_0/outputs/artifacts/outputs/mlflow-model/",
        "azureml://jobs/fridge_HD_0/outputs/artifacts/outputs/mlflow-model",
        "azureml://jobs/fridge_HD_0/outputs/artifacts/paths/outputs/mlflow-model/",
        "runs:/fridge_HD_0/outputs/mlflow-model",
        "runs:/fridge_HD_0/outputs/mlflow-model/",
    ],
)
def test_the_model_of_a_run_is_found_by_azures_and_mlflows_uris(
    uri: str, registry: ModelRegistry, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    folder = tmp_path / "workspace" / "runs" / "fridge_HD_0" / "outputs" / "mlflow-model"
    shutil.copytree(tiny_package.root, folder)
    assert registry.locate(uri) == folder
    assert registry.resolve(uri) == folder
    assert registry.create(uri, "fridge").source == uri


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "does not exist|must be"),
        ("nowhere", "must be a package folder, but nowhere does not exist"),
        ("runs:/other/outputs/mlflow-model", "the run 'other' does not exist"),
        ("runs:/fresh/outputs/mlflow-model", r"the run 'fresh' has no model \(yet\)"),
        ("runs:/../outputs/mlflow-model", "does not exist|has no model"),
        ("runs:/fresh/outputs/else", "a model path must be a folder"),
        ("azureml://registries/r/models/m/versions/1", "there is no model 'm'; the workspace has fridge"),
        ("azureml:fridge:9", "has no version '9'; it has 1"),
        ("azureml:fridge@stable", "the only label of a model is 'latest'"),
        ("azureml:fridge:..", "has no version"),
        ("azureml:..:1", "model name must"),
        ("azureml:fridge", "a model must be named with its version"),
    ],
)
def test_a_reference_that_leads_nowhere_says_why(
    reference: str, message: str, registry: ModelRegistry, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    registry.create(tiny_package.root, "fridge")
    (tmp_path / "workspace" / "runs" / "fresh").mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        registry.resolve(reference if reference else tmp_path / "no" / "where")


@pytest.mark.parametrize(
    ("name", "version"), [("", None), ("a/b", None), ("..", None), ("fridge", "1/2"), (".x", None)]
)
def test_names_cannot_leave_the_registry(
    name: str, version: str | None, registry: ModelRegistry, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="must start with a letter or digit"):
        registry.create(tiny_package.root, name, version)
    assert not (tmp_path / "workspace").exists()


def test_an_existing_version_is_not_overwritten(registry: ModelRegistry, tiny_package: ModelPackage) -> None:
    registry.create(tiny_package.root, "fridge", "4")
    with pytest.raises(Conflict, match="has a version 4 already"):
        registry.create(tiny_package.root, "fridge", "4")


def test_registrations_at_the_same_time_get_different_numbers(
    registry: ModelRegistry, tiny_package: ModelPackage
) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: registry.create(tiny_package.root, "fridge"), range(6)))
    assert sorted(model.version for model in made) == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("name", GUARDED_FILES)
def test_an_altered_package_is_neither_registered_nor_verified(
    name: str, registry: ModelRegistry, copied: Path, tmp_path: Path
) -> None:
    registered = registry.create(copied, "fridge")
    for folder in (copied, registered.package_path):
        content = bytearray((folder / name).read_bytes())
        content[-2] ^= 1
        (folder / name).write_bytes(content)
    with pytest.raises(InvalidPackage, match=name) as refused:
        registry.create(copied, "other")
    assert str(copied) in str(refused.value)  # not the folder of the copy, which is gone
    assert ".tmp" not in str(refused.value)
    with pytest.raises(InvalidPackage, match=name):
        registry.verify("fridge")
    assert registry.names() == ["fridge"]
    assert not list((tmp_path / "workspace" / "models").glob("*/.*"))


def test_a_manifest_rewritten_to_fit_altered_weights_is_found(registry: ModelRegistry, copied: Path) -> None:
    registered = registry.create(copied, "fridge")
    package = ModelPackage.open(registered.package_path)
    old = sha256_of(package.weights_file)
    content = bytearray(package.weights_file.read_bytes())
    content[-2] ^= 1
    package.weights_file.write_bytes(content)
    package.manifest_file.write_text(package.manifest_file.read_text().replace(old, sha256_of(package.weights_file)))
    ModelPackage.open(registered.package_path)  # weights and manifest agree
    with pytest.raises(InvalidPackage, match=r"weights\.safetensors of .* was altered together with the manifest"):
        registry.verify("fridge")


def test_a_package_with_equal_labels_is_not_registered(registry: ModelRegistry, copied: Path) -> None:
    labels = copied / LABELS_FILE
    labels.write_text('["can", "carton", "can", "bottle"]')
    manifest = json.loads((copied / MANIFEST_FILE).read_text())
    manifest["files"][LABELS_FILE] = {"num_bytes": labels.stat().st_size, "sha256": sha256_of(labels)}
    (copied / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(InvalidPackage, match="must name different classes, but 'can' stands there twice") as caught:
        registry.create(copied, "fridge")
    assert f"{copied / LABELS_FILE}" in str(caught.value)
    assert registry.list() == []


def test_long_forms_of_azure_mean_the_models_of_the_workspace(
    registry: ModelRegistry, tiny_package: ModelPackage
) -> None:
    first, second = (registry.create(tiny_package.root, "fridge") for _ in range(2))
    workspace = "subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
    for prefix in ("azureml://registries/azureml", f"azureml:/{workspace}", f"azureml://{workspace}", "azureml:/"):
        assert registry.resolve(f"{prefix}/models/fridge/versions/1") == first.package_path, prefix
        assert registry.resolve(f"{prefix}/models/fridge/labels/latest") == second.package_path, prefix
    with pytest.raises(NotFound, match="the model fridge has no version '7'"):
        registry.resolve("azureml://registries/azureml/models/fridge/versions/7")
    with pytest.raises(UserError, match="azureml:fridge:1 or azureml:fridge@latest, but got 'azureml:fridge'"):
        registry.resolve("azureml:fridge")
    assert registry.create("azureml://registries/azureml/models/fridge/versions/1", "copy").version == "1"


def test_a_manifest_that_forgets_the_mlflow_files_is_found(registry: ModelRegistry, copied: Path) -> None:
    package = ModelPackage.open(registry.create(copied, "fridge").package_path)
    manifest = json.loads(package.manifest_file.read_text())
    files = {name: record for name, record in manifest["files"].items() if name.startswith("artifacts/")}
    package.manifest_file.write_text(json.dumps({**manifest, "schema_version": 1, "files": files}))
    ModelPackage.open(package.root)  # a package of version 1
    with pytest.raises(InvalidPackage, match=r"MLmodel of .* was registered with sha256 .* but it has no sha256"):
        registry.verify("fridge")


def test_show_prints_the_flavors_of_the_file(registry: ModelRegistry, tiny_package: ModelPackage) -> None:
    shown = registry.create(tiny_package.root, "fridge").to_document()["flavors"]
    assert shown == yaml.safe_load((tiny_package.root / "MLmodel").read_text())["flavors"]
    assert shown["python_function"]["env"] == {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}


def test_a_gate_recorded_after_registration_is_no_damage(registry: ModelRegistry, copied: Path) -> None:
    registered = registry.create(copied, "fridge")
    record_gate(ModelPackage.open(registered.package_path), {"precision": "bf16", "passed": True})
    registry.verify("fridge")
    assert ModelPackage.open(registered.package_path).manifest["precision_gates"]["bf16"]["passed"]


def test_settings_edited_before_registration_are_validated_and_recorded(registry: ModelRegistry, copied: Path) -> None:
    (copied / SETTINGS_FILE).write_text('{"valid_crop_size": 48}')
    assert registry.create(copied, "fridge").settings["valid_crop_size"] == 48
    (copied / SETTINGS_FILE).write_text('{"valid_crop_size": "48"}')
    with pytest.raises(InvalidDocument, match="valid_crop_size"):
        registry.create(copied, "fridge")
    assert [model.version for model in registry.versions("fridge")] == ["1"]


def test_settings_edited_after_registration_are_allowed_and_reported(registry: ModelRegistry, copied: Path) -> None:
    registered = registry.create(copied, "fridge")
    (registered.package_path / SETTINGS_FILE).write_text('{"valid_crop_size": 48}')
    assert registry.verify("fridge").settings_edited
    (registered.package_path / SETTINGS_FILE).write_text('{"valid_crop_size": -1}')
    with pytest.raises(InvalidDocument, match="valid_crop_size"):
        registry.verify("fridge")


def test_a_link_inside_a_package_is_refused(registry: ModelRegistry, copied: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (copied / "notes").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidPackage, match=r"plain files, but .*notes is a link"):
        registry.create(copied, "fridge")


def test_a_download_can_be_edited_and_registered_again(registry: ModelRegistry, copied: Path, tmp_path: Path) -> None:
    registry.create(copied, "fridge")
    target = tmp_path / "downloads"
    for _ in range(2):  # the second replaces the first, as Azure's does
        path = registry.download("fridge", "1", target)
    assert path == target / "fridge" / "mlflow-model"
    assert [file.name for file in (target / "fridge").iterdir()] == ["mlflow-model"]
    (path / SETTINGS_FILE).write_text('{"valid_crop_size": 48}')
    assert registry.create(path, "fridge").settings["valid_crop_size"] == 48


def test_a_download_does_not_replace_a_folder_of_the_users(
    registry: ModelRegistry, copied: Path, tmp_path: Path
) -> None:
    registry.create(copied, "fridge")
    mine = tmp_path / "downloads" / "fridge" / "mlflow-model" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    with pytest.raises(Conflict, match="choose another"):
        registry.download("fridge", None, tmp_path / "downloads")
    assert [file.name for file in mine.parent.parent.iterdir()] == ["mlflow-model"]
    assert mine.is_file()


@pytest.mark.parametrize("allowed_bytes", [0, 100_000])
def test_a_full_disk_names_the_registry_and_leaves_nothing(
    registry: ModelRegistry, tiny_package: ModelPackage, tmp_path: Path, allowed_bytes: int
) -> None:
    """The kernel refuses each file beyond the limit, as it does on a full disk."""
    registry.create(tiny_package.root, "fridge")
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed_bytes, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            registry.create(tiny_package.root, "fridge")
        with pytest.raises(OSError, match="File too large") as of_download:
            registry.download("fridge", "1", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    models = tmp_path / "workspace" / "models" / "fridge"
    assert caught.value.filename == str(models)
    assert of_download.value.filename == str(tmp_path / "fridge" / "mlflow-model")
    assert [folder.name for folder in models.iterdir()] == ["1"]
    assert list((tmp_path / "fridge").iterdir()) == []
