"""`python -m clearsight.serving.gateway`: run the gateway in the foreground."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from clearsight.errors import ClearsightError
from clearsight.serving.gateway.explanation_jobs import DEFAULT_EXPLANATION_JOB_LIMITS, ExplanationJobLimits
from clearsight.serving.gateway.process import DRAIN_LIMIT_S, MEMORY_BUDGET_BYTES, Options, serve
from clearsight.wire.lane_protocol import MAX_BODY_BYTES

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and serve. Exit code 0 after a clean stop, 1 when requests were cut or it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m clearsight.serving.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address of the public routes")
    parser.add_argument("--port", type=int, default=8000, help="port of the public routes; 0: any free one")
    parser.add_argument("--state", type=Path, required=True, metavar="FILE", help="where the routing table is kept")
    parser.add_argument("--control", type=Path, required=True, metavar="SOCKET", help="unix socket of the control API")
    parser.add_argument("--request-log", type=Path, required=True, metavar="FILE", help="one JSON line per request")
    parser.add_argument("--metrics-port", type=int, metavar="PORT", help="also serve /metrics on this loopback port")
    parser.add_argument("--listen-fd", type=int, metavar="FD", help="a socket that listens on host and port already")
    parser.add_argument(
        "--share-listener", type=Path, metavar="SOCKET", help="unix socket that hands out the listening socket"
    )
    parser.add_argument("--max-body-bytes", type=int, default=MAX_BODY_BYTES, help="413 beyond")
    parser.add_argument(
        "--memory-budget-bytes", type=int, default=MEMORY_BUDGET_BYTES, help="of all bodies; 429 beyond"
    )
    jobs = DEFAULT_EXPLANATION_JOB_LIMITS
    parser.add_argument(
        "--job-budget-bytes", type=int, default=jobs.max_bytes, help="of kept bodies and results of jobs; 429 beyond"
    )
    parser.add_argument(
        "--job-result-seconds",
        type=float,
        default=jobs.result_kept_s,
        help="after which a job that has ended is forgotten",
    )
    parser.add_argument(
        "--drain-limit", type=float, default=DRAIN_LIMIT_S, metavar="SECONDS", help="to finish what runs"
    )
    parsed = parser.parse_args(arguments)
    options = Options(
        host=parsed.host,
        port=parsed.port,
        state=parsed.state.absolute(),
        control=parsed.control.absolute(),
        request_log=parsed.request_log.absolute(),
        metrics_port=parsed.metrics_port,
        listen_fd=parsed.listen_fd,
        share_listener=parsed.share_listener and parsed.share_listener.absolute(),
        max_body_bytes=parsed.max_body_bytes,
        memory_budget_bytes=parsed.memory_budget_bytes,
        drain_limit_s=parsed.drain_limit,
        job_limits=ExplanationJobLimits(parsed.job_budget_bytes, parsed.job_result_seconds),
    )
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        is_clean = uvloop.run(serve(options))
    except ClearsightError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
