"""The bytes of connections, as the kernel counts them."""

from __future__ import annotations

import socket

from tele.sockets.traffic import Traffic, bytes_of


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    return client, accepted


def test_bytes_of_open_and_closed_connections() -> None:
    """They are counted once, whether the connection is open or has ended."""
    traffic = Traffic()
    client, accepted = pair()
    with client, accepted:
        traffic.opened(accepted)
        traffic.opened(accepted)
        client.sendall(b"x" * 1000)
        assert accepted.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
        accepted.sendall(b"y" * 300)
        assert client.recv(300, socket.MSG_WAITALL) == b"y" * 300
        assert traffic.total == (300, 1000)
        traffic.closing(accepted)
        traffic.closing(accepted)
    assert traffic.total == (300, 1000)


def test_what_is_no_tcp_counts_nothing() -> None:
    """Sockets of this machine, and those that are closed, have no counts."""
    left, right = socket.socketpair()
    with left, right:
        assert bytes_of(left) == (0, 0)
    client, accepted = pair()
    client.close()
    accepted.close()
    assert bytes_of(client) == (0, 0)
