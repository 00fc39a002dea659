"""The decisions of the gateway: authentication, the deployment that answers, the answer of the client.

A connection (`http1.py`) calls `begin` after the head of a request, `receive` after each piece of its body, `answer`
when the body is complete, and `complete` at the end. The deployment is chosen after the body has arrived, and counted
as in flight in the same turn of the event loop: a request sees either the old table or the new one, and one that
chose the old table is counted there.
"""

import asyncio
import re
from collections import Counter
from importlib.metadata import version
from random import Random
from typing import Final

import orjson

from clearsight.serving.gateway.answers import HttpAnswer, container_error, error, model_error
from clearsight.serving.gateway.explanation_jobs import (
    DEFAULT_EXPLANATION_JOB_LIMITS,
    ExplainJobs,
    ExplanationJobLimits,
)
from clearsight.serving.gateway.generation import Generation
from clearsight.serving.gateway.lane import ModelUnreachable, NoWorker, Overloaded, is_wrong_lane
from clearsight.serving.gateway.lane_scan import asks_for_explanation
from clearsight.serving.gateway.limits import ByteBudget
from clearsight.serving.gateway.mapping import OVERLOADED, map_answer, not_ready, unreachable
from clearsight.serving.gateway.metrics import GatewayMetrics
from clearsight.serving.gateway.request import Request
from clearsight.serving.gateway.request_log import RequestLog
from clearsight.serving.gateway.routes import Route
from clearsight.serving.gateway.swagger import swagger_document
from clearsight.serving.gateway.table import RoutingTable
from clearsight.serving.gateway.upstream import UpstreamAnswer

__all__ = ["DataPlane"]

NOT_AN_ID_CHARACTER: Final = re.compile(r"[^A-Za-z0-9_-]")
MAX_CLIENT_ID_CHARS: Final = 40
KSERVE_ACTIONS: Final = {"predict": "score", "explain": "explain"}
ACCEPTED_ENCODINGS: Final = frozenset(("", "identity", "gzip", "x-gzip"))

HEALTHY: Final = HttpAnswer(200, b"Healthy", "text/plain; charset=utf-8")
OPTIONS: Final = HttpAnswer(200, headers={"allow": "GET, OPTIONS, POST"})
UNAUTHORIZED: Final = error(
    401,
    "Unauthorized",
    "The Authorization header must be `Bearer <key>` with a valid key of the endpoint.",
    {"www-authenticate": "Bearer"},
)
TIMED_OUT: Final = error(408, "RequestTimeout", "The deployment did not answer within its request timeout.")
MEMORY_FULL: Final = error(
    429, "TooManyRequests", "The gateway holds as many bytes as it may. Try again.", {"retry-after": "1"}
)
# The messages of Azure's scoring container, whose errors reach clients as 424.
NOT_JSON: Final = model_error(
    415, "Unsupported Media Type", container_error(415, "Expects Content-Type to be application/json").body
)
NOT_DECODABLE: Final = model_error(
    415,
    "Unsupported Media Type",
    container_error(415, "Expects no Content-Encoding, or gzip: send the body as it is, or compressed by gzip").body,
)
NO_INPUT: Final = model_error(
    400, "Bad Request", container_error(400, "A value is not provided for the 'input_data' parameter.").body
)
NO_EXPLANATIONS: Final = model_error(
    400, "Bad Request", container_error(400, "Explanations are switched off for this deployment.").body
)
UNKNOWN_PATH: Final = container_error(404, "The requested URL was not found on the server.")


def _not_allowed(methods: str) -> HttpAnswer:
    return container_error(405, "The method is not allowed for the requested URL.", {"allow": methods})


