"""The summary of a batch job, and the overview among its logs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from clearsight.files import write_atomically
from clearsight.serving.batch.results.names import legible
from clearsight.serving.batch.results.write import Counts

__all__ = ["OVERVIEW_LOG", "SUMMARY_FILE", "Overview", "Summary", "summarize", "write_overview", "write_summary"]

SUMMARY_FILE: Final = "summary.json"
OVERVIEW_LOG: Final = "job_progress_overview.txt"
"""Below the logs of a job, as on Azure."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a batch job did; `summary.json` has these keys."""

    num_files: int
    num_rows: int
    num_ok: int
    num_failed: int
    failures: Mapping[str, int]
    """Number of failed rows by their code."""
    started: str
    """ISO 8601, UTC."""
    ended: str
    seconds: float
    images_per_s: float | None
    """Rows per second between the two times, without those of earlier attempts; None when no time passed."""
    form: str
    output_file: str | None
    """None for `summary_only`."""
    package: str
    backend: str
    precision: str


def summarize(
    counts: Counts,
    started: datetime,
    ended: datetime,
    *,
    form: str,
    output_file: Path | None,
    package: str,
    backend: str,
    precision: str,
    num_earlier: int = 0,
) -> Summary:
    """The summary of what `write_results` counted; both times have a time zone.

    `num_earlier` of the rows were scored by earlier attempts, before `started`.
    """
    seconds = round((ended - started).total_seconds(), 3)
    num_rows = counts.num_ok + counts.num_failed
    return Summary(
        num_files=counts.num_files,
        num_rows=num_rows,
        num_ok=counts.num_ok,
        num_failed=counts.num_failed,
        failures=counts.failures,
        started=_utc(started),
        ended=_utc(ended),
        seconds=seconds,
        images_per_s=round((num_rows - num_earlier) / seconds, 2) if seconds > 0 else None,
        form=form,
        output_file=None if output_file is None else legible(str(output_file)),
        package=package,
        backend=backend,
        precision=precision,
    )


def write_summary(folder: Path, summary: Summary) -> None:
    """Write `summary.json`, in place of an earlier one of the job. Raises `OSError`."""
    write_atomically(folder / SUMMARY_FILE, json.dumps(asdict(summary), indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class Overview:
    """How far a batch job is, in rows and mini-batches."""

    state: str
    """Azure's word: `Running`, `Completed`, `Failed`, …"""
    num_rows: int
    num_ok: int
    num_failed: int
    mini_batches: int
    mini_batches_done: int
    started: datetime
    updated: datetime
    num_earlier: int = 0
    """Rows among those that were done before `started`, by earlier attempts."""

    def __str__(self) -> str:
        done = self.num_ok + self.num_failed
        seconds = (self.updated - self.started).total_seconds()
        speed = (done - self.num_earlier) / seconds if seconds > 0 else 0.0
        lines = {
            "State": self.state,
            "Images": f"{done} of {self.num_rows} done, {self.num_ok} scored, {self.num_failed} failed",
            "Mini-batches": f"{self.mini_batches_done} of {self.mini_batches} done",
            "Speed": f"{speed:.1f} images/s",
            "Started": _utc(self.started),
            "Updated": f"{_utc(self.updated)}, after {_duration(seconds)}",
        }
        if speed > 0 and done < self.num_rows:
            lines["Time left"] = f"about {_duration((self.num_rows - done) / speed)}"
        return "".join(f"{key + ':':<14}{value}\n" for key, value in lines.items())


def write_overview(logs: Path, overview: Overview) -> None:
    """Write `job_progress_overview.txt` in place of the one before. Raises `OSError`."""
    write_atomically(logs / OVERVIEW_LOG, str(overview))


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
