"""The root command. Each part of the product adds its groups of commands, which are imported when used."""

import sys
from collections.abc import Mapping
from typing import Final

import click

from clearsight.console import LazyCommand, LazyGroup, run

__all__ = ["main", "root"]

NOUNS: Final[Mapping[str, LazyCommand]] = {
    "data": LazyCommand("clearsight.training.cli_data:data", "Draw, convert, check and register images.", "train"),
    "job": LazyCommand("clearsight.runs.cli_job:job", "Train models.", "train"),
    "model": LazyCommand("clearsight.exporters.cli_model:model", "Register, check and export packages.", "export"),
    "predict": LazyCommand("clearsight.serving.batch.cli_predict:predict", "Score images.", "score"),
    "explain": LazyCommand(
        "clearsight.handlers.cli_explain:explain", "Show what decisions on images hang on.", "explain"
    ),
    "schema": LazyCommand("clearsight.documents.cli:schema", "Print the JSON Schema of a document.", "serve"),
    "serve": LazyCommand("clearsight.serving.cli:serve", "Run gateway and workers in the foreground.", "serve"),
    "online-endpoint": LazyCommand(
        "clearsight.serving.cli:online_endpoint", "Endpoints: a URL, keys and a traffic table.", "serve"
    ),
    "online-deployment": LazyCommand(
        "clearsight.serving.cli:online_deployment", "Deployments: a model behind an endpoint.", "serve"
    ),
    "batch-endpoint": LazyCommand(
        "clearsight.serving.batch.cli:batch_endpoint",
        "Batch endpoints: names under which folders are scored.",
        "serve",
    ),
    "batch-deployment": LazyCommand(
        "clearsight.serving.batch.cli:batch_deployment", "Batch deployments: a model, and how its jobs run.", "serve"
    ),
    "java-home": LazyCommand("clearsight.serving.cli:java_home", "Print the JAVA_HOME of TorchServe.", "serve"),
}


@click.group(cls=LazyGroup, lazy=NOUNS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="clearsight")
def root() -> None:
    """Train, export, serve and explain image models on your own machines.

    Job files, scoring clients and `az ml` scripts written for Azure's AutoML for images work unchanged.
    """


def main() -> None:
    """Entry point of the `clearsight` program."""
    sys.exit(run(root))
