"""The process of the gateway: assembly, start, drain."""

import asyncio
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import orjson
from aiohttp import web

from clearsight.errors import UserError
from clearsight.serving.gateway.control import ControlPlane
from clearsight.serving.gateway.dataplane import DataPlane
from clearsight.serving.gateway.explanation_jobs import DEFAULT_EXPLANATION_JOB_LIMITS, ExplanationJobLimits
from clearsight.serving.gateway.limits import HttpLimits
from clearsight.serving.gateway.listener import BACKLOG, bind_listener, share_listener
from clearsight.serving.gateway.metrics import GatewayMetrics
from clearsight.serving.gateway.request_log import RequestLog
from clearsight.serving.gateway.server import HttpServer
from clearsight.serving.gateway.table import RoutingTable
from clearsight.unix_sockets import bind_private_socket
from clearsight.wire.lane_protocol import MAX_BODY_BYTES

__all__ = ["DRAIN_LIMIT_S", "MEMORY_BUDGET_BYTES", "Options", "serve"]

MEMORY_BUDGET_BYTES = 512 * 1024 * 1024
DRAIN_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the gateway is started with. Port 0 lets the system choose; a `metrics_port` of None opens none."""

    host: str
    port: int
    state: Path
    control: Path
    request_log: Path
    metrics_port: int | None = None
    listen_fd: int | None = None
    """Descriptor of a socket that already listens on host and port."""
    share_listener: Path | None = None
    """Path of a unix socket on which others get a copy of the listening socket."""
    max_body_bytes: int = MAX_BODY_BYTES
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES
    drain_limit_s: float = DRAIN_LIMIT_S
    limits: HttpLimits = field(default_factory=HttpLimits)
    job_limits: ExplanationJobLimits = DEFAULT_EXPLANATION_JOB_LIMITS


async def serve(options: Options) -> bool:
    """Serve until SIGTERM or SIGINT, then drain. True when every running request could finish.

    Prints one line of JSON on stdout when requests are accepted: `{"url": …, "control": …, "metrics_url": …}`.
    Raises UserError when a socket or file cannot be used.
    """
    loop = asyncio.get_running_loop()
    _allow_many_files()
    control_listener = bind_private_socket(
        options.control, f"the control socket {options.control} must be free, but a running gateway listens on it"
    )
    metrics = GatewayMetrics()
    request_log = RequestLog(options.request_log)
    try:
        request_log.start(loop)
    except OSError as error:
        control_listener.close()
        raise UserError(
            f"--request-log must be a writable file, but {options.request_log}: {error.strerror}"
        ) from error
    data_plane = DataPlane(
        max_body_bytes=options.max_body_bytes,
        memory_budget_bytes=options.memory_budget_bytes,
        metrics=metrics,
        request_log=request_log,
        random=Random(),  # noqa: S311 - a traffic split, not a secret
        loop=loop,
        job_limits=options.job_limits,
    )
    http = HttpServer(data_plane, options.limits, loop)
    metrics.connections_active.set_function(lambda: len(http.connections))
    metrics.body_bytes.set_function(lambda: data_plane.num_body_bytes)
    metrics.job_bytes.set_function(lambda: data_plane.jobs.num_bytes)
    metrics.lost_log_lines.set_function(lambda: request_log.num_lost_lines)

    def health() -> dict[str, Any]:
        return {
            "status": "draining" if http.is_draining else "ok",
            "pid": os.getpid(),
            "table_version": data_plane.table.version,
            "connections": len(http.connections),
            "body_bytes": data_plane.num_body_bytes,
            "lost_log_lines": request_log.num_lost_lines,
        }

    control = ControlPlane(data_plane, options.state, health, metrics.page)
    runners: list[web.AppRunner] = []
    sharing: socket.socket | None = None
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        if options.state.exists():
            data_plane.swap(RoutingTable.from_json(options.state.read_bytes()))
        if options.listen_fd is None:
            listener = bind_listener(options.host, options.port)
        else:
            listener = socket.socket(fileno=options.listen_fd)
        listener.setblocking(False)
        if options.share_listener is not None:
            sharing = share_listener(listener, options.share_listener, loop)
        server = await loop.create_server(http, sock=listener, backlog=BACKLOG)
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        announcement = {"url": url, "control": str(options.control)}
        if options.metrics_port is not None:
            runner = await _start(control.metrics_application(), runners)
            metrics_listener = bind_listener("127.0.0.1", options.metrics_port, reuse_port=True)  # the next gateway too
            await web.SockSite(runner, metrics_listener).start()
            announcement["metrics_url"] = f"http://127.0.0.1:{metrics_listener.getsockname()[1]}/metrics"
        # Last: a client that gets an answer here can rely on everything else listening.
        runner = await _start(control.application(), runners)
        await web.SockSite(runner, control_listener).start()
        sys.stdout.write(orjson.dumps(announcement).decode() + "\n")
        sys.stdout.flush()
        await stopping.wait()
        server.close()
        await data_plane.jobs.close()
        return await http.drain(options.drain_limit_s)
    finally:
        for runner in runners:
            await runner.cleanup()
        options.control.unlink(missing_ok=True)
        if sharing is not None and options.share_listener is not None:
            loop.remove_reader(sharing)
            sharing.close()
            options.share_listener.unlink(missing_ok=True)
        await request_log.stop()


async def _start(application: web.Application, runners: list[web.AppRunner]) -> web.AppRunner:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    runners.append(runner)
    await runner.setup()
    return runner


def _allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: a connection is a file, and 1024 is a common default."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
