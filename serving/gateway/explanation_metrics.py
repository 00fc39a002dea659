"""What explanations cost and what became of them, as Prometheus sees it.

The numbers come from the worker, in a header of its answer that goes no further than here.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from clearsight.serving.gateway.answers import HttpAnswer
from clearsight.wire.lane_protocol import DEGRADED_HEADER

__all__ = ["ExplanationMetrics", "JobMetrics"]

logger = logging.getLogger(__name__)

PHASE_BUCKETS_MS: Final = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 90_000, 300_000)

LABEL_VALUE: Final = re.compile(r"[a-z0-9_]{1,32}")
"""Names of algorithms and phases. They are the worker's words, never a client's."""


class ExplanationMetrics:
    """Counts the answers of the explain lane."""

    def __init__(self, registry: CollectorRegistry) -> None:
        place = ["endpoint", "deployment"]
        self._phases = Histogram(
            "clearsight_explanation_phase_ms",
            "Time of a phase of explaining one picture, or one object of it, in ms; nothing from the cache is in it",
            [*place, "algorithm", "phase"],
            buckets=PHASE_BUCKETS_MS,
            registry=registry,
        )
        self._images = Counter(
            "clearsight_explanations_total",
            "Pictures explained, or objects of them, by what was computed; degraded: less than was asked for",
            [*place, "algorithm", "degraded", "cached"],
            registry=registry,
        )
        self._degraded = Counter(
            "clearsight_explanations_degraded_total",
            "Requests answered with less than was asked for, since time or limits ended",
            place,
            registry=registry,
        )
        self._refused = Counter(
            "clearsight_explanations_refused_total",
            "Requests of the explain lane that ended without an explanation: by the model's status, else the gateway's",
            [*place, "status_code"],
            registry=registry,
        )
        self._chunk = Gauge(
            "clearsight_explanation_chunk_size",
            "Most points in one pass of the network, in the last explanation that took several",
            place,
            registry=registry,
        )

    def observe(self, endpoint: str, deployment: str, answer: HttpAnswer | None) -> None:
        """Count one finished request of the lane, or a job; `answer` is None when the client went first."""
        if answer is None:
            return
        place = (endpoint, deployment)
        if answer.status != 200:
            self._refused.labels(*place, str(answer.model_status or answer.status)).inc()
            return
        if DEGRADED_HEADER in answer.headers:
            self._degraded.labels(*place).inc()
        if answer.telemetry:
            try:
                self._observe_telemetry(place, orjson.loads(answer.telemetry))
            except (ValueError, LookupError, TypeError, AttributeError) as error:  # a request never fails for a number
                logger.warning("what a worker of %s says about its explanations cannot be read: %r", place, error)

    def _observe_telemetry(self, place: tuple[str, str], document: Mapping[str, Any]) -> None:
        if document["chunk"]:
            self._chunk.labels(*place).set(document["chunk"])
        for row in document["rows"]:
            self._observe_row(place, row)

    def _observe_row(self, place: tuple[str, str], row: Mapping[str, Any]) -> None:
        algorithm = _label(row["algorithm"])
        flags = [str(bool(row[name])).lower() for name in ("degraded", "cached")]
        self._images.labels(*place, algorithm, *flags).inc()
        for phase, milliseconds in row["ms"].items():
            self._phases.labels(*place, algorithm, _label(phase)).observe(milliseconds)


class JobMetrics:
    """Counts explanations that nobody waits for in a request; what they compute is counted as any explanation is."""

    def __init__(self, registry: CollectorRegistry, explanations: ExplanationMetrics) -> None:
        self._explanations = explanations
        place = ["endpoint", "deployment"]
        self._jobs = Gauge("clearsight_explain_jobs", "Jobs queued and running", [*place, "status"], registry=registry)
        self._ended = Counter(
            "clearsight_explain_jobs_ended_total", "Jobs by how they ended", [*place, "status"], registry=registry
        )

    def entered(self, endpoint: str, deployment: str, status: str) -> None:
        self._jobs.labels(endpoint, deployment, status.lower()).inc()

    def left(self, endpoint: str, deployment: str, status: str) -> None:
        self._jobs.labels(endpoint, deployment, status.lower()).dec()

    def ended(self, endpoint: str, deployment: str, status: str, answer: HttpAnswer | None) -> None:
        self._ended.labels(endpoint, deployment, status.lower()).inc()
        self._explanations.observe(endpoint, deployment, answer)


def _label(text: str) -> str:
    return text if LABEL_VALUE.fullmatch(text) else "other"
