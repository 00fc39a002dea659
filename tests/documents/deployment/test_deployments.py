from pathlib import Path
from typing import Any

import jsonschema
import pytest

from clearsight.documents.deployment.document import apply_overrides, parse_deployment, parse_endpoint, read_document
from clearsight.documents.deployment.variables import KNOWN_VARIABLES
from clearsight.documents.schemas import document_schema
from clearsight.errors import InvalidDocument

BLUE: dict[str, Any] = {
    "name": "blue",
    "endpoint_name": "fridge",
    "model": "azureml:od-fridge:1",
    "instance_type": "Standard_DS3_v2",
    "instance_count": 1,
}


def faults_of(error: pytest.ExceptionInfo[InvalidDocument]) -> set[tuple[str, str]]:
    return {(fault.code, fault.target) for fault in error.value.faults}


def test_an_empty_endpoint_file_lacks_a_name() -> None:
    with pytest.raises(InvalidDocument) as error:
        parse_endpoint({})
    assert faults_of(error) == {("MISSING_KEY", "name")}


def test_a_name_alone_makes_an_endpoint_with_keys_and_without_traffic() -> None:
    endpoint = parse_endpoint({"$schema": "https://example.com/x.json", "name": "fridge"})
    assert (endpoint.auth_mode, endpoint.traffic, endpoint.tags) == ("key", None, {})


@pytest.mark.parametrize("name", ["ab", "a" * 33, "1abc", "abc-", "a_b", "a.b", "näme", "abc\n", ""])
def test_an_endpoint_name_outside_azures_pattern_and_lengths_is_refused(name: str) -> None:
    with pytest.raises(InvalidDocument) as error:
        parse_endpoint({"name": name})
    assert faults_of(error) == {("BAD_VALUE", "name")}


@pytest.mark.parametrize("name", ["abc", "a" * 32, "a--b", "Fridge-9"])
def test_an_endpoint_name_within_them_is_taken(name: str) -> None:
    assert parse_endpoint({"name": name}).name == name


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("key", "key"),
        ("Key", "key"),
        ("AMLToken", "aml_token"),
        ("aml_token", "aml_token"),
        ("AADToken", "aad_token"),
        ("aadToken", "aad_token"),
    ],
)
def test_auth_modes_are_compared_without_case(written: str, meant: str) -> None:
    assert parse_endpoint({"name": "fridge", "auth_mode": written}).auth_mode == meant


def test_an_unknown_key_is_refused_and_the_near_one_is_named() -> None:
    with pytest.raises(InvalidDocument, match="did you mean 'auth_mode'"):
        parse_endpoint({"name": "fridge", "auth_mod": "key"})


def test_keys_of_kubernetes_and_read_only_keys_are_accepted() -> None:
    endpoint = parse_endpoint(
        {
            "name": "fridge",
            "compute": "azureml:cluster",
            "identity": {"type": "system_assigned"},
            "public_network_access": "Disabled",
            "scoring_uri": "http://old",
            "provisioning_state": "Succeeded",
        }
    )
    assert endpoint.inert == {
        "compute": "azureml:cluster",
        "identity": {"type": "system_assigned"},
        "public_network_access": "disabled",
    }


def test_an_empty_deployment_file_lacks_what_azure_requires() -> None:
    with pytest.raises(InvalidDocument) as error:
        parse_deployment({})
    assert faults_of(error) == {("MISSING_KEY", key) for key in ("name", "endpoint_name", "model")}


def test_defaults_of_a_deployment_are_azures() -> None:
    deployment = parse_deployment(BLUE)
    assert deployment.request_settings.request_timeout_ms == 5000
    assert deployment.request_settings.max_concurrent_requests_per_instance == 1
    assert (deployment.liveness_probe.initial_delay, deployment.liveness_probe.failure_threshold) == (10, 30)
    assert deployment.warnings == ()


def test_every_fault_is_listed_at_once(tmp_path: Path) -> None:
    document = {
        "name": "blue",
        "endpoint_name": "fridge",
        "model": {"path": "./nowhere", "version": []},
        "instance_count": 0,
        "request_settings": {"request_timeout_ms": 180_001, "max_concurrent_request_per_instance": 2},
        "liveness_probe": {"success_threshold": 2},
        "environment": {"conda_file": "missing.yml"},
    }
    with pytest.raises(InvalidDocument) as error:
        parse_deployment(document, tmp_path)
    assert faults_of(error) == {
        ("BAD_VALUE", "model.version"),
        ("BAD_VALUE", "instance_count"),
        ("BAD_VALUE", "request_settings.request_timeout_ms"),
        ("UNKNOWN_KEY", "request_settings.max_concurrent_request_per_instance"),
        ("BAD_VALUE", "liveness_probe.success_threshold"),
        ("MISSING_FILE", "model.path"),
    }
    assert "did you mean 'max_concurrent_requests_per_instance'" in str(error.value)


