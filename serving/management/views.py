"""The output of the verbs in the form of `az ml`, made from the records that the service returns."""

from typing import Any

from clearsight.serving.management.store import DeploymentRecord, EndpointRecord, Keys, Token

__all__ = ["deployment_view", "endpoint_view", "view_of"]


def view_of(result: object, base_url: str) -> Any:
    """Plain data for a record or a list of records; anything else is plain data already."""
    match result:
        case EndpointRecord():
            return endpoint_view(result, base_url)
        case DeploymentRecord():
            return deployment_view(result)
        case Keys():
            return {"primaryKey": result.primary, "secondaryKey": result.secondary}
        case Token():
            return {
                "accessToken": result.value,
                "expiryTimeUtc": result.expires_at,
                "refreshAfterTimeUtc": result.refresh_after,
                "tokenType": "Bearer",
            }
        case list():
            return [view_of(each, base_url) for each in result]
        case _:
            return result


def endpoint_view(record: EndpointRecord, base_url: str) -> dict[str, Any]:
    """The keys of the YAML file in snake case, and the URLs of the endpoint."""
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
    """The keys of the YAML file, the state, how it runs, and why it failed if it did."""
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
