"""Unix sockets that only their owner can open, with paths of any length; files of killed servers are replaced."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from clearsight.errors import Conflict

__all__ = ["MAX_SOCKET_PATH_BYTES", "bind_private_socket", "is_listening", "reachable_path"]

MAX_SOCKET_PATH_BYTES: Final = 107
"""`sun_path` of Linux's `struct sockaddr_un` holds 108 bytes, the last of them zero (unix(7))."""


@contextmanager
def reachable_path(path: Path) -> Iterator[str]:
    """A name for a socket that fits into a socket address; long ones go through a descriptor of their folder."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def is_listening(path: Path) -> bool:
    """True when a process listens on this socket; False when there is none, or only the file of a killed one."""
    if not path.is_socket():
        return False
    with reachable_path(path) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(name) == 0


def bind_private_socket(path: Path, conflict: str) -> socket.socket:
    """Listen on a socket of mode 0600, replacing one that nobody listens on any more.

    Raises Conflict with the text `conflict` when a process listens on it. The mask of new files is the process's,
    so no other thread should make files meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_listening(path):
        raise Conflict(conflict)
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with reachable_path(path) as name:
            mask = os.umask(0o177)
            try:
                listener.bind(name)
            finally:
                os.umask(mask)
        listener.listen(16)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
