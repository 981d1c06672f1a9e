"""Is the visitor TLS for auth, TLS for us, or SSH?

A connection is undecided until its first bytes tell: a TLS record goes to auth if its
ClientHello offers the protocol ``tele-auth``, otherwise to our own HTTPS; ``SSH-`` is
SSH, and so is silence, since an SSH client may wait for the server's version
(RFC 4253, section 4.2, lets either side speak first; ssh-keyscan waits).

Behind a load balancer that speaks the PROXY protocol there is its header before all that, and
the address that it names is the peer's from then on.

Laws of this file:

* Whether there is a header is configured, never guessed: without it anybody could claim to be
  somebody else.
* An undecided connection costs a timer and at most 16 KiB, and ends after
  :data:`UNDECIDED_SECONDS`; only so many may be undecided at once, and the oldest makes room
  for a new one: who means it says what they want at once.
* After the decision this protocol is out of the way: the transport has another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import frozen
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IReactorTime, ITransport
from twisted.internet.protocol import Factory, Protocol

from tele.conch.door import StrangerLog
from tele.errors import ProtocolError
from tele.proxy.client_hello import HANDSHAKE, parse_client_hello
from tele.tunnel.agent import peer_address
from tele.wire.proxy_header import looks_like_header, parse_proxy_header

AUTH_PROTOCOL: Final = b"tele-auth"
SILENCE_SECONDS: Final = 0.5
UNDECIDED_SECONDS: Final = 10.0
UNDECIDED_LIMIT: Final = 2000

_SSH: Final = b"SSH-"


@frozen
class Doors:
    """What is behind each decision: makes the protocol that takes the connection over.

    Each receives the peer's address and may return None to close the connection.
    """

    auth: Callable[[IAddress], IProtocol | None]
    https: Callable[[IAddress], IProtocol | None]
    ssh: Callable[[IAddress], IProtocol | None]


def decide(data: bytes, doors: Doors) -> Callable[[IAddress], IProtocol | None] | None:
    """Return the door for a connection that begins with ``data``; None: not yet known.

    Raises :class:`ProtocolError` for what is neither TLS nor SSH.
    """
    if not data:
        return None
    if data[0] == HANDSHAKE:
        hello = parse_client_hello(data)
        if hello is None:
            return None
        return doors.auth if AUTH_PROTOCOL in hello.protocols else doors.https
    if data.startswith(_SSH):
        return doors.ssh
    if _SSH.startswith(data):
        return None
    if looks_like_header(data):
        raise ProtocolError(
            "a PROXY protocol header; if a load balancer of yours sent it, configure"
            " proxy.proxy_protocol: required"
        )
    raise ProtocolError("neither TLS nor SSH")


class Undecided(Protocol):
    """A connection whose first bytes are awaited."""

    def __init__(self, owner: Demultiplexer, address: IAddress) -> None:
        self._owner = owner
        self._address = address
        self._seen = b""
        self._header_due = owner.proxy_protocol
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the header, if there has to be one, or for the client."""
        if self._header_due:
            self._timer = self._owner.clock.callLater(UNDECIDED_SECONDS, self._took_too_long)
        else:
            self._wait_for_client()

    def _wait_for_client(self) -> None:
        """Wait for first bytes, or for the silence that means SSH."""
        self._timer = self._owner.clock.callLater(SILENCE_SECONDS, self._was_silent)

    def _was_silent(self) -> None:
        self._timer = None
        if not self._seen:
            self._hand_over(self._owner.doors.ssh)
        else:
            self._timer = self._owner.clock.callLater(UNDECIDED_SECONDS, self._took_too_long)

    def _took_too_long(self) -> None:
        self._timer = None
        self._abort()

    def dataReceived(self, data: bytes) -> None:
        """Look at what came so far."""
        self._seen += data
        try:
            if self._header_due and not self._take_header():
                return
            door = decide(self._seen, self._owner.doors)
        except ProtocolError as error:
            self._owner.lines.info("refused {peer!r}: {error!s}", peer=self._address, error=error)
            self._abort()
            return
        if door is not None:
            self._hand_over(door)

    def _take_header(self) -> bool:
        """Read the balancer's header; False: it is not all there yet."""
        header = parse_proxy_header(self._seen)
        if header is None:
            return False
        self._header_due = False
        self._seen = self._seen[header.size :]
        if header.source is not None:
            self._address = peer_address(header.source)
            transport: Any = self.transport
            transport.claim_peer(self._address)
        if self._timer is not None:
            self._timer.cancel()
        self._wait_for_client()
        return True

    def connectionLost(self, reason: object = None) -> None:
        """The peer left before it said what it wanted."""
        self._forget()

    def give_up(self) -> None:
        """Others need the place."""
        self._forget()
        self._abort()

    def _abort(self) -> None:
        transport = self.transport
        if transport is not None:
            abort = getattr(transport, "abortConnection", transport.loseConnection)
            abort()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner.decided(self)

    def _hand_over(self, door: Callable[[IAddress], IProtocol | None]) -> None:
        self._forget()
        transport, seen = self.transport, self._seen
        protocol = door(self._address)
        if protocol is None or transport is None:
            self._abort()
            return
        self._seen = b""
        replace_protocol(transport, protocol, seen)


def replace_protocol(transport: ITransport, protocol: IProtocol, seen: bytes) -> None:
    """Give a connection another protocol, with the bytes that were read already."""
    transport.protocol = protocol  # type: ignore[attr-defined]
    protocol.makeConnection(transport)
    if seen:
        protocol.dataReceived(seen)


class Demultiplexer(Factory):
    """The factory of the proxy's one port; at most ``limit`` connections are undecided.

    With ``proxy_protocol`` each connection begins with a header of that protocol, or is closed.
    """

    noisy = False

    def __init__(
        self,
        doors: Doors,
        clock: IReactorTime,
        limit: int = UNDECIDED_LIMIT,
        *,
        proxy_protocol: bool = False,
    ) -> None:
        self.doors = doors
        self.clock = clock
        self.limit = limit
        self.proxy_protocol = proxy_protocol
        self.lines = StrangerLog(clock)
        self._undecided: dict[Undecided, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> Undecided | None:
        """Take a connection; if too many are undecided, the one that is so for longest ends.

        The protocol goes without Twisted's back reference to its factory: it is
        replaced by another protocol soon.
        """
        if addr is None:
            return None
        if len(self._undecided) >= self.limit:
            next(iter(self._undecided)).give_up()
        protocol = Undecided(self, addr)
        self._undecided[protocol] = None
        return protocol

    def decided(self, protocol: Undecided) -> None:
        """``protocol`` does not wait any more."""
        self._undecided.pop(protocol, None)

    @property
    def undecided(self) -> int:
        """How many connections have not said what they are."""
        return len(self._undecided)
