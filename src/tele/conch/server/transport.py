"""What does a server add to the transport?

Invariants:

* The host key is looked up for each key exchange; a certificate comes before a plain key.
* Only authentication can be requested. One service answers all requests, and keeps its counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.conch.ssh import transport as conch
from twisted.conch.ssh.factory import SSHFactory
from twisted.cred.portal import Portal
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tele.admission.limits import Limits
from tele.admission.penalties import Fault
from tele.admission.waiting_list import WaitingList
from tele.certs.algorithms import (
    HOST_ALGORITHMS,
    MLDSA44_ED25519,
    SERVER_SIGNATURE_ALGORITHMS,
    certificate_type,
)
from tele.certs.composite import is_offered
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.host_key_proofs import PROOFS_LIMIT, announcement, proof
from tele.conch.server.connection_admission import TOO_MANY, ConnectionAdmission, WaitingConnection
from tele.conch.server.credentials import DeniedAttempt, Trust
from tele.conch.session.channel import SessionChannel
from tele.conch.transport.exchange import Exchange, HostKeys
from tele.conch.transport.transport import Transport
from tele.errors import ProtocolError, quoted
from tele.log import Lines
from tele.model.addresses import source_network
from tele.model.identity import HostIdentity
from tele.sockets.direct import DirectSocket
from tele.text import printable
from tele.wire import numbers as n
from tele.wire.ciphers import SERVER_CIPHERS
from tele.wire.fields import Reader, string, uint32
from tele.wire.key_agreement import METHODS, SERVER_METHODS, exchange_hash, exchange_transcript
from tele.wire.negotiation import EXT_INFO_CLIENT, EXT_INFO_SERVER, STRICT_CLIENT, STRICT_SERVER

USERAUTH = b"ssh-userauth"
#: Seconds that a client has to show the notice in its sessions, before the connection is closed.
NOTICE_SECONDS: Final = 0.5

_TOO_MANY_WAIT: Final = "too many unauthenticated connections from your address"

#: Those that this machine can verify.
_SIGNATURE_ALGORITHMS: Final = [
    name
    for name in SERVER_SIGNATURE_ALGORITHMS
    if is_offered() or name not in (MLDSA44_ED25519, certificate_type(MLDSA44_ED25519))
]
#: Our extensions (RFC 8308; OpenSSH PROTOCOL, section 1.9).
_EXTENSIONS = (
    (b"server-sig-algs", b",".join(_SIGNATURE_ALGORITHMS)),
    (b"publickey-hostbound@openssh.com", b"0"),
    (b"ping@openssh.com", b"0"),
)
_EXT_INFO = uint32(len(_EXTENSIONS)) + b"".join(string(k) + string(v) for k, v in _EXTENSIONS)


def host_key_algorithms(keys: HostKeys) -> tuple[bytes, ...]:
    """Return the algorithms of ``keys``, the certificate's first."""
    plain = keys.private.public.type
    kinds = [plain] if keys.certificate is None else [certificate_type(plain), plain]
    return tuple(
        name
        for kind in kinds
        for name, algorithm in HOST_ALGORITHMS.items()
        if algorithm.blob_type == kind
    )


class Server(SSHFactory):
    """What a transport and its services need of the factory that made them."""

    portal: Portal
    admission: ConnectionAdmission
    host_keys: Callable[[], HostKeys]
    user_trust: Callable[[], Trust]
    host_trust: Callable[[], Trust] | None
    match_login: bool
    #: Whether others check what clients sign to log in.
    passes_proofs: bool
    on_denied: Callable[[DeniedAttempt], None]
    #: What a client is shown before it logs in, or nothing.
    banner: Callable[[SSHServerTransport], str]
    #: Reads what precedes a version line; returns its length, None if it needs more.
    preface: Callable[[SSHServerTransport, bytes], int | None] | None
    #: All connections, authenticated or not.
    present: set[SSHServerTransport]
    #: Those that hold a place among connections that have not authenticated, the oldest first.
    unauthenticated: dict[SSHServerTransport, str]
    #: The same of those that a proxy relays.
    relayed: dict[SSHServerTransport, str]

    def getService(
        self, transport: SSHServerTransport, service: bytes, admitted: bool = False
    ) -> Any:
        """Return what makes ``service`` for ``transport`` now, or None."""
        raise NotImplementedError


