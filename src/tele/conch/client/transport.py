"""How does one of us log in to an SSH server, knowing whom it talks to?

The server has to prove itself with a host certificate of a trusted authority; we log in with
a user certificate, in one round trip: no ``none``, no question whether the key would do.

Invariants:

* Nothing of ours is sent to a server that has not proved itself.
* :func:`connect` ends in exactly one of a connection service and an error of ours; when it
  is cancelled, the connection ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from attrs import frozen
from twisted.conch.ssh import transport as conch
from twisted.conch.ssh import userauth as conch_userauth
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from tele.admission.limits import Limits
from tele.certs.algorithms import CERTIFICATE_SUFFIX, HOST_ALGORITHMS, USER_ALGORITHMS
from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.check import CheckedHost, check_host, check_member
from tele.certs.keys import PrivateKey
from tele.conch.client.login_request import login_algorithm, login_request, signed_part
from tele.conch.connection.connection import SSHConnection
from tele.conch.transport.exchange import Exchange
from tele.conch.transport.transport import Transport
from tele.errors import (
    AccessDenied,
    BadCertificate,
    PeerError,
    ProtocolError,
    TeleError,
    Unreachable,
    quoted,
)
from tele.log import make_logger
from tele.loop import validity_date
from tele.model.identity import HostIdentity, HostRole
from tele.text import printable_lines
from tele.wire import numbers as n
from tele.wire.fields import Reader, string
from tele.wire.key_agreement import METHODS, exchange_hash, exchange_transcript
from tele.wire.negotiation import EXT_INFO_CLIENT, EXT_INFO_SERVER, STRICT_CLIENT, STRICT_SERVER

log = make_logger(__name__)

#: Host certificates only: a plain key proves nothing.
HOST_CERTIFICATES = tuple(name for name in HOST_ALGORITHMS if name.endswith(CERTIFICATE_SUFFIX))
#: Most bytes of a server's banners that are kept for the error when it refuses the login.
BANNER_LIMIT = 4096


@frozen
class HostVerifier:
    """Accepts a host with any of ``names``, certified by any of ``trusted`` (key blobs)."""

    trusted: Collection[bytes]
    names: Sequence[str]

    def verify(self, certificate: Certificate, at: datetime) -> CheckedHost:
        """Return the identity of the host. Raises :class:`BadCertificate`."""
        return check_host(certificate, self.trusted, self.names, at)


@frozen
class MemberVerifier:
    """Accepts any host of ``cluster`` in one of ``roles``.

    ``refuses(host)`` returns why a host with a valid certificate is refused, because it was
    removed or is locked, or an empty string.
    """

    trusted: Collection[bytes]
    cluster: str
    roles: Collection[HostRole]
    refuses: Callable[[HostIdentity], str] = lambda _: ""

    def verify(self, certificate: Certificate, at: datetime) -> CheckedHost:
        """Return the identity of the host. Raises :class:`BadCertificate`."""
        checked = check_member(certificate, self.trusted, self.cluster, self.roles, at)
        problem = "" if checked.identity is None else self.refuses(checked.identity)
        if problem:
            raise BadCertificate(problem, "revoked")
        return checked


class Verifier(Protocol):
    """Decides whether a server is the expected one."""

    def verify(self, certificate: Certificate, at: datetime) -> CheckedHost:
        """Return the identity of the host. Raises :class:`BadCertificate`."""


@frozen
class ClientIdentity:
    """Our identity at the server: a user with a login, or a host under its id."""

    private: PrivateKey
    certificate: Certificate
    login: str

    def sign_request(self, session_id: bytes, service: bytes) -> bytes:
        """Return the payload of a signed USERAUTH_REQUEST."""
        algorithm = login_algorithm(self.certificate)
        request = login_request(self.login, service, algorithm, self.certificate.blob)
        kind = USER_ALGORITHMS[algorithm].signature
        return request + string(self.private.sign(signed_part(session_id, request), kind))


class SSHClientTransport(Transport, conch.SSHClientTransport):
    """The client's end of one connection.

    ``verify_host`` raises :class:`BadCertificate` unless the server is the expected one. A Conch
    program may override ``verifyHostKey`` and ``connectionSecure`` instead.
    """

    our_markers = (EXT_INFO_CLIENT, STRICT_CLIENT)
    peer_markers = (EXT_INFO_SERVER, STRICT_SERVER)

    def __init__(
        self,
        clock: IReactorTime,
        verify_host: Verifier | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(clock, limits)
        self._verifier = verify_host
        #: The identity that the server proved.
        self.host: CheckedHost | None = None
        self.peerExtensions = {}

    def host_key_algorithms(self) -> tuple[bytes, ...]:
        """See :class:`Transport`."""
        return HOST_CERTIFICATES

    def kex_agreed(self, exchange: Exchange) -> None:
        """Send our share."""
        agreement = exchange.agreement
        if agreement is None:
            raise ProtocolError("a key exchange without an agreement")
        exchange.initiation = METHODS[agreement.kex].initiate()
        self.outgoing.send(n.KEX_INIT, string(exchange.initiation.share))

    def ssh_KEX_REPLY(self, packet: bytes) -> None:
        """The server's share and signature; checked before they are used."""
        exchange = self.key_exchange.running()
        reader = Reader(packet)
        host_key, share, signature = reader.string(), reader.string(), reader.string()
        reader.end()
        self.hold()
        verified = maybeDeferred(self._verified_certificate, host_key)
        verified.addCallback(self._finish_exchange, exchange, share, signature)
        verified.addErrback(self._not_verified)

    def _verified_certificate(self, host_key: bytes) -> Deferred[Certificate]:
        certificate = parse_certificate(host_key)
        verified = self.verifyHostKey(host_key, certificate.key.fingerprint.encode("ascii"))
        return verified.addCallback(lambda _: certificate)

    def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Deferred[Any]:
        """Fire if the server with the certificate ``hostKey`` is the expected one."""
        if self._verifier is None:
            raise BadCertificate("no host verifier is set", "authority")
        certificate = parse_certificate(hostKey)
        moment = validity_date(self.clock, certificate.valid_after)
        self.host = self._verifier.verify(certificate, moment)
        return succeed(True)

    def _finish_exchange(
        self, certificate: Certificate, exchange: Exchange, share: bytes, signature: bytes
    ) -> None:
        if self.closing:
            return
        initiation, agreement = exchange.initiation, exchange.agreement
        if initiation is None or agreement is None:
            raise ProtocolError("a key exchange message before KEXINIT")
        algorithm = HOST_ALGORITHMS[agreement.host_key]
        if certificate.type != algorithm.blob_type:
            raise ProtocolError("the host key is not of the negotiated type", n.KEY_EXCHANGE_FAILED)
        shared = initiation.finish(share)
        transcript = exchange_transcript(
            **self.key_exchange.hash_inputs(),
            host_key=certificate.blob,
            client_share=initiation.share,
            server_share=share,
            secret=shared,
        )
        digest = exchange_hash(transcript)
        certificate.key.verify(signature, digest, (algorithm.signature,))
        self.key_exchange.keys_agreed(shared, digest, None)
        self.release()

    def _not_verified(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, TeleError):
            log.failure("host key check failed", failure)
        code = n.HOST_KEY_NOT_VERIFIABLE
        if isinstance(error, ProtocolError):
            code = error.disconnect_code
        self.failed(error if isinstance(error, TeleError) else PeerError("internal error"))
        self.sendDisconnect(code, b"host key verification failed")

    def keys_changed(self) -> None:
        """Call ``connectionSecure`` after the first key exchange."""
        if not self.isAuthenticated and self.service is None:
            self.connectionSecure()

    def extensions_received(self, extensions: Mapping[bytes, bytes]) -> None:
        """See :class:`Transport`."""
        self.peerExtensions = dict(extensions)

    def requestService(self, instance: Any) -> None:
        """Request a service; it starts when the server accepts."""
        self.instance = instance
        self.sendPacket(n.SERVICE_REQUEST, string(instance.name))

    def ssh_SERVICE_ACCEPT(self, packet: bytes) -> None:
        """Start the requested service."""
        if packet and Reader(packet).string() != self.instance.name:
            raise ProtocolError("the server accepted a service that was not requested")
        self.setService(self.instance)

    def failed(self, error: TeleError) -> None:
        """The connection failed before the login; for subclasses."""


