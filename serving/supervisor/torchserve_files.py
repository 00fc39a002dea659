"""Files and environment of one TorchServe process: few open ports, little logging, nothing shared with other processes.

```
<run>/                    0700, short path (a unix socket path has at most 107 bytes)
    config.properties     generated; the commented reference is config.properties at the root of the repository
    log4j2.xml            one rolling file, warnings and the worker's own lines
    logs                  link to the folder of that file
    store/<model>/        the folder archive; store/<model>-explain/ the one of the explain lane
    work/                 working directory; TorchServe writes key_file.json here, mode 0600
    tmp/                  Java's temporary directory, with the worker sockets
    i.sock  m.sock        inference and management
    load-error.txt        written by a worker that cannot load
```
"""

import importlib.util
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from clearsight.documents.deployment.layout import ServingLayout
from clearsight.errors import ServerUnavailable, UserError
from clearsight.files import write_atomically
from clearsight.handlers.torchserve_folder import HandlerConfig, QueueLimits, write_folder
from clearsight.serving.gateway.table import JOB_TIMEOUT_S, MAX_JOBS
from clearsight.serving.supervisor.java import java_home
from clearsight.unix_sockets import MAX_SOCKET_PATH_BYTES
from clearsight.wire.lane_protocol import MAX_ANSWER_BYTES, MAX_BODY_BYTES

__all__ = ["Admission", "ExplainPlan", "RunFolder", "ServingPlan", "free_ports"]

RESPONSE_MARGIN_S: Final = 10
"""TorchServe kills a worker at its response timeout, which must come well after the gateway's 408."""

JVM_OPTIONS: Final = (
    "-Xmx1g",
    "-XX:MaxDirectMemorySize=2g",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
)
"""Memory: upper bounds, taken when needed; with 256 MB, four bodies of 50 MB at once were answered 507 (measured).
One collector thread and the first compiler only: the JVM hands bytes on, and shares its cores with the workers that
compute. Measured on 2 cores beside a busy worker: 0.4 ms less per request than with the JVM's defaults.
"""

