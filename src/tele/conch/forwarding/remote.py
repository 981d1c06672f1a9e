"""How does a client ask us to listen for it (remote forwarding)?

RFC 4254, section 7.1, and section 2.4 of OpenSSH's PROTOCOL.

Invariants:

* The avatar decides where we may listen; without :class:`IListener` every request is refused.
* The reply to a request for port 0 has the real port. A client can cancel its own requests only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import Interface

from tele.conch.forwarding.local import is_usable_path
from tele.errors import TeleError
from tele.log import make_logger
from tele.wire.fields import Reader, string, uint32

log = make_logger(__name__)

#: The types of channels that we open for accepted connections.
PORT_CHANNEL: Final = b"forwarded-tcpip"
PATH_CHANNEL: Final = b"forwarded-streamlocal@openssh.com"


@frozen
class PortRequest:
    """``tcpip-forward``: ``host`` as the client sent it; port 0 is any free port.

    A channel for it has the same host, and the real port.
    """

    host: str
    port: int


@frozen
class PathRequest:
    """``streamlocal-forward@openssh.com``."""

    path: bytes


class IListener(Interface):
    """Listens for a client. Avatars provide it or adapt to it."""

    def listen(request: PortRequest | PathRequest) -> Deferred[int]:
        """Listen; fires with the port, 0 for a path.

        Each connection becomes a channel: see :func:`port_channel`, :func:`path_channel`.
        Fails with a :class:`tele.errors.TeleError`, whose text the client does not see.
        """

    def cancel(request: PortRequest | PathRequest) -> bool:
        """Stop listening there; False if this client did not ask for it."""


def port_channel(request: PortRequest, peer: tuple[str, int]) -> bytes:
    """Return the data of a ``forwarded-tcpip``: the address that was connected to, and ``peer``."""
    host, port = peer
    return (
        string(request.host.encode()) + uint32(request.port) + string(host.encode()) + uint32(port)
    )


def path_channel(request: PathRequest) -> bytes:
    """Return the data of a ``forwarded-streamlocal@openssh.com``."""
    return string(request.path) + string(b"")


def _read_port(reader: Reader) -> PortRequest | None:
    host, port = reader.string(), reader.uint32()
    usable = len(host) <= 255 and port < 65536 and host.isascii()
    return PortRequest(host.decode("ascii"), port) if usable else None


def _read_path(reader: Reader) -> PathRequest | None:
    path = reader.string()
    return PathRequest(path) if is_usable_path(path) else None


_READERS: Final[Mapping[bytes, tuple[Callable[[Reader], Any], bool]]] = {
    b"tcpip-forward": (_read_port, True),
    b"cancel-tcpip-forward": (_read_port, False),
    b"streamlocal-forward@openssh.com": (_read_path, True),
    b"cancel-streamlocal-forward@openssh.com": (_read_path, False),
}
#: The global requests that :func:`answer_request` answers.
REQUESTS: Final = frozenset(_READERS)


def answer_request(name: bytes, data: bytes, avatar: Any) -> Any:
    """Answer one of ``REQUESTS``: for an avatar's ``gotGlobalRequest``."""
    read, is_start = _READERS[name]
    reader = Reader(data)
    request = read(reader)
    reader.end()
    listener = IListener(avatar, None)
    if request is None or listener is None:
        return False
    if not is_start:
        return listener.cancel(request)
    listening: Deferred[int] = listener.listen(request)

    def reply(port: int) -> Any:
        any_port = isinstance(request, PortRequest) and request.port == 0
        return (True, uint32(port)) if any_port else True

    def refused(failure: Failure) -> bool:
        failure.trap(TeleError)
        log.info("remote forwarding refused", user=str(avatar), error=failure.getErrorMessage())
        return False

    return listening.addCallbacks(reply, refused)
