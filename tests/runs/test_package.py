"""A package folder is opened when it is complete, else refused with the name of the faulty file or key."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.documents.settings import ClassificationSettings
from clearsight.errors import Conflict, InvalidDocument, InvalidPackage
from clearsight.runs.package import (
    GUARDED_FILES,
    MANIFEST_FILE,
    SETTINGS_FILE,
    ModelPackage,
    publish_package,
    sha256_of,
)
from clearsight.tasks import Task

AS_TRAINED = ClassificationSettings(valid_resize_size=72, valid_crop_size=64)  # what the fixture was written with


@pytest.fixture
def copied(tiny_package: ModelPackage, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_package.root, tmp_path / "mlflow-model"))


def _edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def test_an_empty_folder_a_file_and_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InvalidPackage, match=r"must hold manifest\.json"):
        ModelPackage.open(tmp_path / "empty")
    with pytest.raises(InvalidPackage, match="is a file"):
        ModelPackage.open(tmp_path / "file")
    with pytest.raises(InvalidPackage, match="is not there"):
        ModelPackage.open(tmp_path / "nothing")


def test_an_mlflow_model_of_another_program_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {loader_module: mlflow.pyfunc.model}}")
    (tmp_path / "python_model.pkl").touch()
    with pytest.raises(InvalidPackage, match="MLflow model of another program"):
        ModelPackage.open(tmp_path)


def test_a_package_tells_what_it_is(tiny_package: ModelPackage) -> None:
    assert tiny_package.task is Task.MULTI_CLASS
    assert tiny_package.model_name == "mobilenetv2"
    assert tiny_package.labels == ("can", "carton", "milk_bottle", "water_bottle")
    assert tiny_package.num_classes == 4
    assert tiny_package.run_id == "tiny_HD_0"
    assert tiny_package.settings() == AS_TRAINED
    for file in (tiny_package.weights_file, tiny_package.onnx_file, tiny_package.torchscript_file):
        assert file.is_file()
    with pytest.raises(TypeError):
        tiny_package.manifest["task"] = "other"  # type: ignore[index]


@pytest.mark.parametrize("name", GUARDED_FILES)
def test_one_flipped_bit_is_found_and_the_file_named(name: str, copied: Path) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(InvalidPackage, match=rf"{name} of .* was altered or damaged: .*sha256"):
        ModelPackage.open(copied)


@pytest.mark.parametrize("name", [name for name in GUARDED_FILES if name.endswith(("safetensors", "onnx", "pt"))])
def test_a_truncated_or_missing_file_is_found_without_reading_the_others(name: str, copied: Path) -> None:
    (copied / name).write_bytes((copied / name).read_bytes()[:-1])
    with pytest.raises(InvalidPackage, match=rf"{name} of .* was altered or damaged: .*bytes"):
        ModelPackage.open(copied, verify=False)
    (copied / name).unlink()
    with pytest.raises(InvalidPackage, match=rf"must hold {name}, but it is not there"):
        ModelPackage.open(copied, verify=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.clear(), "schema_version: Field required"),
        (lambda manifest: manifest.update(schema_version=3), "upgrade Clearsight"),
        (lambda manifest: manifest.update(schema_version=0), "schema_version: Input should be 1 or 2"),
        (lambda manifest: manifest.update(task="image_captioning"), "task must be one of"),
        (lambda manifest: manifest.update(num_classes=5), "must name 5 classes as the manifest says, but it names 4"),
        (lambda manifest: manifest.update(surprise=1), "surprise: Extra inputs are not permitted"),
        (lambda manifest: manifest["files"].popitem(), "must list the files"),
        (lambda manifest: manifest["files"].update({"../x": manifest["files"].popitem()[1]}), "must list the files"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, copied: Path
) -> None:
    _edit_json(copied / MANIFEST_FILE, change)
    with pytest.raises(InvalidPackage, match=message):
        ModelPackage.open(copied)


@pytest.mark.parametrize("content", ["", "[", "[]", "[" * 100_000, '"text"'])
def test_a_manifest_that_is_no_json_object_is_refused(content: str, copied: Path) -> None:
    (copied / MANIFEST_FILE).write_text(content)
    with pytest.raises(InvalidPackage, match="manifest"):
        ModelPackage.open(copied)


def _forget_mlflow_files(root: Path) -> None:
    """Give the package a manifest of version 1, which knows nothing of MLflow's files."""
    _edit_json(root / MANIFEST_FILE, lambda manifest: manifest.update(schema_version=1))
    for name in GUARDED_FILES[4:]:
        _edit_json(root / MANIFEST_FILE, lambda manifest, name=name: manifest["files"].pop(name))


def _edit_flavor(root: Path, **keys: object) -> None:
    document = yaml.safe_load((root / "MLmodel").read_text())
    document["flavors"]["python_function"].update(keys)
    (root / "MLmodel").write_text(yaml.safe_dump(document))


def _add(name: str, content: str = "import os\n") -> Callable[[Path], object]:
    def add(root: Path) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)

    return add


