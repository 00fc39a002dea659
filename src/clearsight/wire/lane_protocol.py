"""The protocol between the gateway and the workers of a deployment, beside the request and answer bodies.

The gateway sends each request to one lane (the queue and the workers of one kind of request) over the private socket
of the deployment. The headers below never come from a client and, but for `DEGRADED_HEADER`, never reach one.

| gateway sends | meaning |
| --- | --- |
| `DEADLINE_HEADER: <seconds>` | when an answer has to be there, in seconds of the machine's monotonic clock |
| `JOB_HEADER: start|poll|end <id>` | a command about a background job, in the explain lane |

| worker answers | meaning |
| --- | --- |
| `ANSWER_HEADER: 1` | the handler made this answer; without it, it is an error of the server around the handler |
| status `WRONG_LANE_STATUS`, `LANE_HEADER: explain` | a row asks for an explanation: send the request to that lane |
| `JOB_HEADER: running|done|busy|unknown` | state of the job that the command named |
| `DEGRADED_HEADER: 1` | an explanation is less than what was asked for; passed on to the client |
| `TELEMETRY_HEADER: <JSON>` | what the explanations cost, for the gateway's metrics |
"""

from typing import Final, Literal

__all__ = [
    "ANSWER_HEADER",
    "DEADLINE_HEADER",
    "DEADLINE_SHARE",
    "DEGRADED_HEADER",
    "JOB_HEADER",
    "LANE_HEADER",
    "LANE_PROTOCOL",
    "MAX_ANSWER_BYTES",
    "MAX_BODY_BYTES",
    "MAX_TELEMETRY_CHARS",
    "TELEMETRY_HEADER",
    "WRONG_LANE_STATUS",
    "JobCommand",
    "JobState",
    "Lane",
]

LANE_PROTOCOL: Final = 1
"""Grows with every change after which a gateway and a worker of different versions would misunderstand each other."""

Lane = Literal["all", "predict", "explain"]
"""Which requests a worker answers; `all` is a worker without a gateway in front of it."""

JobCommand = Literal["start", "poll", "end"]
"""Start a job with the request's body, report how far it is, end it and forget its result."""

JobState = Literal["running", "done", "busy", "unknown"]
"""`running`: the body is the progress. `done`: this is the job's answer. `busy`: not started, since another job
computes. `unknown`: the worker has no such job."""

ANSWER_HEADER: Final = "x-clearsight-answer"
LANE_HEADER: Final = "x-clearsight-lane"
DEADLINE_HEADER: Final = "x-clearsight-deadline"
JOB_HEADER: Final = "x-clearsight-job"
DEGRADED_HEADER: Final = "x-explanation-degraded"
TELEMETRY_HEADER: Final = "x-clearsight-explained"

WRONG_LANE_STATUS: Final = 421

DEADLINE_SHARE: Final = 0.85
"""Share of the time limit that an explanation gets: it ends with the best result so far before the limit."""

MAX_TELEMETRY_CHARS: Final = 16 * 1024
"""100 rows need about 12 000; longer telemetry is not sent, and its request not counted."""

MAX_BODY_BYTES: Final = 100 * 1024 * 1024
"""Largest request body that the gateway accepts by default, and largest answer that TorchServe passes on: a worker
whose answer is larger is killed."""

MAX_ANSWER_BYTES: Final = 96 * 1024 * 1024
"""Largest answer of a worker: a few MiB below `MAX_BODY_BYTES`, for what is sent around it."""