class SSHServerTransport(Transport, conch.SSHServerTransport):
    """The server's end of one connection."""

    factory: Server
    our_markers = (EXT_INFO_SERVER, STRICT_SERVER)
    peer_markers = (EXT_INFO_CLIENT, STRICT_CLIENT)
    supportedKeyExchanges = list(SERVER_METHODS)
    supportedCiphers = list(SERVER_CIPHERS)

    __slots__ = (
        "_evicted",
        "_host_signature",
        "_proofs",
        "_source",
        "_vouched",
        "_waits",
        "fault",
        "first_host_key",
        "transcript",
        "vouched_by",
        "vouched_place",
    )

    def __init__(
        self, clock: IReactorTime, limits: Limits | None = None, source: str | None = None
    ) -> None:
        super().__init__(clock, limits)
        self._source = source
        self._vouched: tuple[str, int] | None = None
        #: The member that relays this connection.
        self.vouched_by: HostIdentity | None = None
        #: The place of a relayed connection, as ``ConnectionAdmission.enter_vouched`` returned it.
        self.vouched_place: str | None = None
        #: The list in which this connection waits for a place, and its source.
        self._waits: tuple[WaitingList[WaitingConnection], str] | None = None
        #: What is held against the source unless the client proves who it is.
        self.fault: Fault | None = Fault.NOAUTH
        #: Host key (or certificate) of the first exchange, to which a login is bound.
        self.first_host_key = b""
        #: What the hash of the first exchange was made of, with its secret, until the client is
        #: authenticated, if the factory passes proofs of logins on.
        self.transcript = b""
        #: The signature algorithm of the last exchange.
        self._host_signature = b""
        self._proofs = 0
        self._evicted = False

    def connectionMade(self) -> None:
        """See :class:`Transport`."""
        self.factory.present.add(self)
        if self._source is not None:
            self.factory.unauthenticated[self] = self._source
        if self.vouched_place is not None:
            self.factory.relayed[self] = self.vouched_place
        super().connectionMade()
        if self._waits is not None:
            self.hold()

    def wait_for_place(self, waiting: WaitingList[WaitingConnection], source: str) -> bool:
        """Handle no message before a place is free; False: too many wait."""
        displaced = waiting.add(source, self)
        if displaced is None:
            return False
        self._waits = (waiting, source)
        for other in displaced:
            other.displaced()
        return True

    def displaced(self) -> None:
        """See :class:`WaitingConnection`."""
        if self.factory.admission.may_notify():
            self._refuse()
        else:
            self.factory.admission.refused(self.remote_addr()[0], TOO_MANY)
            self.yield_place()

    def place_freed(self, waiting: WaitingList[WaitingConnection], source: str) -> None:
        """See :class:`WaitingConnection`."""
        admission, host = self.factory.admission, self.remote_addr()[0]
        if self._waits != (waiting, source) or self.closing:
            admission.call_next(waiting, source)
            return
        self._waits = None
        place = admission.enter_waiting(waiting, host)
        if place is None:
            if not admission.will_call(waiting, source) or not self.wait_for_place(waiting, source):
                self._refuse()
            return
        if waiting is admission.vouched_waiting:
            self.vouched_place = self.factory.relayed[self] = place
        else:
            self._source = place
            self.factory.unauthenticated[self] = place
        self.release()

    def _refuse(self) -> None:
        """Close the connection because no place became free; the client gets no penalty."""
        host = self.remote_addr()[0]
        self.factory.admission.refused(host, TOO_MANY)
        self.fault = None
        self.sendDisconnect(n.TOO_MANY_CONNECTIONS, f"{_TOO_MANY_WAIT}; try again")

    def dismiss(self, why: str) -> None:
        """Close this connection, without a penalty for the client."""
        self.fault = None
        self.sendDisconnect(n.BY_APPLICATION, why)

    def evict(self, why: str) -> None:
        """Close this connection: its user is not permitted here any more.

        Programs and forwards end now, whether the client reads or not. ``why`` is shown on the
        terminal of each session, for :data:`NOTICE_SECONDS`, and sent as the reason of the
        disconnect: OpenSSH's client shows nothing that arrives together with that.
        """
        if self.closing or self._evicted:
            return
        self._evicted = True
        text = printable(why)
        notices = [
            channel.notice(text)
            for channel in _channels(self.service)
            if isinstance(channel, SessionChannel)
        ]
        service, self.service = self.service, None
        if service is not None:
            service.serviceStopped()
        if hasattr(self, "avatar"):
            logout, self.logoutFunction = self.logoutFunction, _done
            logout()
        if not any(notices):
            self.dismiss(text)
            return
        self.incoming.stop()
        self.outgoing.link.pause()
        self.outgoing.push()
        self._stop_timer()
        self._timer = self.clock.callLater(NOTICE_SECONDS, self._notice_shown, text)

    def _notice_shown(self, text: str) -> None:
        self._timer = None
        self.dismiss(text)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """See :class:`Transport`."""
        self.factory.present.discard(self)
        if self._source is not None and self.fault is not None:
            self.factory.admission.penalize(self.remote_addr()[0], self.fault)
        self._leave()
        super().connectionLost(reason)

    def yield_place(self) -> None:
        """Close this connection, whose place another one needs, without a penalty."""
        self.fault = None
        self._leave()
        self._abort()

    def grace_over(self) -> None:
        """See :class:`Transport`. A connection that waited for a place gets no penalty."""
        if self._waits is not None:
            self._refuse()
        else:
            self.fault = Fault.GRACE_EXCEEDED

    def crashed(self) -> None:
        """See :class:`Transport`."""
        self.fault = Fault.CRASH

    @property
    def lines(self) -> Lines:
        """See :class:`Transport`. Lines of unauthenticated clients are rate-limited."""
        if self.isAuthenticated:
            return super().lines
        return self.factory.admission.lines.of(self.remote_addr()[0])

    @property
    def log_fields(self) -> Mapping[str, str]:
        """See :class:`Transport`. One process may be node and proxy."""
        return {**super().log_fields, **self.factory.admission.log_fields}

    def take_preface(self, data: bytes) -> int | None:
        """See :class:`Transport`. A proxy sends its client's address before the version line."""
        take = self.factory.preface
        return 0 if take is None else take(self, data)

    def vouched_for(self, remote_addr: tuple[str, int], member: HostIdentity | None) -> None:
        """A trusted member relays this connection from ``remote_addr``."""
        self.vouched_by = member
        transport: Any = self.transport
        if isinstance(transport, DirectSocket):
            transport.is_machine()
        self._leave()
        self._vouched = remote_addr
        admission, host = self.factory.admission, remote_addr[0]
        if admission.vouched_must_wait(host):
            self.wait_for_place(admission.vouched_waiting, source_network(host))
            self.hold()
            return
        place = admission.enter_vouched(host)
        if place is None:
            raise ProtocolError(_TOO_MANY_WAIT, n.TOO_MANY_CONNECTIONS)
        self.vouched_place = self.factory.relayed[self] = place
        self.release()

    def remote_addr(self) -> tuple[str, int]:
        """See :class:`Transport`."""
        return self._vouched or super().remote_addr()

    def authenticated(self) -> None:
        """See :class:`Transport`."""
        self._leave()
        self.message_filter.authenticated()
        self.first_host_key = self.transcript = b""
        super().authenticated()

    def setService(self, service: Any) -> None:
        """See :class:`Transport`. An authenticated client gets the host's plain key."""
        super().setService(service)
        if self.isAuthenticated and isinstance(service, SSHConnection):
            self.sendPacket(n.GLOBAL_REQUEST, announcement(self.factory.host_keys().private))

    def prove_host_keys(self, request: bytes) -> tuple[bool, bytes] | bool:
        """Answer ``hostkeys-prove-00@openssh.com`` as a global request is answered."""
        self._proofs += 1
        if self._proofs > PROOFS_LIMIT or self.sessionID is None:
            return False
        key = self.factory.host_keys().private
        signatures = proof(key, self.sessionID, request, self._host_signature)
        return False if signatures is None else (True, signatures)

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """See :class:`Transport`. A late USERAUTH_REQUEST is ignored (RFC 4252, 5.1)."""
        if messageNum != n.USERAUTH_REQUEST or not self.isAuthenticated:
            super().dispatchMessage(messageNum, payload)

    def _leave(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            self.factory.unauthenticated.pop(self, None)
            self.factory.admission.leave(source)
        place, self.vouched_place = self.vouched_place, None
        if place is not None:
            self.factory.relayed.pop(self, None)
            self.factory.admission.leave_vouched(place)
        waits, self._waits = self._waits, None
        if waits is not None:
            waits[0].remove(waits[1], self)

    def host_key_algorithms(self) -> tuple[bytes, ...]:
        """See :class:`Transport`."""
        return host_key_algorithms(self.factory.host_keys())

    def kex_agreed(self, exchange: Exchange) -> None:
        """Keep the host keys of this exchange: they may be renewed before the next message."""
        exchange.host_keys = self.factory.host_keys()

    def ssh_KEX_INIT(self, packet: bytes) -> None:
        """The client's share: reply with ours, and sign."""
        exchange = self.key_exchange.running()
        agreement, keys = exchange.agreement, exchange.host_keys
        if agreement is None or keys is None:
            raise ProtocolError("a key exchange message before KEXINIT")
        reader = Reader(packet)
        client_share = reader.string()
        reader.end()
        share, shared = METHODS[agreement.kex].respond(client_share)
        algorithm = HOST_ALGORITHMS[agreement.host_key]
        host_key = _blob(keys, algorithm.blob_type)
        transcript = exchange_transcript(
            **self.key_exchange.hash_inputs(),
            host_key=host_key,
            client_share=client_share,
            server_share=share,
            secret=shared,
        )
        digest = exchange_hash(transcript)
        signature = keys.private.sign(digest, algorithm.signature)
        self._host_signature = algorithm.signature
        self.outgoing.send(n.KEX_REPLY, string(host_key) + string(share) + string(signature))
        first = None
        if self.sessionID is None:
            self.first_host_key = host_key
            if self.factory.passes_proofs:
                self.transcript = transcript
            if self._peerSupportsExtensions:
                first = (n.EXT_INFO, _EXT_INFO)
        self.key_exchange.keys_agreed(shared, digest, first)

    def ssh_SERVICE_REQUEST(self, packet: bytes) -> None:
        """The client requests authentication."""
        reader = Reader(packet)
        name = reader.string()
        reader.end()
        if name != USERAUTH:
            raise ProtocolError(f"service {quoted(name)} is not available", n.SERVICE_NOT_AVAILABLE)
        if self.service is not None:
            self.sendPacket(n.SERVICE_ACCEPT, string(name))
            return
        service = self.factory.getService(self, name)
        if service is None:
            raise ProtocolError("authentication is not available", n.SERVICE_NOT_AVAILABLE)
        self.sendPacket(n.SERVICE_ACCEPT, string(name))
        self.setService(service())


def _channels(service: object) -> list[object]:
    return list(service.channels.values()) if isinstance(service, SSHConnection) else []


def _done() -> None:
    """Do nothing: the avatar is logged out already."""


def _blob(keys: HostKeys, kind: bytes) -> bytes:
    """Return the key or certificate of ``kind``."""
    certificate = keys.certificate
    if certificate is not None and certificate.type == kind:
        return certificate.blob
    if keys.private.public.type != kind:
        raise ProtocolError("the host key has just been renewed", n.KEY_EXCHANGE_FAILED)
    return keys.private.public.blob
