"""Batch endpoint and deployment files: what is read, what is refused, and that Azure's client reads the same."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.documents.batch.document import (
    BatchDeployment,
    parse_batch_deployment,
    parse_batch_endpoint,
)
from clearsight.documents.batch.invocation import BatchInvocation, read_invocation
from clearsight.documents.batch.rest_body import from_rest_body
from clearsight.errors import InvalidDocument
from tests.conftest import CheckRows

MODEL = """
$schema: https://azuremlschemas.azureedge.net/latest/modelBatchDeployment.schema.json
endpoint_name: fridge-batch
name: Detector-A
description: boxes of things in a fridge
type: model
model: azureml:fridge@latest
compute: azureml:batch-cluster
resources: {instance_count: 2}
tags: {device_batching: 16}
settings:
  max_concurrency_per_instance: 3
  mini_batch_size: "5"
  output_action: append_row
  output_file_name: rows.csv
  retry_settings: {max_retries: 1, timeout: 300}
  error_threshold: 0
  logging_level: debug
  environment_variables: {WORKER_COUNT: "4"}
"""
SCRIPT = """
name: fridge-script
endpoint_name: fridge-batch
type: model
model: {name: fridge, path: model, version: 2}
code_configuration: {code: model, scoring_script: score.py}
environment: {name: own, image: mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest, conda_file: conda.yml}
compute: cpu-cluster
settings: {mini_batch_size: 1, instance_count: 4, output_action: summary_only}
"""
OLD = """
$schema: https://azuremlschemas.azureedge.net/latest/batchDeployment.schema.json
name: demo
endpoint_name: fridge-batch
model: azureml:fridge:7
compute: azureml:cpu-cluster
resources: {instance_count: 2, instance_type: Standard_DS3_v2}
error_threshold: 0
logging_level: info
max_concurrency_per_instance: 2
mini_batch_size: 12
output_action: append_row
output_file_name: predictions.csv
retry_settings: {max_retries: 3, timeout: 300}
environment_variables: {A: b}
"""
LEAST = {"name": "blue", "endpoint_name": "fridge", "model": "azureml:fridge:1", "compute": "cpu"}


@pytest.fixture(scope="module")
def azure() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import azure.ai.ml
        from azure.ai.ml.entities import _load_functions
    return azure.ai.ml, _load_functions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "score.py").write_text("")
    (tmp_path / "conda.yml").write_text("name: x\ndependencies: [python=3.11]\n")
    return tmp_path


def faults_of(document: Any, folder: Path | None = None) -> dict[str, str]:
    with pytest.raises(InvalidDocument) as error:
        parse_batch_deployment(document, folder)
    return {fault.target: fault.message for fault in error.value.faults}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", [MODEL, SCRIPT, OLD])
def test_a_deployment_file_has_the_values_that_azures_client_reads(text: str, folder: Path, azure: Any) -> None:
    client, functions = azure
    file = folder / "deployment.yml"
    file.write_text(text)
    load = functions.load_model_batch_deployment if "type: model" in text else client.load_batch_deployment
    theirs = load(file)
    ours = parse_batch_deployment(yaml.safe_load(text), folder)
    assert (ours.name, ours.endpoint_name, ours.compute) == (theirs.name, theirs.endpoint_name, theirs.compute)
    assert (ours.description, ours.tags) == (theirs.description, theirs.tags)
    assert ours.instance_count == theirs.resources.instance_count
    for key in ("mini_batch_size", "output_action", "output_file_name", "error_threshold", "logging_level"):
        assert getattr(theirs, key) in (getattr(ours, key), None), key
    assert theirs.max_concurrency_per_instance in (ours.max_concurrency_per_instance, None)
    assert ours.environment_variables == (theirs._settings.environment_variables or {})
    if theirs.retry_settings is not None:
        retry = theirs.retry_settings
        assert (ours.max_retries, ours.timeout_s) == (retry.max_retries, retry.timeout)
    if isinstance(theirs.model, str):
        assert ours.model.removeprefix("azureml:") == theirs.model.removeprefix("azureml:")
    else:
        assert ours.model == str(Path(folder, theirs.model.path).resolve())


@pytest.mark.filterwarnings("ignore")
def test_a_deployment_is_printed_with_the_keys_and_values_of_azures_client(azure: Any, folder: Path) -> None:
    from azure.ai.ml.entities import BatchDeployment as AzureDeployment

    file = folder / "deployment.yml"
    file.write_text(MODEL)
    answer = azure[1].load_model_batch_deployment(file)._to_rest_object("westeurope")
    answer.id = (
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
        "/batchEndpoints/fridge-batch/deployments/detector-a"
    )
    printed = AzureDeployment._from_rest_object(answer)._to_dict()
    ours = parse_batch_deployment(yaml.safe_load(MODEL)).to_document()
    printed["compute"] = printed["compute"].removeprefix("azureml:")
    printed["tags"] = {"device_batching": 16}  # the client makes text of it
    printed["resources"].pop("properties")
    assert {key: ours.get(key) for key in printed.keys() - {"id", "creation_context"}} == {
        key: value for key, value in printed.items() if key not in ("id", "creation_context")
    }


@pytest.mark.filterwarnings("ignore")
def test_an_endpoint_file_has_the_values_that_azures_client_reads(azure: Any, tmp_path: Path) -> None:
    text = "{name: Fridge-Batch, auth_mode: AADToken, description: x, tags: {a: 1}, defaults: {deployment_name: blue}}"
    file = tmp_path / "endpoint.yml"
    file.write_text(text)
    theirs = azure[0].load_batch_endpoint(file)
    ours = parse_batch_endpoint(yaml.safe_load(text))
    assert (ours.name, ours.auth_mode, ours.tags) == (theirs.name, theirs.auth_mode, theirs.tags)
    assert ours.default_deployment == theirs.defaults["deploymentName"] == "blue"
    assert parse_batch_endpoint(ours.to_document()) == ours


def test_endpoint_files_are_refused_key_by_key(check_rows: CheckRows) -> None:
    def check(document: dict[str, Any], faults: dict[str, str]) -> None:
        with pytest.raises(InvalidDocument) as error:
            parse_batch_endpoint(document)
        found = {fault.target: fault.message for fault in error.value.faults}
        assert found.keys() == faults.keys()
        for target, part in faults.items():
            assert part in found[target]

    check_rows(
        check,
        [
            ({}, {"name": "is required"}),
            ({"name": "a_b"}, {"name": "a letter, then letters, digits and hyphens"}),
            ({"name": "ab"}, {"name": "3 to 32 characters"}),
            ({"name": "fridge", "auth_mode": "key"}, {"auth_mode": "aad_token"}),
            ({"name": "fridge", "traffic": {"blue": 100}}, {"traffic": "Unknown field."}),
            ({"name": "fridge", "default": {}}, {"default": "did you mean 'defaults'?"}),
            ({"name": "fridge", "defaults": {"deployment": "a"}}, {"defaults.deployment": "'deployment_name'"}),
            ({"name": "fridge", "defaults": {"deployment_name": "a b"}}, {"defaults.deployment_name": "letters"}),
            ({"name": "x", "tags": 1, "defaults": 2}, {"name": "3 to 32", "tags": "mapping", "defaults": "mapping"}),
        ],
    )


def test_defaults_of_a_deployment_are_azures() -> None:
    azures = BatchDeployment("blue", "fridge", "azureml:fridge:1", "cpu")
    assert (azures.instance_count, azures.max_concurrency_per_instance, azures.mini_batch_size) == (1, 1, 10)
    assert (azures.max_retries, azures.timeout_s, azures.error_threshold) == (3, 30, -1)
    assert (azures.output_action, azures.output_file_name) == ("append_row", "predictions.csv")
    assert azures.logging_level == "info"
    for document in (LEAST, {**LEAST, "type": "model"}, {**LEAST, "type": "Model", "settings": {}}):
        assert parse_batch_deployment(document) == azures


def test_a_deployment_comes_back_from_what_is_printed(folder: Path) -> None:
    for text in (MODEL, SCRIPT, OLD):
        deployment = parse_batch_deployment(yaml.safe_load(text), folder)
        assert parse_batch_deployment(deployment.to_document()) == deployment
    half = replace(deployment, timeout_s=0.5)
    assert parse_batch_deployment(half.to_document()).timeout_s == 0.5


def test_deployment_files_are_refused_key_by_key(check_rows: CheckRows) -> None:
    def check(changes: dict[str, Any], faults: dict[str, str]) -> None:
        found = faults_of({**LEAST, **changes})
        assert found.keys() == faults.keys()
        for target, part in faults.items():
            assert part in found[target]

    def settings(changes: dict[str, Any], **faults: str) -> tuple[dict[str, Any], dict[str, str]]:
        named = {f"settings.{key.replace('__', '.')}": part for key, part in faults.items()}
        return {"type": "model", "settings": changes}, named

    summary = "When output_action is set to summary_only, the output_file_name need not to be specified."
    both = "Can't set instance_count when resources is provided."
    check_rows(
        check,
        [
            # The two layouts, and mixtures of them.
            ({"type": "model", "mini_batch_size": 5}, {"mini_batch_size": "Unknown field."}),
            ({"type": "model", "retry_settings": {}}, {"retry_settings": "Unknown field."}),
            ({"settings": {"mini_batch_size": 5}}, {"settings": "Unknown field."}),
            ({"instance_count": 2}, {"instance_count": "Unknown field."}),
            ({"mini_batch_siz": 5}, {"mini_batch_siz": "did you mean 'mini_batch_size'?"}),
            settings({"mini_batch_siz": 5}, mini_batch_siz="did you mean 'mini_batch_size'?"),
            ({"type": "pipeline", "component": "azureml:c:1"}, {"type": "must be model"}),
            ({"type": "parallel"}, {"type": "must be one of model"}),
            # Keys that exclude each other.
            ({"output_action": "summary_only", "output_file_name": "a.csv"}, {"output_file_name": summary}),
            settings({"output_action": "SummaryOnly", "output_file_name": "a.csv"}, output_file_name=summary),
            (
                {"type": "model", "settings": {"instance_count": 2}, "resources": {"instance_count": 2}},
                {"settings.instance_count": both},
            ),
            # Values.
            *(
                settings({key: value}, **{key: must})
                for key, value, must in [
                    ("mini_batch_size", 0, "at least 1"),
                    ("mini_batch_size", 1.5, "whole number"),
                    ("mini_batch_size", None, "whole number"),
                    ("max_concurrency_per_instance", 0, "at least 1"),
                    ("instance_count", -1, "at least 1"),
                    ("error_threshold", -2, "at least -1"),
                    ("output_action", "append", "one of append_row, summary_only"),
                    ("output_file_name", "out/a.csv", "without a folder"),
                    ("output_file_name", "..", "without a folder"),
                    ("output_file_name", "", "must be text"),
                    ("output_file_name", "failed_files.jsonl", "lists the files that failed"),
                    ("logging_level", "trace", "one of warning, info, debug"),
                ]
            ),
            settings({"retry_settings": {"max_retries": -1}}, retry_settings__max_retries="at least 0"),
            settings({"retry_settings": {"timeout": 0}}, retry_settings__timeout="above 0"),
            settings({"retry_settings": {"retries": 1}}, retry_settings__retries="Unknown field"),
            settings(
                {"environment_variables": {"LD_PRELOAD": "x"}}, environment_variables__LD_PRELOAD="must not be set"
            ),
            ({"model": "fridge:1"}, {"model": "azureml:<name>:<version>"}),
            ({"model": {"version": 1}}, {"model.path": "is required"}),
            ({"compute": " "}, {"compute": "text"}),
            ({"name": "a_b", "endpoint_name": "x"}, {"name": "letters", "endpoint_name": "3 to 32"}),
            (
                {"resources": {"instance_count": 0, "gpus": 1}},
                {"resources.instance_count": "1", "resources.gpus": "Un"},
            ),
        ],
    )


def test_every_fault_is_listed_at_once(tmp_path: Path) -> None:
    document = {
        "type": "model",
        "model": {"path": "./nowhere"},
        "mini_batch_size": 5,
        "resources": {},
        "settings": {"instance_count": 2, "error_threshold": "many", "output_action": "summary_only"},
    }
    assert faults_of(document, tmp_path).keys() == {
        "name",
        "endpoint_name",
        "compute",
        "mini_batch_size",
        "settings.instance_count",
        "settings.error_threshold",
        "model.path",
    }


def test_keys_without_effect_are_named(folder: Path) -> None:
    said = parse_batch_deployment(yaml.safe_load(SCRIPT), folder).warnings
    assert said == (
        "code_configuration has no effect here, but for parallel_run_step.settings.json beside the script",
        "environment has no effect here",
    )
    assert parse_batch_deployment(yaml.safe_load(OLD)).warnings == ("resources.instance_type has no effect here",)
    reference = "azureml://registries/azureml/models/fridge/versions/1"
    assert parse_batch_deployment({**LEAST, "model": reference}).warnings == (
        "model is read as azureml:fridge:1 of this workspace, the only registry here",
    )
    assert parse_batch_deployment(yaml.safe_load(MODEL)).warnings == ()
    said = parse_batch_deployment({**LEAST, "compute": "ray:auto"}).warnings
    assert said == ("compute 'ray:auto' is not there yet: jobs run on this machine",)
    assert parse_batch_deployment(LEAST).warnings == ()


def test_variables_at_the_root_and_in_the_settings_are_joined() -> None:
    document = {
        "type": "model",
        "environment_variables": {"A": 1, "B": 1},
        "settings": {"environment_variables": {"B": 2}},
    }
    assert parse_batch_deployment({**LEAST, **document}).environment_variables == {"A": "1", "B": "2"}


@pytest.mark.filterwarnings("ignore")
def test_a_body_that_azures_client_sends_starts_a_job(azure: Any) -> None:
    from azure.ai.ml import Input, Output
    from azure.ai.ml._schema._deployment.batch.batch_job import BatchJobSchema

    keys = {
        "input_data": {"UriFolder": Input(type="uri_folder", path="https://host/mnist")},
        "output_data": {"score": Output(type="uri_file", path="azureml://datastores/d/paths/out/rows.csv")},
        "job_name": "night_1",
        "mini_batch_size": 20,
        "error_threshold": 3,
        "retry_settings": {"max_retries": 1, "timeout": 45},
        "compute": {"instance_count": 5},
        "properties": {"experimentName": "nights"},
    }
    context = {"base_path": ".", "params_override": [{key: value} for key, value in keys.items()]}
    body, warnings = {"properties": BatchJobSchema(context=context).load(data={})}, list[str]()
    assert read_invocation(from_rest_body(body, warnings), "fridge") == BatchInvocation(
        endpoint_name="fridge",
        inputs="https://host/mnist",
        input_type="uri_folder",
        output_path="azureml://datastores/d/paths/out/",
        output_file_name="rows.csv",
        mini_batch_size=20,
        instance_count=5,
        error_threshold=3,
        max_retries=1,
        timeout_s=45.0,
        job_name="night_1",
        experiment_name="nights",
    )
    assert warnings == []
