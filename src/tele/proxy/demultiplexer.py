"""Is a connection TLS for auth, TLS for the proxy's pages, or SSH?

The first bytes decide: a TLS record goes to auth if its ClientHello offers the protocol
``tele-auth``, otherwise to the proxy's HTTPS; ``SSH-`` is SSH, and so is silence, since an SSH
client may wait for the server's version (RFC 4253, section 4.2; ssh-keyscan does).

Behind a load balancer with the PROXY protocol its header comes first, and names the peer's address.

Invariants:

* Whether there is a header is configured, never guessed: any client could send one.
* An undecided connection costs a timer and at most 16 KiB, each of its bytes is parsed once, and it
  is closed after :data:`UNDECIDED_SECONDS`; :mod:`tele.proxy.admission` bounds their number.
* After the decision the transport has the protocol of the route, and this one is unused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import frozen
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, ITransport
from twisted.internet.protocol import Factory, Protocol

from tele.conch.server.connection_admission import RateLimitedLog
from tele.errors import ProtocolError
from tele.model.addresses import Address
from tele.proxy.admission import PortAdmission, Slot
from tele.proxy.client_hello import HANDSHAKE, ClientHelloReader
from tele.sockets.direct import DirectSocket, peer_address
from tele.wire.proxy_header import looks_like_header, parse_proxy_header

AUTH_PROTOCOL: Final = b"tele-auth"
SILENCE_SECONDS: Final = 0.5
UNDECIDED_SECONDS: Final = 10.0

_SSH: Final = b"SSH-"

#: Makes the protocol of a TLS connection, from its address and its place.
TlsRoute = Callable[[IAddress, Slot], IProtocol | None]


@frozen
class ProtocolRoutes:
    """Makes the protocol of a connection, by what it was decided to be.

    Each gets the peer's address, and may return None to close the connection. Those of TLS get its
    place, too, and release it when the connection ends; SSH counts its own.
    """

    auth: TlsRoute
    https: TlsRoute
    ssh: Callable[[IAddress], IProtocol | None]


class Undecided(Protocol):
    """A connection that is not decided yet."""

    def __init__(self, owner: Demultiplexer, address: IAddress) -> None:
        self._owner = owner
        self._address = address
        self._seen = bytearray()
        self._hello: ClientHelloReader | None = None
        self._header_expected = owner.proxy_protocol
        host = None if owner.proxy_protocol else getattr(address, "host", "")
        self._slot = owner.admission.add(host, self._abort)
        self._silence: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the header, if one is configured, or for the client."""
        self._slot.set_deadline(UNDECIDED_SECONDS)
        if not self._header_expected:
            self._wait_for_client()

    def _wait_for_client(self) -> None:
        """Wait for the first bytes, or for the silence that means SSH."""
        self._silence = self._owner.admission.clock.callLater(SILENCE_SECONDS, self._was_silent)

    def _was_silent(self) -> None:
        self._silence = None
        if not self._seen:
            self._hand_over_ssh()

    def dataReceived(self, data: bytes) -> None:
        """Parse received bytes."""
        self._seen += data
        try:
            if self._header_expected:
                if not self._take_header():
                    return
                data = bytes(self._seen)
            if data:
                self._decide(data)
        except ProtocolError as error:
            lines = self._owner.lines.of(getattr(self._address, "host", ""))
            peer = str(
                Address(getattr(self._address, "host", ""), getattr(self._address, "port", 0))
            )
            lines.info("connection refused", peer=peer, error=str(error))
            self._slot.end()

    def _take_header(self) -> bool:
        """Parse the load balancer's header; False: it is incomplete."""
        header = parse_proxy_header(bytes(self._seen))
        if header is None:
            return False
        self._header_expected = False
        del self._seen[: header.size]
        if header.source is not None:
            self._address = peer_address(header.source)
            transport: Any = self.transport
            transport.claim_peer(self._address)
        self._slot.set_source(getattr(self._address, "host", ""))
        self._wait_for_client()
        return True

    def _decide(self, data: bytes) -> None:
        """Decide, if the bytes seen suffice; ``data`` is their end."""
        seen = self._seen
        if seen[0] == HANDSHAKE:
            if self._hello is None:
                self._hello = ClientHelloReader()
            hello = self._hello.feed(data)
            if hello is not None and self._owner.admission.admit_tls(self._slot):
                transport: Any = self.transport
                if isinstance(transport, DirectSocket):
                    transport.is_machine()
                routes = self._owner.routes
                route = routes.auth if AUTH_PROTOCOL in hello.protocols else routes.https
                self._hand_over(route(self._address, self._slot))
        elif seen.startswith(_SSH):
            self._hand_over_ssh()
        elif not _SSH.startswith(seen):
            if looks_like_header(bytes(seen)):
                raise ProtocolError(
                    "unexpected PROXY protocol header; if a load balancer of yours sends it,"
                    " configure proxy.proxy_protocol: required"
                )
            raise ProtocolError("neither TLS nor SSH")

    def connectionLost(self, reason: object = None) -> None:
        """The peer disconnected before the decision."""
        self._stop_waiting()
        self._slot.release()

    def _abort(self) -> None:
        """Close the connection, whatever its protocol is now."""
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
        self._slot.release()
        self._hand_over(self._owner.routes.ssh(self._address))

    def _hand_over(self, protocol: IProtocol | None) -> None:
        self._stop_waiting()
        transport, seen = self.transport, bytes(self._seen)
        self._seen.clear()
        if protocol is None or transport is None:
            self._slot.release()
            self._abort()
            return
        replace_protocol(transport, protocol, seen)


def replace_protocol(transport: ITransport, protocol: IProtocol, seen: bytes) -> None:
    """Give a connection another protocol, with the bytes that were already read."""
    transport.protocol = protocol  # type: ignore[attr-defined]
    protocol.makeConnection(transport)
    if seen:
        protocol.dataReceived(seen)


class Demultiplexer(Factory):
    """The factory of the proxy's port; ``admission`` counts its connections.

    With ``proxy_protocol`` a connection without a header of that protocol is closed.
    """

    noisy = False

    def __init__(
        self, routes: ProtocolRoutes, admission: PortAdmission, *, proxy_protocol: bool = False
    ) -> None:
        self.routes = routes
        self.admission = admission
        self.proxy_protocol = proxy_protocol
        self.lines = RateLimitedLog(admission.clock, "proxy")

    def buildProtocol(self, addr: IAddress | None) -> Undecided | None:
        """Return the protocol of a new connection; it has no reference to the factory, since it is
        replaced soon.
        """
        return None if addr is None else Undecided(self, addr)
