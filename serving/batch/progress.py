"""What the live view of a job shows of a batch job, from its events."""

from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from clearsight.runs.kinds import ProgressLine

__all__ = ["BatchProgress"]

_WINDOW: Final = 30
"""Progress events over which the speed is measured."""


class BatchProgress:
    """`clearsight.runs.kinds.TrialProgress` of a batch job."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=_WINDOW)

    def show(self, event: Mapping[str, Any]) -> tuple[list[str], ProgressLine | None]:
        match event["kind"]:
            case "started":
                self._seen.clear()
                return [], ProgressLine("listing the input")
            case "data":
                return [f"input: {event['total']} files"], ProgressLine("starting the workers", total=event["total"])
            case "entry_failed":
                return [f"failed: {event['name']!a}: {event['error']}"], None
            case "progress":
                return [], self._line(event)
            case "exporting":
                return [], ProgressLine("writing the results")
        return [], None

    def recall(self, event: Mapping[str, Any]) -> None:
        pass  # the speed is that of the present attempt

    def _line(self, event: Mapping[str, Any]) -> ProgressLine:
        done, total = event["done"], event["total"]
        self._seen.append((datetime.fromisoformat(event["time"]).timestamp(), done))
        rest = [f"{done}/{total}", f"{event['failed']} failed"]
        (before, first), (now, last) = self._seen[0], self._seen[-1]
        if now > before and last > first:
            per_s = (last - first) / (now - before)
            rest += [f"{per_s:.3g} images/s", f"{timedelta(seconds=round((total - done) / per_s))} left"]
        return ProgressLine("scoring", "  ".join(rest), total=total, completed=done)
