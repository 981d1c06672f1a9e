"""A TCP connection whose peer does not respond is closed, a machine's soon, a user's late."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tele.sockets.tcp import MACHINE_SECONDS, USER_SECONDS, notice_dead_peer


@pytest.fixture
def connected() -> Iterator[socket.socket]:
    """A connected socket."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as made,
        server.accept()[0],
    ):
        yield made


def ends_after(made: socket.socket) -> float:
    """Return after how many seconds of silence the kernel ends a connection."""
    assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    idle, between, count = (
        made.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )
    return float(idle + between * count)


@pytest.mark.parametrize("seconds", [45, MACHINE_SECONDS, USER_SECONDS])
def test_a_dead_peer_is_noticed_in_time(connected: socket.socket, seconds: int) -> None:
    """Idle or with bytes that wait, a connection ends after what was asked for; NAT gateways see
    it more often than they forget.
    """
    notice_dead_peer(connected, seconds)
    assert 0.9 * seconds <= ends_after(connected) <= seconds
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == seconds * 1000
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) <= 60


def test_other_sockets_are_left_alone() -> None:
    """A UNIX socket needs no questions: the kernel knows when the other end is gone."""
    one, other = socket.socketpair()
    with one, other:
        notice_dead_peer(one)
        assert not one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_socket_that_is_closed_already(connected: socket.socket) -> None:
    """A connection that ends meanwhile is no error."""
    connected.close()
    notice_dead_peer(connected)
