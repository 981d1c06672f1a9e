"""What does a client hear that is refused before anything is made for it?

Its version line is answered by ours and a message that says why (RFC 4253, section 11.1), which
OpenSSH's client shows; nothing that it sends is looked at.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Protocol

from tele.conch.transport.transport import Transport
from tele.wire import numbers as n
from tele.wire.fields import string, uint32


class Refusal(Protocol):
    """Says ``why``, and ends the connection."""

    def __init__(self, why: str) -> None:
        self._why = why

    def connectionMade(self) -> None:
        """Say it at once."""
        body = uint32(n.TOO_MANY_CONNECTIONS) + string(self._why.encode("utf-8")) + string(b"")
        payload = bytes((n.DISCONNECT,)) + body
        padding = 8 - (5 + len(payload)) % 8
        padding += 8 if padding < 4 else 0
        packet = uint32(1 + len(payload) + padding) + bytes((padding,)) + payload + bytes(padding)
        transport: Any = self.transport
        transport.write(Transport.ourVersionString + b"\r\n" + packet)
        transport.loseConnection()
