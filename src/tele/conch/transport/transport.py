"""What do both ends of an SSH connection have in common (RFC 4253)?

Replaces the part of Conch's ``SSHTransportBase`` that handles packets, key exchange, the order of
messages, and bulk data (:class:`tele.conch.transport.datapath.IDataTransport`). Services, avatars
and ``sendPacket`` work as in Conch.

Invariants:

* A message is dispatched only after the message filter admitted it, and never after the end.
* What handling a message raises closes this connection, and affects no other.
* No text of the peer is ever a format; it is logged as a field and cut.
* A peer that does not read replies is not read from until it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tele._version import VERSION
from tele.admission.limits import Limits, RekeyPace
from tele.conch.transport.datapath import IDataService, IDataTransport
from tele.conch.transport.disconnecting import Disconnecting
from tele.conch.transport.exchange import Exchange
from tele.conch.transport.incoming import Incoming
from tele.conch.transport.keepalive import Keepalive, watch
from tele.conch.transport.key_exchange import KeyExchange
from tele.conch.transport.outgoing import Outgoing
from tele.errors import ProtocolError
from tele.log import make_logger
from tele.model.addresses import source_network
from tele.sockets.buffers import DATA_BUFFERS, MAX_PACKET, RECEIVED
from tele.sockets.direct import DirectSocket
from tele.sockets.links import make_link
from tele.sockets.protocols import BufferReceiver
from tele.wire import numbers as n
from tele.wire.ciphers import CIPHERS, MACS
from tele.wire.key_agreement import METHODS
from tele.wire.negotiation import parse_extensions
from tele.wire.packets import PlainOpener, PlainSealer
from tele.wire.phases import FROM_CLIENT, FROM_SERVER, MessageFilter

log = make_logger(__name__)

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


_LIMITS: Final = Limits()


@implementer(IDataTransport)
class Transport(BufferReceiver, Disconnecting):
    """Either end. Subclasses set their markers and exchange keys."""

    #: OpenSSH's client sends some messages (eow@openssh.com, no-more-sessions@openssh.com) only to
    #: servers whose version begins with "OpenSSH"; with others ``ssh host yes | head`` hangs.
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

    #: An idle connection takes less memory with slots than with a larger dictionary.
    __slots__ = (
        "_keepalive",
        "_lost",
        "_observers",
        "_packets_before_auth",
        "_paused",
        "_timer",
        "clock",
        "closing",
        "incoming",
        "key_exchange",
        "limits",
        "message_filter",
        "outgoing",
        "rekey_pace",
    )

    def __init__(self, clock: IReactorTime, limits: Limits | None = None) -> None:
        self.clock = clock
        self.limits = limits or _LIMITS
        #: Shared by all connections of a server.
        self.rekey_pace: RekeyPace | None = None
        self.closing = self._lost = self._paused = False
        self._timer: IDelayedCall | None = None
        self._packets_before_auth = 0
        self._keepalive: Keepalive | None = None
        self._observers: set[Callable[[], None]] | None = None

    @property
    def ready_observers(self) -> set[Callable[[], None]]:
        """See :class:`IDataTransport`."""
        if self._observers is None:
            self._observers = set()
        return self._observers

    # -- the connection ---------------------------------------------------------------
    def connectionMade(self) -> None:
        """Send the version and KEXINIT, and start the login grace time."""
        for name in ("setTcpNoDelay", "setTcpKeepAlive"):
            turn_on = getattr(self.transport, name, None)
            if turn_on is not None:
                turn_on(True)
        below: Any = self.transport
        if isinstance(below, DirectSocket):
            below.speak_to(self)
        self.message_filter = MessageFilter(FROM_SERVER if self.isClient else FROM_CLIENT)
        self.key_exchange = KeyExchange(self)
        self.outgoing = Outgoing(make_link(self.transport, self.drained), PlainSealer())
        opener = PlainOpener(self.limits.packet_before_auth)
        self.incoming = Incoming(self, self.message_filter, opener, from_server=self.isClient)
        self._start_grace()
        self.outgoing.send_line(self.ourVersionString + b"\r\n")
        self.sendKexInit()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Stop the service and log out the avatar, once."""
        if self._lost:
            return
        self._lost = self.closing = True
        self._stop_timer()
        if self._keepalive is not None:
            self._keepalive.stop()
        self.incoming.stop()
        self.outgoing.forget()
        self.key_exchange.current = None
        service, self.service = self.service, None
        if service is not None:
            service.serviceStopped()
        self._observers = None
        if hasattr(self, "avatar"):
            self.logoutFunction()

    # -- receiving --------------------------------------------------------------------
    @property
    def kept(self) -> bytes | bytearray:
        """See :class:`BufferReceiver`."""
        return self.incoming.kept

    @property
    def missing(self) -> int:
        """See :class:`BufferReceiver`."""
        return self.incoming.missing

    def buffer_received(self, end: int) -> None:
        """See :class:`BufferReceiver`."""
        self._feed(RECEIVED, end)

    def dataReceived(self, data: bytes) -> None:
        """Bytes were received by another transport than a direct socket."""
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
            self.lines.info("connection closed", **self.log_fields, error=str(error))
            self.sendDisconnect(error.disconnect_code, str(error))
        except Exception:
            log.failure("message handling failed", **self.log_fields)
            self.crashed()
            self.sendDisconnect(n.BY_APPLICATION, b"internal error")
        else:
            if (self.incoming.held or self._is_unread()) and not self._paused and not self.closing:
                self._paused = True
                self.outgoing.link.pause()
            self._rekey_if_due()

    def _is_unread(self) -> bool:
        """Whether too many bytes wait for the peer to read them."""
        limits = self.limits
        most = limits.unread_octets if self.isAuthenticated else limits.packet_before_auth
        return self.outgoing.link.waiting > most

    def hold(self) -> None:
        """Handle no message until :meth:`release`."""
        self.incoming.hold()

    def release(self) -> None:
        """Handle messages again."""
        if self.closing:
            return
        more = self.incoming.release()
        self._resume()
        if more:
            kept = bytes(self.incoming.kept)
            self._feed(memoryview(kept), len(kept))

    def take_preface(self, data: bytes) -> int | None:
        """Return 0: nothing precedes the version line."""
        return 0

    def version_received(self, line: bytes) -> None:
        """Keep the peer's version line."""
        self.gotVersion = True
        self.otherVersionString = line

    def packet_received(self, number: int, payload: bytes) -> None:
        """Admit one message and dispatch it."""
        if not self.isAuthenticated:
            self._packets_before_auth += 1
            if self._packets_before_auth > self.limits.packets_before_auth:
                raise ProtocolError("too many messages before authentication")
        if self.key_exchange.skips(number):
            return
        if self.message_filter.admit(number):
            self.dispatchMessage(number, payload)
        else:
            self.sendUnimplemented()

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Pass an admitted message to its handler or to the service."""
        name = _HANDLERS.get(messageNum)
        if name is not None:
            getattr(self, name)(payload)
        elif self.service is not None:
            self.service.packetReceived(messageNum, payload)
        else:
            self.sendUnimplemented()

    # -- sending ----------------------------------------------------------------------
    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send a message; one that is not of a running key exchange waits for its end."""
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

    def seal_data(self, channel: int, lengths: Sequence[int], extended: int | None = None) -> None:
        """See :class:`IDataTransport`."""
        if not self.closing:
            self.outgoing.seal_data(channel, lengths, extended)

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
        """See :class:`BufferReceiver`."""
        self._resume()
        self._notify_observers()

    def _resume(self) -> None:
        """Read again, unless messages are held or replies unread."""
        if self._paused and not self.incoming.held and not self._is_unread() and not self.closing:
            self._paused = False
            self.outgoing.link.resume()

    def _notify_observers(self) -> None:
        if self._observers and self.can_send():
            for observer in tuple(self._observers):
                observer()

    # -- key exchange -----------------------------------------------------------------
    def host_key_algorithms(self) -> tuple[bytes, ...]:
        """Return which host key algorithms to offer in the exchange that begins."""
        raise NotImplementedError

    def sendKexInit(self) -> None:
        """Start a key exchange, or answer the peer's KEXINIT."""
        self.key_exchange.start()

    def ssh_KEXINIT(self, packet: bytes) -> None:
        """The peer starts a key exchange, or answers ours."""
        if self.sessionID is not None and self.key_exchange.current is None:
            self._pace_rekey()
        self.key_exchange.kexinit_received(packet)

    def kex_agreed(self, exchange: Exchange) -> None:
        """Both KEXINITs are there."""

    def rekey_source(self) -> str:
        """Return whose share of key exchanges the peer's count for."""
        return source_network(self.remote_addr()[0])

    def _pace_rekey(self) -> None:
        source = self.rekey_source()
        if self.rekey_pace is None:
            self.rekey_pace = RekeyPace()
        wait = self.rekey_pace.wait(source, self.key_exchange.octets, self.clock.seconds())
        if wait:
            self.hold()
            self._stop_timer()
            self._timer = self.clock.callLater(wait, self._rekey_waited)

    def _rekey_waited(self) -> None:
        self._timer = None
        self.release()

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """The peer sends under the new keys from now on."""
        self.key_exchange.newkeys_received(packet)
        self.keys_changed()
        self._notify_observers()

    def keys_changed(self) -> None:
        """A key exchange is over."""

    def _rekey_if_due(self) -> None:
        if not self.closing and self.key_exchange.is_due:
            self.sendKexInit()

    def ssh_EXT_INFO(self, packet: bytes) -> None:
        """The peer lists its extensions (RFC 8308)."""
        self.extensions_received(parse_extensions(packet))

    def extensions_received(self, extensions: Mapping[bytes, bytes]) -> None:
        """The peer's extensions."""

    # -- authentication ---------------------------------------------------------------
    def authenticated(self) -> None:
        """Authentication succeeded: its limits end, and data may be sent."""
        self.isAuthenticated = True
        self._stop_timer()
        self.incoming.opener.limit = MAX_PACKET

    def setService(self, service: Any) -> None:
        """Stop the present service, and start ``service``."""
        if self.service is not None:
            self.service.serviceStopped()
        self.service = service
        service.transport = self
        if self.isAuthenticated:
            if IDataService.providedBy(service):
                self.incoming.take_data = service.channel_data
                self.incoming.take_extended = service.channel_extended_data
                self.incoming.take_credit = service.channel_credit
            self.watch_peer()
        service.serviceStarted()

    def watch_peer(self) -> None:
        """Send keepalive requests at the interval that holds now."""
        if self._keepalive is not None:
            self._keepalive.stop()
        self._keepalive = watch(self)
