"""What `batch-endpoint invoke` reads from its file."""

from typing import Any

import pytest
import yaml

from clearsight.documents.batch.invocation import BatchInvocation, read_invocation
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
