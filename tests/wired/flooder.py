"""An attacker behind a transport like a socket's, against a server with channels."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from twisted.internet.testing import StringTransport

from ssh_attacker import Attacker
from tele.testing.ssh import Address
from tele.wire import numbers as n
from tele.wire.fields import boolean, string, uint32
from weighing import weigh

#: Bytes that a transport buffers before it pauses its producer.
PRODUCER_LIMIT = 64 * 1024
#: One read of a socket brings that much.
SEGMENT = 64 * 1024


class Unread(StringTransport):
    """A transport whose peer reads when a test calls ``read_all``."""

    def write(self, data: bytes) -> None:
        self.io.write(data)
        if self.io.tell() > PRODUCER_LIMIT and self.producer is not None:
            self.producer.pauseProducing()

    @property
    def is_read_from(self) -> bool:
        return self.producerState == "producing" and not self.disconnecting

    def read_all(self) -> None:
        """The peer reads everything."""
        self.io = BytesIO()
        if self.producer is not None:
            self.producer.resumeProducing()


class Flooder(Attacker):
    """An attacker whose peer is a server with channels, behind a transport like a socket."""

    def connect(self) -> tuple[Any, Any]:
        server, transport = self.world.server(), Unread(peerAddress=Address())  # type: ignore[no-untyped-call]
        server.makeConnection(transport)
        return server, transport

    def flood(self, message: Callable[[int], bytes], octets: int) -> int:
        """Send up to ``octets``, as long as they are read; return how many were."""
        sent = number = 0
        while sent < octets and self.transport.is_read_from:
            segment = bytearray()
            while len(segment) < SEGMENT:
                segment += self.seal(message(number))
                number += 1
            self.raw(bytes(segment))
            sent += len(segment)
        return sent

    def weight(self) -> int:
        """Return what the server keeps for this connection, its transport aside."""
        world: Any = self.world
        shared = (world, world.factory, world.clock, world.realm, world.limits, self)
        programs = getattr(world, "programs", None)
        started = [] if programs is None else programs.started
        return weigh(
            self.server, *shared, self.transport, world.factory.admission, programs, *started
        )


def to_session(name: bytes, rest: bytes = b"", want: bool = True) -> bytes:
    """A request to channel 0."""
    head = bytes((n.CHANNEL_REQUEST,)) + uint32(0) + string(name)
    return head + boolean(want) + rest


def global_request(name: bytes, want: bool, rest: bytes = b"") -> bytes:
    return bytes((n.GLOBAL_REQUEST,)) + string(name) + boolean(want) + rest


def open_of(kind: bytes, number: int) -> bytes:
    return (
        bytes((n.CHANNEL_OPEN,)) + string(kind) + uint32(number) + uint32(1 << 20) + uint32(32768)
    )
