"""Every error raised on purpose, as one tree.

ClearsightError                500  a fault of Clearsight, unless a subclass says otherwise
├── UserError                  400  an input that cannot be used; the message says what must hold, what came, what to do
│   ├── BadRequest             400  a scoring request that breaks the wire contract
│   │   ├── BadImage           400  bytes that are no readable image, or an image beyond the limits
│   │   └── TooLarge           413  a body or an answer beyond the size limit
│   ├── InvalidDocument        400  a YAML or JSON document with one or more faults, all listed
│   ├── InvalidData            400  label files with faults, all listed
│   ├── InvalidPackage         400  a model package that is incomplete, altered or unreadable
│   ├── WeightsMissing         400  pretrained weights were asked for and cannot be had
│   ├── NotFound               404  a name that does not exist
│   └── Conflict               409  an operation that the current state forbids
├── ExportError                500  an exported graph that cannot be made or disagrees with the model
├── TrainingError              500  a trial that ended without a model; `reason` is for programs
└── ServerUnavailable          503  a gateway or worker that does not answer

A boundary translates: the command line into one line and an exit code, the handler into a status and a JSON
body per request, the gateway into Azure's status codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = [
    "BadImage",
    "BadRequest",
    "ClearsightError",
    "Conflict",
    "ExportError",
    "Fault",
    "InvalidData",
    "InvalidDocument",
    "InvalidPackage",
    "NotFound",
    "ServerUnavailable",
    "TooLarge",
    "TrainingError",
    "UserError",
    "WeightsMissing",
]


class ClearsightError(Exception):
    """Root of every error raised on purpose."""

    status: ClassVar[int] = 500
    """HTTP status when the error reaches a client."""
    code: str = "SystemError"
    """Whose fault it is, in the words of Azure's error bodies."""

    def to_document(self) -> dict[str, Any]:
        """The error body of Azure's REST APIs, with one detail per fault when there are several."""
        return {"error": {"code": self.code, "message": str(self), "details": []}}


class UserError(ClearsightError):
    """An input cannot be used."""

    status = 400
    code = "UserError"


class BadRequest(UserError):
    """A scoring request breaks the wire contract."""


class BadImage(BadRequest):
    """The bytes are no readable image, or the image is beyond the limits."""


class TooLarge(BadRequest):
    """A body or an answer is beyond the size limit."""

    status = 413


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a document or a data set.

    `code` is one of those listed in docs/20-training.md (`UNKNOWN_KEY`, `BAD_TYPE`, …), `target` the key path
    (`limits.max_trials`) or the location (`annotations.jsonl:12`).
    """

    code: str
    target: str
    message: str

    def __str__(self) -> str:
        return f"{self.target}: {self.message} [{self.code}]"


class _Faulty(UserError):
    """An error that lists every fault found, not only the first."""

    def __init__(self, subject: str, faults: Sequence[Fault], hint: str | None = None) -> None:
        """`hint` says what else can be done than to mend the faults."""
        self.faults = tuple(faults)
        self._summary = f"{subject}: {len(self.faults)} fault{'' if len(self.faults) == 1 else 's'}"
        lines = [self._summary, *(f"  {fault}" for fault in self.faults), *([] if hint is None else [hint])]
        super().__init__("\n".join(lines))

    def to_document(self) -> dict[str, Any]:
        details = [{"code": fault.code, "target": fault.target, "message": fault.message} for fault in self.faults]
        return {"error": {"code": self.code, "message": self._summary, "details": details}}


class InvalidDocument(_Faulty):
    """A document (job, endpoint, deployment, settings) has faults; `faults` lists all of them."""


class InvalidData(_Faulty):
    """Label files have faults; `faults` lists them with file and line."""


class InvalidPackage(UserError):
    """A model package is incomplete, altered or unreadable."""


class WeightsMissing(UserError):
    """Pretrained weights were asked for and cannot be had."""


class NotFound(UserError):
    """A name does not exist."""

    status = 404


class Conflict(UserError):
    """The current state forbids the operation."""

    status = 409


class ExportError(ClearsightError):
    """An exported graph cannot be made, or disagrees with the model it was made from."""


class TrainingError(ClearsightError):
    """A trial ended without a model."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class ServerUnavailable(ClearsightError):
    """A gateway or worker does not answer."""

    status = 503
