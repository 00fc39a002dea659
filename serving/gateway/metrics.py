"""Counters and histograms of the data plane, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from clearsight.serving.gateway.answers import HttpAnswer
from clearsight.serving.gateway.explanation_metrics import ExplanationMetrics, JobMetrics
from clearsight.serving.gateway.request import Request
from clearsight.serving.gateway.request_log import CLIENT_CLOSED_REQUEST
from clearsight.serving.gateway.table import RoutingTable

__all__ = ["GatewayMetrics"]

LATENCY_BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 90_000, 180_000)


class GatewayMetrics:
    """One registry per gateway. Label values come from the table and from statuses, never from a client's text."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._latency = Histogram(
            "aml_request_latency_ms",
            "Time from a request's head to the end of its answer, of requests that reached a deployment, in ms",
            ["endpoint", "deployment", "lane"],
            buckets=LATENCY_BUCKETS_MS,
            registry=self.registry,
        )
        self._requests = Counter(
            "aml_requests_total",
            "Requests answered; 499 counts clients that went before their answer",
            ["endpoint", "deployment", "lane", "status_code", "model_status_code", "mirrored"],
            registry=self.registry,
        )
        self._explanations = ExplanationMetrics(self.registry)
        self.jobs = JobMetrics(self.registry, self._explanations)
        self._bytes = Counter("aml_network_bytes_total", "Bytes of bodies", ["direction"], registry=self.registry)
        self._received = self._bytes.labels("received")
        self._sent = self._bytes.labels("sent")
        self._capacity = Gauge(
            "aml_deployment_capacity",
            "Requests a deployment may run at a time, by its state",
            ["endpoint", "deployment", "state"],
            registry=self.registry,
        )
        self.connections_active = Gauge("aml_connections_active", "Open client connections", registry=self.registry)
        self.body_bytes = Gauge("clearsight_body_bytes", "Bytes of bodies held in memory", registry=self.registry)
        self.job_bytes = Gauge(
            "clearsight_explain_job_bytes", "Bytes of bodies and results of jobs held in memory", registry=self.registry
        )
        self.lost_log_lines = Gauge(
            "clearsight_request_log_lost_lines", "Request log lines that could not be written", registry=self.registry
        )
        self._task_failures = Gauge(
            "clearsight_supervisor_task_failures",
            "Failures of the supervisor's background tasks, which were run again",
            registry=self.registry,
        )
        # prometheus_client finds labels under a lock, by a tuple of strings: a dictionary saves 3 us.
        self._request_counters: dict[tuple[str, str, str, int, int | None], Counter] = {}
        self._latency_histograms: dict[tuple[str, str, str], Histogram] = {}

    def set_table(self, table: RoutingTable) -> None:
        """Replace the capacities, and what the supervisor counts, by those of `table`."""
        self._task_failures.set(table.num_task_failures)
        self._capacity.clear()
        for endpoint_name, endpoint in table.endpoints.items():
            for name, deployment in endpoint.deployments.items():
                state = "ready" if deployment.ready else "not_ready"
                self._capacity.labels(endpoint_name, name, state).set(deployment.max_running)

    def observe(self, request: Request, answer: HttpAnswer | None, num_bytes: int, now: float) -> None:
        """Count one finished request; `answer` is None when the client closed the connection before."""
        status = answer.status if answer else CLIENT_CLOSED_REQUEST
        key = (request.endpoint, request.deployment, request.lane, status, answer.model_status if answer else None)
        counter = self._request_counters.get(key)
        if counter is None:
            endpoint, deployment, lane, _, model_status = key
            counter = self._requests.labels(
                endpoint, deployment, lane, str(status), "" if model_status is None else str(model_status), "false"
            )
            self._request_counters[key] = counter
        counter.inc()
        if request.num_bytes:
            self._received.inc(request.num_bytes)
        if num_bytes:
            self._sent.inc(num_bytes)
        if request.deployment:
            labels = (request.endpoint, request.deployment, request.lane)
            self._histogram(labels).observe((now - request.started) * 1000)
            if request.lane == "explain":
                self._explanations.observe(request.endpoint, request.deployment, answer)

    def _histogram(self, labels: tuple[str, str, str]) -> Histogram:
        histogram = self._latency_histograms.get(labels)
        if histogram is None:
            histogram = self._latency_histograms[labels] = self._latency.labels(*labels)
        return histogram

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
