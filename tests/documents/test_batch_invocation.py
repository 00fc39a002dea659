"""What `batch-endpoint invoke` reads from its file."""

from typing import Any

import pytest
import yaml

from clearsight.documents.batch.invocation import BatchInvocation, read_invocation
from clearsight.documents.batch.rest_body import from_rest_body, is_rest_body
from clearsight.errors import InvalidDocument
from tests.conftest import CheckRows

FOLDER = {"inputs": {"input_data": {"type": "uri_folder", "path": "data/unlabeled"}}}


def test_an_input_alone_leaves_everything_to_the_deployment() -> None:
    assert read_invocation(FOLDER, "Fridge") == BatchInvocation(
        endpoint_name="fridge", inputs="data/unlabeled", input_type="uri_folder"
    )


def test_every_key_is_read() -> None:
    document = yaml.safe_load(
        """
        $schema: ignored
        inputs: {any_name: {path: "azureml:fridge@latest", type: UriFile, mode: ro_mount}}
        outputs: {score: {path: azureml://datastores/results/paths/out/, mode: upload}}
        output_file_name: rows.jsonl
        mini_batch_size: "20"
        error_threshold: 0
        retry_settings: {max_retries: 0, timeout: 1.5}
        compute: {instance_count: 5, target: cpu}
        job_name: night_1
        experiment_name: nights
        recursive: yes
        """
    )
    assert read_invocation(document, "fridge", "Blue") == BatchInvocation(
        endpoint_name="fridge",
        deployment_name="blue",
        inputs="azureml:fridge@latest",
        input_type="uri_file",
        output_path="azureml://datastores/results/paths/out/",
        output_file_name="rows.jsonl",
        mini_batch_size=20,
        instance_count=5,
        error_threshold=0,
        max_retries=0,
        timeout_s=1.5,
        job_name="night_1",
        experiment_name="nights",
        recursive=True,
    )


def test_an_output_that_is_a_file_names_folder_and_file(check_rows: CheckRows) -> None:
    def check(path: str, folder: str, file_name: str) -> None:
        output = {"outputs": {"score": {"type": "uri_file", "path": path}}}
        for given in ({}, {"output_file_name": file_name}):
            found = read_invocation({**FOLDER, **output, **given}, "fridge")
            assert (found.output_path, found.output_file_name) == (folder, file_name)

    check_rows(
        check,
        [
            ("azureml://datastores/d/paths/out/rows.csv", "azureml://datastores/d/paths/out/", "rows.csv"),
            ("out/rows.csv", "out/", "rows.csv"),
            ("/rows.csv", "/", "rows.csv"),
            ("rows.csv", ".", "rows.csv"),
        ],
    )


def test_files_are_refused_key_by_key(check_rows: CheckRows) -> None:
    def check(document: dict[str, Any], faults: dict[str, str]) -> None:
        with pytest.raises(InvalidDocument) as error:
            read_invocation(document, "fridge")
        found = {fault.target: fault.message for fault in error.value.faults}
        assert found.keys() == faults.keys()
        for target, part in faults.items():
            assert part in found[target]

    def changed(faults: dict[str, str], **changes: Any) -> tuple[dict[str, Any], dict[str, str]]:
        return {**FOLDER, **changes}, faults

    literal = {"type": "string", "default": "append"}
    check_rows(
        check,
        [
            ({}, {"inputs": "is required"}),
            ({"inputs": {}}, {"inputs": "must hold one input"}),
            ({"inputs": {**FOLDER["inputs"], "score_mode": literal}}, {"inputs": "but got input_data, score_mode"}),
            ({"inputs": {"a": {"path": "x", "type": "number"}}}, {"inputs.a.type": "takes no literal values"}),
            ({"inputs": {"a": {"path": ""}}}, {"inputs.a.path": "must be text"}),
            ({"inputs": {"a": {"path": "x", "typ": "uri_file"}}}, {"inputs.a.typ": "did you mean 'type'?"}),
            ({"inputs": "data"}, {"inputs": "must be a mapping"}),
            changed({"outputs": "one output at most"}, outputs={"a": {}, "b": {}}),
            changed({"outputs.a.path": "name of a file"}, outputs={"a": {"type": "uri_file", "path": "out/"}}),
            changed(
                {"output_file_name": "must be 'b.csv'"},
                outputs={"a": {"type": "uri_file", "path": "b.csv"}},
                output_file_name="a.csv",
            ),
            changed({"output_file_name": "without a folder"}, output_file_name="out/a.csv"),
            changed({"mini_batch_size": "at least 1"}, mini_batch_size=0),
            changed({"compute.instance_count": "at least 1"}, compute={"instance_count": 0}),
            changed({"error_threshold": "at least -1"}, error_threshold=-2),
            changed({"retry_settings.timeout": "above 0"}, retry_settings={"timeout": 0}),
            changed({"job_name": "letters, digits"}, job_name="a b"),
            changed({"minibatch_size": "did you mean 'mini_batch_size'?"}, minibatch_size=3),
        ],
    )


