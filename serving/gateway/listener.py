"""The listening socket of the gateway, which other processes of the same user can get.

It outlives the gateway: whoever holds a copy can start another gateway on it, and clients that connected meanwhile wait
in its queue instead of being refused.
"""

import asyncio
import socket
from pathlib import Path

from clearsight.errors import UserError
from clearsight.unix_sockets import bind_private_socket, reachable_path

__all__ = ["bind_listener", "receive_listener", "share_listener"]

BACKLOG = 1024


def bind_listener(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """Listen on an address; port 0 lets the system choose. Raises UserError.

    With `reuse_port` two processes of the same user may listen on it at the same time (SO_REUSEPORT, socket(7)).
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=reuse_port)
    except OSError as error:
        raise UserError(f"{host}:{port} must be an address to listen on, but: {error.strerror or error}") from error


def share_listener(listener: socket.socket, path: Path, loop: asyncio.AbstractEventLoop) -> socket.socket:
    """Send a copy of `listener` to everyone who connects to the unix socket `path` (mode 0600).

    Returns that unix socket, which the caller removes from the loop and closes.
    """
    sharing = bind_private_socket(path, f"the socket {path} must be free, but a running gateway listens on it")

    def send() -> None:
        try:
            connection, _ = sharing.accept()
        except OSError:
            return
        with connection:
            socket.send_fds(connection, [b"L"], [listener.fileno()])

    loop.add_reader(sharing, send)
    return sharing


def receive_listener(path: Path, timeout_s: float) -> socket.socket:
    """A copy of the listening socket of the gateway that shares it on `path`. Raises OSError."""
    with reachable_path(path) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(name)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    if not descriptors:
        raise OSError(f"no socket came from {path}")
    return socket.socket(fileno=descriptors[0])
