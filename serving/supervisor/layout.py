"""How a deployment runs on this machine: backend, workers, threads and batch size, chosen by measurement.

A fast backend does best with one worker, all threads and batches, a slow one with several workers; which is the case
depends on package and processor. So the first deployment of a package measures it, and the result is stored in the
workspace under the fingerprints of the package and of this machine.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final

from clearsight.documents.deployment.document import DeploymentDocument
from clearsight.documents.deployment.layout import MeasuredLayout, ServingLayout
from clearsight.errors import ClearsightError, Fault, InvalidDocument
from clearsight.executor import PythonCall
from clearsight.fields import Integer, Number, Section, Text, Truth, read
from clearsight.files import os_error_message, write_atomically
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.tuning.measure import NEARLY_AS_FAST
from clearsight.runs.package import MANIFEST_FILE, sha256_of
from clearsight.runs.workspace import Workspace
from clearsight.serving.gateway.table import JOB_TIMEOUT_S, MAX_JOBS
from clearsight.serving.supervisor.torchserve_files import Admission, ExplainPlan, ServingPlan
from clearsight.tasks import Task

__all__ = [
    "choose_explain_lane",
    "choose_layout",
    "measure_package",
    "read_measurement",
    "serving_plan",
    "serving_plans",
]

log = logging.getLogger(__name__)

MEASURE_TIMEOUT_S: Final = 300.0

MAX_SERVERS: Final = 2
"""Server processes of a deployment. More would survive more deaths at the same time, and each takes a JVM."""

UNREADABLE: Final = (KeyError, TypeError, ValueError)

DEFAULT_EXPLAIN_MAX_IN_FLIGHT: Final = 8
"""One runs, the others wait: at seconds each, any more would only time out."""


_Count = Annotated[int, Integer(1)]


@dataclass(frozen=True, slots=True)
class Overrides(Section):
    """What a deployment may set through `environment_variables`; values that are set are not measured.

    `WORKER_COUNT` is Azure's own variable: workers per instance.
    """

    WORKER_COUNT: _Count = 1
    CLEARSIGHT_BACKEND: Annotated[str, Text(may_be_empty=True)] | None = None
    CLEARSIGHT_PRECISION: Annotated[str, Text(may_be_empty=True)] = "f32"
    CLEARSIGHT_DEVICE: Annotated[str, Text(may_be_empty=True)] = "auto"
    CLEARSIGHT_BATCH_SIZE: _Count | None = None
    CLEARSIGHT_NUM_THREADS: _Count | None = None
    CLEARSIGHT_EXPLAIN: Annotated[bool, Truth()] | None = None
    """Whether there is an explain lane. None: only for classification."""
    CLEARSIGHT_EXPLAIN_THREADS: _Count | None = None
    CLEARSIGHT_EXPLAIN_MAX_IN_FLIGHT: _Count | None = None
    CLEARSIGHT_EXPLAIN_MAX_JOBS: _Count = MAX_JOBS
    CLEARSIGHT_EXPLAIN_JOB_SECONDS: Annotated[float, Number(0, 86_400, low_open=True)] = JOB_TIMEOUT_S


def choose_layout(document: DeploymentDocument, measured: Sequence[MeasuredLayout], num_cores: int) -> ServingLayout:
    """Combine what the deployment sets with the best measured layout of as many workers.

    Workers are `instance_count` x `WORKER_COUNT`. Without a measurement of as many workers, workers x threads stays
    within the cores. A batch is never larger than the number of requests that may run at the same time. Raises
    InvalidDocument for a bad variable.
    """
    given = read_overrides(document)
    workers = document.instance_count * given.WORKER_COUNT
    settings = document.request_settings
    max_batch = max(1, settings.max_concurrent_requests_per_instance * document.instance_count // workers)
    best = _best_layout(measured, given.CLEARSIGHT_BACKEND, workers)
    layout = best or ServingLayout()
    num_threads = layout.num_threads if layout.workers == workers and best else max(1, num_cores // workers)
    return replace(
        layout,
        backend=given.CLEARSIGHT_BACKEND or layout.backend,
        precision=given.CLEARSIGHT_PRECISION,
        device=given.CLEARSIGHT_DEVICE,
        workers=workers,
        num_threads=given.CLEARSIGHT_NUM_THREADS or num_threads,
        batch_size=min(given.CLEARSIGHT_BATCH_SIZE or layout.batch_size, max_batch),
        source="deployment" if given.CLEARSIGHT_BACKEND and given.CLEARSIGHT_BATCH_SIZE else layout.source,
    )


def _best_layout(measured: Sequence[MeasuredLayout], backend: str | None, workers: int) -> ServingLayout | None:
    """The fastest layout of that backend with that many workers; without one, the fastest of the backend at all.

    Among nearly equal ones the one with the most threads wins: it answers a single client fastest.
    """
    of_backend = [each for each in measured if backend in (None, each.layout.backend)]
    able = [each for each in of_backend if each.layout.workers == workers] or of_backend
    highest = max((each.images_per_s for each in able), default=0.0)
    equal = [each for each in able if each.images_per_s >= NEARLY_AS_FAST * highest]
    best = max(equal, key=lambda each: (each.layout.num_threads or 0, each.images_per_s), default=None)
    return best.layout if best else None


def read_overrides(document: DeploymentDocument) -> Overrides:
    variables = document.environment_variables
    given = {name: variables[name] for name in Overrides.field_names() if name in variables}
    faults: list[Fault] = []
    overrides = read(Overrides, given, "environment_variables", faults, value_code="BAD_VALUE")
    if overrides is None or faults:
        raise InvalidDocument(f"deployment {document.name}", faults)
    return overrides


def needs_measurement(document: DeploymentDocument) -> bool:
    given = read_overrides(document)
    return not (given.CLEARSIGHT_BACKEND and given.CLEARSIGHT_BATCH_SIZE)


def choose_explain_lane(document: DeploymentDocument, task: Task, num_cores: int) -> ExplainPlan | None:
    """The explain lane of a deployment, with half the cores; None without one. Raises InvalidDocument."""
    given = read_overrides(document)
    if given.CLEARSIGHT_EXPLAIN is False or (given.CLEARSIGHT_EXPLAIN is None and not task.is_classification):
        return None
    # Reports bad options now, not at the first explanation.
    ExplainOptions.from_variables(document.environment_variables)
    return ExplainPlan(
        num_threads=given.CLEARSIGHT_EXPLAIN_THREADS or max(1, num_cores // 2),
        max_in_flight=given.CLEARSIGHT_EXPLAIN_MAX_IN_FLIGHT or DEFAULT_EXPLAIN_MAX_IN_FLIGHT,
        max_jobs=given.CLEARSIGHT_EXPLAIN_MAX_JOBS,
        job_timeout_s=given.CLEARSIGHT_EXPLAIN_JOB_SECONDS,
    )


def serving_plan(
    document: DeploymentDocument, package: Path, layout: ServingLayout, explain: ExplainPlan | None = None
) -> ServingPlan:
    """The TorchServe process of a deployment."""
    settings = document.request_settings
    return ServingPlan(
        model_name=document.name,
        package=package,
        layout=layout,
        admission=Admission(
            max_running=settings.max_concurrent_requests_per_instance * document.instance_count,
            request_timeout_s=settings.request_timeout_ms / 1000,
        ),
        environment=document.environment_variables,
        explain=explain,
    )


def serving_plans(
    document: DeploymentDocument, package: Path, layout: ServingLayout, explain: ExplainPlan | None = None
) -> Sequence[ServingPlan]:
    """The server processes of a deployment, of which several instances have two: the death of one leaves the other.

    They share the workers; the first has the explain lane.
    """
    num_servers = min(MAX_SERVERS, document.instance_count)
    workers_per_instance = layout.workers // document.instance_count
    plans = []
    for index in range(num_servers):
        num_instances = len(range(index, document.instance_count, num_servers))
        share = replace(layout, workers=num_instances * workers_per_instance)
        plans.append(serving_plan(document, package, share, explain if index == 0 else None))
    return plans


async def measure_package(
    package: Path, document: DeploymentDocument, workspace: Workspace, on_step: Callable[[str], None]
) -> Sequence[MeasuredLayout]:
    """The measurement of this package on this machine, stored or made now. Raises ClearsightError."""
    given = read_overrides(document)
    options = ["--precision", given.CLEARSIGHT_PRECISION]
    fingerprint = f"{sha256_of(package / MANIFEST_FILE)[:16]}-{_machine_fingerprint()}-{given.CLEARSIGHT_PRECISION}"
    if given.CLEARSIGHT_DEVICE != "auto":
        options += ["--device", given.CLEARSIGHT_DEVICE]
        fingerprint += f"-{re.sub(r'[^a-z0-9]', '', given.CLEARSIGHT_DEVICE)}"
    cached = workspace.endpoints / "measurements" / f"{fingerprint}.json"
    with contextlib.suppress(OSError, *UNREADABLE):
        return read_measurement(cached.read_bytes())
    on_step("measuring")
    content = await _run_measurement(package, options)
    try:
        measured = read_measurement(content)
    except UNREADABLE as error:
        raise ClearsightError(f"the measurement of {package} cannot be read: {error}") from error
    try:
        write_atomically(cached, content)
    except OSError as error:  # it is made again with the next deployment
        log.warning("the measurement is not kept: %s", os_error_message(error))
    return measured


def read_measurement(content: bytes) -> Sequence[MeasuredLayout]:
    """The rows of what `python -m clearsight.handlers.tuning.measure` prints. Raises one of `UNREADABLE`."""
    return tuple(MeasuredLayout.from_document(row) for row in json.loads(content)["rows"])


async def _run_measurement(package: Path, options: Sequence[str]) -> bytes:
    call = PythonCall(["-m", "clearsight.handlers.tuning.measure", str(package), *options])
    try:
        result = await asyncio.to_thread(call.wait, MEASURE_TIMEOUT_S)
    except TimeoutError:
        raise ClearsightError(f"measuring {package} must end within {MEASURE_TIMEOUT_S:.0f} s, but did not") from None
    finally:
        call.kill()  # the thread's wait ends with it
    if result.code != 0:
        tail = "\n".join(result.errors.splitlines()[-5:])
        raise ClearsightError(f"measuring {package} failed with exit code {result.code}:\n{tail}")
    return result.output


def _machine_fingerprint() -> str:
    """Changes when processor, usable cores or a runtime change."""
    facts: list[object] = [platform.machine(), _processor(), len(os.sched_getaffinity(0)), platform.python_version()]
    for package in ("torch", "onnxruntime-gpu", "onnxruntime", "openvino"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            facts.append((package, metadata.version(package)))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
