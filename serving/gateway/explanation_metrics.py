"""Duration and outcome of explanations, for Prometheus.

The numbers come from the worker, in a header of its answer that clients do not get.
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
"""Names of algorithms and phases, which come from the worker, never from a client."""


class ExplanationMetrics:
    """Counts the answers of the explain lane."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["endpoint", "deployment"]
        self._phases = Histogram(
            "clearsight_explanation_phase_ms",
            "Time of a phase of explaining one picture, or one object of it, in ms; nothing from the cache is in it",
            [*labels, "algorithm", "phase"],
            buckets=PHASE_BUCKETS_MS,
            registry=registry,
        )
        self._images = Counter(
            "clearsight_explanations_total",
            "Pictures explained, or objects of them, by what was computed; degraded: less than was asked for",
            [*labels, "algorithm", "degraded", "cached"],
            registry=registry,
        )
        self._degraded = Counter(
            "clearsight_explanations_degraded_total",
            "Requests answered with less than was asked for, since time or limits ended",
            labels,
            registry=registry,
        )
        self._refused = Counter(
            "clearsight_explanations_refused_total",
            "Requests of the explain lane that ended without an explanation: by the model's status, else the gateway's",
            [*labels, "status_code"],
            registry=registry,
        )
        self._chunk = Gauge(
            "clearsight_explanation_chunk_size",
            "Most points in one pass of the network, in the last explanation that took several",
            labels,
            registry=registry,
        )

    def observe(self, endpoint: str, deployment: str, answer: HttpAnswer | None) -> None:
        """Count one finished request of the lane, or a job; `answer` is None when the client closed before."""
        if answer is None:
            return
        labels = (endpoint, deployment)
        if answer.status != 200:
            self._refused.labels(*labels, str(answer.model_status or answer.status)).inc()
            return
        if DEGRADED_HEADER in answer.headers:
            self._degraded.labels(*labels).inc()
        if answer.telemetry:
            try:
                self._observe_telemetry(labels, orjson.loads(answer.telemetry))
            except (ValueError, LookupError, TypeError, AttributeError) as error:  # telemetry never fails a request
                logger.warning("the telemetry of explanations from a worker of %s cannot be read: %r", labels, error)

    def _observe_telemetry(self, labels: tuple[str, str], document: Mapping[str, Any]) -> None:
        if document["chunk"]:
            self._chunk.labels(*labels).set(document["chunk"])
        for row in document["rows"]:
            self._observe_row(labels, row)

    def _observe_row(self, labels: tuple[str, str], row: Mapping[str, Any]) -> None:
        algorithm = _label(row["algorithm"])
        flags = [str(bool(row[name])).lower() for name in ("degraded", "cached")]
        self._images.labels(*labels, algorithm, *flags).inc()
        for phase, milliseconds in row["ms"].items():
            self._phases.labels(*labels, algorithm, _label(phase)).observe(milliseconds)


class JobMetrics:
    """Counts explanation jobs; the explanations that they compute are counted like those of requests."""

    def __init__(self, registry: CollectorRegistry, explanations: ExplanationMetrics) -> None:
        self._explanations = explanations
        labels = ["endpoint", "deployment"]
        self._jobs = Gauge("clearsight_explain_jobs", "Jobs queued and running", [*labels, "status"], registry=registry)
        self._ended = Counter(
            "clearsight_explain_jobs_ended_total", "Jobs by how they ended", [*labels, "status"], registry=registry
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
