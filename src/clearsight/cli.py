"""The root command. Each role adds its nouns; they are imported when used."""

import sys

import click

from clearsight.console import LazyGroup, run

__all__ = ["main", "root"]

NOUNS = {
    "data": ("clearsight.training.cli_data:data", "Draw, convert and check labelled pictures."),
    "job": ("clearsight.training.cli_job:job", "Train models."),
    "model": ("clearsight.exporters.cli_model:model", "Register, check and export model packages."),
    "predict": ("clearsight.handlers.cli_predict:predict", "Score pictures with a package, in this process."),
    "serve": ("clearsight.serving.cli:serve", "Run the gateway and the workers in the foreground."),
    "online-endpoint": ("clearsight.serving.cli:online_endpoint", "Endpoints: a URL, keys and a traffic table."),
    "online-deployment": ("clearsight.serving.cli:online_deployment", "Deployments: a model behind an endpoint."),
    "java-home": ("clearsight.serving.cli:java_home", "Print the JAVA_HOME that TorchServe is started with."),
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
