"""How a package is served: the numbers that travel from a deployment's document through measuring to its workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

__all__ = ["MeasuredLayout", "ServingLayout"]


@dataclass(frozen=True, slots=True)
class ServingLayout:
    """Runtime, processes, threads and batches of the workers that predict."""

    backend: str = "auto"
    """Name of a runtime; `auto` leaves the choice to the worker."""
    precision: str = "f32"
    device: str = "auto"
    workers: int = 1
    """Number of worker processes."""
    num_threads: int | None = None
    """Compute threads of one worker; None: the cores that it may use, divided by the workers."""
    batch_size: int = 1
    """Largest number of requests in a batch of a worker."""
    max_batch_delay_ms: int = 1
    """How long a batch waits to fill, which every lone client pays when `batch_size` is above 1. The least there is:
    TorchServe reads 0 as its default, 100 ms. A busy worker needs no more, since the next batch fills while it
    works."""
    source: Literal["measured", "deployment", "default"] = "default"
    """Origin of these numbers."""

    def to_record(self) -> dict[str, Any]:
        """Plain data for the endpoint store and the output of verbs."""
        keys = ("backend", "precision", "workers", "num_threads", "batch_size", "source")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True, slots=True)
class MeasuredLayout:
    """Measured speed of one layout on this machine."""

    layout: ServingLayout
    images_per_s: float
    """Throughput of all workers together."""
    latency_ms: float
    """Median time of one call of `batch_size` images."""

    def to_document(self) -> dict[str, Any]:
        """One row of `python -m clearsight.handlers.tuning.measure`, and of the measurements kept in the workspace."""
        layout = self.layout
        return {
            "backend": layout.backend,
            "precision": layout.precision,
            "workers": layout.workers,
            "threads": layout.num_threads,
            "batch_size": layout.batch_size,
            "images_per_s": self.images_per_s,
            "latency_ms": self.latency_ms,
        }

    @classmethod
    def from_document(cls, row: Mapping[str, Any]) -> Self:
        """The inverse of `to_document`. Raises KeyError, TypeError or ValueError for what is no such row."""
        layout = ServingLayout(
            backend=str(row["backend"]),
            precision=str(row["precision"]),
            workers=int(row["workers"]),
            num_threads=int(row["threads"]),
            batch_size=int(row["batch_size"]),
            source="measured",
        )
        return cls(layout, float(row["images_per_s"]), float(row["latency_ms"]))
