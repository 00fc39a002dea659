"""Batch jobs as typed: how the flags of `batch-endpoint invoke` are read, and `list-jobs`."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearsight.cli import root
from clearsight.console import run
from clearsight.documents.batch.document import BatchDeployment, BatchEndpoint
from clearsight.documents.batch.invocation import BatchInvocation
from clearsight.errors import UserError
from clearsight.runs.package import ModelPackage
from clearsight.runs.record import JobRecord, write_record
from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch import cli_jobs
from clearsight.serving.batch.store import BatchEndpointStore
from tests.conftest import CheckRows

Planned = tuple[BatchDeployment, BatchInvocation, Path]
Asked = Callable[[str], Planned | str]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with an endpoint `fridge` and its deployments `blue`, the default, and `green`."""
    workspace = Workspace(tmp_path / "home")
    monkeypatch.setenv("CLEARSIGHT_HOME", str(workspace.root))
    monkeypatch.chdir(tmp_path)
    store = BatchEndpointStore(workspace)
    store.put_endpoint(BatchEndpoint("fridge"))
    for name in ("green", "blue"):
        store.put_deployment(BatchDeployment(name, "fridge", "/model", "local"), is_default=True)
    return workspace


@pytest.fixture
def asked(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asked:
    """What a line of `batch-endpoint invoke` asks to be planned, or why it is refused; nothing is started."""
    planned: list[Planned] = []

    def plan(
        workspace: Workspace, deployment: BatchDeployment, invocation: BatchInvocation, folder: Path, on_step: object
    ) -> None:
        planned.append((deployment, invocation, folder))
        raise UserError("planned")

    monkeypatch.setattr(cli_jobs, "plan_batch", plan)

    def ask(line: str) -> Planned | str:
        planned.clear()
        assert run(root, ["batch-endpoint", "invoke", *line.split()]) != 0
        said = " ".join(capsys.readouterr().err.split())
        return planned[0] if planned else said

    return ask


def test_flags_are_what_the_job_is_asked_to_do(asked: Asked, tmp_path: Path, check_rows: CheckRows) -> None:
    def check(line: str, given: dict[str, Any]) -> None:
        deployment, invocation, folder = asked(line)
        assert isinstance(invocation, BatchInvocation)
        assert isinstance(deployment, BatchDeployment)
        assert invocation == BatchInvocation(endpoint_name="fridge", **given)
        assert deployment.name == given.get("deployment_name", "blue")
        assert folder == tmp_path

    store = "azureml://datastores/workspaceblobstore/paths"
    check_rows(
        check,
        [
            # The commands of Azure's samples.
            ("--name fridge --input data --query name -o tsv", {"inputs": "data"}),
            ("-n Fridge --input data --input-type uri_folder", {"inputs": "data", "input_type": "uri_folder"}),
            ("-n fridge --input azureml:sample@latest", {"inputs": "azureml:sample@latest"}),
            (
                "-n fridge --deployment-name Green --input list.csv --input-type uri_file -g g -w w",
                {"inputs": "list.csv", "input_type": "uri_file", "deployment_name": "green"},
            ),
            (
                f"-n fridge --input data --output-path {store}/fridge --set output_file_name=predictions_7.csv",
                {"inputs": "data", "output_path": f"{store}/fridge", "output_file_name": "predictions_7.csv"},
            ),
            (
                "-n fridge --input https://host/mnist/sample --mini-batch-size 20 --instance-count 5",
                {"inputs": "https://host/mnist/sample", "mini_batch_size": 20, "instance_count": 5},
            ),
            # Flags of earlier versions of Azure's client.
            ("-n fridge --input-data azureml:sample:1", {"inputs": "azureml:sample:1"}),
            ("-n fridge --input-dataset azureml:sample:1", {"inputs": "azureml:sample:1"}),
            ("-n fridge --input-local-path ./data", {"inputs": "./data"}),
            (f"-n fridge --input-path {store}/data", {"inputs": f"{store}/data"}),
            (
                f"-n fridge --input-path folder:{store}/data --output-path folder:{store}/out",
                {"inputs": f"{store}/data", "input_type": "uri_folder", "output_path": f"{store}/out"},
            ),
            ("-n fridge --input-path file:a.csv", {"inputs": "a.csv", "input_type": "uri_file"}),
            ("-n fridge --input file:///data/a.csv", {"inputs": "file:///data/a.csv"}),
            # The others.
            (
                "-n fridge -d green --input x -m 3 -c 2 -j night_1 -e nights --recursive --set error_threshold=0 "
                "retry_settings.max_retries=1 retry_settings.timeout=90",
                {
                    "deployment_name": "green",
                    "inputs": "x",
                    "mini_batch_size": 3,
                    "instance_count": 2,
                    "job_name": "night_1",
                    "experiment_name": "nights",
                    "recursive": True,
                    "error_threshold": 0,
                    "max_retries": 1,
                    "timeout_s": 90.0,
                },
            ),
            ("-n fridge --input x --no-recursive", {"inputs": "x", "recursive": False}),
        ],
    )


def test_a_file_has_paths_from_its_own_folder_and_flags_win_over_it(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    file = tmp_path / "below" / "inputs.yml"
    file.write_text("{inputs: {x: {type: uri_folder, path: data}}, mini_batch_size: 3, compute: {target: cpu}}")
    _, invocation, folder = asked("-n fridge --f below/inputs.yml -m 4 -c 2 --output-path out")
    assert folder == tmp_path / "below"
    assert invocation == BatchInvocation(
        endpoint_name="fridge",
        inputs="data",
        input_type="uri_folder",
        output_path=str(tmp_path / "out"),
        mini_batch_size=4,
        instance_count=2,
    )
    file.write_text("{outputs: {score: {path: out}}}")
    _, invocation, _ = asked("-n fridge -f below/inputs.yml --input data")
    assert isinstance(invocation, BatchInvocation)
    assert (invocation.inputs, invocation.output_path) == (str(tmp_path / "data"), "out")


def test_what_cannot_be_asked_is_refused_in_one_line(asked: Asked, tmp_path: Path, check_rows: CheckRows) -> None:
    (tmp_path / "inputs.yml").write_text("{inputs: {x: {path: data}}, outputs: {y: {path: out}}}")

    def check(line: str, part: str) -> None:
        said = asked(line)
        assert isinstance(said, str)
        assert part in said

    check_rows(
        check,
        [
            ("--input x", "Missing option '--name'"),
            ("-n fridge", "give the data once, with --input or as inputs of --file, but got none"),
            ("-n fridge --input x --input-path y", "not --input and --input-path"),
            ("-n fridge --input x -f inputs.yml", "not --input and inputs of --file"),
            ("-n fridge -f inputs.yml --input-type uri_file", "--input-type goes with --input"),
            ("-n fridge -f inputs.yml --output-path z", "--output-path or outputs in --file, not both"),
            ("-n fridge -f nowhere.yml", "must be a YAML file"),
            ("-n fridge --input x --input-type string", "takes no literal values"),
            ("-n fridge --input x -m 0", "0 is not in the range x>=1"),
            ("-n fridge --input x --set output_file_name=a/b.csv", "output_file_name: must be the name of a file"),
            ("-n fridge --input x --set no_such_key=1", "no_such_key: Unknown field"),
            ("-n fridge --input x --no-wait --stream", "--no-wait or --stream, not both"),
            ("-n oven --input x", "there is no batch endpoint 'oven'; there are: fridge"),
            ("-n fridge -d red --input x", "has no deployment 'red'; it has: blue, green"),
        ],
    )


@pytest.mark.slow
def test_a_job_is_run_printed_listed_and_downloaded(
    workspace: Workspace, tiny_package: ModelPackage, drawn_images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos").mkdir()
    for image in drawn_images[:5]:
        shutil.copy(image, "photos")
    BatchEndpointStore(workspace).put_deployment(
        BatchDeployment(
            "blue",
            "fridge",
            str(tiny_package.root),
            "local",
            mini_batch_size=2,
            environment_variables={"CLEARSIGHT_BACKEND": "openvino"},
        ),
        is_default=True,
    )

    def printed(line: str) -> str:
        assert run(root, line.split()) == 0
        return capsys.readouterr().out

    assert printed("batch-endpoint invoke -n fridge --input photos -j night --query status -o tsv") == "Completed\n"
    assert json.loads(printed("batch-deployment list-jobs -n blue -e fridge --query [].name")) == ["night"]
    printed("job download -n night --output-name score -p got")
    with Path("got/named-outputs/score/predictions.csv").open(newline="") as rows:
        assert [row[-1] for row in csv.reader(rows)] == sorted(image.name for image in drawn_images[:5])


def test_the_jobs_of_an_endpoint_or_of_a_deployment_are_listed(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(line: str) -> Any:
        code = run(root, [*line.split(), "--query", "[].name"])
        out, err = capsys.readouterr()
        return json.loads(out) if code == 0 else " ".join(err.split())

    assert listed("batch-endpoint list-jobs -n fridge") == listed("batch-deployment list-jobs -n blue -e fridge") == []
    for number, (endpoint, deployment) in enumerate([("fridge", "blue"), ("fridge", "green"), ("gone", "blue")]):
        properties = {"endpoint_name": endpoint, "deployment_name": deployment}
        write_job(workspace, f"job_{number}", f"2026-01-02T03:04:0{number}.000+00:00", properties)
    (workspace.runs / "damaged").mkdir()
    (workspace.runs / "damaged" / "job.json").write_text("")
    assert listed("batch-endpoint list-jobs -n Fridge") == ["job_1", "job_0"]
    assert listed("batch-deployment list-jobs --name Blue --endpoint-name fridge") == ["job_0"]
    assert listed("batch-endpoint list-jobs -n gone") == ["job_2"]
    assert "there is no batch endpoint 'oven'" in listed("batch-endpoint list-jobs -n oven")
    assert "has no deployment 'red'" in listed("batch-deployment list-jobs -n red -e fridge")


def write_job(workspace: Workspace, name: str, created_at: str, properties: dict[str, str]) -> None:
    """The record of a batch job that is over."""
    folder = RunFolder(workspace.runs / name)
    folder.root.mkdir(parents=True)
    folder.write_status(RunStatus("Completed"))
    write_record(
        folder,
        JobRecord(
            name=name,
            type="batch",
            created_at=created_at,
            display_name=name,
            description=None,
            experiment_name="fridge",
            task=None,
            primary_metric=None,
            tags={},
            properties=properties,
            best_model_path=None,
            timeout_minutes=60,
            warnings=[],
            document={"type": "batch"},
        ),
    )
