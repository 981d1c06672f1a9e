"""What do both ends of an SSH connection have in common (RFC 4253)?

The part of Conch's ``SSHTransportBase`` that meets the network, anew: packets, key
exchange, the order of messages, and bulk data
(:class:`tele.conch.transport.datapath.IDataTransport`). Services, avatars and
``sendPacket`` work as in Conch.

Invariants:

* What a peer sends is dispatched only after the gate admitted it, and never after the end.
* Whatever handling a message raises ends this connection, here, and nothing else.
* No text of the peer is ever a format; it is logged by ``repr`` and cut.
* Who does not read our answers is not read from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tele._version import VERSION
from tele.admission.limits import Limits, RekeyPace
from tele.conch.transport.datapath import IDataTransport
from tele.conch.transport.exchange import Exchange
from tele.conch.transport.incoming import Incoming
from tele.conch.transport.keepalive import Keepalive, watch
from tele.conch.transport.outgoing import Outgoing
from tele.conch.transport.small_messages import TEXT_LIMIT, SmallMessages
from tele.errors import ProtocolError
from tele.log import Lines, make_logger
from tele.model.addresses import plain_host, source_network
from tele.sockets.buffers import DATA_BUFFERS, MAX_PACKET, PADDING, RECEIVED
from tele.sockets.direct import DirectSocket
from tele.sockets.links import make_link
from tele.sockets.protocols import BufferReceiver
from tele.text import printable_lines
from tele.wire import numbers as n
from tele.wire.agreement import METHODS
from tele.wire.ciphers import CIPHERS, MACS, Secrets
from tele.wire.fields import Reader, string, uint32
from tele.wire.negotiation import COOKIE_SIZE, make_kexinit, negotiate, parse_kexinit
from tele.wire.packets import PlainOpener, PlainSealer
from tele.wire.phases import FROM_CLIENT, FROM_SERVER, Gate

log = make_logger(__name__)

_T = TypeVar("_T")

EXTENSIONS_LIMIT: Final = 32

_HANDLERS: Final[Mapping[int, str]] = {
    n.DISCONNECT: "ssh_DISCONNECT",
    n.IGNORE: "ssh_IGNORE",
    n.UNIMPLEMENTED: "ssh_UNIMPLEMENTED",
    n.DEBUG: "ssh_DEBUG",
    n.SERVICE_REQUEST: "ssh_SERVICE_REQUEST",
    n.SERVICE_ACCEPT: "ssh_SERVICE_ACCEPT",
    n.EXT_INFO: "ssh_EXT_INFO",
    n.KEXINIT: "ssh_KEXINIT",
    n.NEWKEYS: "ssh_NEWKEYS",
    n.KEX_INIT: "ssh_KEX_INIT",
    n.KEX_REPLY: "ssh_KEX_REPLY",
    n.PING: "ssh_PING",
    n.PONG: "ssh_PONG",
}


def _address(address: object) -> tuple[str, int]:
    return plain_host(getattr(address, "host", "")), getattr(address, "port", 0)


@implementer(IDataTransport)
class Transport(BufferReceiver, SmallMessages):
    """Either end. Subclasses say which markers they send and how they exchange keys."""

    #: OpenSSH's client says some things (that nobody reads a program's output any more, that
    #: no more sessions follow) only to those whose software begins with this word, and lets
    #: ``ssh host yes | head`` hang at all others. It means "speaks what PROTOCOL says".
    ourVersionString = f"SSH-2.0-OpenSSH_tele_{VERSION.partition('+')[0]}".encode("ascii")
    supportedKeyExchanges = list(METHODS)
    supportedCiphers = list(CIPHERS)
    supportedMACs = list(MACS)

    #: Our markers and the peer's: extension negotiation, strict key exchange.
    our_markers: ClassVar[tuple[bytes, bytes]]
    peer_markers: ClassVar[tuple[bytes, bytes]]

    data_buffers = DATA_BUFFERS
    data_buffer = DATA_BUFFERS[0]
    isAuthenticated = False
    _exchange: Exchange | None = None
    _strict = False
    #: Nothing is sent or handled any more; the connection is gone or about to go.
    closing = False
    _lost = False
    _paused = False
    _timer: IDelayedCall | None = None
    _rekey_at = 0.0
    _packets_before_auth = 0
    _keepalive: Keepalive | None = None

    def __init__(self, clock: IReactorTime, limits: Limits | None = None) -> None:
        self.clock = clock
        self.limits = limits or Limits()
        self.rekey_pace = RekeyPace()
        self.ready_observers: set[Callable[[], None]] = set()

    # -- the connection ---------------------------------------------------------------
    def connectionMade(self) -> None:
        """Greet, offer keys, and start the clock."""
        for name in ("setTcpNoDelay", "setTcpKeepAlive"):
            turn_on = getattr(self.transport, name, None)
            if turn_on is not None:
                turn_on(True)
        below: Any = self.transport
        if isinstance(below, DirectSocket):
            below.speak_to(self)
        self.gate = Gate(FROM_SERVER if self.isClient else FROM_CLIENT)
        self.outgoing = Outgoing(make_link(self.transport, self.drained), PlainSealer())
        opener = PlainOpener(self.limits.packet_before_auth)
        self.incoming = Incoming(self, self.gate, opener, from_server=self.isClient)
        self._timer = self.clock.callLater(self.limits.login_grace, self._grace_is_over)
        self.outgoing.send_line(self.ourVersionString + b"\r\n")
        self.sendKexInit()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Stop the service and log the avatar out, once."""
        if self._lost:
            return
        self._lost = self.closing = True
        self._stop_timer()
        if self._keepalive is not None:
            self._keepalive.stop()
        self.incoming.stop()
        self.outgoing.forget()
        self._exchange = None
        service, self.service = self.service, None
        if service is not None:
            service.serviceStopped()
        self.ready_observers.clear()
        if hasattr(self, "avatar"):
            self.logoutFunction()

    def sendDisconnect(self, reason: int, desc: bytes | str) -> None:
        """Say why, and end the connection. The peer may show it as it is."""
        if self.closing:
            return
        said = desc.decode("utf-8", "replace") if isinstance(desc, bytes) else desc
        text = printable_lines(said).encode("utf-8")[:TEXT_LIMIT]
        log.debug("disconnecting {peer!r}: {text!r}", peer=self.peer_name(), text=text)
        self.closing = True
        self.incoming.stop()
        self.outgoing.send(n.DISCONNECT, uint32(reason) + string(text) + string(b""))
        self._close()

    def _close(self) -> None:
        self.closing = True
        self.incoming.stop()
        self.outgoing.push()
        self.outgoing.link.close()
        if not self._lost:
            # A peer that does not read our last words does not keep the socket either.
            self._stop_timer()
            self._timer = self.clock.callLater(self.limits.linger, self._linger_is_over)

    def _linger_is_over(self) -> None:
        self._timer = None
        self.outgoing.link.abort()

    def _grace_is_over(self) -> None:
        self._timer = None
        self.lines.info("{peer!r} did not log in in time", peer=self.peer_name())
        self.grace_over()
        self._abort()

    def peer_is_gone(self, seconds: float) -> None:
        """The peer was silent for so long, whatever it was asked: hang up."""
        log.info("{peer!r} is gone: silent for {seconds:.0f} seconds, whatever it was asked",
                 peer=self.peer_name(), seconds=seconds)  # fmt: skip
        self._abort()

    def _abort(self) -> None:
        self.closing = True
        self.incoming.stop()
        self.outgoing.link.abort()

    def grace_over(self) -> None:
        """The time to log in is over; the connection is about to be aborted."""

    def crashed(self) -> None:
        """A message could not be handled; the connection is about to end."""

    @property
    def lines(self) -> Lines:
        """Where to tell why the peer is cut off."""
        return log

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def remote_addr(self) -> tuple[str, int]:
        """Return host and port of the peer; empty for what has none."""
        return _address(None if self.transport is None else self.transport.getPeer())

    def local_addr(self) -> tuple[str, int]:
        """Return host and port of our end; empty for what has none."""
        return _address(None if self.transport is None else self.transport.getHost())

    def peer_name(self) -> str:
        """See :class:`SmallMessages`."""
        host, port = self.remote_addr()
        return f"{host}:{port}"

    # -- receiving --------------------------------------------------------------------
    @property
    def kept(self) -> bytes | bytearray:
        """The beginning of what is received next (for :class:`DirectSocket`)."""
        return self.incoming.kept

    @property
    def missing(self) -> int:
        """How many bytes what is kept lacks to be a packet, if that is known (for the same)."""
        return self.incoming.missing

    def buffer_received(self, end: int) -> None:
        """``RECEIVED[:end]`` was received, beginning with what was kept."""
        self._feed(RECEIVED, end)

    def dataReceived(self, data: bytes) -> None:
        """Bytes came over any other transport."""
        if self.incoming.keep(data):
            return
        whole = b"".join((self.incoming.kept, data))
        self._feed(memoryview(whole), len(whole))

    def _feed(self, source: memoryview, end: int) -> None:
        if self.closing:
            return
        try:
            self.incoming.feed(source, end)
        except ProtocolError as error:
            self.lines.info("{peer!r}: {error!r}", peer=self.peer_name(), error=str(error))
            self.sendDisconnect(error.disconnect_code, str(error))
        except Exception:
            log.failure("a message of {peer!r} could not be handled", peer=self.peer_name())
            self.crashed()
            self.sendDisconnect(n.BY_APPLICATION, b"internal error")
        else:
            if (self.incoming.held or self._is_unread()) and not self._paused and not self.closing:
                self._paused = True
                self.outgoing.link.pause()
            self._rekey_if_due()

    def _is_unread(self) -> bool:
        """Whether the peer lets our answers pile up: then it gets no more of them."""
        limits = self.limits
        most = limits.unread_octets if self.isAuthenticated else limits.packet_before_auth
        return self.outgoing.link.waiting > most

    def hold(self) -> None:
        """Handle no message until :meth:`release`; a decision is awaited."""
        self.incoming.hold()

    def release(self) -> None:
        """The decision was made."""
        if self.closing:
            return
        more = self.incoming.release()
        self._resume()
        if more:
            kept = bytes(self.incoming.kept)
            self._feed(memoryview(kept), len(kept))

    def take_preface(self, data: bytes) -> int | None:
        """Nothing comes before a peer's version line."""
        return 0

    def version_received(self, line: bytes) -> None:
        """The peer's version line."""
        self.gotVersion = True
        self.otherVersionString = line

    def packet_received(self, number: int, payload: bytes) -> None:
        """Admit one message and dispatch it."""
        if not self.isAuthenticated:
            self._packets_before_auth += 1
            if self._packets_before_auth > self.limits.packets_before_auth:
                raise ProtocolError("too many messages before authentication")
        exchange = self._exchange
        if exchange is not None and exchange.skip_guess and number == n.KEX_INIT:
            exchange.skip_guess = False
        elif self.gate.admit(number):
            self.dispatchMessage(number, payload)
        else:
            self.sendUnimplemented()

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Hand an admitted message to whom it is for."""
        name = _HANDLERS.get(messageNum)
        if name is not None:
            getattr(self, name)(payload)
        elif self.service is not None:
            self.service.packetReceived(messageNum, payload)
        else:
            self.sendUnimplemented()

    # -- sending ----------------------------------------------------------------------
    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send a message; during a key exchange it waits, if it has to."""
        if self.closing:
            return
        outgoing = self.outgoing
        outgoing.send(messageType, payload)
        if outgoing.waiting_octets > self.limits.waiting_octets:
            outgoing.forget()
            self.sendDisconnect(n.BY_APPLICATION, b"the key exchange takes too long")

    def can_send(self) -> bool:
        """See :class:`IDataTransport`."""
        outgoing = self.outgoing
        return (
            self.isAuthenticated
            and not outgoing.blocked
            and not self.closing
            and not outgoing.link.busy
        )

    def seal_data(
        self, channel: int, length: int, extended: int | None = None, room: int = 0
    ) -> None:
        """See :class:`IDataTransport`."""
        if not self.closing:
            self.outgoing.seal_data(channel, length, extended, room)

    def send_data(
        self, channel: int, view: memoryview | bytes, extended: int | None = None
    ) -> None:
        """See :class:`IDataTransport`."""
        if not self.closing:
            self.outgoing.send_data(channel, view, extended)

    def flush(self) -> None:
        """See :class:`IDataTransport`."""
        self.outgoing.flush()
        self._rekey_if_due()

    def drained(self) -> None:
        """The link below has taken everything."""
        self._resume()
        self._tell_observers()

    def _resume(self) -> None:
        """Read again, unless there is still a reason not to."""
        if self._paused and not self.incoming.held and not self._is_unread() and not self.closing:
            self._paused = False
            self.outgoing.link.resume()

    def _tell_observers(self) -> None:
        if self.ready_observers and self.can_send():
            for observer in tuple(self.ready_observers):
                observer()

    # -- key exchange -----------------------------------------------------------------
    def host_key_algorithms(self) -> tuple[bytes, ...]:
        """Which host key algorithms to offer in the exchange that begins."""
        raise RuntimeError("either end says this")

    def sendKexInit(self) -> None:
        """Begin a key exchange, or answer the peer's beginning."""
        if self._exchange is not None:
            raise RuntimeError("keys are being exchanged already")
        # Markers belong to the first exchange only (OpenSSH PROTOCOL, section 1.10).
        markers = () if self.sessionID else self.our_markers
        ours = make_kexinit(
            (*self.supportedKeyExchanges, *markers),
            self.host_key_algorithms(),
            os.urandom(COOKIE_SIZE),
            tuple(self.supportedCiphers),
            tuple(self.supportedMACs),
        )
        self._exchange = Exchange(ours)
        self.outgoing.send_kexinit(ours.payload)

    def ssh_KEXINIT(self, packet: bytes) -> None:
        """The peer begins an exchange, or answers that we do."""
        theirs = parse_kexinit(packet)
        if self.sessionID is None:
            extensions, strict = self.peer_markers
            self._strict = strict in theirs.kex
            self._peerSupportsExtensions = extensions in theirs.kex
        elif self._exchange is None:
            self._pace_rekey()
        if self._exchange is None:
            self.sendKexInit()
        exchange = self._running()
        exchange.theirs = theirs
        client, server = self._ordered(exchange.ours, theirs)
        exchange.agreement = negotiate(client, server)
        exchange.skip_guess = exchange.agreement.wrong_guess and not self.isClient
        self.kex_agreed(exchange)

    def kex_agreed(self, exchange: Exchange) -> None:
        """Both KEXINITs are there."""

    def _pace_rekey(self) -> None:
        octets = self.incoming.opener.octets + self.outgoing.sealer.octets
        source = source_network(self.remote_addr()[0])
        wait = self.rekey_pace.wait(source, octets, self.clock.seconds())
        if wait:
            self.hold()
            self._stop_timer()
            self._timer = self.clock.callLater(wait, self._rekey_waited)

    def _rekey_waited(self) -> None:
        self._timer = None
        self.release()

    def _ordered(self, ours: _T, theirs: _T) -> tuple[_T, _T]:
        """Return the client's and the server's of a pair."""
        return (ours, theirs) if self.isClient else (theirs, ours)

    def _running(self) -> Exchange:
        exchange = self._exchange
        if exchange is None:
            raise ProtocolError("no key exchange is going on")
        return exchange

    def hash_inputs(self) -> dict[str, bytes]:
        """Return the part of the exchange hash that both ends fill in alike."""
        exchange = self._running()
        theirs = exchange.theirs
        if theirs is None:
            raise ProtocolError("a key exchange message before KEXINIT")
        client, server = self._ordered(exchange.ours, theirs)
        client_line, server_line = self._ordered(self.ourVersionString, self.otherVersionString)
        return {
            "client_version": client_line,
            "server_version": server_line,
            "client_kexinit": client.payload,
            "server_kexinit": server.payload,
        }

    def keys_agreed(self, shared: bytes, digest: bytes, first: tuple[int, bytes] | None) -> None:
        """The secret is known: say NEWKEYS and send under the new keys from now on.

        ``first`` is a message that has to follow NEWKEYS at once.
        """
        exchange = self._running()
        agreement = exchange.agreement
        if agreement is None:
            raise ProtocolError("a key exchange message before KEXINIT")
        if self.sessionID is None:
            self.sessionID = digest
        exchange.secrets = secrets = Secrets(shared, digest, self.sessionID)
        self.outgoing.send(n.NEWKEYS, b"")
        if self.isClient:
            cipher, mac = agreement.cipher_to_server, agreement.mac_to_server
        else:
            cipher, mac = agreement.cipher_to_client, agreement.mac_to_client
        sequence = 0 if self._strict else self.outgoing.sealer.sequence
        self.outgoing.renew(secrets.sealer(cipher, self.isClient, PADDING, sequence, mac), first)

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """The peer sends under the new keys from now on: the exchange is over."""
        exchange = self._running()
        secrets, agreement = exchange.secrets, exchange.agreement
        if packet or secrets is None or agreement is None:
            raise ProtocolError("NEWKEYS that nothing led to")
        opener = self.incoming.opener
        if self.isClient:
            cipher, mac = agreement.cipher_to_client, agreement.mac_to_client
        else:
            cipher, mac = agreement.cipher_to_server, agreement.mac_to_server
        sequence = 0 if self._strict else opener.sequence
        self.incoming.opener = secrets.opener(
            cipher, not self.isClient, opener.limit, sequence, mac
        )
        self._exchange = None
        self._rekey_at = self.clock.seconds() + self.limits.rekey_seconds
        self.keys_changed()
        self._tell_observers()

    def keys_changed(self) -> None:
        """An exchange is over."""

    def _rekey_if_due(self) -> None:
        if self._exchange is not None or not self.isAuthenticated or self.closing:
            return
        limits, sealer, opener = self.limits, self.outgoing.sealer, self.incoming.opener
        if (
            sealer.octets >= limits.rekey_octets
            or opener.octets >= limits.rekey_octets
            or sealer.packets >= limits.rekey_packets
            or opener.packets >= limits.rekey_packets
            or self.clock.seconds() >= self._rekey_at
        ):
            self.sendKexInit()

    # -- authentication ---------------------------------------------------------------
    def authenticated(self) -> None:
        """Who is there is known: bounds for strangers end, data may flow."""
        self.isAuthenticated = True
        self._stop_timer()
        self.incoming.opener.limit = MAX_PACKET

    def setService(self, service: Any) -> None:
        """Start ``service`` in the place of the one before, which is stopped."""
        if self.service is not None:
            self.service.serviceStopped()
        self.service = service
        service.transport = self
        if self.isAuthenticated:
            self.incoming.take_data = getattr(service, "channel_data", None)
            self.incoming.take_extended = getattr(service, "channel_extended_data", None)
            self.watch_peer()
        service.serviceStarted()

    def watch_peer(self) -> None:
        """Ask the peer whether it is there, as often as is to be done now."""
        if self._keepalive is not None:
            self._keepalive.stop()
        self._keepalive = watch(self)

    # -- small messages ---------------------------------------------------------------
    def ssh_DISCONNECT(self, packet: bytes) -> None:
        """The peer ends the connection."""
        reader = Reader(packet)
        code, text = reader.uint32(), reader.string()[:TEXT_LIMIT]
        self.receiveError(code, text)
        self._close()

    def ssh_EXT_INFO(self, packet: bytes) -> None:
        """The peer says what it can do (RFC 8308)."""
        reader = Reader(packet)
        count = reader.uint32()
        if count > EXTENSIONS_LIMIT:
            raise ProtocolError("too many extensions")
        pairs = [(reader.string(), reader.string()) for _ in range(count)]
        reader.end()
        self.extensions_received(dict(pairs))

    def extensions_received(self, extensions: Mapping[bytes, bytes]) -> None:
        """The peer's extensions."""
