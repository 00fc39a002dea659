"""How long an explanation may take."""

import time
from collections.abc import Callable

from clearsight.errors import UserError

__all__ = ["Deadline", "OutOfTime"]


class OutOfTime(UserError):
    """The time allowed ended before there was an explanation worth answering."""

    status = 408


class Deadline:
    """A budget of seconds that starts when this is made; None never ends."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._start_s = clock()

    def elapsed_s(self) -> float:
        return self._clock() - self._start_s

    def remaining_s(self) -> float:
        """Seconds left; negative once it is over, infinite without a budget."""
        return float("inf") if self.seconds is None else self.seconds - self.elapsed_s()

    def is_over(self) -> bool:
        return self.remaining_s() <= 0

    def share(self, parts: int) -> "Deadline":
        """Give the first of `parts` equal parts of the time left."""
        return Deadline(None if self.seconds is None else self.remaining_s() / parts, self._clock)
