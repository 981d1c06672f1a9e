"""Is the visitor TLS for auth, TLS for us, or SSH?

A connection is undecided until its first bytes tell: a TLS record goes to auth if its
ClientHello offers the protocol ``tele-auth``, otherwise to our own HTTPS; ``SSH-`` is
SSH, and so is silence, since an SSH client may wait for the server's version
(RFC 4253, section 4.2, lets either side speak first; ssh-keyscan waits).

Behind a load balancer that speaks the PROXY protocol there is its header before all that, and
the address that it names is the peer's from then on.

Invariants:

* Whether there is a header is configured, never guessed: without it anybody could claim to be
  somebody else.
* An undecided connection costs a timer and at most 16 KiB, each of its bytes is looked at
  once, and it ends :data:`UNDECIDED_SECONDS` after it began; :mod:`tele.proxy.admission`
  bounds how many there are.
* After the decision this protocol is out of the way: the transport has another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import frozen
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, ITransport
from twisted.internet.protocol import Factory, Protocol

from tele.conch.server.connection_admission import RateLimitedLog
from tele.errors import ProtocolError
from tele.proxy.admission import Admission, Slot
from tele.proxy.client_hello import HANDSHAKE, ClientHelloReader
from tele.sockets.direct import DirectSocket, peer_address
from tele.wire.proxy_header import looks_like_header, parse_proxy_header

AUTH_PROTOCOL: Final = b"tele-auth"
SILENCE_SECONDS: Final = 0.5
UNDECIDED_SECONDS: Final = 10.0

_SSH: Final = b"SSH-"

#: Makes the protocol that takes a TLS connection over, from its address and its place.
TlsRoute = Callable[[IAddress, Slot], IProtocol | None]


@frozen
class Doors:
    """What is behind each decision: makes the protocol that takes the connection over.

    Each receives the peer's address and may return None to close the connection. Those of TLS
    receive its place, too, and leave it when the connection ends; SSH has its own.
    """

    auth: TlsRoute
    https: TlsRoute
    ssh: Callable[[IAddress], IProtocol | None]


class Undecided(Protocol):
    """A connection whose first bytes are awaited."""

    def __init__(self, owner: Demultiplexer, address: IAddress) -> None:
        self._owner = owner
        self._address = address
        self._seen = bytearray()
        self._hello: ClientHelloReader | None = None
        self._header_due = owner.proxy_protocol
        host = None if owner.proxy_protocol else getattr(address, "host", "")
        self._slot = owner.admission.enter(host, self._abort)
        self._silence: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the header, if there has to be one, or for the client."""
        self._slot.within(UNDECIDED_SECONDS)
        if not self._header_due:
            self._wait_for_client()

    def _wait_for_client(self) -> None:
        """Wait for first bytes, or for the silence that means SSH."""
        self._silence = self._owner.admission.clock.callLater(SILENCE_SECONDS, self._was_silent)

    def _was_silent(self) -> None:
        self._silence = None
        if not self._seen:
            self._hand_over_ssh()

    def dataReceived(self, data: bytes) -> None:
        """Look at what came."""
        self._seen += data
        try:
            if self._header_due:
                if not self._take_header():
                    return
                data = bytes(self._seen)
            if data:
                self._decide(data)
        except ProtocolError as error:
            lines = self._owner.lines.of(getattr(self._address, "host", ""))
            lines.info("refused {peer!r}: {error!s}", peer=self._address, error=error)
            self._slot.end()

    def _take_header(self) -> bool:
        """Read the balancer's header; False: it is not all there yet."""
        header = parse_proxy_header(bytes(self._seen))
        if header is None:
            return False
        self._header_due = False
        del self._seen[: header.size]
        if header.source is not None:
            self._address = peer_address(header.source)
            transport: Any = self.transport
            transport.claim_peer(self._address)
        self._slot.came_from(getattr(self._address, "host", ""))
        self._wait_for_client()
        return True

    def _decide(self, data: bytes) -> None:
        """Choose a door, if it can be known; ``data`` is the end of what was seen."""
        seen = self._seen
        if seen[0] == HANDSHAKE:
            if self._hello is None:
                self._hello = ClientHelloReader()
            hello = self._hello.feed(data)
            if hello is not None and self._owner.admission.begins_tls(self._slot):
                transport: Any = self.transport
                if isinstance(transport, DirectSocket):
                    transport.is_machine()
                doors = self._owner.doors
                door = doors.auth if AUTH_PROTOCOL in hello.protocols else doors.https
                self._hand_over(door(self._address, self._slot))
        elif seen.startswith(_SSH):
            self._hand_over_ssh()
        elif not _SSH.startswith(seen):
            if looks_like_header(bytes(seen)):
                raise ProtocolError(
                    "a PROXY protocol header; if a load balancer of yours sent it, configure"
                    " proxy.proxy_protocol: required"
                )
            raise ProtocolError("neither TLS nor SSH")

    def connectionLost(self, reason: object = None) -> None:
        """The peer left before it said what it wanted."""
        self._stop_waiting()
        self._slot.leave()

    def _abort(self) -> None:
        """The place is gone: whatever speaks here now, end it."""
        self._stop_waiting()
        transport = self.transport
        if transport is not None:
            abort = getattr(transport, "abortConnection", transport.loseConnection)
            abort()

    def _stop_waiting(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _hand_over_ssh(self) -> None:
        self._slot.leave()
        self._hand_over(self._owner.doors.ssh(self._address))

    def _hand_over(self, protocol: IProtocol | None) -> None:
        self._stop_waiting()
        transport, seen = self.transport, bytes(self._seen)
        self._seen.clear()
        if protocol is None or transport is None:
            self._slot.leave()
            self._abort()
            return
        replace_protocol(transport, protocol, seen)


def replace_protocol(transport: ITransport, protocol: IProtocol, seen: bytes) -> None:
    """Give a connection another protocol, with the bytes that were read already."""
    transport.protocol = protocol  # type: ignore[attr-defined]
    protocol.makeConnection(transport)
    if seen:
        protocol.dataReceived(seen)


class Demultiplexer(Factory):
    """The factory of the proxy's one port; ``admission`` counts its connections.

    With ``proxy_protocol`` each connection begins with a header of that protocol, or is closed.
    """

    noisy = False

    def __init__(self, doors: Doors, admission: Admission, *, proxy_protocol: bool = False) -> None:
        self.doors = doors
        self.admission = admission
        self.proxy_protocol = proxy_protocol
        self.lines = RateLimitedLog(admission.clock)

    def buildProtocol(self, addr: IAddress | None) -> Undecided | None:
        """Take a connection; if there are too many, one that is undecided for longer ends.

        The protocol goes without Twisted's back reference to its factory: it is
        replaced by another protocol soon.
        """
        return None if addr is None else Undecided(self, addr)
