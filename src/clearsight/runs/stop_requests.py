"""Graceful shutdown: Ctrl-C, `kill` and a closed terminal set flags, which a running job reads between its steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequests", "graceful_shutdown"]


class StopRequests:
    """Whether a job is to stop, and how soon."""

    def __init__(self) -> None:
        self.is_requested = False
        """Stop at the next step, with a checkpoint."""
        self.is_urgent = False
        """End at once: set by a second Ctrl-C. Repeated SIGTERMs count once, since several people may cancel."""

    def request(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Request a stop; this is also the signal handler."""
        self.is_urgent |= self.is_requested and number == signal.SIGINT
        self.is_requested = True


@contextmanager
def graceful_shutdown() -> Iterator[StopRequests]:
    """Handle SIGINT, SIGTERM and SIGHUP as stop requests; signals that are ignored (`nohup`) stay so."""
    requests = StopRequests()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, requests.request) for number in handled}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
