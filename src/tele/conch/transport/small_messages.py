"""What is said beside the conversation: debug messages, pings, and what was not understood?

The small messages of the transport (RFC 4253, section 11), and what Conch's code asks of it.

Invariant of this file: no text of the peer is ever a format; it is logged by ``repr`` and cut.
"""

from __future__ import annotations

from typing import Final

from twisted.conch.ssh.transport import SSHTransportBase

from tele.conch.transport.incoming import Incoming
from tele.conch.transport.outgoing import Outgoing
from tele.log import make_logger
from tele.wire import numbers as n
from tele.wire.fields import Reader, boolean, string, uint32
from tele.wire.packets import PlainOpener, PlainSealer

log = make_logger(__name__)

#: Longest text that we send or keep of a DISCONNECT or DEBUG.
TEXT_LIMIT: Final = 256


class SmallMessages(SSHTransportBase):
    """The part of a transport that handles them."""

    incoming: Incoming
    outgoing: Outgoing

    def peer_name(self) -> str:
        """Return what the log calls the peer."""
        raise NotImplementedError

    def ssh_UNIMPLEMENTED(self, packet: bytes) -> None:
        """The peer did not understand one of our messages."""
        reader = Reader(packet)
        self.receiveUnimplemented(reader.uint32())

    def ssh_DEBUG(self, packet: bytes) -> None:
        """The peer says something to a developer."""
        reader = Reader(packet)
        display, text = reader.boolean(), reader.string()[:TEXT_LIMIT]
        self.receiveDebug(display, text, reader.string()[:TEXT_LIMIT])

    def ssh_PING(self, packet: bytes) -> None:
        """Answer with the same bytes (OpenSSH PROTOCOL, section 1.9)."""
        reader = Reader(packet)
        data = reader.string()
        reader.end()
        self.sendPacket(n.PONG, string(data))

    def ssh_PONG(self, packet: bytes) -> None:
        """An answer to no question of ours."""

    def sendUnimplemented(self) -> None:
        """Tell the peer that its last message was not understood."""
        self.sendPacket(n.UNIMPLEMENTED, uint32((self.incoming.opener.sequence - 1) & 0xFFFFFFFF))

    def sendDebug(self, message: bytes, alwaysDisplay: bool = False, language: bytes = b"") -> None:
        """Say something to a developer at the other end."""
        self.sendPacket(n.DEBUG, boolean(alwaysDisplay) + string(message) + string(language))

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        """The peer said why it ends the connection."""
        log.debug("{peer!r} disconnects: {text!r}", peer=self.peer_name(), text=description)

    def receiveUnimplemented(self, seqnum: int) -> None:
        """The peer did not understand our packet ``seqnum``."""
        log.debug(
            "{peer!r} does not implement packet {number}", peer=self.peer_name(), number=seqnum
        )

    def receiveDebug(self, alwaysDisplay: bool, message: bytes, lang: bytes) -> None:
        """The peer said something to a developer."""
        log.debug("{peer!r} says {text!r}", peer=self.peer_name(), text=message)

    # -- what Conch's code asks -------------------------------------------------------
    def isEncrypted(self, direction: str = "out") -> bool:
        """Whether packets of ``direction`` (``in``, ``out``, ``both``) are encrypted."""
        sent = not isinstance(self.outgoing.sealer, PlainSealer)
        received = not isinstance(self.incoming.opener, PlainOpener)
        return {"out": sent, "in": received, "both": sent and received}[direction]

    def isVerified(self, direction: str = "out") -> bool:
        """Whether packets of ``direction`` are authenticated: our ciphers do both."""
        return self.isEncrypted(direction)
