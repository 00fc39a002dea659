"""The operations behind the verbs. HTTP and processes are kept out: processes stand behind `Runtime`."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from clearsight.documents.deployment.document import (
    DeploymentDocument,
    EndpointDocument,
    apply_overrides,
    parse_deployment,
    parse_endpoint,
)
from clearsight.documents.deployment.traffic import parse_traffic
from clearsight.errors import ClearsightError, Conflict, NotFound, ServerUnavailable, UserError
from clearsight.files import os_error_message
from clearsight.runs.model_registry import ModelRegistry
from clearsight.serving.management.store import (
    DeploymentRecord,
    EndpointRecord,
    EndpointStore,
    Failure,
    Keys,
    ProvisioningState,
    StoreNotWritten,
    Token,
    new_key,
)
from clearsight.serving.supervisor.deployment_logs import read_logs
from clearsight.serving.supervisor.layout import read_overrides
from clearsight.serving.supervisor.torchserve_process import WorkersFailed

__all__ = ["RESOLVING", "EndpointService", "Runtime", "Save", "Step"]

log = logging.getLogger(__name__)

MAX_ENDPOINTS: Final = 100
MAX_DEPLOYMENTS: Final = 20
"""Azure's limits: endpoints per subscription, deployments per endpoint."""

TOKEN_LIFE_S: Final = 3600
"""Life of a token of `auth_mode: aml_token`; it is renewed after half of it."""

MAX_RESTORED_AT_ONCE: Final = 4
"""Deployments that are started at the same time when a server starts."""

RESOLVING: Final = "resolving the model"
"""The step before a deployment is stored; with `--no-wait` a verb returns after it."""

Step = Callable[[str], None]

Save = Callable[[Mapping[str, Any]], None]
"""Stores that a deployment is ready, with how it runs. Raises StoreNotWritten."""


class Runtime(Protocol):
    """Brings the running processes in line with the store."""

    @property
    def is_serving(self) -> bool:
        """False when no server runs: verbs then only write the store."""

    async def roll_out(self, record: DeploymentRecord, on_step: Step, save: Save) -> None:
        """Start a process for `record.generation`, move the traffic to it, drain and stop its predecessor.

        `save` is called when the process is ready, before any traffic moves. Up to then an error ends the new process,
        and the predecessor, if any, still serves. Afterwards only ServerUnavailable is raised: the gateway has not
        taken the new table, and the predecessor serves until it has.
        """

    async def publish(self) -> None:
        """Send the stored state to the gateway; afterwards no request sees the state before.

        Raises ServerUnavailable when the gateway has not taken it; it is sent again until the gateway has.
        """

    async def retire(self, endpoint: str, deployment: str) -> None:
        """Drain and stop the process, if any, of a deployment that has left the table, once the gateway has taken it.

        Returns at once when the gateway has not.
        """

    def is_running(self, endpoint: str, deployment: str) -> bool:
        """Whether processes of this deployment run, since they were started or adopted."""


