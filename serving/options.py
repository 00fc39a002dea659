"""Options that the verbs of online and of batch endpoints have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from clearsight.console import without_effect
from clearsight.documents.deployment.document import apply_overrides
from clearsight.documents.yaml_file import read_document

__all__ = [
    "deployment_option",
    "document_of",
    "endpoint_option",
    "file_option",
    "name_option",
    "no_wait_option",
    "set_option",
    "skip_script_validation_option",
    "yes_option",
]

name_option = click.option("--name", "-n", metavar="NAME", required=True, help="Name of the endpoint.")
endpoint_option = click.option("--endpoint-name", "-e", metavar="NAME", required=True, help="Name of the endpoint.")
deployment_option = click.option("--name", "-n", metavar="NAME", required=True, help="Name of the deployment.")
file_option = click.option("--file", "-f", type=click.Path(path_type=Path), help="YAML file.")
set_option = click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change keys, a.b=c.")
no_wait_option = click.option("--no-wait", is_flag=True, help="Return at once.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Accepted for scripts; nothing is asked.")


skip_script_validation_option = without_effect("--skip-script-validation", note="there is no scoring script")


def document_of(file: Path | None, overrides: Mapping[str, Any], **flags: Any) -> dict[str, Any]:
    """The document of the file, changed by `--set`, then by flags."""
    document = apply_overrides(read_document(file) if file else {}, overrides)
    return {**document, **{key: value for key, value in flags.items() if value is not None}}
