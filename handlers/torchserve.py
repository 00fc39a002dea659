"""The TorchServe handler on top of the Scorer: HTTP bodies in, answer bytes out, one status per request.

TorchServe loads this module by its dotted name and calls `handle`. What a handler of TorchServe 0.12 must
never do, each observed there: raise (all requests of the batch fail); set a header or a reason phrase that is not
short ASCII text, return text with a lone surrogate, or return more than `max_response_size` (each kills the worker
for 7 to 9 s); print a line that begins with `[METRICS]` (it becomes a metric). So every answer is bytes, every failure
is a status and a JSON body of its own request, and every log line has a prefix.

Nothing heavy is imported before `initialize`: TorchServe hides an ImportError of this module behind one of its own.
"""

import contextlib
import dataclasses
import http
import json
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from clearsight.wire.lane_protocol import (
    ANSWER_HEADER,
    DEADLINE_HEADER,
    DEADLINE_SHARE,
    DEGRADED_HEADER,
    JOB_HEADER,
    LANE_HEADER,
    MAX_ANSWER_BYTES,
    MAX_TELEMETRY_CHARS,
    TELEMETRY_HEADER,
    WRONG_LANE_STATUS,
)

__all__ = ["TorchServeHandler", "handle"]

EXPLAIN_HEADER: Final = "explain"
"""TorchServe sets it to `True` for `/explanations/<model>` and `/v1/models/<model>:explain`. A handler learns of the
path in no other way."""

LOG_PREFIX: Final = "clearsight | "

log = logging.getLogger("clearsight.torchserve")


class Context(Protocol):
    """The part of `ts.context.Context` that this module uses."""

    model_yaml_config: Mapping[str, Any] | None

    @property
    def system_properties(self) -> Mapping[str, Any]: ...
    def get_request_header(self, idx: int, key: str) -> str | None: ...
    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None: ...
    def set_response_header(self, idx: int, key: str, value: str) -> None: ...
    def set_response_content_type(self, idx: int, value: str) -> None: ...


class LineFormatter(logging.Formatter):
    """Prefixes every line and escapes control characters: no logged text can forge a line or a metric."""

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).splitlines() or [""]
        return "\n".join(LOG_PREFIX + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines)


@dataclass(frozen=True, slots=True)
class RequestAnswer:
    """The answer of one HTTP request. `is_degraded`: an explanation in it is less than was asked for."""

    status: int
    body: bytes
    is_degraded: bool = False
    telemetry: str = ""
    """JSON in ASCII, or empty."""