class DataPlane:
    """Holds the routing table, the running generations, the memory budget and the explanation jobs."""

    def __init__(
        self,
        *,
        max_body_bytes: int,
        memory_budget_bytes: int,
        metrics: GatewayMetrics,
        request_log: RequestLog,
        random: Random,
        loop: asyncio.AbstractEventLoop,
        job_limits: ExplanationJobLimits = DEFAULT_EXPLANATION_JOB_LIMITS,
    ) -> None:
        self.table = RoutingTable()
        self._max_body_bytes = max_body_bytes
        self._budget = ByteBudget(memory_budget_bytes)
        self._metrics = metrics
        self._log = request_log
        self._random = random
        self._loop = loop
        self._server_version = f"Clearsight/{version('clearsight')}"
        self._routes: dict[str, Route] = {}
        self._generations: dict[tuple[str, str, str], Generation] = {}
        self._retired: set[Generation] = set()
        self.jobs = ExplainJobs(self._find_generation, metrics.jobs, loop, job_limits)

    # The control plane calls these

    def swap(self, table: RoutingTable) -> None:
        """Replace the table. A generation that is in both keeps its connections and counts."""
        generations: dict[tuple[str, str, str], Generation] = {}
        routes: dict[str, Route] = {}
        for endpoint_name, endpoint in table.endpoints.items():
            of_endpoint = {}
            for name, deployment in endpoint.deployments.items():
                key = (endpoint_name, name, deployment.generation)
                generation = self._generations.get(key)
                if generation is None:
                    generation = Generation(deployment, self._max_body_bytes, self._loop)
                else:
                    generation.configure(deployment)
                generations[key] = of_endpoint[name] = generation
            routes[endpoint_name] = Route(endpoint_name, endpoint, of_endpoint)
        for key, generation in self._generations.items():
            if key not in generations:
                generation.close()
                self._retired.add(generation)
        self._generations, self._routes, self.table = generations, routes, table
        self._metrics.set_table(table)

    def in_flight(self) -> dict[str, int]:
        """Requests waiting or running, per generation; a retired generation is listed until it has none."""
        self._retired = {generation for generation in self._retired if generation.num_in_flight}
        counts: Counter[str] = Counter()
        for generation in (*self._generations.values(), *self._retired):
            counts[generation.deployment.generation] += generation.num_in_flight
        return dict(counts)

    @property
    def num_body_bytes(self) -> int:
        """Bytes of bodies held now."""
        return self._budget.used

    # A connection calls these

    def begin(self, request: Request) -> HttpAnswer | None:
        headers = request.headers
        request.answer_headers = {
            "x-request-id": request.id,
            "x-ms-request-id": request.id,
            "x-ms-server-version": self._server_version,
        }
        if client_id := headers.get("x-ms-client-request-id"):
            request.client_request_id = NOT_AN_ID_CHARACTER.sub("", client_id)[:MAX_CLIENT_ID_CHARS]
            request.answer_headers["x-ms-client-request-id"] = request.client_request_id
        path, _, query = request.target.partition("?")
        parts = path.split("/")
        if len(parts) == 4 and parts[1] == "endpoints":
            return self._begin_endpoint(request, parts[2], parts[3], query)
        if len(parts) in (5, 6) and parts[1] == "endpoints" and parts[3:5] == ["jobs", "explain"]:
            return self._begin_job(request, parts[2], parts[5] if len(parts) == 6 else None)
        if len(parts) == 4 and parts[1:3] == ["v1", "models"]:
            return self._begin_kserve(request, parts[3], query)
        if path == "/":
            return self._health(request, is_healthy=True)
        return UNKNOWN_PATH

    def receive(self, request: Request, num_bytes: int) -> HttpAnswer | None:
        if request.num_bytes + num_bytes > self._max_body_bytes:
            return self._too_large()
        if not self._budget.take(num_bytes):
            return MEMORY_FULL
        request.num_reserved += num_bytes
        return None

    async def answer(self, request: Request) -> HttpAnswer:
        route = self._routes.get(request.endpoint)
        if route is None:
            return _no_endpoint(request.endpoint)
        pinned = request.headers.get("azureml-model-deployment")
        name = route.draw(self._random) if pinned is None else pinned
        if name is None:
            if route.has_traffic:
                return not_ready(f"No deployment of endpoint '{route.name}' that has traffic is ready")
            return _no_valid_deployment(route.name)
        generation = route.generations.get(name)
        if generation is None:
            return _no_deployment(route.name)
        request.deployment = request.answer_headers["azureml-model-deployment"] = name
        if generation.deployment.model:
            request.answer_headers["x-clearsight-model"] = generation.deployment.model
        if not route.is_ready(name):
            return unreachable("deployment not ready")
        if request.is_explanation and not generation.explains:
            return NO_EXPLANATIONS
        if request.is_job:
            return self.jobs.submit(request, generation)
        try:
            upstream_answer = await self._forward(request, generation)
        except Overloaded:
            return OVERLOADED
        except NoWorker as reason:
            return not_ready(str(reason))
        except TimeoutError:
            return TIMED_OUT
        except ModelUnreachable as reason:
            return unreachable(str(reason))
        num_bytes = len(upstream_answer.body)
        self._budget.charge(num_bytes)
        request.num_reserved += num_bytes
        return map_answer(upstream_answer)

    @staticmethod
    async def _forward(request: Request, generation: Generation) -> UpstreamAnswer:
        """Send the request into its lane; if the predict lane answers that it is the wrong one, into the other."""
        body = (request.chunks, request.num_bytes, request.id, request.received)
        if not request.is_explanation and not (generation.explains and asks_for_explanation(request.chunks)):
            request.lane = "predict"
            answer = await generation.predict(*body)
            if not (is_wrong_lane(answer) and generation.explains):
                return answer
        request.lane = "explain"
        return await generation.explain(*body, is_implied=request.is_explanation)

    def complete(self, request: Request, answer: HttpAnswer | None, num_bytes: int) -> None:
        self._budget.give(request.num_reserved)
        request.num_reserved = 0
        request.chunks = []
        now = self._loop.time()
        self._metrics.observe(request, answer, num_bytes, now)
        self._log.write(request, answer, num_bytes, now)

    # Routes

    def _begin_endpoint(self, request: Request, name: str, leaf: str, query: str) -> HttpAnswer | None:
        route = self._routes.get(name)
        if route is None:
            return _no_endpoint(name)
        request.endpoint = route.name
        method = request.method
        if leaf in ("score", "explain"):
            request.is_explanation = leaf == "explain"
            if method == "OPTIONS":
                return OPTIONS
            if method not in ("POST", "GET"):
                return _not_allowed("GET, OPTIONS, POST")
            request.auth_type = route.auth_mode
            if not route.accepts(request.headers.get("authorization")):
                return UNAUTHORIZED
            return NO_INPUT if method == "GET" else self._refuse_body(request)
        if leaf == "swagger.json":
            if method not in ("GET", "HEAD"):
                return _not_allowed("GET, HEAD")
            request.auth_type = route.auth_mode
            if not route.accepts(request.headers.get("authorization")):
                return UNAUTHORIZED
            return swagger_document(route.name, query)
        if leaf == "":
            return self._health(request, is_healthy=route.is_healthy)
        return UNKNOWN_PATH

    def _begin_kserve(self, request: Request, leaf: str, query: str) -> HttpAnswer | None:
        """The paths of KServe's protocol v1, with the endpoint in place of the model."""
        name, colon, verb = leaf.rpartition(":")
        if colon:
            action = KSERVE_ACTIONS.get(verb)
            return UNKNOWN_PATH if action is None else self._begin_endpoint(request, name, action, query)
        route = self._routes.get(leaf)
        if route is None:
            return _no_endpoint(leaf)
        request.endpoint = route.name
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD")
        body = orjson.dumps({"name": route.name, "ready": route.is_healthy})
        return HttpAnswer(200 if route.is_healthy else 503, body)

    def _begin_job(self, request: Request, name: str, job_id: str | None) -> HttpAnswer | None:
        route = self._routes.get(name)
        if route is None:
            return _no_endpoint(name)
        request.endpoint, request.lane = route.name, "jobs"
        methods = ("POST",) if job_id is None else ("GET", "DELETE")
        if request.method not in methods:
            return _not_allowed(", ".join(methods))
        request.auth_type = route.auth_mode
        if not route.accepts(request.headers.get("authorization")):
            return UNAUTHORIZED
        if job_id is None:
            request.is_explanation = request.is_job = True
            return self._refuse_body(request)
        answer = (self.jobs.status if request.method == "GET" else self.jobs.delete)(route.name, job_id)
        num_bytes = len(answer.body)
        if not self._budget.take(num_bytes):
            return MEMORY_FULL
        request.num_reserved += num_bytes
        return answer

    def _find_generation(self, endpoint: str, deployment: str) -> tuple[Generation, bool] | None:
        """The present generation of a deployment, and whether its explain lane is ready."""
        route = self._routes.get(endpoint)
        generation = route.generations.get(deployment) if route else None
        if generation is None:
            return None
        explain = generation.deployment.explain
        return generation, explain is not None and explain.ready

    def _refuse_body(self, request: Request) -> HttpAnswer | None:
        content_type = request.headers.get("content-type", "")
        if content_type != "application/json" and content_type.partition(";")[0].strip().lower() != "application/json":
            return NOT_JSON
        if request.headers.get("content-encoding", "").strip().lower() not in ACCEPTED_ENCODINGS:
            return NOT_DECODABLE
        length = request.content_length
        if length is not None:
            if length > self._max_body_bytes:
                return self._too_large()
            if length > self._budget.limit - self._budget.used:
                return MEMORY_FULL
        return None

    def _health(self, request: Request, *, is_healthy: bool) -> HttpAnswer:
        if request.method == "OPTIONS":
            return OPTIONS
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD, OPTIONS")
        if is_healthy:
            return HEALTHY
        return error(503, "NoValidDeployments", f"No deployment of endpoint '{request.endpoint}' is ready for traffic.")

    def _too_large(self) -> HttpAnswer:
        return error(413, "PayloadTooLarge", f"The body must be at most {self._max_body_bytes} bytes long.")


def _no_endpoint(name: str) -> HttpAnswer:
    return error(404, "EndpointNotFound", f"There is no endpoint '{_shown(name)}'.")


def _no_deployment(endpoint: str) -> HttpAnswer:
    return error(
        404, "DeploymentNotFound", f"The azureml-model-deployment header names no deployment of endpoint '{endpoint}'."
    )


def _no_valid_deployment(endpoint: str) -> HttpAnswer:
    return error(
        404,
        "NoValidDeployments",
        f"No deployment of endpoint '{endpoint}' has traffic. Set traffic or send the azureml-model-deployment header.",
    )


def _shown(name: str) -> str:
    """A text of the client, shortened and in ASCII, for a message to that client."""
    return name[:64].encode("ascii", "backslashreplace").decode()
