"""The batch endpoints of a workspace and their deployments: one JSON file, replaced at every change.

No server is needed, so several programs may read and change it at once: each change reads the file again under a lock.
It is readable by its owner only, since the variables of a deployment may hold secrets.
"""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from clearsight.documents.batch.document import (
    BatchDeployment,
    BatchEndpoint,
    parse_batch_deployment,
    parse_batch_endpoint,
)
from clearsight.errors import ClearsightError, Conflict, NotFound, UserError
from clearsight.files import write_atomically
from clearsight.runs.workspace import Workspace

__all__ = ["BatchEndpointRecord", "BatchEndpointStore"]

_SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class BatchEndpointRecord:
    """A batch endpoint and its deployments."""

    endpoint: BatchEndpoint
    deployments: Mapping[str, BatchDeployment] = field(default_factory=dict)
    """By name. The default deployment of the endpoint, if it has one, is among them."""

    def deployment(self, name: str | None = None) -> BatchDeployment:
        """The deployment of that name, or without a name the default one.

        Raises NotFound, which lists the existing names; and UserError with Azure's sentence when there is no default.
        """
        name = self.endpoint.default_deployment if name is None else name.lower()
        known = ", ".join(sorted(self.deployments)) or "none"
        if name is None:
            raise UserError(
                "No valid deployments to route to. Please check that the endpoint has at least one deployment with "
                "positive weight values or use a deployment specific header to route. "
                f"(The endpoint {self.endpoint.name!r} has no default deployment: name one with --deployment-name, or "
                f"set defaults.deployment_name; it has: {known})"
            )
        if name not in self.deployments:
            raise NotFound(f"the batch endpoint {self.endpoint.name!r} has no deployment {name!r}; it has: {known}")
        return self.deployments[name]


_Records = dict[str, BatchEndpointRecord]


class BatchEndpointStore:
    """All batch endpoints of a workspace. Names are compared in lower case.

    Raises NotFound for an unknown name, `OSError` when the file cannot be read or written, and ClearsightError when it
    is damaged.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._folder = workspace.endpoints
        self._file = self._folder / "batch.json"

    def list(self) -> list[BatchEndpointRecord]:
        """All endpoints, by name."""
        return [record for _, record in sorted(self._read().items())]

    def get(self, name: str) -> BatchEndpointRecord:
        """An endpoint with its deployments."""
        return _endpoint_of(self._read(), name)

    def put_endpoint(self, endpoint: BatchEndpoint) -> BatchEndpointRecord:
        """Create an endpoint, or replace it; its deployments stay, and its default unless the new one has another."""
        with self._change() as records:
            present = records.get(endpoint.name, BatchEndpointRecord(endpoint))
            default = endpoint.default_deployment or present.endpoint.default_deployment
            return _put(records, replace(present, endpoint=replace(endpoint, default_deployment=default)))

    def change_endpoint(self, name: str, change: Callable[[BatchEndpoint], BatchEndpoint]) -> BatchEndpointRecord:
        """Replace an endpoint by what `change` makes of it, without any other change between."""
        with self._change() as records:
            present = _endpoint_of(records, name)
            changed = change(present.endpoint)
            if changed.name != present.endpoint.name:
                raise UserError(f"an endpoint must keep its name, but got {changed.name!r} for {name!r}")
            return _put(records, replace(present, endpoint=changed))

    def delete_endpoint(self, name: str) -> None:
        """Delete an endpoint and its deployments."""
        with self._change() as records:
            del records[_endpoint_of(records, name).endpoint.name]

    def put_deployment(self, deployment: BatchDeployment, *, is_default: bool = False) -> BatchDeployment:
        """Create a deployment, or replace the one of that name; `is_default` makes it the default of its endpoint."""
        with self._change() as records:
            _put_deployment(records, deployment, is_default=is_default)
        return deployment

    def change_deployment(
        self, endpoint_name: str, name: str, change: Callable[[BatchDeployment], BatchDeployment]
    ) -> BatchDeployment:
        """Replace a deployment by what `change` makes of it, without any other change between."""
        with self._change() as records:
            present = _endpoint_of(records, endpoint_name).deployment(name)
            changed = change(present)
            if (changed.endpoint_name, changed.name) != (present.endpoint_name, present.name):
                raise UserError(
                    f"a deployment must keep its name and endpoint, but got {changed.name!r} of "
                    f"{changed.endpoint_name!r} for {present.name!r} of {present.endpoint_name!r}"
                )
            _put_deployment(records, changed)
        return changed

    def delete_deployment(self, endpoint_name: str, name: str) -> None:
        """Delete a deployment. Raises Conflict for the default one, unless it is the last."""
        with self._change() as records:
            record = _endpoint_of(records, endpoint_name)
            gone = record.deployment(name).name
            others = {key: value for key, value in record.deployments.items() if key != gone}
            endpoint = record.endpoint
            if endpoint.default_deployment == gone:
                if others:
                    raise Conflict(
                        f"deployment {gone!r} must not be the default of endpoint {endpoint.name!r} to be deleted; "
                        f"make another one the default first: `clearsight batch-endpoint update -n {endpoint.name} "
                        f"--set defaults.deployment_name={min(others)}`"
                    )
                endpoint = replace(endpoint, default_deployment=None)
            _put(records, BatchEndpointRecord(endpoint, others))

    @contextmanager
    def _change(self) -> Iterator[_Records]:
        """The records, to be changed in place; written back unless the caller raises. One program at a time."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / "batch.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            records = self._read()
            yield records
            document = {"schema_version": _SCHEMA_VERSION, "endpoints": _to_document(records)}
            write_atomically(self._file, json.dumps(document, indent=1), 0o600)

    def _read(self) -> _Records:
        """The records of the file. A workspace without one has no batch endpoints."""
        try:
            content = self._file.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            document = json.loads(content)
            if document["schema_version"] != _SCHEMA_VERSION:
                raise ValueError(f"schema_version must be {_SCHEMA_VERSION}, but got {document['schema_version']!r}")
            return {
                name: BatchEndpointRecord(
                    parse_batch_endpoint(value["document"]),
                    {key: parse_batch_deployment(one) for key, one in value["deployments"].items()},
                )
                for name, value in document["endpoints"].items()
            }
        except (AttributeError, KeyError, TypeError, ValueError, UserError) as error:
            reason = " ".join(str(error).split())
            raise ClearsightError(f"the store of batch endpoints {self._file} cannot be read: {reason}") from error


def _to_document(records: _Records) -> dict[str, object]:
    return {
        name: {
            "document": record.endpoint.to_document(),
            "deployments": {key: one.to_document() for key, one in sorted(record.deployments.items())},
        }
        for name, record in sorted(records.items())
    }


def _endpoint_of(records: _Records, name: str) -> BatchEndpointRecord:
    record = records.get(name.lower())
    if record is None:
        known = ", ".join(sorted(records)) or "none"
        raise NotFound(f"there is no batch endpoint {name.lower()!r}; there are: {known}")
    return record


def _put(records: _Records, record: BatchEndpointRecord) -> BatchEndpointRecord:
    if record.endpoint.default_deployment is not None:
        record.deployment()  # raises NotFound
    records[record.endpoint.name] = record
    return record


def _put_deployment(records: _Records, deployment: BatchDeployment, *, is_default: bool = False) -> None:
    record = _endpoint_of(records, deployment.endpoint_name)
    endpoint = replace(record.endpoint, default_deployment=deployment.name) if is_default else record.endpoint
    _put(records, BatchEndpointRecord(endpoint, {**record.deployments, deployment.name: deployment}))
