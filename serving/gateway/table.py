"""The routing table: all that the gateway knows about endpoints, one document from the management plane.

A table is immutable. A change is a new table with a higher `version`, sent by `PUT /table`; see `control.py`.

```json
{"version": 7, "endpoints": {"fridge": {
    "auth_mode": "key", "key_hashes": ["<sha256 hex>", "<sha256 hex>"], "traffic": {"blue": 90, "green": 10},
    "deployments": {"blue": {"generation": "blue-1",
        "upstreams": [{"socket": "/…/i.sock", "path": "/predictions/blue", "key_file": "/…/key_file.json",
            "lost_workers": 0}],
        "max_running": 16, "max_in_flight": 32, "request_timeout_s": 5.0, "model": "fridge:1",
        "explain": {"upstream": {"socket": "/…/i.sock", "path": "/predictions/blue-explain", "key_file": "/…"},
            "implied_path": "/explanations/blue-explain", "ready": true,
            "max_running": 1, "max_in_flight": 8, "request_timeout_s": 5.0, "max_jobs": 8, "job_timeout_s": 900.0}}}}}}
```
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, ClassVar, Final, Literal

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from clearsight.errors import Fault, InvalidDocument
from clearsight.unix_sockets import MAX_SOCKET_PATH_BYTES

__all__ = [
    "JOB_TIMEOUT_S",
    "MAX_JOBS",
    "AuthMode",
    "Deployment",
    "Endpoint",
    "ExplainLane",
    "RoutingTable",
    "Upstream",
]

type_config = ConfigDict(extra="forbid", strict=True)

AuthMode = Literal["key", "aml_token", "aad_token"]
"""Kind of the bearer credential. The gateway only compares its hash and logs the kind."""

Name = Annotated[str, Field(pattern=r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$", max_length=64)]
Sha256Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Percentage = Annotated[int, Field(ge=0, le=100)]
RequestPath = Annotated[str, Field(pattern=r"^/[!-~]*$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*$")]

MAX_JOBS: Final = 8
JOB_TIMEOUT_S: Final = 900.0
"""Time limit of an explanation job whose deployment sets none."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where one server process of a deployment listens.

    `socket` is TorchServe's inference socket, `path` the request path (`/predictions/<model>`), `key_file` the JSON
    file in which TorchServe wrote its own tokens; the gateway reads `inference.key` from it. `lost_workers` counts
    those of the process that have died: when it grows, predictions that get no answer are sent a second time.
    """

    __pydantic_config__: ClassVar[ConfigDict] = type_config

    socket: AbsolutePath
    path: RequestPath
    key_file: AbsolutePath
    lost_workers: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        length = len(self.socket.encode())
        if length > MAX_SOCKET_PATH_BYTES:
            raise ValueError(f"a socket path must be at most {MAX_SOCKET_PATH_BYTES} bytes long, but got {length}")


@dataclass(frozen=True, slots=True)
class ExplainLane:
    """Where requests for explanations go: another model entry of one of the processes, with limits of its own.

    `upstream.path` gets requests whose rows say what is to be explained, `implied_path` those that ask for all rows.
    `ready` is false while that process is being started again. Jobs have limits of their own: `max_jobs` waiting and
    running, of which one runs, for at most `job_timeout_s`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = type_config

    upstream: Upstream
    implied_path: RequestPath
    max_running: Annotated[int, Field(ge=1)]
    max_in_flight: Annotated[int, Field(ge=1)]
    request_timeout_s: Annotated[float, Field(gt=0, le=300)]
    max_jobs: Annotated[int, Field(ge=1)] = MAX_JOBS
    job_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = JOB_TIMEOUT_S
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment as it runs now.

    `generation` changes when a new version is rolled out; requests in flight are counted per generation. `upstreams`
    lists its server processes that are ready; one that is started again leaves the list and comes back with another
    socket. `max_in_flight` bounds requests waiting and running (429 beyond), `max_running` those forwarded at a time,
    `request_timeout_s` the time from the last byte of a request to the answer (408 beyond). None of these limits count
    what runs in the `explain` lane; without that lane, explanations are refused. `model` names what
    answers, for a header of the answers; empty: there is none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = type_config

    generation: Annotated[str, Field(min_length=1, max_length=200)]
    upstreams: tuple[Upstream, ...]
    max_running: Annotated[int, Field(ge=1)]
    max_in_flight: Annotated[int, Field(ge=1)]
    request_timeout_s: Annotated[float, Field(gt=0, le=300)]
    explain: ExplainLane | None = None
    model: Annotated[str, Field(pattern=r"^[!-~]*$", max_length=300)] = ""

    @property
    def ready(self) -> bool:
        """Whether predictions can be answered."""
        return bool(self.upstreams)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint: who may call it, and how its traffic is split.

    `key_hashes` holds the sha256, in lower-case hex, of every credential valid now; with none, every call is a 401.
    `traffic` maps deployments to percentages that sum to 0 or 100; an absent deployment means 0.
    """

    __pydantic_config__: ClassVar[ConfigDict] = type_config

    auth_mode: AuthMode
    key_hashes: tuple[Sha256Hex, ...]
    traffic: Mapping[Name, Percentage]
    deployments: Mapping[Name, Deployment]

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.traffic) - set(self.deployments)):
            raise ValueError(f"traffic must name deployments of the endpoint, but got {', '.join(unknown)}")
        total = sum(self.traffic.values())
        if total not in (0, 100):
            raise ValueError(f"traffic must sum to 0 or 100, but sums to {total}")


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All endpoints. `version` is the writer's counter; the gateway reports it back and does not compare it.

    `num_task_failures` counts how often a background task of the writer failed; the gateway shows it in its metrics.
    """

    __pydantic_config__: ClassVar[ConfigDict] = type_config

    version: Annotated[int, Field(ge=0)] = 0
    endpoints: Mapping[Name, Endpoint] = field(default_factory=dict)
    num_task_failures: Annotated[int, Field(ge=0)] = 0

    def to_json(self) -> bytes:
        """The table as one line of JSON."""
        return orjson.dumps(self)

    @staticmethod
    def from_json(content: bytes | str) -> "RoutingTable":
        """Parse and check a table. Raises InvalidDocument that lists every fault with its key path."""
        try:
            return _adapter().validate_json(content)
        except ValidationError as error:
            faults = [
                Fault("BAD_VALUE", _key_path(entry["loc"]), entry["msg"].removeprefix("Value error, "))
                for entry in error.errors(include_url=False, include_input=False, include_context=False)
            ]
            raise InvalidDocument("routing table", faults) from None


def _key_path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "table"


@cache
def _adapter() -> TypeAdapter[RoutingTable]:
    return TypeAdapter(RoutingTable)