class EndpointService:
    """Endpoints and deployments of one workspace.

    A verb first stores its change, then brings it to the gateway. It raises StoreNotWritten when the change is not
    stored, and ServerUnavailable, with a text that says what is stored, when the gateway has not taken it yet.
    """

    def __init__(
        self, store: EndpointStore, registry: ModelRegistry, runtime: Runtime, clock: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self.registry = registry
        self.runtime = runtime
        self.clock = clock
        self._busy: set[tuple[str, str]] = set()

    async def create_endpoint(self, document: Mapping[str, Any]) -> EndpointRecord:
        """Create an endpoint, or replace one of that name.

        An existing one keeps its keys and deployments, and its traffic unless the document sets traffic.
        """
        parsed = parse_endpoint(document)
        record = self.store.find(parsed.name)
        if record is None:
            if len(self.store.endpoints()) >= MAX_ENDPOINTS:
                raise Conflict(f"a workspace must hold at most {MAX_ENDPOINTS} endpoints; delete one first")
            record = EndpointRecord(document=replace(parsed, traffic=None))
        elif parsed.traffic is None:
            parsed = replace(parsed, traffic=record.document.traffic)
        return await self._put_endpoint(record, parsed)

    async def update_endpoint(
        self,
        name: str,
        overrides: Mapping[str, Any] | None = None,
        traffic: Mapping[str, Any] | None = None,
        mirror_traffic: Mapping[str, Any] | None = None,
    ) -> EndpointRecord:
        """Change fields of an endpoint; `traffic` replaces all shares: deployments without one get 0."""
        record = self.store.get(name)
        document = apply_overrides(record.document.to_document(), overrides or {})
        if traffic is not None:
            document["traffic"] = parse_traffic(traffic)
        if mirror_traffic is not None:
            document["mirror_traffic"] = parse_traffic(mirror_traffic, "mirror_traffic")
        parsed = parse_endpoint(document, f"endpoint {name}")
        if parsed.name != name:
            raise UserError(f"an endpoint must keep its name, but got {parsed.name!r} for {name!r}")
        return await self._put_endpoint(record, parsed)

    async def _put_endpoint(self, record: EndpointRecord, document: EndpointDocument) -> EndpointRecord:
        traffic = document.traffic or {}
        for name in traffic:
            record.deployment(name)  # raises NotFound
        if document.mirror_traffic:
            raise UserError("mirror_traffic must be empty: mirroring is not served by this version")
        if document.auth_mode == "aad_token":
            raise UserError("auth_mode must be key or aml_token here, but got aad_token, which needs a directory")
        stored = self.store.put(replace(record, document=document))
        await self._publish(f"endpoint {record.name!r} is stored as asked")
        return stored

    async def show_endpoint(self, name: str) -> EndpointRecord:
        return self.store.get(name)

    async def list_endpoints(self) -> list[EndpointRecord]:
        return self.store.endpoints()

    async def delete_endpoint(self, name: str) -> None:
        """Delete an endpoint and its deployments."""
        record = self.store.get(name)
        busy = [deployment for deployment in record.deployments if (name, deployment) in self._busy]
        if busy:
            raise Conflict(f"endpoint {name!r} has an operation running on {busy[0]!r}; wait for it")
        self.store.remove(name)
        try:
            await self._publish(f"endpoint {name!r} is removed from the store")
        finally:
            for deployment in record.deployments:
                await self.runtime.retire(name, deployment)

    async def get_credentials(self, name: str) -> Keys | Token:
        """The keys of an endpoint, or a token: a new one when the last one is in the second half of its life."""
        record = self.store.get(name)
        if record.document.auth_mode == "key":
            return Keys(record.primary_key, record.secondary_key)
        now = int(self.clock())
        current = [token for token in record.tokens if token.refresh_after > now]
        if not current:
            token = Token(new_key(), expires_at=now + TOKEN_LIFE_S, refresh_after=now + TOKEN_LIFE_S // 2)
            kept = tuple(old for old in record.tokens if old.expires_at > now)
            self.store.put(replace(record, tokens=(*kept, token)))
            await self._publish(f"a new token of endpoint {name!r} is stored")
            current = [token]
        return current[-1]

    async def regenerate_keys(self, name: str, key_type: str = "primary") -> None:
        """Replace one key at once; the other one stays valid."""
        record = self.store.get(name)
        if record.document.auth_mode != "key":
            raise UserError(f"Endpoint '{name}' does not use keys for authentication.")
        if key_type.lower() not in ("primary", "secondary"):
            raise UserError("Key type must be 'primary' or 'secondary'.")
        if key_type.lower() == "primary":
            self.store.put(replace(record, primary_key=new_key()))
        else:
            self.store.put(replace(record, secondary_key=new_key()))
        await self._publish(f"the new {key_type.lower()} key of endpoint {name!r} is stored")

    async def create_deployment(
        self, document: Mapping[str, Any], all_traffic: bool = False, on_step: Step = lambda step: None
    ) -> DeploymentRecord:
        """Create a deployment and wait until it serves. A failed one of that name is replaced."""
        parsed = parse_deployment(document)
        read_overrides(parsed)
        endpoint = self.store.get(parsed.endpoint_name)
        present = endpoint.deployments.get(parsed.name)
        with self._operation(parsed.endpoint_name, parsed.name):
            if present is not None and present.state != "Failed":
                raise Conflict(
                    f"endpoint {parsed.endpoint_name!r} already has a deployment {parsed.name!r}; "
                    "use `online-deployment update`, or delete it first"
                )
            if present is None and len(endpoint.deployments) >= MAX_DEPLOYMENTS:
                raise Conflict(f"an endpoint must hold at most {MAX_DEPLOYMENTS} deployments; delete one first")
            on_step(RESOLVING)
            record = self.store.put_deployment(
                DeploymentRecord(
                    document=parsed,
                    package=self._resolve(parsed),
                    generation=present.generation + 1 if present else 1,
                )
            )
            record = await self._roll_out(record, on_step)
            if all_traffic:
                endpoint = self.store.get(parsed.endpoint_name)
                await self._put_endpoint(endpoint, replace(endpoint.document, traffic={parsed.name: 100}))
            return record

    async def update_deployment(
        self,
        endpoint_name: str,
        name: str,
        overrides: Mapping[str, Any] | None = None,
        document: Mapping[str, Any] | None = None,
        on_step: Step = lambda step: None,
    ) -> DeploymentRecord:
        """Change a deployment. The present process serves until the new one is ready, and stays if that one fails.

        Without any change the same version is restarted, for example after an edit of `settings.json`.
        """
        with self._operation(endpoint_name, name.lower()):
            present = self.store.get(endpoint_name).deployment(name.lower())
            merged = apply_overrides({**present.document.to_document(), **(document or {})}, overrides or {})
            parsed = parse_deployment(merged, subject=f"deployment {name}")
            if (parsed.endpoint_name, parsed.name) != (endpoint_name, present.name):
                raise UserError(f"a deployment must keep its name and endpoint, but got {parsed.name!r}")
            read_overrides(parsed)
            package = self._resolve(parsed)
            is_asked_for = bool(overrides or document)
            is_same = _runs_like(parsed, present.document) and package == present.package
            if is_asked_for and is_same and present.state == "Succeeded":
                return self.store.put_deployment(replace(present, document=parsed))
            updated = replace(
                present,
                document=parsed,
                package=package,
                state="Updating",
                generation=present.generation + 1,
            )
            self.store.put_deployment(replace(present, state="Updating", generation=updated.generation))
            return await self._roll_out(updated, on_step, previous=present)

    async def _roll_out(
        self,
        record: DeploymentRecord,
        on_step: Step,
        previous: DeploymentRecord | None = None,
        *,
        must_store: bool = True,
    ) -> DeploymentRecord:
        """Start `record` and store the outcome. A failed update keeps the previous version and its state.

        Without `must_store` a deployment whose state cannot be stored serves all the same.
        """
        if not self.runtime.is_serving:
            return self.store.put_deployment(replace(record, state="Creating", failure=None))
        is_ready = False

        def save(serving: Mapping[str, Any]) -> None:
            nonlocal is_ready
            try:
                self.store.put_deployment(replace(record, state="Succeeded", failure=None, serving=serving))
            except StoreNotWritten as error:
                if must_store:
                    raise
                log.warning("deployment %s serves, but its state is not stored: %s", record.name, error)
            is_ready = True

        try:
            await self.runtime.roll_out(record, on_step, save)
        except BaseException as error:
            if not is_ready:
                self._store_failure(record, previous, error)
            elif isinstance(error, ServerUnavailable):
                raise _not_taken(f"deployment {record.name!r} is ready and stored", error) from error
            raise
        return self.store.get(record.document.endpoint_name).deployment(record.name)

    def _store_failure(self, record: DeploymentRecord, previous: DeploymentRecord | None, error: BaseException) -> None:
        """Store why a roll-out failed; on a disk that cannot be written the reason goes to the server's log."""
        kept = record if previous is None else replace(previous, generation=record.generation)
        is_serving_still = previous is not None and previous.state == "Succeeded"
        state: ProvisioningState = "Succeeded" if is_serving_still else "Failed"
        try:
            self.store.put_deployment(replace(kept, state=state, failure=_failure_of(error)))
        except StoreNotWritten as unsaved:
            log.error("deployment %s failed: %s; that is not stored: %s", record.name, error, unsaved)

    async def show_deployment(self, endpoint_name: str, name: str) -> DeploymentRecord:
        return self.store.get(endpoint_name).deployment(name.lower())

    async def list_deployments(self, endpoint_name: str) -> list[DeploymentRecord]:
        return [record for _, record in sorted(self.store.get(endpoint_name).deployments.items())]

    async def delete_deployment(self, endpoint_name: str, name: str) -> None:
        """Delete a deployment that has no traffic."""
        endpoint = self.store.get(endpoint_name)
        record = endpoint.deployment(name.lower())
        share = endpoint.traffic.get(record.name, 0)
        if share:
            raise Conflict(f"deployment {record.name!r} must have no traffic, but has {share} %; set it to 0 first")
        with self._operation(endpoint_name, record.name):
            self.store.put(endpoint.without_deployment(record.name))
            try:
                await self._publish(f"deployment {record.name!r} is removed from the store")
            finally:
                await self.runtime.retire(endpoint_name, record.name)

    async def get_logs(self, endpoint_name: str, name: str, lines: int = 5000, container: str = "") -> str:
        """The last lines that TorchServe and its workers wrote; empty for `storage-initializer`: it has none here."""
        record = self.store.get(endpoint_name).deployment(name.lower())
        return "" if container == "storage-initializer" else read_logs(self.store.workspace, record, lines)

    async def restore(self, on_step: Callable[[str, str], None]) -> None:
        """Start every stored deployment that does not run, several at a time; called when a server starts.

        `on_step` gets the name of a deployment and the present step. A deployment that fails gets the state `Failed`,
        and the others start all the same; one that cannot be stored starts all the same, too.
        """
        at_once = asyncio.Semaphore(MAX_RESTORED_AT_ONCE)

        async def restore(record: DeploymentRecord) -> None:
            async with at_once:
                with contextlib.suppress(NotFound, Conflict):  # deleted or being changed since the loop began
                    await self._restore(record, on_step)

        records = [record for endpoint in self.store.endpoints() for _, record in sorted(endpoint.deployments.items())]
        await asyncio.gather(*map(restore, records))

    def check_idle(self) -> None:
        """Raise Conflict while an operation on a deployment runs."""
        for endpoint_name, name in sorted(self._busy):
            raise Conflict(f"deployment {name!r} of endpoint {endpoint_name!r} has an operation running; wait for it")

    async def _restore(self, seen: DeploymentRecord, on_step: Callable[[str, str], None]) -> None:
        endpoint_name, name = seen.document.endpoint_name, seen.name
        if self.runtime.is_running(endpoint_name, name):
            if seen.state in ("Creating", "Updating"):
                failure = Failure("OperationCanceled", "the server ended during the operation")
                with contextlib.suppress(StoreNotWritten):
                    self.store.put_deployment(replace(seen, state="Succeeded", failure=failure))
            return
        record = self.store.get(endpoint_name).deployment(name)
        if record.generation != seen.generation:
            return  # a verb has started it meanwhile
        with self._operation(endpoint_name, name):
            try:
                started = replace(record, state="Creating", generation=record.generation + 1, failure=None)
                with contextlib.suppress(StoreNotWritten):
                    record = self.store.put_deployment(started)
                await self._roll_out(record, lambda step: on_step(f"{endpoint_name}/{name}", step), must_store=False)
                on_step(f"{endpoint_name}/{name}", "ready")
            except (ClearsightError, OSError) as error:
                reason = os_error_message(error) if isinstance(error, OSError) else error
                on_step(f"{endpoint_name}/{name}", f"failed: {reason}")

    async def _publish(self, stored: str) -> None:
        """Bring the stored state to the gateway. Raises ServerUnavailable whose text begins with `stored`."""
        try:
            await self.runtime.publish()
        except ServerUnavailable as error:
            raise _not_taken(stored, error) from error

    @contextlib.contextmanager
    def _operation(self, endpoint_name: str, name: str) -> Iterator[None]:
        """Allow one operation at a time on a deployment. Raises Conflict while another one runs."""
        if (endpoint_name, name) in self._busy:
            raise Conflict(f"deployment {name!r} of endpoint {endpoint_name!r} has an operation running; wait for it")
        self._busy.add((endpoint_name, name))
        try:
            yield
        finally:
            self._busy.discard((endpoint_name, name))

    def _resolve(self, document: DeploymentDocument) -> Path:
        """The folder of the package that the document names."""
        reference = document.model if isinstance(document.model, str) else str(document.model["path"])
        return self.registry.resolve(reference)


def _runs_like(one: DeploymentDocument, other: DeploymentDocument) -> bool:
    """True when both documents describe the same process."""
    without_effect: dict[str, Any] = {"description": None, "tags": {}, "properties": {}, "inert": {}, "warnings": ()}
    return replace(one, **without_effect) == replace(other, **without_effect)


def _not_taken(stored: str, error: ServerUnavailable) -> ServerUnavailable:
    return ServerUnavailable(
        f"{stored}, but the gateway has not taken the change and goes on as before: {error}; "
        "the server sends it again every few seconds, nothing needs to be repeated"
    )


def _failure_of(error: BaseException) -> Failure:
    """The error that ended the start of a deployment, with Azure's code."""
    match error:
        case WorkersFailed():
            return Failure("ResourceNotReady", str(error))
        case NotFound():
            return Failure("ResourceNotFound", str(error))
        case UserError():
            return Failure("BadArgument", str(error))
        case ClearsightError():
            return Failure("InternalServerError", str(error))
        case OSError():
            return Failure("InternalServerError", os_error_message(error))
        case Exception():
            return Failure("InternalServerError", f"{type(error).__name__}: {error}")
        case _:
            return Failure("OperationCanceled", "the server was stopped")
