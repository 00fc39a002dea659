"""Files that Azure's own client loads load here, with the same values; its client is the oracle."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearsight.documents.deployment.document import parse_deployment, parse_endpoint

MANAGED = """
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json
name: Blue
endpoint_name: my-endpoint
model:
  path: ./model
code_configuration:
  code: ./model
  scoring_script: score.py
environment:
  conda_file: ./conda.yml
  image: mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest
instance_type: Standard_DS3_v2
instance_count: "2"
"""

AUTOML = """
name: od-fridge-items-mlflow-deploy
endpoint_name: od-fridge-items-endpoint
model: azureml:od-fridge-items-mlflow-model:1
instance_type: Standard_DS4_V2
instance_count: 1
request_settings:
  request_timeout_ms: 90000
  max_concurrent_requests_per_instance: 2
liveness_probe: {failure_threshold: 30, success_threshold: 1, timeout: 2, period: 10, initial_delay: 2000}
readiness_probe: {failure_threshold: 10, success_threshold: 1, timeout: 10, period: 10, initial_delay: 2000}
"""

KUBERNETES = """
name: blue
type: kubernetes
endpoint_name: my-endpoint
model: azureml:my-model@latest
environment_variables: {WORKER_COUNT: "2"}
instance_type: defaultinstancetype
resources:
  requests: {cpu: "0.1", memory: "0.2Gi"}
  limits: {cpu: "0.2", memory: "0.5Gi"}
instance_count: 1
scale_settings: {type: target_utilization, min_instances: 1, max_instances: 2, polling_interval: 10,
  target_utilization_percentage: 70}
"""

ENDPOINT = """
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineEndpoint.schema.json
name: my-endpoint
auth_mode: aml_token
description: one
tags: {team: vision}
traffic: {blue: 90, green: "10"}
identity: {type: user_assigned, user_assigned_identities: [{resource_id: user_identity_ARM_id}]}
"""


@pytest.fixture(scope="module")
def azure() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import azure.ai.ml as client
    return client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "score.py").write_text("")
    (tmp_path / "conda.yml").write_text("name: x\ndependencies: [python=3.11]\n")
    return tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", [MANAGED, AUTOML, KUBERNETES])
def test_a_deployment_file_has_the_values_that_azures_client_reads(text: str, folder: Path, azure: Any) -> None:
    file = folder / "deployment.yml"
    file.write_text(text)
    theirs = azure.load_online_deployment(file)
    ours = parse_deployment(yaml.safe_load(text), folder)
    assert (ours.name, ours.endpoint_name) == (theirs.name, theirs.endpoint_name)
    assert (ours.instance_count, ours.instance_type) == (theirs.instance_count, theirs.instance_type)
    assert ours.environment_variables == (theirs.environment_variables or {})
    if isinstance(ours.model, str):
        assert ours.model.removeprefix("azureml:") == str(theirs.model).removeprefix("azureml:")
    else:
        assert ours.model["path"] == str(Path(folder, theirs.model.path).resolve())
    for section in ("request_settings", "liveness_probe", "readiness_probe"):
        given = getattr(theirs, section)
        for key in yaml.safe_load(text).get(section, {}):
            assert getattr(getattr(ours, section), key) == getattr(given, key), (section, key)


@pytest.mark.filterwarnings("ignore")
def test_an_endpoint_file_has_the_values_that_azures_client_reads(folder: Path, azure: Any) -> None:
    file = folder / "endpoint.yml"
    file.write_text(ENDPOINT)
    theirs = azure.load_online_endpoint(file)
    ours = parse_endpoint(yaml.safe_load(ENDPOINT))
    assert (ours.name, ours.auth_mode) == (theirs.name, theirs.auth_mode)
    assert ours.traffic == theirs.traffic == {"blue": 90, "green": 10}
    assert (ours.description, ours.tags) == (theirs.description, theirs.tags)
