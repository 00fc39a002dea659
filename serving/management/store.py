"""The endpoint store: one JSON file, readable by its owner only, replaced at every change.

It holds the keys of the endpoints; nothing else does. The gateway gets their sha256. Packages of the workspace stand in
it as references, so that a workspace that was moved or copied serves its own.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from clearsight.documents.deployment.document import (
    DeploymentDocument,
    EndpointDocument,
    parse_deployment,
    parse_endpoint,
)
from clearsight.errors import ClearsightError, Conflict, NotFound
from clearsight.files import write_atomically
from clearsight.runs.package_reference import folder_of, is_reference, moved_folder, reference_of
from clearsight.runs.workspace import Workspace

__all__ = [
    "DeploymentRecord",
    "EndpointRecord",
    "EndpointStore",
    "Failure",
    "Keys",
    "ProvisioningState",
    "StoreInUse",
    "StoreNotWritten",
    "Token",
    "new_key",
]

ProvisioningState = Literal["Creating", "Updating", "Succeeded", "Failed", "Deleting"]

SCHEMA_VERSION: Final = 1
DEFAULT_BASE_URL: Final = "http://127.0.0.1:8000"


def new_key() -> str:
    """A credential of 32 random bytes, base64url without padding."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a deployment failed: one of Azure's codes (`BadArgument`, `ResourceNotReady`, …) and a text."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """A deployment as requested, and its state."""

    document: DeploymentDocument
    package: Path
    """Folder of the model package. Its version is fixed when the deployment is created, its place when it is read."""
    state: ProvisioningState = "Creating"
    failure: Failure | None = None
    """Failure of the last create or update; after a failed update the previous version still serves."""
    generation: int = 0
    """Counts the processes started for this deployment."""
    serving: Mapping[str, Any] = field(default_factory=dict)
    """How it runs: backend, precision, workers, threads, batch size, and the source of that choice."""

    @property
    def name(self) -> str:
        return self.document.name


@dataclass(frozen=True, slots=True)
class Keys:
    """The two permanent credentials of an endpoint with `auth_mode: key`; one can be replaced while the other works."""

    primary: str
    secondary: str


@dataclass(frozen=True, slots=True)
class Token:
    """A short-lived credential of an endpoint with `auth_mode: aml_token`. Times in epoch seconds."""

    value: str
    expires_at: int
    refresh_after: int


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """An endpoint with its credentials and deployments."""

    document: EndpointDocument
    primary_key: str = field(default_factory=new_key, repr=False)
    secondary_key: str = field(default_factory=new_key, repr=False)
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    deployments: Mapping[str, DeploymentRecord] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.document.name

    @property
    def traffic(self) -> Mapping[str, int]:
        return self.document.traffic or {}

    def deployment(self, name: str) -> DeploymentRecord:
        try:
            return self.deployments[name]
        except KeyError:
            known = ", ".join(sorted(self.deployments)) or "none"
            raise NotFound(f"endpoint {self.name!r} has no deployment {name!r}; it has: {known}") from None

    def with_deployment(self, record: DeploymentRecord) -> Self:
        return replace(self, deployments={**self.deployments, record.name: record})

    def without_deployment(self, name: str) -> Self:
        kept = {key: record for key, record in self.deployments.items() if key != name}
        return replace(self, deployments=kept)

    def key_hashes(self, now: float) -> tuple[str, ...]:
        """The sha256, in lower-case hex, of every credential valid at `now` (epoch seconds)."""
        match self.document.auth_mode:
            case "key":
                credentials = [self.primary_key, self.secondary_key]
            case _:
                credentials = [token.value for token in self.tokens if token.expires_at > now]
        return tuple(hashlib.sha256(credential.encode()).hexdigest() for credential in credentials)


class StoreInUse(Conflict):
    """Another process has locked the store."""


class StoreNotWritten(ClearsightError):
    """A change that could not be written to disk, and is therefore not in force either."""


