"""The listening socket outlives the gateway."""

import asyncio
import socket
import stat

import pytest

from clearsight.errors import UserError
from clearsight.serving.gateway.listener import bind_listener, receive_listener, share_listener


async def test_who_gets_the_socket_can_serve_those_who_connected_before(folder):
    listener = bind_listener("127.0.0.1", 0)
    port = listener.getsockname()[1]
    path = folder / "l.sock"
    sharing = share_listener(listener, path, asyncio.get_running_loop())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    copy = await asyncio.to_thread(receive_listener, path, 5.0)
    asyncio.get_running_loop().remove_reader(sharing)
    sharing.close()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"early")
        listener.close()  # the gateway has ended; the client is in the queue
        connection, _ = copy.accept()
        with connection:
            assert connection.recv(5) == b"early"
    copy.close()
    with pytest.raises(OSError, match="refused"):
        receive_listener(path, 5.0)


def test_a_port_in_use_is_one_clear_line():
    with bind_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} must be an address to listen on.*in use"):
            bind_listener("127.0.0.1", port)
