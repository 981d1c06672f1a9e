"""How does a client learn why its connection is refused before a transport is made for it?

It gets our version line and SSH_MSG_DISCONNECT with the reason (RFC 4253, section 11.1), which
OpenSSH's client shows. Nothing that it sends is read.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Protocol

from tele.conch.transport.transport import Transport
from tele.wire import numbers as n
from tele.wire.fields import string, uint32


class Refusal(Protocol):
    """Sends ``reason``, and closes the connection."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def connectionMade(self) -> None:
        """Send it at once."""
        body = uint32(n.TOO_MANY_CONNECTIONS) + string(self._reason.encode("utf-8")) + string(b"")
        payload = bytes((n.DISCONNECT,)) + body
        padding = 8 - (5 + len(payload)) % 8
        padding += 8 if padding < 4 else 0
        packet = uint32(1 + len(payload) + padding) + bytes((padding,)) + payload + bytes(padding)
        transport: Any = self.transport
        transport.write(Transport.ourVersionString + b"\r\n" + packet)
        transport.loseConnection()
