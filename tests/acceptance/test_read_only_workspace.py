"""Every verb of the command line in a workspace that cannot be written: a result or one line, never a traceback."""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from clearsight.cli import root
from clearsight.console import run

from .conftest import unpack_golden

READS = {
    "batch-deployment list": "-e golden",
    "batch-deployment list-jobs": "-n blue -e golden",
    "batch-deployment show": "-n blue -e golden",
    "batch-endpoint list": "",
    "batch-endpoint list-jobs": "-n golden",
    "batch-endpoint show": "-n golden",
    "data list": "",
    "data show": "-n photos -v 1",
    "data check": "data/multiclass/training-mltable-folder --task image_classification",
    "job list": "",
    "job show": "-n golden",
    "job validate": "-f job.yml",
    "model list": "",
    "model show": "-n golden",
    "model verify": "-n golden",
    "schema": "endpoint",
    "online-endpoint get-credentials": "-n golden",
    "online-endpoint list": "",
    "online-endpoint show": "-n golden",
    "online-deployment get-logs": "-n blue -e golden",
    "online-deployment list": "-e golden",
    "online-deployment show": "-n blue -e golden",
    "java-home": "",
}
"""Verbs that do their work all the same."""

WRITES = {
    "batch-deployment create": "-f batch.yml",
    "batch-deployment delete": "-n blue -e golden -y",
    "batch-deployment update": "-n blue -e golden --set tags.a=b",
    "batch-endpoint create": "-n new",
    "batch-endpoint delete": "-n golden -y",
    "batch-endpoint invoke": "-n golden --input data/images/single",
    "batch-endpoint update": "-n golden --set tags.a=b",
    "data create": "-n photos --path data --type uri_folder",
    "data convert": "--from csv labels.csv --output out",
    "data demo": "--output out --num-images 10 --task image_classification",
    "job cancel": "-n golden",
    "job create": "-f job.yml -n other",
    "job download": "-n golden_HD_0",
    "job resume": "-n golden",
    "model create": "-n golden -p .clearsight/models/golden/1/mlflow-model",
    "model download": "-n golden",
    "model export": "-p azureml:golden:1 -f mar -o g.mar",
    "serve": "--port 1",
    "online-endpoint create": "-n new",
    "online-endpoint delete": "-n golden -y",
    "online-endpoint regenerate-keys": "-n golden",
    "online-endpoint update": "-n golden --set tags.a=b",
    "online-deployment create": "-f green.yml",
    "online-deployment delete": "-n blue -e golden",
    "online-deployment update": "-n blue -e golden",
}
"""Verbs that say which file could not be written."""

ELSEWHERE = {"job stream", "online-endpoint invoke", "predict", "explain"}
"""These need a running job, a server, or networks: tested below or not at all."""

GREEN = "{name: green, endpoint_name: golden, model: 'azureml:golden:1', instance_type: x, instance_count: 1}"

BATCH = """
name: blue
endpoint_name: golden
model: azureml:golden:1
compute: local
environment_variables: {CLEARSIGHT_BACKEND: onnxruntime}
"""
DATA = "data create -n photos --path data --type uri_folder"
PROGRAM = (sys.executable, "-c", "from clearsight.cli import main; main()")


def verbs(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))
        else:
            yield " ".join((*path, name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with a job, a model and an endpoint, and files to work on; nothing in it may be written."""
    folder = unpack_golden(tmp_path_factory.mktemp("read-only"))
    (folder / "green.yml").write_text(GREEN)
    (folder / "labels.csv").write_text(
        "image,label\n" + "".join(f"data/images/single/{i:04}.jpg,a\n" for i in range(16))
    )
    (folder / "batch.yml").write_text(BATCH)
    for line in ("batch-endpoint create -n golden", "batch-deployment create -f batch.yml --set-default", DATA):
        assert subprocess.run([*PROGRAM, *line.split()], cwd=folder, capture_output=True).returncode == 0, line
    files = [folder, *folder.rglob("*")]
    for file in files:
        file.chmod(0o500 if file.is_dir() else 0o400)
    yield folder
    for file in files:
        file.chmod(0o700 if file.is_dir() else 0o600)


class _Head(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextlib.contextmanager
def permissions_count() -> Iterator[None]:
    """Permissions of files also count for root, in this thread: without its capabilities to override them."""
    libc, head, capabilities = ctypes.CDLL(None), _Head(0x20080522, 0), (_Capabilities * 2)()
    assert libc.capget(ctypes.byref(head), capabilities) == 0
    before = capabilities[0].effective
    capabilities[0].effective = before & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(ctypes.byref(head), capabilities) == 0
    try:
        yield
    finally:
        capabilities[0].effective = before
        assert libc.capset(ctypes.byref(head), capabilities) == 0


Execute = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def execute(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Execute:
    """Runs a command line; returns the exit code and the lines on stderr."""

    def execute(line: str, workspace: Path = folder / ".clearsight") -> tuple[int, list[str]]:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("CLEARSIGHT_HOME", str(workspace))
        with permissions_count():
            code = run(root, line.split())
        return code, capsys.readouterr().err.strip().splitlines()

    return execute


def test_every_verb_is_in_one_of_the_tables() -> None:
    assert sorted(verbs(root)) == sorted([*READS, *WRITES, *ELSEWHERE])


@pytest.mark.parametrize("verb", READS)
def test_what_only_reads_works(verb: str, execute: Execute) -> None:
    code, errors = execute(f"{verb} {READS[verb]}")
    assert code == 0, errors


@pytest.mark.parametrize("verb", set(WRITES) - {"job download"})
def test_what_cannot_be_written_is_one_line_that_names_the_file(verb: str, execute: Execute, folder: Path) -> None:
    code, errors = execute(f"{verb} {WRITES[verb]}")
    assert code == 1
    [line] = errors
    assert line.endswith(": Permission denied; change its permissions or choose another folder")
    named = folder / line.removeprefix("error: ").partition(": ")[0]
    assert ".tmp" not in named.name
    assert os.path.commonpath([named, folder]) == str(folder)


@pytest.mark.parametrize("verb", [verb for verb in (*READS, *WRITES) if verb.startswith(("online", "job", "model"))])
def test_a_workspace_below_a_file_is_one_line(verb: str, execute: Execute, folder: Path) -> None:
    code, errors = execute(f"{verb} {(READS | WRITES)[verb]}", folder / "job.yml" / "workspace")
    assert code in (0, 1)
    assert len(errors) == code


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["predict", "explain --algorithm gradcam"])
def test_images_are_scored_and_explained_without_a_cache(verb: str, execute: Execute) -> None:
    code, errors = execute(f"{verb} --package azureml:golden:1 data/images/single/0000.jpg")
    assert code == 0, errors
