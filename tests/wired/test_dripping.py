"""A client that sends a few bytes at a time over a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from small_cluster import SmallCluster, small_cluster
from tele.conch.transport.incoming import Incoming

#: The longest packet allowed before authentication, and the size of its pieces.
LENGTH = 32 * 1024 - 4
PIECE = 64


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path) as made:
        yield made


def test_what_drips_is_not_moved_for_each_piece(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long packet in small pieces is parsed when it is complete, not piece by piece (attack)."""
    node = cluster.node()
    fed: list[int] = []
    feed = Incoming.feed

    def counted(self: Incoming, source: memoryview, end: int) -> Any:
        fed.append(end)
        return feed(self, source, end)

    monkeypatch.setattr(Incoming, "feed", counted)
    packet = LENGTH.to_bytes(4, "big") + bytes((4,)) + bytes(LENGTH - 1)
    with socket.create_connection(("127.0.0.1", node.port), 20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"SSH-2.0-x\r\n")
        cluster.reactor.until(lambda: bool(fed))
        for at in range(0, len(packet), PIECE):
            client.sendall(packet[at : at + PIECE])
            cluster.reactor.turn(0.001)
        cluster.reactor.until(lambda: not node.service.factory.present)
    # The version line, the beginning of the packet, all of it; not each piece.
    assert sum(fed) < 2 * len(packet)