class EndpointStore:
    """All endpoints of a workspace. One process at a time changes it; see `lock`.

    Every change is written to disk first and taken over afterwards. Raises StoreNotWritten, and then the state before
    the change stays in force, in memory as on disk.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.folder = workspace.endpoints
        self.file = self.folder / "store.json"
        self.base_url = DEFAULT_BASE_URL
        """URL on which the gateway was last started."""
        self._endpoints: dict[str, EndpointRecord] = {}
        self.reload()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the store for this process. Raises StoreInUse when another process has locked it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreInUse(
                    f"the workspace {self.folder.parent} is in use by another process, "
                    "most likely a `clearsight serve` that is starting or stopping; try again in a moment"
                ) from None
            self.reload()
            yield
        finally:
            os.close(descriptor)

    def reload(self) -> None:
        """Read the file again. A workspace without one has no endpoints."""
        if not self.file.exists():
            return
        try:
            document = json.loads(self.file.read_bytes())
            if document["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version must be {SCHEMA_VERSION}, but got {document['schema_version']!r}")
            self._endpoints = {
                name: _endpoint_from(value, self.workspace) for name, value in document["endpoints"].items()
            }
            self.base_url = document["base_url"]
        except (KeyError, TypeError, ValueError) as error:
            raise ClearsightError(f"the endpoint store {self.file} cannot be read: {error!r}") from error

    def endpoints(self) -> list[EndpointRecord]:
        """All endpoints, by name."""
        return [self._endpoints[name] for name in sorted(self._endpoints)]

    def find(self, name: str) -> EndpointRecord | None:
        return self._endpoints.get(name)

    def get(self, name: str) -> EndpointRecord:
        """Raises NotFound, which lists the existing names."""
        record = self._endpoints.get(name)
        if record is None:
            known = ", ".join(sorted(self._endpoints)) or "none"
            raise NotFound(f"there is no endpoint {name!r}; there are: {known}")
        return record

    def put(self, record: EndpointRecord) -> EndpointRecord:
        self._replace({**self._endpoints, record.name: record}, self.base_url)
        return record

    def put_deployment(self, record: DeploymentRecord) -> DeploymentRecord:
        self.put(self.get(record.document.endpoint_name).with_deployment(record))
        return record

    def remove(self, name: str) -> None:
        self._replace({key: record for key, record in self._endpoints.items() if key != name}, self.base_url)

    def set_base_url(self, base_url: str) -> None:
        if base_url != self.base_url:
            self._replace(self._endpoints, base_url)

    def _replace(self, endpoints: dict[str, EndpointRecord], base_url: str) -> None:
        document = {
            "schema_version": SCHEMA_VERSION,
            "base_url": base_url,
            "endpoints": {
                name: _endpoint_document(record, self.workspace) for name, record in sorted(endpoints.items())
            },
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self.file, json.dumps(document, indent=1), 0o600)
        except OSError as error:
            raise StoreNotWritten(
                f"the endpoint store {self.file} cannot be written: {error.strerror}; nothing in it has changed"
            ) from error
        self._endpoints, self.base_url = endpoints, base_url


def _endpoint_document(record: EndpointRecord, workspace: Workspace) -> dict[str, Any]:
    return {
        "document": record.document.to_document(),
        "primary_key": record.primary_key,
        "secondary_key": record.secondary_key,
        "tokens": [asdict(token) for token in record.tokens],
        "deployments": {
            name: {
                "document": deployment.document.to_document(),
                "package": reference_of(deployment.package, workspace),
                "state": deployment.state,
                "failure": asdict(deployment.failure) if deployment.failure else None,
                "generation": deployment.generation,
                "serving": dict(deployment.serving),
            }
            for name, deployment in record.deployments.items()
        },
    }


def _endpoint_from(value: Mapping[str, Any], workspace: Workspace) -> EndpointRecord:
    return EndpointRecord(
        document=parse_endpoint(value["document"]),
        primary_key=value["primary_key"],
        secondary_key=value["secondary_key"],
        tokens=tuple(Token(**token) for token in value["tokens"]),
        deployments={
            name: DeploymentRecord(
                document=parse_deployment(deployment["document"], is_stored=True),
                package=_package_folder(deployment, workspace),
                state=deployment["state"],
                failure=Failure(**deployment["failure"]) if deployment["failure"] else None,
                generation=deployment["generation"],
                serving=deployment["serving"],
            )
            for name, deployment in value["deployments"].items()
        },
    )


def _package_folder(deployment: Mapping[str, Any], workspace: Workspace) -> Path:
    """Where the package of a stored deployment lies. Earlier versions stored the absolute path of every package."""
    folder = folder_of(deployment["package"], workspace)
    model = deployment["document"]["model"]
    model = model if isinstance(model, str) else str(model.get("path"))
    return moved_folder(folder, workspace) if is_reference(model) else folder
