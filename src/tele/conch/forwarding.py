"""How does a client reach a port through us (RFC 4254, section 7.2)?

Laws of this file:

* The channel is confirmed when the connection is made, and refused with what went wrong.
* Whether and where to is the forwarder's decision; without one nothing is forwarded.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory
from zope.interface import Interface

from tele.conch.refusals import ADMINISTRATIVELY_PROHIBITED
from tele.conch.relay import RelayChannel, StreamEnd
from tele.wire.fields import Reader


class _Streams(Factory):
    """Makes stream ends, without a line in the log for each."""

    protocol = StreamEnd
    noisy = False


@frozen
class ForwardRequest:
    """``direct-tcpip``: where to, and who asked for it at the client's end."""

    host: str
    port: int
    originator: tuple[str, int]


class IForwarder(Interface):
    """Makes the connections that a user asks for. Avatars provide it or adapt to it."""

    def connect(request: ForwardRequest, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect a protocol of ``factory``; fires with it.

        Fails with a :class:`tele.errors.TeleError` whose text the user reads.
        """


def read_request(data: bytes) -> ForwardRequest:
    """Read what is specific to ``direct-tcpip``. Raises :class:`tele.errors.ProtocolError`."""
    reader = Reader(data)
    host, port = reader.text(255), reader.uint32()
    origin, origin_port = reader.text(255), reader.uint32()
    reader.end()
    return ForwardRequest(host, port, (origin, origin_port))


def open_direct_tcpip(
    remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Any
) -> Deferred[RelayChannel]:
    """Open a channel of type ``direct-tcpip``: for an avatar's ``channelLookup``."""
    request = read_request(data)
    forwarder = IForwarder(avatar, None)
    if forwarder is None or not 0 < request.port < 65536 or not request.host.isprintable():
        return fail(ConchError(ADMINISTRATIVELY_PROHIBITED, "port forwarding is not allowed"))
    connecting: Deferred[Any] = forwarder.connect(request, _Streams())

    def connected(stream: StreamEnd) -> RelayChannel:
        return RelayChannel(
            stream, remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket, avatar=avatar
        )

    return connecting.addCallback(connected)
