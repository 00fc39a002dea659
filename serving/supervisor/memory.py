"""Memory that further processes can take: of the machine, and of the control group that this process is in."""

from pathlib import Path
from typing import Final

import psutil

__all__ = ["available_bytes"]

CGROUPS: Final = Path("/sys/fs/cgroup")


def available_bytes(own_groups: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> int:
    """Bytes that can be taken without swapping, at most what a limit of cgroup v2 leaves (cgroups(7))."""
    available = int(psutil.virtual_memory().available)
    try:
        unified = [line for line in own_groups.read_text().splitlines() if line.startswith("0::")]
        group = root / unified[0].removeprefix("0::").lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            left = _left_in(folder)
            available = available if left is None else min(available, left)
    except (OSError, IndexError):
        pass  # no cgroup v2: only the machine's memory counts
    return available


def _left_in(folder: Path) -> int | None:
    """What a group may still take, its page cache counted as free; None without a limit."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((folder / "memory.current").read_text())
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(limit) - used + int(fields.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
