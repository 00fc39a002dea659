"""One budget for all bodies in memory."""

__all__ = ["ByteBudget"]


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
