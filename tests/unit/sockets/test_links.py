"""What is below a transport."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from attrs import Factory, define
from twisted.internet import abstract, tcp
from twisted.internet.testing import StringTransport

from tele.conch.client.transport import SSHClientTransport
from tele.conch.server.transport import SSHServerTransport
from tele.sockets.buffers import RECEIVED
from tele.sockets.direct import DirectServer
from tele.sockets.links import TransportLink, make_link
from tele.sockets.protocols import BufferReceiver


def test_a_transport_that_pauses_producers() -> None:
    """A link is busy while the buffer of its transport is full, and notifies when it is empty."""
    notified: list[str] = []
    transport: Any = StringTransport()
    link: Any = make_link(transport, lambda: notified.append("drained"))
    link.send(memoryview(b"x"))
    assert transport.value() == b"x"
    assert not link.busy
    transport.producer.pauseProducing()
    assert link.busy
    assert not notified
    transport.producer.resumeProducing()
    assert not link.busy
    assert notified == ["drained"]
    link.pause()
    assert transport.producerState == "paused"
    link.resume()
    assert transport.producerState == "producing"


def test_closing_does_not_wait_for_a_producer() -> None:
    """Twisted's transports wait for a producer to finish; we are not one that does."""
    transport = StringTransport()
    link = make_link(transport, lambda: None)
    link.close()
    assert transport.producer is None
    assert transport.disconnecting
    link.close()


def test_a_transport_that_can_do_little() -> None:
    """A channel of some other program may have ``write`` and ``loseConnection`` only."""

    @define
    class Little:
        calls: list[Any] = Factory(list)

        def write(self, data: bytes) -> None:
            self.calls.append(data)

        def loseConnection(self) -> None:
            self.calls.append("lose")

    transport = Little()
    link = make_link(transport, lambda: None)
    link.pause()
    link.send(memoryview(b"x"))
    link.resume()
    link.abort()
    assert transport.calls == [b"x", "lose"]
    assert not link.busy
    assert isinstance(link, TransportLink)


@pytest.mark.parametrize("small", [False, True])
def test_bytes_are_received_without_a_copy(small: bool) -> None:
    """A protocol that takes bytes from the shared buffer gets them there, after what it kept."""
    received: list[bytes] = []

    class Receiver(BufferReceiver):
        kept = b"ab"
        missing = 0

        def buffer_received(self, end: int) -> None:
            received.append(bytes(RECEIVED[:end]))

    ours, peer = socket.socketpair()
    with ours, peer:
        peer.send(b"c" if small else bytes(5000))
        server: Any = DirectServer.__new__(DirectServer)
        server.protocol, server.socket = Receiver(), ours
        assert server.doRead() is None
    assert received == [b"abc" if small else b"ab" + bytes(5000)]


def test_private_names_of_twisted() -> None:
    """What direct sockets rely on is still there in this version of Twisted."""
    descriptor: Any = abstract.FileDescriptor(reactor=object())  # type: ignore[arg-type]
    assert (descriptor._tempDataLen, descriptor.dataBuffer, descriptor.offset) == (0, b"", 0)
    assert tcp.Port.transport is tcp.Server
    assert DirectServer.__mro__.index(tcp.Server) > 0
    assert hasattr(tcp.Connector, "_makeTransport")


def test_ssh_is_read_from_the_shared_buffer() -> None:
    """Direct sockets pass the shared buffer to both ends of SSH: nothing is copied."""
    for end in (SSHServerTransport, SSHClientTransport):
        assert issubclass(end, BufferReceiver)


@pytest.mark.parametrize("length", [0, 1, 100_000])
def test_pending_counts_everything(length: int) -> None:
    """Bytes count as pending wherever Twisted keeps them."""

    class Deaf:
        def addWriter(self, writer: object) -> None:
            """Never write."""

    server: Any = DirectServer.__new__(DirectServer)
    abstract.FileDescriptor.__init__(server, reactor=Deaf())  # type: ignore[arg-type]
    server.connected = 1
    server.write(bytes(length))
    assert server.pending() == length
    server.dataBuffer, server.offset = b"abc", 1
    assert server.pending() == length + 2
