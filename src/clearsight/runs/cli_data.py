"""`clearsight data create|list|show`: the registered data of the workspace."""

from pathlib import Path
from typing import Any

import click

from clearsight.console import AzCommand, parse_assignments, result_options
from clearsight.documents.data_asset import DATA_TYPES, parse_data_asset
from clearsight.documents.overrides import apply_overrides
from clearsight.documents.yaml_file import read_document
from clearsight.runs.data_registry import DataAsset, DataRegistry
from clearsight.runs.workspace import Workspace

__all__ = ["create", "list_", "show"]


@click.command(cls=AzCommand)
@click.option("--file", "-f", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Azure data YAML.")
@click.option("--name", "-n", help="Name of the data.")
@click.option("--path", "-p", help="File or folder, or a URL such as azureml://datastores/<d>/paths/<p>.")
@click.option("--type", "-t", "type_", type=click.Choice(DATA_TYPES), help="Default: what the path is.")
@click.option("--version", "-v", help="Version; without it the next free number.")
@click.option("--description", "-d", help="Free text.")
@click.option("--tags", multiple=True, metavar="KEY=VALUE", help="Tags, space-separated.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a key of the file.")
@result_options
def create(
    file: Path | None, type_: str | None, tags: tuple[str, ...], assignments: tuple[str, ...], **flags: str | None
) -> dict[str, Any]:
    """Give a file, a folder or an MLTable folder a name and a version. It is not copied.

    Batch jobs read it as azureml:NAME:VERSION. Relative paths in the file are relative to the file; flags win over
    the file.

    \b
    Examples:
      clearsight data create -f data.yml
      clearsight data create --name shelf --path photos/shelf --type uri_folder
      clearsight data create -n shelf -p azureml://datastores/photos/paths/shelf/ --tags store=12 --output table
    """  # noqa: D301 (click reads the backspace)
    document = apply_overrides({} if file is None else read_document(file), parse_assignments(assignments))
    document.update({key: value for key, value in {**flags, "type": type_}.items() if value is not None})
    if tags:
        document["tags"] = {**(document.get("tags") or {}), **parse_assignments(tags)}
    folder = file.parent if file is not None and flags["path"] is None else Path.cwd()
    parsed = parse_data_asset(document, folder, str(file or "data"))
    return DataRegistry(Workspace.default()).create(parsed).to_document()


@click.command("list", cls=AzCommand)
@click.option("--name", "-n", help="List the versions of this data instead of the latest of all.")
@click.option("--max-results", "-r", type=click.IntRange(min=1), help="At most so many.")
@result_options
def list_(name: str | None, max_results: int | None) -> list[dict[str, Any]]:
    """List registered data with its latest version, or all versions of one name, the newest first.

    \b
    Examples:
      clearsight data list --output table
      clearsight data list --name shelf --query "[].version" --output tsv
    """  # noqa: D301 (click reads the backspace)
    registry = DataRegistry(Workspace.default())
    found = registry.list() if name is None else registry.versions(name)
    return [_row(asset) for asset in found[:max_results]]


def _row(asset: DataAsset) -> dict[str, Any]:
    return {
        "name": asset.name,
        "version": asset.version,
        "type": asset.type,
        "path": asset.path,
        "created_at": asset.created_at,
        "description": asset.description,
    }


@click.command(cls=AzCommand)
@click.option("--name", "-n", required=True, help="Name of the data.")
@click.option("--version", "-v", help="Version; without it the one created last.")
@click.option("--label", "-l", type=click.Choice(["latest"]), help="The same as no version.")
@result_options
def show(name: str, version: str | None, label: str | None) -> dict[str, Any]:
    """Print the record of registered data.

    \b
    Examples:
      clearsight data show --name shelf --version 1
      clearsight data show -n shelf --label latest --query path --output tsv
    """  # noqa: D301 (click reads the backspace)
    if version is not None and label is not None:
        raise click.UsageError("--version and --label exclude each other")
    return DataRegistry(Workspace.default()).get(name, version).to_document()
