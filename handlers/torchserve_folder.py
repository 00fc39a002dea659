"""A TorchServe model archive for our handler: as a folder, or as the small files that `.mar` needs.

```
MAR-INF/MANIFEST.json      handler by its dotted name, no code inside
model-config.yaml          workers, batching and limits for TorchServe; section `clearsight` for our handler
package/                   only in a `.mar`; a folder archive points to the package instead
```
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

import yaml

from clearsight.files import write_atomically
from clearsight.wire.lane_protocol import Lane

__all__ = ["HANDLER", "HandlerConfig", "WorkerConfig", "archive_files", "write_folder"]

HANDLER: Final = "clearsight.handlers.torchserve"


@dataclass(frozen=True, slots=True)
class HandlerConfig:
    """How a worker runs the package; section `clearsight` of `model-config.yaml`. None leaves it to the handler."""

    package: str = "package"
    """Folder of the package, absolute or relative to the archive."""
    backend: str = "auto"
    device: str = "auto"
    precision: str = "f32"
    num_threads: int | None = None
    """Compute threads of one worker. Default: cores / workers."""
    max_answer_bytes: int | None = None
    """Largest answer to one request; must stay below TorchServe's `max_response_size`."""
    diagnostic_file: str | None = None
    """Where a worker that cannot load writes the reason."""
    lane: Lane = "all"
    """What the worker answers: `predict` turns explanations away with 421, which the gateway understands. A worker that
    answers `explain` computes while others leave it the cores."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """TorchServe's own settings of one model."""

    workers: int = 1
    batch_size: int = 1
    """Most requests that TorchServe hands to a worker at once."""
    max_batch_delay_ms: int = 1
    """How long a batch waits to fill: a lone client pays it, when `batch_size` is above 1."""
    job_queue_size: int = 16
    """Requests that wait for a worker. The gateway admits no more, so TorchServe's own 503 is never met."""
    response_timeout_s: int = 120
    """A worker that takes longer is killed by TorchServe."""
    startup_timeout_s: int = 120
    max_retry_timeout_s: int = 90
    """For how long TorchServe restarts a worker that dies while loading."""


def archive_files(model_name: str, created_on: str, workers: WorkerConfig, handler: HandlerConfig) -> Mapping[str, str]:
    """The text files of an archive: path inside it -> content. `created_on` is only shown."""
    manifest = {
        "createdOn": created_on,
        "runtime": "python",
        "model": {
            "modelName": model_name,
            "modelVersion": "1.0",
            "handler": HANDLER,
            "configFile": "model-config.yaml",
        },
        "archiverVersion": "0.12.0",
    }
    config = {
        "minWorkers": workers.workers,
        "maxWorkers": workers.workers,
        "batchSize": workers.batch_size,
        "maxBatchDelay": workers.max_batch_delay_ms,
        "jobQueueSize": workers.job_queue_size,
        "responseTimeout": workers.response_timeout_s,
        "startupTimeout": workers.startup_timeout_s,
        "maxRetryTimeoutInSec": workers.max_retry_timeout_s,
        "clearsight": {key: value for key, value in asdict(handler).items() if value is not None},
    }
    return MappingProxyType(
        {
            "MAR-INF/MANIFEST.json": json.dumps(manifest, indent=2) + "\n",
            "model-config.yaml": yaml.safe_dump(config, sort_keys=False),
        }
    )


def write_folder(folder: Path, model_name: str, workers: WorkerConfig, handler: HandlerConfig) -> None:
    """Write a folder archive, which TorchServe loads without zipping when it lies in its model store."""
    for path, content in archive_files(model_name, datetime.now(UTC).isoformat(), workers, handler).items():
        write_atomically(folder / path, content)