class SSHUserAuthClient(conch_userauth.SSHUserAuthClient):
    """Logs in with a certificate: one signed request."""

    transport: SSHClientTransport

    def __init__(self, identity: ClientIdentity, instance: Any) -> None:
        super().__init__(identity.login.encode("utf-8"), instance)
        self._identity = identity
        self._banner = b""

    def serviceStarted(self) -> None:
        """Do nothing: the request is sent already, see :meth:`send_request`."""

    def send_request(self) -> None:
        """Send the request, right after the service request."""
        transport = self.transport
        session_id = transport.sessionID
        if session_id is None:
            raise ProtocolError("authentication before keys")
        payload = self._identity.sign_request(session_id, self.instance.name)
        transport.sendPacket(n.USERAUTH_REQUEST, payload)

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Handle a reply of the server."""
        match messageNum:
            case n.USERAUTH_SUCCESS:
                self.transport.authenticated()
                self.transport.setService(self.instance)
            case n.USERAUTH_FAILURE:
                self._refused()
            case n.USERAUTH_BANNER:
                text = Reader(packet).string()
                self._banner = (self._banner + text)[:BANNER_LIMIT]
            case _:
                raise ProtocolError(f"message {messageNum} during authentication")

    def _refused(self) -> None:
        banner = printable_lines(self._banner.decode("utf-8", "replace")).strip()
        login = quoted(self._identity.login)
        self.transport.failed(AccessDenied(banner or f"the server refuses the login {login}"))
        self.transport.sendDisconnect(n.NO_MORE_AUTH_METHODS, b"no more authentication methods")


class AwaitedTransport(SSHClientTransport):
    """A transport that fires a Deferred with the result of its login."""

    def __init__(
        self,
        clock: IReactorTime,
        verify_host: Verifier | None,
        connection: Callable[[], Any],
        limits: Limits | None,
    ) -> None:
        super().__init__(clock, verify_host, limits)
        self._connection = connection
        self._waiting: Deferred[Any] | None = Deferred(self._cancelled)

    def ready(self) -> Deferred[Any]:
        """Return a Deferred that fires with the connection service once it runs."""
        if self._waiting is None:
            raise RuntimeError("ready() may be called once")
        return self._waiting

    def setService(self, service: Any) -> None:
        """See :class:`Transport`; the second service is the connection."""
        super().setService(service)
        if self.isAuthenticated:
            waiting, self._waiting = self._waiting, None
            if waiting is not None:
                waiting.callback(service)

    def failed(self, error: TeleError) -> None:
        """See :class:`SSHClientTransport`."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(error)

    def sendDisconnect(self, reason: int, desc: bytes | str) -> None:
        """See :class:`Transport`."""
        text = desc.decode("utf-8", "replace") if isinstance(desc, bytes) else desc
        super().sendDisconnect(reason, desc)
        self.failed(PeerError(f"connection closed: {text}"))

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        """See :class:`Transport`."""
        self.failed(PeerError(f"the server closed the connection: {quoted(description)}"))

    def grace_over(self) -> None:
        """See :class:`Transport`."""
        self.failed(Unreachable("the server did not complete the login in time"))

    def connectionLost(self, reason: Failure | None = None) -> None:
        """See :class:`Transport`."""
        super().connectionLost(reason)
        self.failed(Unreachable("connection lost during the login"))

    def _cancelled(self, _: Deferred[Any]) -> None:
        self._waiting = None
        self.outgoing.link.abort()


