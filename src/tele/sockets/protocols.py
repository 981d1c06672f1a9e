"""What does a protocol have that a direct socket serves without a copy?

Invariants:

* A protocol of none of these classes is served as Twisted serves it.
"""

from __future__ import annotations

import socket as sockets
from typing import Any


class DirectProtocol:
    """A protocol that a direct socket notifies when nothing waits to be sent any more."""

    def drained(self) -> None:
        """The kernel has taken everything that was sent."""
        raise NotImplementedError


class BufferReceiver(DirectProtocol):
    """A protocol that takes received bytes from :data:`tele.sockets.buffers.RECEIVED`."""

    @property
    def kept(self) -> bytes | bytearray:
        """The beginning of an unfinished packet, which is put before the bytes received next."""
        raise NotImplementedError

    @property
    def missing(self) -> int:
        """How many bytes ``kept`` lacks to be a packet; 0 if that is not known."""
        raise NotImplementedError

    def dataReceived(self, data: bytes) -> None:
        """Bytes follow ``kept``; see ``IProtocol``."""
        raise NotImplementedError

    def buffer_received(self, end: int) -> None:
        """``RECEIVED[:end]`` holds ``kept`` and what was received after it."""
        raise NotImplementedError


class SocketReader(DirectProtocol):
    """A protocol that reads the socket itself."""

    def socket_readable(self, socket: sockets.socket) -> Any:
        """Read ``socket``; return what ``doRead`` of a Twisted transport returns."""
        raise NotImplementedError
