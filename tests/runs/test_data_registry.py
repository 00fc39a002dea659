"""Registered data: Azure's data files, versions that never change, and the verbs."""

import json
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.cli import root
from clearsight.console import run
from clearsight.documents.data_asset import DataAssetDocument, parse_data_asset
from clearsight.errors import Conflict, InvalidDocument, NotFound, UserError
from clearsight.runs.data_registry import DataRegistry
from clearsight.runs.workspace import Workspace

CheckRows = Callable[..., None]

SCHEMA = "$schema: https://azuremlschemas.azureedge.net/latest/data.schema.json\n"
SAMPLES = [
    "name: cloud-file-https-example\ndescription: From a file, by https URL.\ntype: uri_file\n"
    "path: https://account-name.blob.core.windows.net/container-name/example-data/titanic.csv",
    "name: cloud-file-wasbs-example\ntype: uri_file\npath: wasbs://container@account.blob.core.windows.net/t.csv",
    "name: cloud-folder-example\ntype: uri_folder\npath: azureml://datastores/workspaceblobstore/paths/example-data/",
    "name: cloud-folder-https-example\npath: https://account-name.blob.core.windows.net/container-name/example-data/",
    "name: local-file-example-titanic\nversion: 1\ntype: uri_file\npath: sample-data/titanic.csv",
    "name: local-folder-example-titanic\ntype: uri_folder\npath: sample-data",
    "name: local-folder-example\npath: sample-data/",
    "name: local-mltable-example-titanic\ntype: mltable\npath: ./local-mltable",
    "name: x\nversion: 2.0\ntags: {stable: true, number: 3}\ndatastore: azureml:store\npath: sample-data",
]
"""After https://github.com/Azure/azureml-examples/tree/main/cli/assets/data."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("sample-data/titanic.csv", "local-mltable/MLTable"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("paths: []\ntransformations: [read_json_lines]")
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_a_data_file_has_the_values_that_azures_client_reads(folder: Path, check_rows: CheckRows) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import azure.ai.ml as client

    def check(sample: str) -> None:
        file = folder / "data.yml"
        file.write_text(SCHEMA + sample)
        theirs = client.load_data(file)
        ours = parse_data_asset(yaml.safe_load(file.read_text()), folder)
        assert (ours.name, ours.version, ours.type, ours.description) == (
            theirs.name, theirs.version, theirs.type, theirs.description,
        )  # fmt: skip
        assert ours.tags == {key: str(value).lower() for key, value in (theirs.tags or {}).items()}
        assert Path(ours.path) == Path(str(theirs.path))

    check_rows(check, SAMPLES)


def test_every_fault_of_a_data_file_is_listed(folder: Path, check_rows: CheckRows) -> None:
    def check(document: dict[str, Any], faults: list[str]) -> None:
        with pytest.raises(InvalidDocument) as caught:
            parse_data_asset(document, folder)
        found = [str(fault) for fault in caught.value.faults]
        assert len(found) == len(faults)
        for fault, part in zip(found, faults, strict=True):
            assert part in fault

    check_rows(
        check,
        [
            ({}, ["name: is required", "path: is required"]),
            ({"name": "a", "path": " "}, ["path: must be text"]),
            ({"name": "a", "path": "azureml:b:1"}, ["must be a path or URL, not other registered data"]),
            (
                {"nam": "a", "path": "gone", "type": "folder"},
                ["name: is required", "type: must be one of uri_file", "nam: Unknown field; did you mean 'name'?",
                 f"path: must exist, but there is no {folder}/gone"],
            ),
            ({"name": "a", "path": "sample-data", "type": "uri_file"}, ["does not match asset type uri_file"]),
            ({"name": "a", "path": "sample-data/titanic.csv", "type": "uri_folder"}, ["asset type uri_folder"]),
            ({"name": "a", "path": "sample-data", "type": "mltable"}, ["a folder with a file named MLTable"]),
        ],
    )  # fmt: skip
    assert parse_data_asset({"name": "a", "path": "sample-data/titanic.csv"}, folder).type == "uri_file"


def document(name: str, version: str | None = None, path: str = "/data") -> DataAssetDocument:
    return DataAssetDocument(name, path, "uri_folder", version, None, {}, {})


def test_versions_are_numbered_and_never_change(workspace: Workspace, check_rows: CheckRows) -> None:
    registry = DataRegistry(workspace)
    assert registry.list() == []
    versions = [registry.create(document("a", given)).version for given in (None, "7", None, "blue", None)]
    assert versions == ["1", "7", "8", "blue", "9"]
    record = (workspace.data_assets / "a" / "7.json").read_bytes()
    with pytest.raises(Conflict, match="the data a has a version 7 already"):
        registry.create(document("a", "7", path="/other"))
    assert (workspace.data_assets / "a" / "7.json").read_bytes() == record
    assert [file.name for file in workspace.data_assets.rglob(".*")] == []
    assert [asset.version for asset in registry.versions("a")] == ["9", "blue", "8", "7", "1"]
    registry.create(document("b"))
    assert [(asset.name, asset.version) for asset in registry.list()] == [("a", "9"), ("b", "1")]

    def check(reference: str, expected: str | None) -> None:
        found = registry.find(reference)
        assert (None if found is None else f"{found.name}:{found.version}") == expected

    prefix = "azureml://subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
    check_rows(
        check,
        [
            ("azureml:a:7", "a:7"),
            ("azureml:a@latest", "a:9"),
            (f"{prefix}/data/a/versions/blue", "a:blue"),
            ("azureml://registries/r/data/b/labels/latest", "b:1"),
            ("azureml://registries/r/models/b/versions/1", None),
            ("azureml://datastores/d/paths/a", None),
            ("photos", None),
        ],
    )

    def refuse(reference: str, part: str) -> None:
        with pytest.raises(UserError, match=part):
            registry.find(reference)

    check_rows(
        refuse,
        [
            ("azureml:a:2", "the data a has no version '2'; it has 9, blue, 8, 7, 1"),
            ("azureml:c:1", "there is no data 'c'; the workspace has a, b"),
            ("azureml:a@best", "the only label of data is 'latest'"),
            ("azureml:a", "with its version, as azureml:a:1"),
            ("azureml:-a:1", "must start with a letter or digit"),
        ],
    )
    for name, version in (("../a", None), ("a", "../7"), ("a", "")):
        with pytest.raises(UserError, match="must start with a letter or digit"):
            registry.create(document(name, version))
    with pytest.raises(NotFound):
        registry.get("a", "../b/1")


def test_several_processes_get_different_versions(workspace: Workspace) -> None:
    found: list[str] = []

    def create() -> None:
        found.extend(DataRegistry(workspace).create(document("a")).version for _ in range(5))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, found)) == list(range(1, 21))


def test_the_verbs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], check_rows: CheckRows
) -> None:
    monkeypatch.setenv("CLEARSIGHT_HOME", str(folder / "ws"))
    monkeypatch.chdir(folder)
    (folder / "sub").mkdir()
    (folder / "sub/data.yml").write_text(f"{SCHEMA}name: shelf\ntype: uri_folder\npath: ../sample-data\n")

    def call(line: str) -> str:
        assert run(root, ["data", *line.split()]) == 0
        return capsys.readouterr().out.rstrip("\n")

    created = json.loads(call("create -f sub/data.yml --tags store=12 -g group -w workspace"))
    expected = {"name": "shelf", "version": "1", "type": "uri_folder", "tags": {"store": "12"}}
    assert expected.items() <= created.items()
    assert Path(created["path"]).resolve() == folder / "sample-data"
    call("create -n shelf --path sample-data/titanic.csv --set description=one")

    def check(line: str, output: str) -> None:
        assert call(line) == output

    check_rows(
        check,
        [
            ("show --name shelf --version 1 --query type -o tsv", "uri_folder"),
            ("show -n shelf --label latest --query [version,type,description] -o tsv", "2\nuri_file\none"),
            ("list --query [].[name,version] -o tsv", '["shelf","2"]'),
            ("list --name shelf --query [].version --output tsv", "2\n1"),
            ("list --name shelf -r 1 --query [].version --output tsv", "2"),
        ],
    )
    assert "shelf" in call("list --output table")

    def refuse(line: str, code: int, part: str) -> None:
        assert run(root, ["data", *line.split()]) == code
        assert part in " ".join(capsys.readouterr().err.split())

    check_rows(
        refuse,
        [
            ("create -n shelf --version 1 -p sample-data", 1, "the data shelf has a version 1 already"),
            ("create -p sample-data", 1, "name: is required"),
            ("create -n a -p gone", 1, f"path: must exist, but there is no {folder}/gone"),
            ("create -n a -p sample-data -t folder", 2, "'uri_file', 'uri_folder', 'mltable'"),
            ("show -n shelf --version 3", 1, "the data shelf has no version '3'; it has 2, 1"),
            ("show -n shelf --version 1 --label latest", 2, "exclude each other"),
            ("show -n other", 1, "there is no data 'other'; the workspace has shelf"),
        ],
    )