def _link(name: str) -> Callable[[Path], object]:
    def link(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(root.parent / "elsewhere")

    return link


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: _edit_flavor(root, loader_module="loader"), "must name the loader_module clearsight.* 'loader'"),
        (lambda root: _edit_flavor(root, code="code"), "and no others, but it has code"),
        (lambda root: _edit_flavor(root, data="../other"), "and no others, but it has data"),
        (lambda root: (root / "MLmodel").write_text("flavors: {sklearn: {}}"), r"but it has \['sklearn'\]"),
        (lambda root: (root / "MLmodel").write_text("flavors: 1"), "must hold the mapping 'flavors'"),
        (lambda root: (root / "MLmodel").write_text("a: ]"), "MLmodel must be a YAML file"),
        (lambda root: (root / "MLmodel").unlink(), "MLmodel must be a YAML file.* No such file"),
        (_add("code/loader.py"), "must hold no code, but .* holds code"),
        (_add("artifacts/loader.PY"), "must hold no code, but .* holds artifacts/loader.PY"),
        (_add("artifacts/libhelp.so"), "must hold no code, but .* holds artifacts/libhelp.so"),
        (_link("artifacts/settings.json"), "settings.json is a link"),
        (_link("registered_model_meta"), "registered_model_meta is a link"),
        (_link("artifacts/more"), "artifacts/more is a link"),
    ],
)
def test_another_loader_code_and_links_are_refused_whatever_the_manifest_guards(
    change: Callable[[Path], object], message: str, copied: Path
) -> None:
    _forget_mlflow_files(copied)
    ModelPackage.open(copied)
    change(copied)
    with pytest.raises(InvalidPackage, match=message):
        ModelPackage.open(copied)


def test_even_a_harmless_change_of_mlmodel_is_found(copied: Path) -> None:
    (copied / "MLmodel").write_text((copied / "MLmodel").read_text() + "# reviewed\n")
    with pytest.raises(InvalidPackage, match=r"MLmodel of .* was altered or damaged"):
        ModelPackage.open(copied)


def test_what_nothing_guards_is_named(copied: Path) -> None:
    assert ModelPackage.open(copied).unguarded_files() == []
    (copied / "registered_model_meta").write_text("model_name: fridge\nmodel_version: '3'\n")  # MLflow writes it
    assert ModelPackage.open(copied).unguarded_files() == ["registered_model_meta"]
    _forget_mlflow_files(copied)
    assert ModelPackage.open(copied).unguarded_files() == [
        "MLmodel",
        "conda.yaml",
        "python_env.yaml",
        "registered_model_meta",
        "requirements.txt",
    ]


def test_missing_and_empty_settings_mean_the_settings_of_training(copied: Path) -> None:
    (copied / SETTINGS_FILE).unlink()
    assert ModelPackage.open(copied).settings() == AS_TRAINED
    (copied / SETTINGS_FILE).write_text("{}")
    assert ModelPackage.open(copied).settings() == AS_TRAINED


def test_edited_settings_are_accepted_and_what_they_leave_out_is_as_trained(copied: Path) -> None:
    (copied / SETTINGS_FILE).write_text('{"validation_crop_size": 48, "valid_cropp_size": 1}')
    package = ModelPackage.open(copied)
    settings, warnings = package.settings_and_warnings()
    assert (settings.valid_resize_size, settings.valid_crop_size) == (72, 48)
    assert package.trained_settings() == AS_TRAINED
    assert len(warnings) == 1
    assert "valid_cropp_size" in warnings[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"valid_crop_size": 0}', "valid_crop_size"),
        ('{"valid_crop_size": 73}', "valid_crop_size: must be at most valid_resize_size, 72"),
        ("[]", "must be a JSON object"),
    ],
)
def test_bad_settings_name_the_key(content: str, message: str, copied: Path) -> None:
    (copied / SETTINGS_FILE).write_text(content)
    with pytest.raises(InvalidDocument, match=message):
        ModelPackage.open(copied).settings()


def test_a_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    # The published digest of the empty message (FIPS 180-4 examples).
    assert sha256_of(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_publishing_replaces_an_older_package_and_nothing_else(tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "MLmodel").write_text(name)
    publish_package(tmp_path / "first", tmp_path / "deep" / "target")
    publish_package(tmp_path / "second", tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target" / "MLmodel").read_text() == "second"
    assert sorted(file.name for file in (tmp_path / "deep").iterdir()) == ["target"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").touch()
    with pytest.raises(Conflict, match="thesis must be a new folder"):
        publish_package(tmp_path / "third", tmp_path / "thesis")
    assert (tmp_path / "third").is_dir()
    assert (tmp_path / "thesis" / "chapter.txt").is_file()


def test_graphs_of_one_size_refuse_another_one_in_the_settings(tiny_package: ModelPackage, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_package.root, tmp_path / "m"))
    manifest = json.loads((root / "artifacts/manifest.json").read_text())
    manifest["graphs"]["artifacts/model.onnx"]["input"]["shape"] = ["batch", 3, 64, 64]
    (root / "artifacts/manifest.json").write_text(json.dumps(manifest))
    assert ModelPackage.open(root).settings().valid_crop_size == 64
    settings = json.loads((root / "artifacts/settings.json").read_text())
    (root / "artifacts/settings.json").write_text(json.dumps({**settings, "valid_crop_size": 48}))
    with pytest.raises(InvalidDocument, match=r"valid_crop_size: must be 64, .* but got 48"):
        ModelPackage.open(root).settings()