def read_body(body: dict[str, Any]) -> BatchInvocation:
    assert is_rest_body(body)
    warnings: list[str] = []
    invocation = read_invocation(from_rest_body(body, warnings), "fridge")
    assert warnings == []
    return invocation


def test_a_body_of_the_rest_api_is_the_file_whatever_the_case_of_its_keys(check_rows: CheckRows) -> None:
    uri = "azureml://datastores/workspaceblobstore/paths/pictures/"

    def check(body: dict[str, Any], given: dict[str, Any]) -> None:
        assert read_body({"properties": body}) == BatchInvocation(endpoint_name="fridge", **given)

    plain = {"inputs": uri, "input_type": "uri_folder"}
    check_rows(
        check,
        [
            ({"inputData": {"input": {"jobInputType": "UriFolder", "uri": uri}}}, plain),
            ({"InputData": {"Mnist": {"JobInputType": "UriFolder", "Uri": uri}}}, plain),
            ({"dataset": {"dataInputType": "DataUrl", "Path": uri}}, {"inputs": uri}),
            (
                {
                    "inputData": {"a": {"jobInputType": "UriFile", "uri": uri}},
                    "outputData": {"score": {"jobOutputType": "UriFile", "uri": f"{uri}out/rows.csv"}},
                    "miniBatchSize": 2,
                    "outputFileName": "rows.csv",
                    "errorThreshold": 0,
                    "retrySettings": {"maxRetries": 3, "timeout": "PT1M30S"},
                    "compute": {"instanceCount": 1},
                    "name": "night_1",
                    "properties": {"experimentName": "nights"},
                },
                {
                    "inputs": uri,
                    "input_type": "uri_file",
                    "output_path": f"{uri}out/",
                    "output_file_name": "rows.csv",
                    "mini_batch_size": 2,
                    "error_threshold": 0,
                    "max_retries": 3,
                    "timeout_s": 90.0,
                    "instance_count": 1,
                    "job_name": "night_1",
                    "experiment_name": "nights",
                },
            ),
        ],
    )
    assert not is_rest_body(FOLDER)


def test_a_body_is_refused_key_by_key() -> None:
    literal = {"mode": {"JobInputType": "Literal", "Value": "append"}}
    with pytest.raises(InvalidDocument) as error:
        read_body({"properties": {"InputData": literal, "retrySettings": {"timeout": "30 s"}}})
    faults = {fault.target: fault.message for fault in error.value.faults}
    assert faults.keys() == {"inputs.mode.type", "retry_settings.timeout"}
    assert "takes no literal values" in faults["inputs.mode.type"]
    for body in ({"inputData": []}, {"inputData": {"a": 1}}, {"dataset": None}, {}):
        with pytest.raises(InvalidDocument, match="inputs"):
            read_body({"properties": body})


def test_keys_that_newer_clients_may_send_are_named() -> None:
    warnings: list[str] = []
    data = {"a": {"uri": "x", "jobInputType": "UriFile", "pathOnCompute": "y"}}
    document = from_rest_body({"properties": {"inputData": data, "newKey": 1}}, warnings)
    assert read_invocation(document, "fridge").inputs == "x"
    assert warnings == [
        "properties.newkey: unknown in a REST body; ignored",
        "properties.inputs.a.pathoncompute: unknown in a REST body; ignored",
    ]
