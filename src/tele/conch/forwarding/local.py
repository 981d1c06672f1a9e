"""How does a client connect to a port or a UNIX socket through us (local forwarding)?

RFC 4254, section 7.2, and section 2.4 of OpenSSH's PROTOCOL.

Invariants:

* The channel is confirmed when the connection is made, and refused with the reason it failed for.
* The forwarder decides what may be reached; without one nothing is forwarded.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen
from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory
from zope.interface import Interface

from tele.conch.connection.refusals import ADMINISTRATIVELY_PROHIBITED
from tele.conch.connection.relay import RelayChannel, StreamEnd
from tele.wire.fields import Reader

#: The type of channel that reaches a UNIX socket.
LOCAL_CHANNEL: Final = b"direct-streamlocal@openssh.com"
#: Bytes of a socket's path that the kernel takes (unix(7)).
PATH_LIMIT: Final = 107


class Streams(Factory):
    """Makes stream ends, without a log line for each."""

    protocol = StreamEnd
    noisy = False


@frozen
class ForwardRequest:
    """``direct-tcpip``: the target, and the originator (address, port) at the client."""

    host: str
    port: int
    originator: tuple[str, int]


@frozen
class LocalRequest:
    """``direct-streamlocal@openssh.com``: the path of a UNIX socket."""

    path: bytes


class IForwarder(Interface):
    """Makes the connections of local forwarding. Avatars provide it or adapt to it."""

    def connect(request: Any, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect a protocol of ``factory``; fires with it.

        ``request`` is a :class:`ForwardRequest`, or a :class:`LocalRequest` if the avatar has
        :func:`open_direct_streamlocal`. Fails with a :class:`tele.errors.TeleError` whose text
        the client shows.
        """


def is_usable_path(path: bytes) -> bool:
    """Return whether ``path`` can be a socket's: absolute, and not too long for the kernel."""
    return path.startswith(b"/") and len(path) <= PATH_LIMIT and b"\0" not in path


def read_request(data: bytes) -> ForwardRequest:
    """Read the data specific to ``direct-tcpip``. Raises :class:`tele.errors.ProtocolError`."""
    reader = Reader(data)
    host, port = reader.text(255), reader.uint32()
    origin, origin_port = reader.text(255), reader.uint32()
    reader.end()
    return ForwardRequest(host, port, (origin, origin_port))


def read_port_target(data: bytes) -> ForwardRequest:
    """Read a ``direct-tcpip`` whose target may be one. Raises :class:`ConchError` otherwise."""
    request = read_request(data)
    if not 0 < request.port < 65536 or not request.host.isprintable():
        raise ConchError(ADMINISTRATIVELY_PROHIBITED, "the host or port is not valid")
    return request


def read_path_target(data: bytes) -> LocalRequest:
    """Read a ``direct-streamlocal@openssh.com``: as :func:`read_port_target`."""
    reader = Reader(data)
    path = reader.string()
    reader.string()
    reader.uint32()
    reader.end()
    if not is_usable_path(path):
        text = f"a socket has an absolute path of at most {PATH_LIMIT} bytes"
        raise ConchError(ADMINISTRATIVELY_PROHIBITED, text)
    return LocalRequest(path)


def open_direct_tcpip(
    remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Any
) -> Deferred[RelayChannel]:
    """Open a channel of type ``direct-tcpip``: for an avatar's ``channelLookup``."""
    return _open(read_port_target(data), remoteWindow, remoteMaxPacket, avatar)


def open_direct_streamlocal(
    remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Any
) -> Deferred[RelayChannel]:
    """Open a channel of type ``direct-streamlocal@openssh.com``: as :func:`open_direct_tcpip`."""
    return _open(read_path_target(data), remoteWindow, remoteMaxPacket, avatar)


def _open(
    request: ForwardRequest | LocalRequest, remoteWindow: int, remoteMaxPacket: int, avatar: Any
) -> Deferred[RelayChannel]:
    forwarder: IForwarder | None = IForwarder(avatar, None)
    if forwarder is None:
        raise ConchError(ADMINISTRATIVELY_PROHIBITED, "port forwarding is not allowed")
    connecting: Deferred[Any] = forwarder.connect(request, Streams())

    def connected(stream: StreamEnd) -> RelayChannel:
        return RelayChannel(
            stream, remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket, avatar=avatar
        )

    return connecting.addCallback(connected)
