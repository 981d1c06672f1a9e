"""How does a client ask us to listen for it?

RFC 4254, section 7.1, and section 2.4 of OpenSSH's PROTOCOL.

Invariants:

* Whether and where to is the avatar's decision; without :class:`IListener` it is no.
* Whoever asks for port 0 is told the real one. What was not asked for cannot be cancelled.
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

#: The types of channels that we open for what was accepted.
PORT_CHANNEL: Final = b"forwarded-tcpip"
PATH_CHANNEL: Final = b"forwarded-streamlocal@openssh.com"


@frozen
class PortRequest:
    """``tcpip-forward``: ``host`` is what the client said, port 0 is any.

    The same as a channel's name for it, with the real port.
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
        Fails with a :class:`tele.errors.TeleError`, which the client does not read.
        """

    def cancel(request: PortRequest | PathRequest) -> bool:
        """Listen there no more; False if that is not ours."""


def port_channel(request: PortRequest, peer: tuple[str, int]) -> bytes:
    """Return what opens a ``forwarded-tcpip``: where it was connected to, and from where."""
    host, port = peer
    return (
        string(request.host.encode()) + uint32(request.port) + string(host.encode()) + uint32(port)
    )


def path_channel(request: PathRequest) -> bytes:
    """Return what opens a ``forwarded-streamlocal@openssh.com``."""
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
#: The global requests that are answered here.
REQUESTS: Final = frozenset(_READERS)


def answer_request(name: bytes, data: bytes, avatar: Any) -> Any:
    """Answer one of ``REQUESTS``: for an avatar's ``gotGlobalRequest``."""
    read, wanted = _READERS[name]
    reader = Reader(data)
    request = read(reader)
    reader.end()
    listener = IListener(avatar, None)
    if request is None or listener is None:
        return False
    if not wanted:
        return listener.cancel(request)
    listening: Deferred[int] = listener.listen(request)

    def answer(port: int) -> Any:
        asked_for_any = isinstance(request, PortRequest) and request.port == 0
        return (True, uint32(port)) if asked_for_any else True

    return listening.addCallbacks(answer, _refused)


def _refused(failure: Failure) -> bool:
    failure.trap(TeleError)
    log.info("not listened: {why!s}", why=failure.value)
    return False