@pytest.mark.parametrize("value", [0, -1, 51, 1.5, True, "two", None])
def test_an_instance_count_that_is_no_whole_number_from_1_to_50_is_refused(value: object) -> None:
    with pytest.raises(InvalidDocument, match="instance_count"):
        parse_deployment({**BLUE, "instance_count": value})


def test_numeric_text_and_upper_case_names_are_read_as_azures_client_reads_them() -> None:
    deployment = parse_deployment({**BLUE, "name": "Blue", "instance_count": "2"})
    assert (deployment.name, deployment.instance_count) == ("blue", 2)


def test_a_missing_instance_count_is_1_with_a_warning() -> None:
    document = {key: value for key, value in BLUE.items() if key != "instance_count"}
    deployment = parse_deployment(document)
    assert deployment.instance_count == 1
    assert "instance_count" in deployment.warnings[0]


def test_a_long_timeout_is_accepted_with_a_warning() -> None:
    deployment = parse_deployment({**BLUE, "request_settings": {"request_timeout_ms": 180_000}})
    assert "180000" in deployment.warnings[0]


@pytest.mark.parametrize("model", ["od-fridge:1", "./model", "od-fridge", 7, ["a"]])
def test_a_model_that_is_neither_reference_nor_mapping_is_refused(model: object) -> None:
    with pytest.raises(InvalidDocument, match="model"):
        parse_deployment({**BLUE, "model": model})


def test_a_managed_deployment_without_instance_type_is_refused_and_a_kubernetes_one_is_not() -> None:
    document = {key: value for key, value in BLUE.items() if key != "instance_type"}
    with pytest.raises(InvalidDocument, match="instance_type"):
        parse_deployment(document)
    resources = {"requests": {"cpu": "0.1", "memory": "0.5Gi"}, "limits": {"nvidia.com/gpu": 1}}
    scale = {"type": "target_utilization", "min_instances": 1, "max_instances": 2, "target_utilization_percentage": 70}
    kubernetes = {**document, "type": "kubernetes", "resources": resources, "scale_settings": scale}
    assert parse_deployment(kubernetes).type == "kubernetes"
    with pytest.raises(InvalidDocument, match="scale_settings"):
        parse_deployment({**BLUE, "scale_settings": scale})


def test_keys_of_other_samples_are_accepted_without_effect(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "conda.yml").write_text("dependencies: []")
    document = {
        **BLUE,
        "code_configuration": {"code": "src", "scoring_script": "score.py"},
        "environment": {
            "conda_file": "conda.yml",
            "image": "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest",
            "inference_config": {"liveness_route": {"port": 8080, "path": "/ping"}},
        },
        "data_collector": {"collections": {"model_inputs": {"enabled": "True"}}, "sampling_rate": 0.1},
        "app_insights_enabled": True,
        "egress_public_network_access": "disabled",
        "scale_settings": {"type": "default"},
    }
    deployment = parse_deployment(document, tmp_path)
    assert deployment.inert["code_configuration"]["code"] == str(tmp_path / "src")
    assert set(deployment.warnings) == {
        "code_configuration has no effect here",
        "environment has no effect here",
        "data_collector has no effect here",
    }