class LoginTransport(AwaitedTransport):
    """A transport that logs in with one certificate of ours."""

    def __init__(
        self,
        clock: IReactorTime,
        verify_host: Verifier,
        identity: ClientIdentity,
        connection: Callable[[], Any],
        limits: Limits | None,
    ) -> None:
        super().__init__(clock, verify_host, connection, limits)
        self._identity = identity

    def connectionSecure(self) -> None:
        """Request authentication and log in, without waiting for the reply."""
        authentication = SSHUserAuthClient(self._identity, self._connection())
        authentication.transport = self
        self.requestService(authentication)
        authentication.send_request()


class One(Factory[AwaitedTransport]):
    """Returns the one protocol that it was given; logs nothing."""

    noisy = False

    def __init__(self, protocol: AwaitedTransport) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> AwaitedTransport:
        """Return it."""
        return self._protocol


def connect(
    reactor: IReactorTime,
    endpoint: IStreamClientEndpoint,
    *,
    verify_host: Verifier,
    identity: ClientIdentity,
    connection: Callable[[], Any] = SSHConnection,
    limits: Limits | None = None,
) -> Deferred[Any]:
    """Connect, check the host's certificate, and log in with ours.

    Fires with the connection service that ``connection`` made (its ``transport`` is the
    :class:`SSHClientTransport`). Fails with :class:`Unreachable`, :class:`BadCertificate`
    (not the expected host), :class:`AccessDenied` or :class:`PeerError`. With an endpoint over
    :class:`tele.sockets.direct.DirectReactor` data is not copied by Twisted.
    """

    async def log_in() -> Any:
        transport = LoginTransport(reactor, verify_host, identity, connection, limits)
        ready = transport.ready()
        try:
            await endpoint.connect(One(transport))
        except TeleError:
            raise
        except Exception as error:
            raise Unreachable(f"cannot connect: {error}") from error
        return await ready

    return Deferred.fromCoroutine(log_in())
