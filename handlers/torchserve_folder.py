"""A TorchServe model archive for our handler: as a folder, or as the small files that `.mar` needs.

```
MAR-INF/MANIFEST.json      handler by its dotted name, no code inside
model-config.yaml          workers, batching and limits for TorchServe; section `clearsight` for our handler
package/                   only in a `.mar`; a folder archive points to the package instead
```
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

import yaml

from clearsight.documents.deployment.layout import ServingLayout
from clearsight.files import write_atomically
from clearsight.wire.lane_protocol import Lane

__all__ = ["HANDLER", "HandlerConfig", "QueueLimits", "archive_files", "write_folder"]

HANDLER: Final = "clearsight.handlers.torchserve"


@dataclass(frozen=True, slots=True)
class HandlerConfig:
    """Configuration of a worker beside its layout; section `clearsight` of `model-config.yaml`."""

    package: str = "package"
    """Folder of the package, absolute or relative to the archive."""
    cache_dir: str | None = None
    """Folder for compiled graphs, which make the next start of a worker faster. None: nothing is cached."""
    max_answer_bytes: int | None = None
    """Greatest size of the answer to one request, below TorchServe's `max_response_size`. None: `MAX_ANSWER_BYTES`."""
    diagnostic_file: str | None = None
    """File to which a worker that cannot load writes the reason. None: a file in the archive's folder."""
    lane: Lane = "all"
    """Which requests the worker answers: `predict` rejects explanations with 421, upon which the gateway sends them to
    the other lane. A worker of `explain` computes while others leave it the cores."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many requests TorchServe queues for the workers of one model entry, and how long it waits for a worker."""

    job_queue_size: int = 16
    """Requests that wait for a worker. The gateway admits no more, so TorchServe's own 503 is never met."""
    response_timeout_s: int = 120
    """A worker that takes longer is killed by TorchServe."""
    startup_timeout_s: int = 120
    max_retry_timeout_s: int = 90
    """For how long TorchServe restarts a worker that dies while loading."""


def archive_files(
    model_name: str, created_on: str, layout: ServingLayout, limits: QueueLimits, handler: HandlerConfig
) -> Mapping[str, str]:
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
    section = {
        "package": handler.package,
        "backend": layout.backend,
        "device": layout.device,
        "precision": layout.precision,
        "num_threads": layout.num_threads,
        "cache_dir": handler.cache_dir,
        "max_answer_bytes": handler.max_answer_bytes,
        "diagnostic_file": handler.diagnostic_file,
        "lane": handler.lane,
    }
    config = {
        "minWorkers": layout.workers,
        "maxWorkers": layout.workers,
        "batchSize": layout.batch_size,
        "maxBatchDelay": layout.max_batch_delay_ms,
        "jobQueueSize": limits.job_queue_size,
        "responseTimeout": limits.response_timeout_s,
        "startupTimeout": limits.startup_timeout_s,
        "maxRetryTimeoutInSec": limits.max_retry_timeout_s,
        "clearsight": {key: value for key, value in section.items() if value is not None},
    }
    return MappingProxyType(
        {
            "MAR-INF/MANIFEST.json": json.dumps(manifest, indent=2) + "\n",
            "model-config.yaml": yaml.safe_dump(config, sort_keys=False),
        }
    )


def write_folder(
    folder: Path, model_name: str, layout: ServingLayout, limits: QueueLimits, handler: HandlerConfig
) -> None:
    """Write a folder archive, which TorchServe loads without zipping when it lies in its model store."""
    for path, content in archive_files(model_name, datetime.now(UTC).isoformat(), layout, limits, handler).items():
        write_atomically(folder / path, content)
