"""`clearsight batch-endpoint` and `batch-deployment`: the verbs of `az ml`, which need no server."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from clearsight.console import AzCommand, LazyCommand, LazyGroup, parse_assignments, result_options, stderr
from clearsight.documents.batch.document import (
    BatchDeployment,
    BatchEndpoint,
    parse_batch_deployment,
    parse_batch_endpoint,
)
from clearsight.documents.deployment.document import apply_overrides
from clearsight.documents.yaml_file import read_document
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.package import ModelPackage
from clearsight.runs.package_reference import reference_of
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.store import BatchEndpointStore
from clearsight.serving.options import (
    deployment_option,
    document_of,
    endpoint_option,
    file_option,
    name_option,
    no_wait_option,
    set_option,
    skip_script_validation_option,
    yes_option,
)

__all__ = ["batch_deployment", "batch_endpoint"]


@click.group(
    "batch-endpoint",
    cls=LazyGroup,
    lazy={
        "invoke": LazyCommand("clearsight.serving.batch.cli_jobs:invoke", "Score a folder, or other data.", "serve"),
        "list-jobs": LazyCommand("clearsight.serving.batch.cli_jobs:list_endpoint_jobs", "Print the jobs.", "serve"),
    },
)
def batch_endpoint() -> None:
    """Batch endpoints: a name under which folders of images are scored."""


@click.group(
    "batch-deployment",
    cls=LazyGroup,
    lazy={
        "list-jobs": LazyCommand("clearsight.serving.batch.cli_jobs:list_deployment_jobs", "Print the jobs.", "serve")
    },
)
def batch_deployment() -> None:
    """Batch deployments: a model behind a batch endpoint, and how its jobs run."""


def _store() -> BatchEndpointStore:
    return BatchEndpointStore(Workspace.default())


def _shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """What is printed of an endpoint or a deployment: it is there as soon as it is stored."""
    return {**document, "description": document["description"] or "", "provisioning_state": "Succeeded"}


@batch_endpoint.command("create", cls=AzCommand)
@click.option("--name", "-n", metavar="NAME", help="Name of the endpoint.")
@file_option
@set_option
@no_wait_option
@result_options
def create_endpoint(name: str | None, file: Path | None, assignments: tuple[str, ...], no_wait: bool) -> Any:
    r"""Create a batch endpoint, or replace the one of that name; its deployments stay.

    \b
    Examples:
      clearsight batch-endpoint create --name fridge-batch
      clearsight batch-endpoint create -f endpoint.yml --set tags.team=vision
    """
    document = document_of(file, parse_assignments(assignments), name=name)
    endpoint = parse_batch_endpoint(document, str(file) if file else "batch endpoint")
    return _shown(_store().put_endpoint(endpoint).endpoint.to_document())


@batch_endpoint.command("update", cls=AzCommand)
@name_option
@set_option
@file_option
@no_wait_option
@result_options
def update_endpoint(name: str, assignments: tuple[str, ...], file: Path | None, no_wait: bool) -> Any:
    r"""Change a batch endpoint, for example the deployment that its jobs run when they name none.

    \b
    Example:
      clearsight batch-endpoint update --name fridge-batch --set defaults.deployment_name=green
    """
    overrides = {**(read_document(file) if file else {}), **parse_assignments(assignments)}

    def change(endpoint: BatchEndpoint) -> BatchEndpoint:
        return parse_batch_endpoint(apply_overrides(endpoint.to_document(), overrides), f"batch endpoint {name}")

    return _shown(_store().change_endpoint(name, change).endpoint.to_document())


@batch_endpoint.command("show", cls=AzCommand)
@name_option
@result_options
def show_endpoint(name: str) -> Any:
    r"""Print a batch endpoint.

    \b
    Example:
      clearsight batch-endpoint show -n fridge-batch --query defaults.deployment_name -o tsv
    """
    return _shown(_store().get(name).endpoint.to_document())


@batch_endpoint.command("list", cls=AzCommand)
@result_options
def list_endpoints() -> Any:
    """Print all batch endpoints."""
    return [_shown(record.endpoint.to_document()) for record in _store().list()]


@batch_endpoint.command("delete", cls=AzCommand)
@name_option
@yes_option
@no_wait_option
@result_options
def delete_endpoint(name: str, yes: bool, no_wait: bool) -> None:
    """Delete a batch endpoint and its deployments. Jobs and their results stay."""
    _store().delete_endpoint(name)


@batch_deployment.command("create", cls=AzCommand)
@click.option("--name", "-n", metavar="NAME", help="Name of the deployment.")
@click.option("--endpoint-name", "-e", metavar="NAME", help="Name of the endpoint.")
@click.option("--file", "-f", required=True, type=click.Path(path_type=Path), help="YAML file.")
@click.option("--set-default", is_flag=True, help="Make it the default deployment of the endpoint.")
@set_option
@no_wait_option
@skip_script_validation_option
@result_options
def create_deployment(
    name: str | None,
    endpoint_name: str | None,
    file: Path,
    set_default: bool,
    assignments: tuple[str, ...],
    no_wait: bool,
) -> Any:
    r"""Put a model behind a batch endpoint, or replace the deployment of that name.

    \b
    Examples:
      clearsight batch-deployment create -f deployment.yml --endpoint-name fridge-batch --set-default
      clearsight batch-deployment create -f deployment.yml --set model=azureml:fridge@latest compute=local
    """
    deployment = _read_deployment(file, assignments, name, endpoint_name)
    return _shown(_store().put_deployment(deployment, is_default=set_default).to_document())


@batch_deployment.command("update", cls=AzCommand)
@click.option("--name", "-n", metavar="NAME", help="Name of the deployment.")
@click.option("--endpoint-name", "-e", metavar="NAME", help="Name of the endpoint.")
@file_option
@set_option
@no_wait_option
@skip_script_validation_option
@result_options
def update_deployment(
    name: str | None, endpoint_name: str | None, file: Path | None, assignments: tuple[str, ...], no_wait: bool
) -> Any:
    r"""Change a batch deployment. Jobs that were started before go on as they were.

    \b
    Example:
      clearsight batch-deployment update -n blue -e fridge-batch --set mini_batch_size=20 resources.instance_count=2
    """
    if file is not None:
        new = _read_deployment(file, assignments, name, endpoint_name)
        return _shown(_store().change_deployment(new.endpoint_name, new.name, lambda present: new).to_document())
    if name is None or endpoint_name is None:
        raise click.UsageError("--name and --endpoint-name are required, unless --file has them")
    overrides = {_key_at_root(key): value for key, value in parse_assignments(assignments).items()}

    def change(present: BatchDeployment) -> BatchDeployment:
        document = present.to_document()
        if "output_action" in overrides and "output_file_name" not in overrides:
            document.pop("output_file_name", None)  # summary_only excludes one, and this one need not be a user's
        changed = parse_batch_deployment(apply_overrides(document, overrides), Path(), f"batch deployment {name}")
        return _with_fixed_model(changed)

    return _shown(_store().change_deployment(endpoint_name, name, change).to_document())


def _key_at_root(key: str) -> str:
    """The place of a key in what `show` prints, from its place in a file of either layout."""
    key = key.removeprefix("settings.")
    return "resources.instance_count" if key == "instance_count" else key


def _read_deployment(
    file: Path, assignments: tuple[str, ...], name: str | None, endpoint_name: str | None
) -> BatchDeployment:
    document = document_of(file, parse_assignments(assignments), name=name, endpoint_name=endpoint_name)
    deployment = parse_batch_deployment(document, file.absolute().parent, str(file))
    for warning in deployment.warnings:
        stderr.print(f"note: {warning}", markup=False, soft_wrap=True)
    return _with_fixed_model(deployment)


def _with_fixed_model(deployment: BatchDeployment) -> BatchDeployment:
    """The deployment with the version that its model has now, as Azure does.

    Raises NotFound when there is no such model, and InvalidPackage for a folder that is none; a job compares all files.
    """
    workspace = Workspace.default()
    package = ModelPackage.open(ModelRegistry(workspace).resolve(deployment.model), verify=False)
    return replace(deployment, model=reference_of(package.root, workspace))


@batch_deployment.command("show", cls=AzCommand)
@deployment_option
@endpoint_option
@result_options
def show_deployment(name: str, endpoint_name: str) -> Any:
    r"""Print a batch deployment.

    \b
    Example:
      clearsight batch-deployment show -n blue -e fridge-batch --query mini_batch_size
    """
    return _shown(_store().get(endpoint_name).deployment(name).to_document())


@batch_deployment.command("list", cls=AzCommand)
@endpoint_option
@result_options
def list_deployments(endpoint_name: str) -> Any:
    """Print the deployments of a batch endpoint."""
    deployments = _store().get(endpoint_name).deployments
    return [_shown(deployment.to_document()) for _, deployment in sorted(deployments.items())]


@batch_deployment.command("delete", cls=AzCommand)
@deployment_option
@endpoint_option
@yes_option
@no_wait_option
@result_options
def delete_deployment(name: str, endpoint_name: str, yes: bool, no_wait: bool) -> None:
    """Delete a batch deployment that is not the default one, or is the last. Jobs and their results stay."""
    _store().delete_deployment(endpoint_name, name)
