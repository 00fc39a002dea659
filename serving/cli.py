"""`clearsight serve`, `online-endpoint` and `online-deployment`: the verbs of `az ml` on this machine."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
from rich.logging import RichHandler

from clearsight.console import AzCommand, LazyGroup, parse_assignments, result_options, stderr, without_effect
from clearsight.documents.deployment.document import parse_deployment, parse_endpoint, read_document
from clearsight.errors import ClearsightError, ServerUnavailable, UserError
from clearsight.runs.workspace import Workspace
from clearsight.serving.management.client import READ_ONLY_VERBS, call
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
from clearsight.serving.supervisor.java import java_home as find_java_home
from clearsight.serving.supervisor.supervisor import ServeOptions
from clearsight.serving.supervisor.supervisor import serve as run_server

__all__ = ["java_home", "online_deployment", "online_endpoint", "serve"]

INVOKE_TIMEOUT_S = 300.0


@click.command("java-home", cls=AzCommand)
def java_home() -> None:
    r"""Print the Java that TorchServe runs on: JAVA_HOME if it is set, else our own.

    \b
    Example:
      JAVA_HOME=$(clearsight java-home) torchserve --start --ncs --ts-config config.properties
    """
    click.echo(find_java_home())


@click.command(cls=AzCommand)
@click.option("--host", help="Address to listen on. Default: that of a gateway that still runs, else 127.0.0.1.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to listen on. Default: that of a gateway that still runs, else 8000.",
)
@click.option("--workspace", "folder", type=click.Path(path_type=Path), help="Workspace folder. Default: .clearsight")
@click.option("--measure/--no-measure", default=True, show_default=True, help="Measure packages when first deployed.")
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), help="Serve Prometheus' metrics on this port of 127.0.0.1."
)
@click.option(
    "--take-over", is_flag=True, help="Replace the server that runs on the workspace, without losing a request."
)
def serve(
    host: str | None, port: int | None, folder: Path | None, measure: bool, metrics_port: int | None, take_over: bool
) -> None:
    r"""Run the gateway and all deployments of the workspace in the foreground.

    What a killed server left running is adopted. With --take-over the running server hands everything over and exits;
    after an upgrade of the package, new processes start beside the old ones, which serve until those are ready.

    \b
    Examples:
      clearsight serve --port 8000
      clearsight serve --take-over                                (after an upgrade)
      clearsight online-endpoint create --name fridge             (in another terminal)
      clearsight online-deployment create -f blue.yml --all-traffic
    """
    if stderr.is_terminal:
        rich = RichHandler(console=stderr, show_path=False)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[rich])
    else:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    workspace = Workspace(folder.absolute()) if folder else Workspace.default()
    if host is not None and not _is_loopback(host):
        stderr.print(
            f"WARNING: {host} is reachable from other machines, and the gateway speaks plain HTTP: keys and pictures "
            "can be read and changed on their way. Put a proxy with TLS in front and listen on 127.0.0.1.",
            style="bold red",
            markup=False,
            soft_wrap=True,
        )
    options = ServeOptions(host=host, port=port, measure=measure, metrics_port=metrics_port, take_over=take_over)
    asyncio.run(run_server(workspace, options, lambda line: stderr.print(line, markup=False, soft_wrap=True)))


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`, an address or a name; False for an unknown name."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


@click.group("online-endpoint", cls=LazyGroup)
def online_endpoint() -> None:
    """Endpoints: a URL, keys and a traffic table."""


@click.group("online-deployment", cls=LazyGroup)
def online_deployment() -> None:
    """Deployments: a model behind an endpoint."""


def _run_verb(verb: str, **arguments: Any) -> Any:
    """Run a verb, with a spinner that shows its steps; print a note when no server runs."""

    def note() -> None:
        if verb not in READ_ONLY_VERBS:
            stderr.print("stored; nothing serves yet: start it with `clearsight serve`", markup=False)

    given = {name: value for name, value in arguments.items() if value is not None}
    with stderr.status("asking the server") as status:
        return call(Workspace.default(), verb, given, on_step=lambda step: _show_step(status, step), on_offline=note)


def _show_step(status: Any, step: str) -> None:
    status.update(step)
    if not stderr.is_terminal:
        stderr.print(step, markup=False)


def _traffic(text: str | None) -> dict[str, Any] | None:
    """Read `"blue=90 green=10"`."""
    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.replace(",", " ").split()]
    if not all(name and equals for name, equals, _ in pairs):
        raise click.UsageError(f'--traffic must be like "blue=90 green=10", but got {text!r}')
    repeated = {name for name, _, _ in pairs if [other for other, _, _ in pairs].count(name) > 1}
    if repeated:
        raise click.UsageError(f"--traffic must name a deployment once, but got {sorted(repeated)[0]!r} twice")
    return {name: share for name, _, share in pairs}


local_option = without_effect(
    "--local",
    note="everything runs on this machine, and there is one place for it; this command acts on the endpoints of "
    "the workspace, which `clearsight serve` serves",
)
with_package_option = without_effect("--with-package", note="a deployment always serves the package of its model")


@online_endpoint.command("create", cls=AzCommand)
@click.option("--name", "-n", metavar="NAME", help="Name of the endpoint.")
@file_option
@click.option("--auth-mode", metavar="MODE", help="key or aml_token.")
@set_option
@no_wait_option
@local_option
@result_options
def create_endpoint(
    name: str | None, file: Path | None, auth_mode: str | None, assignments: tuple[str, ...], no_wait: bool
) -> Any:
    r"""Create an endpoint, or replace the one of that name.

    \b
    Examples:
      clearsight online-endpoint create --name fridge
      clearsight online-endpoint create -f endpoint.yml --set tags.team=vision
    """
    document = document_of(file, parse_assignments(assignments), name=name, auth_mode=auth_mode)
    parsed = parse_endpoint(document, str(file) if file else "endpoint")
    return _run_verb("create_endpoint", document=parsed.to_document())


@online_endpoint.command("update", cls=AzCommand)
@name_option
@click.option("--traffic", "-r", metavar='"blue=90 green=10"', help="Replace the traffic table; others become 0.")
@click.option("--mirror-traffic", metavar='"green=10"', help="Mirror a share of the traffic.")
@set_option
@file_option
@no_wait_option
@local_option
@result_options
def update_endpoint(
    name: str,
    traffic: str | None,
    mirror_traffic: str | None,
    assignments: tuple[str, ...],
    file: Path | None,
    no_wait: bool,
) -> Any:
    r"""Change an endpoint.

    \b
    Examples:
      clearsight online-endpoint update --name fridge --traffic "blue=90 green=10"
      clearsight online-endpoint update --name fridge --set tags.team=vision
    """
    return _run_verb(
        "update_endpoint",
        name=name,
        overrides={**(read_document(file) if file else {}), **parse_assignments(assignments)},
        traffic=_traffic(traffic),
        mirror_traffic=_traffic(mirror_traffic),
    )


@online_endpoint.command("show", cls=AzCommand)
@name_option
@local_option
@result_options
def show_endpoint(name: str) -> Any:
    r"""Print an endpoint.

    \b
    Example:
      clearsight online-endpoint show -n fridge -o tsv --query scoring_uri
    """
    return _run_verb("show_endpoint", name=name)


@online_endpoint.command("list", cls=AzCommand)
@local_option
@result_options
def list_endpoints() -> Any:
    """Print all endpoints."""
    return _run_verb("list_endpoints")


@online_endpoint.command("delete", cls=AzCommand)
@name_option
@yes_option
@no_wait_option
@local_option
@result_options
def delete_endpoint(name: str, yes: bool, no_wait: bool) -> Any:
    """Delete an endpoint and its deployments."""
    return _run_verb("delete_endpoint", name=name)


@online_endpoint.command("get-credentials", cls=AzCommand)
@name_option
@result_options
def get_credentials(name: str) -> Any:
    r"""Print the keys, or a token, of an endpoint.

    \b
    Example:
      clearsight online-endpoint get-credentials -n fridge -o tsv --query primaryKey
    """
    return _run_verb("get_credentials", name=name)


@online_endpoint.command("regenerate-keys", cls=AzCommand)
@name_option
@click.option("--key-type", default="primary", show_default=True, metavar="primary|secondary", help="Which key.")
@no_wait_option
@result_options
def regenerate_keys(name: str, key_type: str, no_wait: bool) -> Any:
    """Replace one key at once; the other one goes on working."""
    return _run_verb("regenerate_keys", name=name, key_type=key_type)


@online_endpoint.command("invoke", cls=AzCommand)
@name_option
@click.option(
    "--request-file", "-r", type=click.Path(path_type=Path), required=True, help="JSON file to send as it is."
)
@click.option("--deployment-name", "-d", metavar="NAME", help="Ask this deployment, whatever the traffic says.")
@local_option
@result_options
def invoke(name: str, request_file: Path, deployment_name: str | None) -> Any:
    r"""Score the rows of a JSON file and print the answer.

    \b
    Example:
      clearsight online-endpoint invoke -n fridge --request-file request.json --deployment-name green
    """
    try:
        body = request_file.read_bytes()
        orjson.loads(body)
    except (OSError, orjson.JSONDecodeError) as error:
        raise UserError(f"--request-file must be a JSON file, but {request_file}: {error}") from None
    endpoint = _run_verb("show_endpoint", name=name)
    credentials = _run_verb("get_credentials", name=name)
    headers = {
        "Authorization": f"Bearer {credentials.get('primaryKey') or credentials.get('accessToken')}",
        "Content-Type": "application/json",
        **({"azureml-model-deployment": deployment_name} if deployment_name else {}),
    }
    status, answer = asyncio.run(_post(endpoint["scoring_uri"], body, headers))
    text = answer.decode(errors="replace")
    if status != 200:
        raise ClearsightError(f"the endpoint answered {status}: {text}")
    try:
        return orjson.loads(answer)
    except orjson.JSONDecodeError:
        return text


async def _post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    timeout = aiohttp.ClientTimeout(total=INVOKE_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=body, headers=headers) as response,
        ):
            return response.status, await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ServerUnavailable(f"nothing answers at {url}: {error}; start it with `clearsight serve`") from None


@online_deployment.command("create", cls=AzCommand)
@click.option("--name", "-n", metavar="NAME", help="Name of the deployment.")
@click.option("--endpoint-name", "-e", metavar="NAME", help="Name of the endpoint.")
@file_option
@click.option("--all-traffic", is_flag=True, help="Give it all traffic once it serves.")
@set_option
@no_wait_option
@local_option
@skip_script_validation_option
@with_package_option
@result_options
def create_deployment(
    name: str | None,
    endpoint_name: str | None,
    file: Path | None,
    all_traffic: bool,
    assignments: tuple[str, ...],
    no_wait: bool,
) -> Any:
    r"""Deploy a model behind an endpoint.

    \b
    Example:
      clearsight online-deployment create -f blue.yml --endpoint-name fridge --all-traffic
    """
    if all_traffic and no_wait:
        raise click.UsageError("--all-traffic cannot be used together with --no-wait")
    if file is None:
        raise click.UsageError("--file is required: a YAML file that names the model")
    document = document_of(file, parse_assignments(assignments), name=name, endpoint_name=endpoint_name)
    parsed = parse_deployment(document, file.absolute().parent, str(file))
    for warning in parsed.warnings:
        stderr.print(f"note: {warning}", markup=False)
    arguments = {"document": parsed.to_document(), "all_traffic": all_traffic}
    return _run_verb("create_deployment", **arguments, **({"no_wait": True} if no_wait else {}))


@online_deployment.command("update", cls=AzCommand)
@click.option("--name", "-n", metavar="NAME", help="Name of the deployment.")
@click.option("--endpoint-name", "-e", metavar="NAME", help="Name of the endpoint.")
@file_option
@set_option
@no_wait_option
@local_option
@skip_script_validation_option
@result_options
def update_deployment(
    name: str | None,
    endpoint_name: str | None,
    file: Path | None,
    assignments: tuple[str, ...],
    no_wait: bool,
) -> Any:
    r"""Change a deployment: the old instances serve until the new ones are ready.

    Without a change the same is started anew, for example after an edit of settings.json.

    \b
    Example:
      clearsight online-deployment update -n blue -e fridge --set instance_count=2
    """
    overrides = parse_assignments(assignments)
    document: dict[str, Any] | None = None
    if file is not None:
        merged = document_of(file, overrides, name=name, endpoint_name=endpoint_name)
        parsed = parse_deployment(merged, file.absolute().parent, str(file))
        for warning in parsed.warnings:
            stderr.print(f"note: {warning}", markup=False)
        document = parsed.to_document()
        name, endpoint_name = document["name"], document["endpoint_name"]
        overrides = {}
    if name is None or endpoint_name is None:
        raise click.UsageError("--name and --endpoint-name are required, unless --file has them")
    arguments = {"endpoint_name": endpoint_name, "name": name, "overrides": overrides, "document": document}
    return _run_verb("update_deployment", **arguments, **({"no_wait": True} if no_wait else {}))


@online_deployment.command("show", cls=AzCommand)
@deployment_option
@endpoint_option
@local_option
@result_options
def show_deployment(name: str, endpoint_name: str) -> Any:
    """Print a deployment, how it runs, and why it failed if it did."""
    return _run_verb("show_deployment", endpoint_name=endpoint_name, name=name)


@online_deployment.command("list", cls=AzCommand)
@endpoint_option
@local_option
@result_options
def list_deployments(endpoint_name: str) -> Any:
    """Print the deployments of an endpoint."""
    return _run_verb("list_deployments", endpoint_name=endpoint_name)


@online_deployment.command("delete", cls=AzCommand)
@deployment_option
@endpoint_option
@yes_option
@no_wait_option
@local_option
@result_options
def delete_deployment(name: str, endpoint_name: str, yes: bool, no_wait: bool) -> Any:
    """Delete a deployment that has no traffic."""
    return _run_verb("delete_deployment", endpoint_name=endpoint_name, name=name)


@online_deployment.command("get-logs", cls=AzCommand)
@deployment_option
@endpoint_option
@click.option("--lines", "-l", default=5000, show_default=True, type=click.IntRange(1), help="Last lines to print.")
@click.option(
    "--container",
    "-c",
    default="inference-server",
    show_default=True,
    type=click.Choice(["inference-server", "storage-initializer"]),
    help="Whose log.",
)
@local_option
@result_options
def get_logs(name: str, endpoint_name: str, lines: int, container: str) -> None:
    """Print what TorchServe and its workers wrote."""
    text = _run_verb("get_logs", endpoint_name=endpoint_name, name=name, lines=lines, container=container)
    click.echo(text, nl=False)
