"""Time limit of an explanation."""

import time
from collections.abc import Callable

from clearsight.errors import UserError

__all__ = ["Deadline", "OutOfTime"]


class OutOfTime(UserError):
    """The time limit ended before a useful explanation was computed."""

    status = 408


class Deadline:
    """A time limit in seconds that starts when the object is created; with None it never ends."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._start_s = clock()

    def elapsed_s(self) -> float:
        return self._clock() - self._start_s

    def remaining_s(self) -> float:
        """Seconds left; negative after the end, infinite without a limit."""
        return float("inf") if self.seconds is None else self.seconds - self.elapsed_s()

    def is_over(self) -> bool:
        return self.remaining_s() <= 0

    def share(self, count: int) -> "Deadline":
        """Make a deadline for the first of `count` equal shares of the time left."""
        return Deadline(None if self.seconds is None else self.remaining_s() / count, self._clock)