class TorchServeHandler:
    """Answers batches of HTTP requests with one Scorer.

    The section `clearsight` of `model-config.yaml` names the package and how it runs; see
    `torchserve_folder.HandlerConfig`, which writes it.
    """

    def __init__(self) -> None:
        self.scorer: Any = None
        self.lane = "all"
        self.explain: Any = None
        self.background: Any = None
        self.timeout_s: float | None = None
        self.max_answer_bytes = MAX_ANSWER_BYTES

    def initialize(self, context: Context) -> None:
        """Load the package and score one drawn image.

        A failure becomes one readable line, a diagnostic file (the `diagnostic_file` of the configuration, else
        `clearsight-error.txt` in the model folder) and a RuntimeError, after which TorchServe gives up this worker.
        """
        _configure_logging()
        document = context.model_yaml_config or {}
        config: Mapping[str, Any] = document.get("clearsight") or {}
        folder = Path(str(context.system_properties["model_dir"]))
        diagnostic_file = Path(config.get("diagnostic_file") or folder / "clearsight-error.txt")
        try:
            self._load(folder, config, workers=int(document.get("minWorkers") or 1))
            self._choose_lane(config, response_timeout_s=float(document.get("responseTimeout") or 0))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log.error("the model cannot be loaded: %s", reason)
            _write_diagnostic(diagnostic_file, reason)
            raise RuntimeError(_ascii(f"clearsight cannot load the model: {reason}")) from error
        # TorchServe logs two INFO lines per request, which the JVM reads and parses for nothing.
        logging.getLogger().setLevel(logging.WARNING)

    def _load(self, folder: Path, config: Mapping[str, Any], workers: int) -> None:
        from clearsight.handlers.scoring.scorer import load_scorer

        started = time.perf_counter()
        num_threads = int(config.get("num_threads") or max(1, len(os.sched_getaffinity(0)) // workers))
        self.max_answer_bytes = int(config.get("max_answer_bytes") or MAX_ANSWER_BYTES)
        self.scorer = load_scorer(
            folder / str(config.get("package") or "package"),  # an absolute path replaces the folder
            backend=config.get("backend") or "auto",
            device=config.get("device") or "auto",
            precision=config.get("precision") or "f32",
            num_threads=num_threads,
            cache_dir=Path(config["cache_dir"]) if config.get("cache_dir") else None,
        )
        self.scorer.warm_up()
        log.info(
            "loaded %s: backend %s, precision %s, %d threads, %d workers, pid %d, %.1f s",
            self.scorer.package.model_name,
            self.scorer.backend,
            self.scorer.precision,
            num_threads,
            workers,
            os.getpid(),
            time.perf_counter() - started,
        )

    def _choose_lane(self, config: Mapping[str, Any], response_timeout_s: float) -> None:
        from clearsight.handlers.worker.background import Background
        from clearsight.handlers.worker.explain_lane import explainer_for_lane, preload

        lane = self.lane = config.get("lane") or "all"
        self.timeout_s = DEADLINE_SHARE * response_timeout_s or None  # TorchServe kills the worker at its time limit
        self.explain = explainer_for_lane(lane, self.scorer, self.timeout_s, self.max_answer_bytes)
        if lane != "all":
            log.info("this worker is of the %s lane", lane)
        if lane == "explain":
            _leave_cores_to_others()  # threads started later inherit it
            self.background = Background()
        if lane == "explain" or (lane == "all" and self.scorer.task.is_classification):
            preload(self.explain)

    def handle(self, data: Sequence[Mapping[str, Any]], context: Context) -> list[bytes]:
        """Answer one batch: one bytes element per HTTP request, in order. Never raises.

        Headers read: the deadline of the gateway, TorchServe's mark of an explanation request outside the predict lane,
        and the job commands of the gateway in the explain lane. `describe` changes nothing.
        """
        started = time.perf_counter()
        requests = [(_body(row), self._request_options(context, index)) for index, row in enumerate(data)]
        if self.background is None:
            answers = self._answers(requests)
        elif len(requests) == 1 and (command := context.get_request_header(0, JOB_HEADER)):
            return [self._run_job_command(context, command, *requests[0])]
        else:
            with self.background.preempt():
                answers = self._answers(requests)
        elapsed_ms = (time.perf_counter() - started) * 1000
        return [self._finish_response(context, index, answer, elapsed_ms) for index, answer in enumerate(answers)]

    def _run_job_command(self, context: Context, command: str, body: bytes | None, request_options: Any) -> bytes:
        """Start, report or end a job, and return at once. A done job is answered like a request with its body."""
        verb, _, job_id = command.partition(" ")
        job, state = self.background.find(job_id), "unknown"
        if verb == "start":
            request = body, dataclasses.replace(request_options, in_background=True)
            job, state = self.background.start(job_id, lambda: self._answers([request])[0]), "busy"
        elif verb == "end":
            self.background.end(job_id)
            job = None
        if job is not None:
            is_computing = job.is_computing  # read before the result, which an ended thread no longer sets
            state = "done" if job.result is not None else "running" if is_computing else "unknown"
        context.set_response_header(0, JOB_HEADER, state)
        if state == "done":
            return self._finish_response(context, 0, job.result, job.elapsed_s * 1000)
        progress = job.progress() if state == "running" else {}
        return self._finish_response(context, 0, RequestAnswer(200, json.dumps(progress).encode("ascii")), 0.0)

    def _request_options(self, context: Context, index: int) -> Any:
        from clearsight.handlers.worker.explain_lane import NO_OPTIONS, RequestOptions

        explains_all = self.lane != "predict" and context.get_request_header(index, EXPLAIN_HEADER) == "True"
        deadline = _seconds(context.get_request_header(index, DEADLINE_HEADER))
        return RequestOptions(explains_all, deadline) if explains_all or deadline is not None else NO_OPTIONS

    def _answers(self, requests: list[tuple[bytes | None, Any]]) -> list[RequestAnswer]:
        """One answer per request, whose body is None when it had another content type."""
        given = [(body, request_options) for body, request_options in requests if body is not None]
        pending = iter(self._score_batch(given))
        unsupported = RequestAnswer(415, _error_body("Expects Content-Type to be application/json"))
        return [unsupported if body is None else next(pending) for body, _ in requests]

    def _score_batch(self, requests: list[tuple[bytes, Any]]) -> list[RequestAnswer]:
        if len(requests) > 1:
            try:
                return self._score(requests)
            except Exception:  # a bug: alone, each request gets its own answer or its own error
                log.exception("a batch of %d requests failed; answering them one by one", len(requests))
        return [answer for request in requests for answer in self._score_alone(request)]

    def _score(self, requests: list[tuple[bytes, Any]]) -> list[RequestAnswer]:
        from clearsight.handlers.scoring.answering import answer_bodies

        bodies, request_options = [body for body, _ in requests], [request_options for _, request_options in requests]
        replies = answer_bodies(self.scorer, bodies, request_options, self.explain, self.timeout_s)
        if len(replies) != len(bodies):
            raise RuntimeError(f"expected {len(bodies)} replies, but got {len(replies)}")
        return [
            RequestAnswer(
                int(reply.status),
                bytes(reply.body),
                reply.is_degraded,
                json.dumps(reply.telemetry, separators=(",", ":")) if reply.telemetry else "",
            )
            for reply in replies
        ]

    def _score_alone(self, request: tuple[bytes, Any]) -> list[RequestAnswer]:
        try:
            return self._score([request])
        except Exception:
            log.exception("a request of %d bytes failed", len(request[0]))
            message = "An unexpected error occurred while scoring. The server's log has the reason."
            return [RequestAnswer(500, _error_body(message))]

    def _finish_response(self, context: Context, index: int, answer: RequestAnswer, elapsed_ms: float) -> bytes:
        """Set status and headers of one request, and keep its answer below the size that kills the worker."""
        status, body = answer.status, answer.body
        if len(body) > self.max_answer_bytes:
            log.warning("an answer of %d bytes is over the limit of %d", len(body), self.max_answer_bytes)
            status, body = (
                422,
                _error_body(
                    f"The answer must be at most {self.max_answer_bytes} bytes, but has {len(body)}. "
                    "Send fewer rows, or ask for less per row."
                ),
            )
        if status == 413:  # TorchServe turns a handler's 413 into 507, its status for a lost worker
            status = 422
        if status != 200:
            context.set_response_status(status, _phrase(status), index)
        else:
            context.set_response_header(index, "x-ms-run-fn-exec-ms", f"{elapsed_ms:.3f}")
        if status == WRONG_LANE_STATUS:
            context.set_response_header(index, LANE_HEADER, "explain")
        if answer.is_degraded and status == 200:
            context.set_response_header(index, DEGRADED_HEADER, "1")
        if 0 < len(answer.telemetry) <= MAX_TELEMETRY_CHARS:
            context.set_response_header(index, TELEMETRY_HEADER, answer.telemetry)
        elif answer.telemetry:
            log.info("the explanations of a request are not counted: their telemetry is too long for a header")
        context.set_response_header(index, "x-ms-run-function-failed", str(status >= 500))
        context.set_response_header(index, ANSWER_HEADER, "1")
        context.set_response_content_type(index, "application/json")
        return body


_worker: Final = TorchServeHandler()


def handle(data: Sequence[Mapping[str, Any]] | None, context: Context) -> list[bytes]:
    """TorchServe's entry point. In the first call `data` is None, and the model is loaded; later it is a batch."""
    if data is None:
        _worker.initialize(context)
        return []
    return _worker.handle(data, context)


def _body(row: Mapping[str, Any]) -> bytes | None:
    """The bytes of one HTTP body, or None when it was a form.

    They come as bytes with `TS_DECODE_INPUT_REQUEST=false`; otherwise TorchServe has parsed the JSON, and it is
    written again.
    """
    value = row.get("body", row.get("data"))
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if value is None:
        return None if row else b""
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


def _seconds(text: str | None) -> float | None:
    """A finite number of seconds, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _error_body(message: str) -> bytes:
    return json.dumps({"message": message}).encode("ascii")


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _ascii(text: str) -> str:
    """Printable ASCII on one line, without 'CUDA', which TorchServe takes for an accelerator out of memory."""
    return " ".join(text.encode("ascii", "backslashreplace").decode().split()).replace("CUDA", "cuda")


def _configure_logging() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
    for name in ("clearsight", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("clearsight").setLevel(logging.INFO)
    logging.captureWarnings(True)


def _leave_cores_to_others() -> None:
    """Let every present thread compute only while no other process needs the core (SCHED_IDLE, sched(7)).

    With niceness 19 the p99 of predictions was 1.67 times that without explanations (docs/70-benchmarks.md). Called
    after loading: next to a saturated deployment, a worker that loads at this priority would not be ready in time.
    """
    try:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
    except PermissionError as error:
        log.warning("explanations compete with predictions for the cores, since SCHED_IDLE is refused: %s", error)


def _write_diagnostic(path: Path, reason: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{reason}\n\n{traceback.format_exc()}", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        log.error("the diagnostic file %s cannot be written: %s", path, error)
