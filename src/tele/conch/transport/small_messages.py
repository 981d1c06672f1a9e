"""How are DEBUG, UNIMPLEMENTED and ping messages handled (RFC 4253, section 11)?

Invariants:

* No text of the peer is ever a format; it is logged as a field and cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from twisted.conch.ssh.transport import SSHTransportBase

from tele.conch.transport.incoming import Incoming
from tele.conch.transport.outgoing import Outgoing
from tele.log import make_logger
from tele.wire import numbers as n
from tele.wire.fields import Reader, boolean, string, uint32
from tele.wire.packets import PlainOpener, PlainSealer

log = make_logger(__name__)

#: Most bytes of text that are sent or kept of DISCONNECT or DEBUG.
TEXT_LIMIT: Final = 256


class SmallMessages(SSHTransportBase):
    """The part of a transport that handles them."""

    incoming: Incoming
    outgoing: Outgoing

    @property
    def log_fields(self) -> Mapping[str, str]:
        """Whose connection it is, in lines of the log: ``peer``, and the ``part`` that serves."""
        raise NotImplementedError

    def ssh_UNIMPLEMENTED(self, packet: bytes) -> None:
        """The peer does not implement one of our messages."""
        reader = Reader(packet)
        self.receiveUnimplemented(reader.uint32())

    def ssh_DEBUG(self, packet: bytes) -> None:
        """A debug message of the peer."""
        reader = Reader(packet)
        display, text = reader.boolean(), reader.string()[:TEXT_LIMIT]
        self.receiveDebug(display, text, reader.string()[:TEXT_LIMIT])

    def ssh_PING(self, packet: bytes) -> None:
        """Reply with the same bytes (OpenSSH PROTOCOL, section 1.9)."""
        reader = Reader(packet)
        data = reader.string()
        reader.end()
        self.sendPacket(n.PONG, string(data))

    def ssh_PONG(self, packet: bytes) -> None:
        """Ignore it: no ping was sent."""

    def sendUnimplemented(self) -> None:
        """Reply that the last message is not implemented."""
        self.sendPacket(n.UNIMPLEMENTED, uint32((self.incoming.opener.sequence - 1) & 0xFFFFFFFF))

    def sendDebug(self, message: bytes, alwaysDisplay: bool = False, language: bytes = b"") -> None:
        """Send a debug message."""
        self.sendPacket(n.DEBUG, boolean(alwaysDisplay) + string(message) + string(language))

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        """The peer disconnects for this reason."""
        log.debug("peer disconnects", error=description, **self.log_fields)

    def receiveUnimplemented(self, seqnum: int) -> None:
        """The peer does not implement the message in our packet ``seqnum``."""
        log.debug("message not implemented by the peer", packet=seqnum, **self.log_fields)

    def receiveDebug(self, alwaysDisplay: bool, message: bytes, lang: bytes) -> None:
        """A debug message of the peer."""
        log.debug("debug message of the peer", text=message, **self.log_fields)

    # -- for Conch -------------------------------------------------------------------
    def isEncrypted(self, direction: str = "out") -> bool:
        """Whether packets of ``direction`` (``in``, ``out``, ``both``) are encrypted."""
        sent = not isinstance(self.outgoing.sealer, PlainSealer)
        received = not isinstance(self.incoming.opener, PlainOpener)
        return {"out": sent, "in": received, "both": sent and received}[direction]

    def isVerified(self, direction: str = "out") -> bool:
        """Whether packets of ``direction`` are authenticated: our ciphers do both."""
        return self.isEncrypted(direction)
