"""What one client connection may cost, and the budget for all bodies in memory."""

from dataclasses import dataclass

__all__ = ["ByteBudget", "HttpLimits"]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one connection may cost. Times are checked every `sweep_s`."""

    max_head_bytes: int = 16 * 1024
    """Request line and header fields together; 431 beyond."""
    max_headers: int = 100
    head_timeout_s: float = 10.0
    """From the first byte of a head to its last; 408 beyond. Also the wait for a new connection's first byte."""
    body_idle_timeout_s: float = 10.0
    """Between two pieces of a body; 408 beyond."""
    body_timeout_s: float = 120.0
    """For the complete body; 408 beyond."""
    keep_alive_timeout_s: float = 75.0
    write_timeout_s: float = 60.0
    """For a client to take an answer; the connection is cut beyond."""
    discard_timeout_s: float = 10.0
    """For what is left of a refused request to be read and dropped, so that the client can see the refusal."""
    max_kept_discard_bytes: int = 1024 * 1024
    """A refused request with more than this left is the last of its connection."""
    max_pipelined_bytes: int = 64 * 1024
    """What may wait behind a running request before reading pauses."""
    sweep_s: float = 0.25


class ByteBudget:
    """Counts bytes held; requests are refused while it is used up. `limit` in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, num_bytes: int) -> bool:
        """Take `num_bytes`, or nothing and return False when fewer are left."""
        if self.used + num_bytes > self.limit:
            return False
        self.used += num_bytes
        return True

    def charge(self, num_bytes: int) -> None:
        """Take `num_bytes` even beyond the limit: for answers, whose work is done already."""
        self.used += num_bytes

    def give(self, num_bytes: int) -> None:
        """Give back what was taken."""
        self.used -= num_bytes