def test_a_local_path_is_relative_to_the_file_and_comes_back_absolute(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    deployment = parse_deployment({**BLUE, "model": {"path": "./package"}}, tmp_path)
    assert isinstance(deployment.model, dict)
    assert deployment.model["path"] == str(tmp_path / "package")


REFUSED_VARIABLES = [
    "TS_CONFIG_FILE",
    "TS_NUMBER_OF_GPU",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "DYLD_INSERT_LIBRARIES",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "JAVA_TOOL_OPTIONS",
    "JAVA_HOME",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "CLASSPATH",
    "PATH",
    "BASH_ENV",
    "GCONV_PATH",
    "OPENSSL_CONF",
    "TMPDIR",
    "TEMP",
    "LOG_LOCATION",
    "AZUREML_MODEL_DIR",
    "CLEARSIGHT_HOME",
    "CLEARSIGHT_WEIGHTS",
    "CLEARSIGHT_OFFLINE",
    "CLEARSIGHT_BATCHSIZE",
    "CLEARSIGHT_",
    "a=b",
]
ALLOWED_VARIABLES = ["WORKER_COUNT", "ENV", "LDAP_URL", "MY_PATH", "pythonpath", "TSV", *KNOWN_VARIABLES]


def test_variables_that_reach_loaders_are_refused_and_all_are_named() -> None:
    variables = dict.fromkeys([*REFUSED_VARIABLES, *ALLOWED_VARIABLES], "1")
    with pytest.raises(InvalidDocument) as error:
        parse_deployment({**BLUE, "environment_variables": variables})
    assert [fault.target for fault in error.value.faults] == [
        f"environment_variables.{name}" for name in REFUSED_VARIABLES
    ]
    assert "did you mean 'CLEARSIGHT_BATCH_SIZE'?" in str(error.value)
    schema = jsonschema.Draft202012Validator(document_schema("deployment"))
    for name in variables:
        is_valid = schema.is_valid({**BLUE, "environment_variables": {name: "1"}})
        assert is_valid is (name in ALLOWED_VARIABLES), name


@pytest.mark.parametrize(("written", "meant"), [(2, "2"), (2.0, "2.0"), ("2", "2")])
def test_versions_are_texts_as_azures_client_reads_them(written: object, meant: str, tmp_path: Path) -> None:
    document = {"model": {"path": str(tmp_path), "name": "fridge", "version": written}}
    document["environment"] = {"name": "torch", "version": written}
    deployment = parse_deployment({**BLUE, **document}, tmp_path)
    assert isinstance(deployment.model, dict)
    assert deployment.model["version"] == deployment.inert["environment"]["version"] == meant


@pytest.mark.parametrize(
    "inert",
    [
        {"code_configuration": {"code": "./not-there", "scoring_script": "score.py"}},
        {"code_configuration": {"scoring_script": "score.py"}},
        {"environment": {"image": "x", "conda_file": "./not-there.yml"}},
    ],
)
def test_a_file_of_a_key_without_effect_may_be_missing(inert: dict[str, Any], tmp_path: Path) -> None:
    (key,) = inert
    assert f"{key} has no effect here" in parse_deployment({**BLUE, **inert}, tmp_path).warnings


def test_a_model_of_another_registry_is_read_as_one_of_the_workspace_and_that_is_said() -> None:
    reference = "azureml://registries/azureml/models/od-fridge/versions/1"
    (warning,) = parse_deployment({**BLUE, "model": reference}).warnings
    assert warning == "model is read as azureml:od-fridge:1 of this workspace, the only registry here"


def test_a_stored_deployment_keeps_the_variables_that_it_had() -> None:
    document = {**BLUE, "environment_variables": {"LD_PRELOAD": "libjemalloc.so", "DEBUG": 1}}
    stored = parse_deployment(document, is_stored=True)
    assert stored.environment_variables == {"LD_PRELOAD": "libjemalloc.so", "DEBUG": "1"}


def test_a_document_survives_being_written_and_read() -> None:
    deployment = parse_deployment({**BLUE, "environment_variables": {"A": 1, "B": True}, "tags": {"team": "vision"}})
    assert parse_deployment(deployment.to_document()) == deployment
    endpoint = parse_endpoint({"name": "fridge", "traffic": {"Blue": 100, "green": 0}, "compute": "azureml:x"})
    assert parse_endpoint(endpoint.to_document()) == endpoint


def test_overrides_reach_required_keys_before_they_are_checked() -> None:
    document = apply_overrides(
        {"name": "blue", "instance_type": "x"},
        {
            "endpoint_name": "fridge",
            "model": "azureml:od-fridge@latest",
            "request_settings.request_timeout_ms": 90_000,
        },
    )
    assert parse_deployment(document).request_settings.request_timeout_ms == 90_000


def test_an_override_below_a_value_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(InvalidDocument, match="model must be a mapping"):
        apply_overrides(BLUE, {"model.path": "x"})


@pytest.mark.parametrize("content", ["", "- a", "a: [", "\x00", "name: &a *a"])
def test_a_file_that_is_no_yaml_mapping_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "endpoint.yml"
    file.write_text(content)
    with pytest.raises(InvalidDocument) as error:
        read_document(file)
    assert len(str(error.value).splitlines()) == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match=r"none\.yml"):
        read_document(tmp_path / "none.yml")
