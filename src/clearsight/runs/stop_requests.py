"""Signals as wishes: what Ctrl-C, `kill` and a closed terminal ask of a job, to be looked at when it is convenient."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequests", "graceful_shutdown"]


class StopRequests:
    """Whether a job shall stop, and how soon."""

    def __init__(self) -> None:
        self.is_asked = False
        """Stop at the next step, with a checkpoint."""
        self.is_urgent = False
        """End at once: a second Ctrl-C. Several SIGTERMs stay one wish, since several people may cancel."""

    def ask(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Ask to stop; fit to be a signal handler."""
        self.is_urgent |= self.is_asked and number == signal.SIGINT
        self.is_asked = True


@contextmanager
def graceful_shutdown() -> Iterator[StopRequests]:
    """Turn SIGINT, SIGTERM and SIGHUP into requests, but for those that are ignored (`nohup`)."""
    requests = StopRequests()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, requests.ask) for number in heard}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
