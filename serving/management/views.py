"""What the verbs print, in `az ml`'s words, and Azure's codes for what went wrong."""

from typing import Any

from clearsight.errors import ClearsightError, NotFound, UserError
from clearsight.serving.management.store import DeploymentRecord, EndpointRecord, Failure
from clearsight.serving.supervisor.torchserve_process import WorkersFailed

__all__ = ["deployment_view", "endpoint_view", "failure_of"]


def endpoint_view(record: EndpointRecord, base_url: str) -> dict[str, Any]:
    """The keys of the YAML file in snake case, and where the endpoint is."""
    uri = f"{base_url}/endpoints/{record.name}"
    document = record.document
    return {
        "name": document.name,
        "description": document.description or "",
        "auth_mode": document.auth_mode,
        "traffic": dict(record.traffic),
        "mirror_traffic": dict(document.mirror_traffic or {}),
        "scoring_uri": f"{uri}/score",
        "openapi_uri": f"{uri}/swagger.json",
        "provisioning_state": "Succeeded",
        "public_network_access": document.inert.get("public_network_access", "enabled"),
        "kind": "Managed",
        "location": "local",
        "tags": dict(document.tags),
        "properties": dict(document.properties),
    }


def deployment_view(record: DeploymentRecord) -> dict[str, Any]:
    """The keys of the YAML file, how far it is, how it runs, and why it failed if it did."""
    view = {
        **record.document.to_document(),
        "provisioning_state": record.state,
        "description": record.document.description or "",
        "package_path": str(record.package),
        "serving": dict(record.serving),
    }
    if record.failure:
        view["error"] = {"code": record.failure.code, "message": record.failure.message}
    return view


def failure_of(error: BaseException) -> Failure:
    """Azure's code for what went wrong while a deployment was made."""
    match error:
        case WorkersFailed():
            return Failure("ResourceNotReady", str(error))
        case NotFound():
            return Failure("ResourceNotFound", str(error))
        case UserError():
            return Failure("BadArgument", str(error))
        case ClearsightError():
            return Failure("InternalServerError", str(error))
        case Exception():
            return Failure("InternalServerError", f"{type(error).__name__}: {error}")
        case _:
            return Failure("OperationCanceled", "the server was stopped")