BATCH_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""For all answers of a batch, in equal shares. TorchServe decodes a batch of answers in quadratic time: 4 x 5 MB took
2 s, 4 x 12 MB 9 s, and 4 x 24 MB ran into the response timeout, which kills the worker (measured)."""

SECRET_NAME: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|^TS_", re.IGNORECASE)
"""Environment variables that a model gets only if its deployment names them; `TS_…` reconfigure TorchServe."""


@dataclass(frozen=True, slots=True)
class ExplainPlan:
    """The explain lane: one worker of the same package, one request at a time."""

    num_threads: int
    max_in_flight: int
    """Requests waiting and running; 429 beyond."""
    max_jobs: int = MAX_JOBS
    """Jobs waiting and running; 429 beyond."""
    job_timeout_s: float = JOB_TIMEOUT_S
    """Time limit of a job, from its start."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What the predict lane of a deployment admits."""

    max_running: int = 1
    """Requests that the gateway sends at the same time; as many again may wait, 429 beyond."""
    request_timeout_s: float = 5.0
    """From the last byte of a request to its answer; 408 beyond. Holds for explanations too."""


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """What one TorchServe process serves, and how."""

    model_name: str
    package: Path
    layout: ServingLayout = field(default_factory=ServingLayout)
    admission: Admission = field(default_factory=Admission)
    cache_dir: Path | None = None
    """Folder for compiled graphs (`handlers.backends.OpenOptions.cache_dir`)."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the worker processes, in addition to those of the supervisor."""
    explain: ExplainPlan | None = None
    """None: the deployment has no explain lane, and its workers reject explanations."""

    @property
    def explain_name(self) -> str:
        """TorchServe's name of the explain lane's model entry."""
        return f"{self.model_name}-explain"

    def to_document(self) -> dict[str, Any]:
        """Plain data."""
        paths = {"package": str(self.package), "cache_dir": None if self.cache_dir is None else str(self.cache_dir)}
        return {**asdict(self), "environment": dict(self.environment), **paths}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_document`. Raises KeyError or TypeError for anything else."""
        explain, cache_dir = document["explain"], document["cache_dir"]
        return cls(
            model_name=document["model_name"],
            package=Path(document["package"]),
            layout=ServingLayout(**document["layout"]),
            admission=Admission(**document["admission"]),
            cache_dir=None if cache_dir is None else Path(cache_dir),
            environment=dict(document["environment"]),
            explain=None if explain is None else ExplainPlan(**explain),
        )


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one TorchServe process."""

    root: Path

    @classmethod
    def create(cls) -> Self:
        """Make an empty folder with a short path."""
        candidates = dict.fromkeys([tempfile.gettempdir(), "/tmp"])  # noqa: S108  mkdtemp makes it private
        for parent in candidates:
            if len(os.fsencode(parent)) + len("/clearsight-12345678/tmp/.ts.sock.65535") <= MAX_SOCKET_PATH_BYTES:
                return cls(Path(tempfile.mkdtemp(prefix="clearsight-", dir=parent)))
        raise UserError(
            f"the temporary directory must have a path short enough for unix sockets, but got {list(candidates)}; "
            "set TMPDIR to a short path"
        )

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def inference_socket(self) -> Path:
        return self.root / "i.sock"

    @property
    def management_socket(self) -> Path:
        return self.root / "m.sock"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def key_file(self) -> Path:
        return self.work / "key_file.json"

    @property
    def diagnostic_file(self) -> Path:
        return self.root / "load-error.txt"

    @property
    def config_file(self) -> Path:
        return self.root / "config.properties"

    @property
    def log_config_file(self) -> Path:
        return self.root / "log4j2.xml"

    def key(self, plane: str) -> str:
        """TorchServe's token for `inference` or `management`."""
        try:
            return str(json.loads(self.key_file.read_bytes())[plane]["key"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ServerUnavailable(f"TorchServe has not written {self.key_file} yet: {error}") from error

    def write(self, plan: ServingPlan, log_file: Path) -> None:
        """Write everything that TorchServe reads at its start."""
        for folder in (self.work, self.root / "tmp"):
            folder.mkdir(exist_ok=True)
        self.diagnostic_file.unlink(missing_ok=True)
        layout, admission = plan.layout, plan.admission
        queue_size = max(4, 2 * layout.workers * layout.batch_size, admission.max_running + layout.workers)
        response_timeout_s = int(admission.request_timeout_s) + 1 + RESPONSE_MARGIN_S
        handler = HandlerConfig(
            package=str(plan.package.absolute()),
            cache_dir=None if plan.cache_dir is None else str(plan.cache_dir.absolute()),
            max_answer_bytes=MAX_ANSWER_BYTES if layout.batch_size == 1 else BATCH_ANSWER_BYTES // layout.batch_size,
            diagnostic_file=str(self.diagnostic_file),
            lane="predict",
        )
        limits = QueueLimits(queue_size, response_timeout_s)
        write_folder(self.root / "store" / plan.model_name, plan.model_name, layout, limits, handler)
        if plan.explain:
            write_folder(
                self.root / "store" / plan.explain_name,
                plan.explain_name,
                replace(layout, workers=1, num_threads=plan.explain.num_threads, batch_size=1, max_batch_delay_ms=1),
                QueueLimits(max(4, plan.explain.max_in_flight), response_timeout_s),
                replace(handler, max_answer_bytes=MAX_ANSWER_BYTES, lane="explain"),
            )
        properties = self._properties(plan, queue_size, response_timeout_s)
        write_atomically(self.config_file, "".join(f"{key}={value}\n" for key, value in properties.items()), 0o600)
        # Through a link, because log4j would look up `${…}` in the path and expand `%` in it.
        (self.root / "logs").unlink(missing_ok=True)
        (self.root / "logs").symlink_to(log_file.absolute().parent)
        write_atomically(self.log_config_file, LOG_CONFIG.format(log_file=f"../logs/{log_file.name}"), 0o600)

    def _properties(self, plan: ServingPlan, queue_size: int, response_timeout_s: int) -> dict[str, object]:
        """`config.properties`: no TCP listener but gRPC, which cannot be switched off, with tokens, on loopback."""
        grpc_inference_port, grpc_management_port = free_ports(2)
        return {
            "inference_address": f"unix:{self.inference_socket}",
            "management_address": f"unix:{self.management_socket}",
            "enable_metrics_api": "false",
            "grpc_inference_address": "127.0.0.1",
            "grpc_inference_port": grpc_inference_port,
            "grpc_management_address": "127.0.0.1",
            "grpc_management_port": grpc_management_port,
            "disable_token_authorization": "false",
            "token_expiration_min": 10 * 365 * 24 * 60,
            "allowed_urls": "^$",
            "enable_model_api": "false",
            "enable_envvars_config": "false",
            "install_py_dep_per_model": "false",
            "model_store": self.root / "store",
            "load_models": ",".join([plan.model_name, plan.explain_name] if plan.explain else [plan.model_name]),
            "default_workers_per_model": plan.layout.workers,
            "job_queue_size": queue_size,
            "default_response_timeout": response_timeout_s,
            "max_request_size": MAX_BODY_BYTES + 1024 * 1024,
            "max_response_size": MAX_BODY_BYTES,
            "decode_input_request": "false",
            "limit_max_image_pixels": "true",
            "initial_worker_port": 9000,  # only part of the names of sockets in the temporary directory
            "number_of_netty_threads": 2,
            "netty_client_threads": 2,
            "disable_system_metrics": "true",
        }

    def command(self) -> list[str]:
        """The Java command that the `torchserve` launcher would start, without its pid file shared by all."""
        spec = importlib.util.find_spec("ts")
        if spec is None or spec.origin is None:
            raise UserError("TorchServe is not installed; install it with: pip install 'clearsight[serve]'")
        home = Path(spec.origin).parent.parent
        return [
            str(java_home() / "bin" / "java"),
            *JVM_OPTIONS,
            f"-Dmodel_server_home={home}",
            f"-Djava.io.tmpdir={self.root / 'tmp'}",
            f"-Dlog4j.configurationFile={self.log_config_file.as_uri().replace(',', '%2C')}",
            "-cp",
            f".:{home / 'ts' / 'frontend' / '*'}",
            "org.pytorch.serve.ModelServer",
            "--python",
            sys.executable,
            "-f",
            str(self.config_file),
            "-s",
            str(self.root / "store"),
            "-ncs",
        ]

    def environment(self, plan: ServingPlan, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment of TorchServe and its workers."""
        kept = {name: value for name, value in inherited.items() if not SECRET_NAME.search(name)}
        threads = str(plan.layout.num_threads or 1)
        return {
            **kept,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
            "TMPDIR": str(self.root / "tmp"),
            "TEMP": str(self.root / "tmp"),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "AZUREML_MODEL_DIR": str(plan.package.absolute()),
            **plan.environment,
            "TS_DECODE_INPUT_REQUEST": "false",
        }


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that no process listens on at the moment."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(listener.getsockname()[1]) for listener in listeners]


# The file name is made of the names of an endpoint and a deployment, which need no escaping; relative to `work/`.
LOG_CONFIG: Final = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="error">
  <Appenders>
    <RollingFile name="log" fileName="{log_file}" filePattern="{log_file}.%i"
        filePermissions="rw-------">
      <PatternLayout pattern="%d{{ISO8601}} [%p] %m%n"/>
      <Policies><SizeBasedTriggeringPolicy size="10 MB"/></Policies>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="MODEL_LOG" level="info"/>
    <Logger name="io.netty" level="error"/>
    <Logger name="org.pytorch.serve" level="warn"/>
    <Root level="warn"><AppenderRef ref="log"/></Root>
  </Loggers>
</Configuration>
"""
