"""Which user or host is the client, and may it log in (RFC 4252)?

Certificates only: methods ``publickey`` and ``publickey-hostbound-v00@openssh.com``
(OpenSSH PROTOCOL, section 3.1) with a certificate of a trusted authority.

Invariants:

* One request at a time: no message is handled while the realm decides.
* An unsigned query gets all checks of a signed request but the realm's.
* Every request is counted. A refused one is reported to ``on_denied``; a ``none`` request or a key
  of another cluster only if no other request followed it.
* All refusals look the same. The reason goes to the audit, and to the client only after it has
  proved who it is.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh import userauth as conch
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.admission.penalties import Fault
from tele.certs.algorithms import USER_ALGORITHMS
from tele.certs.certificate import Certificate, CertKind, parse_certificate
from tele.certs.check import check_member, check_user, is_genuine
from tele.certs.login_proof import LoginProof
from tele.conch.connection.refusals import terminal_lines
from tele.conch.server.credentials import (
    CertificateCredentials,
    DeniedAttempt,
    ICertificateCredentials,
    MemberCredentials,
    Trust,
)
from tele.conch.server.transport import SSHServerTransport
from tele.errors import AccessDenied, BadCertificate, ProtocolError, TeleError, quoted
from tele.log import make_logger
from tele.loop import validity_date
from tele.model.identity import HostRole
from tele.model.joining import joined_session
from tele.wire import numbers as n
from tele.wire.fields import Reader, boolean, name_list, string

log = make_logger(__name__)

CONNECTION = b"ssh-connection"
PUBLICKEY = b"publickey"
HOSTBOUND = b"publickey-hostbound-v00@openssh.com"
LOGIN_LIMIT = 256
BANNER_LIMIT = 2048
#: Reasons of keys of other clusters: an agent offers all of its keys. No signature is verified
#: for them.
_FOREIGN = frozenset({"not_a_certificate", "authority"})
_HINT = (
    "without a certificate of this cluster were offered; offer only the right one: use tele ssh, or"
    " IdentitiesOnly=yes with IdentityFile and CertificateFile"
)


@frozen
class KeyRequest:
    """A request to log in with a key. ``signature`` is None in a query.

    ``signed`` is what the signature covers, after the session id.
    """

    login: str
    method: bytes
    algorithm: bytes
    blob: bytes
    host_key: bytes | None
    signature: bytes | None
    signed: bytes


def read_key_request(packet: bytes) -> KeyRequest:
    """Read a USERAUTH_REQUEST of one of the two methods with keys."""
    reader = Reader(packet)
    user, service, method = reader.string(), reader.string(), reader.string()
    has_signature = reader.boolean()
    algorithm, blob = reader.string(), reader.string()
    host_key = reader.string() if method == HOSTBOUND else None
    signature = reader.string() if has_signature else None
    reader.end()
    signed = (
        bytes((n.USERAUTH_REQUEST,))
        + string(user)
        + string(service)
        + string(method)
        + boolean(True)
        + string(algorithm)
        + string(blob)
        + (b"" if host_key is None else string(host_key))
    )
    return KeyRequest(_text(user), method, algorithm, blob, host_key, signature, signed)


def read_login(packet: bytes) -> tuple[str, bytes, bytes, bytes]:
    """Read any USERAUTH_REQUEST: login, service, method, and the fields of the method."""
    reader = Reader(packet)
    return _text(reader.string()), reader.string(), reader.string(), reader.rest()


def _text(user: bytes) -> str:
    try:
        login = user.decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("a login name is not UTF-8") from None
    if len(login) > LOGIN_LIMIT or not login.isprintable():
        raise ProtocolError("a login name is not printable")
    return login


class SSHUserAuthServer(conch.SSHUserAuthServer):
    """The authentication service of one connection."""

    transport: SSHServerTransport
    #: The methods that can continue, in USERAUTH_FAILURE.
    supportedAuthentications = [PUBLICKEY]

    def serviceStarted(self) -> None:
        """Start counting."""
        self.portal = self.transport.factory.portal
        self._attempts = 0
        self._queries = 0
        self._foreign_keys = 0
        self._greeted = False
        self._unreported: DeniedAttempt | None = None

    def serviceStopped(self) -> None:
        """The connection is closed, or authentication succeeded."""
        unreported, self._unreported = self._unreported, None
        if unreported is not None and not self.transport.isAuthenticated:
            self.transport.factory.on_denied(unreported)

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """The message filter admits only requests here."""
        if messageNum != n.USERAUTH_REQUEST:
            raise ProtocolError(f"message {messageNum} during authentication")
        self.ssh_USERAUTH_REQUEST(packet)

    def ssh_USERAUTH_REQUEST(self, packet: bytes) -> Deferred[Any] | None:
        """One request to log in."""
        login, service, method, _ = read_login(packet)
        if service != CONNECTION:
            raise ProtocolError(
                f"service {quoted(service)} is not available", n.SERVICE_NOT_AVAILABLE
            )
        if not self._greeted:
            self._greeted = True
            if banner := self.transport.factory.banner(self.transport):
                self._send_banner(banner.rstrip("\n"))
        if method == b"none":
            self._none(login)
        elif method in (PUBLICKEY, HOSTBOUND):
            self._key_offered(read_key_request(packet))
        else:
            self._refuse(
                self._denied(login, method, "method", f"method {quoted(method)} is not offered")
            )
        return None

    # -- counting ---------------------------------------------------------------------
    def _none(self, login: str) -> None:
        """The client asks which methods can continue (RFC 4252, section 5.2)."""
        message = "the client offered no key"
        self._ask(self._unreported or self._denied(login, b"none", "no_certificate", message))

    def _ask(self, unreported: DeniedAttempt) -> None:
        """Refuse a query; it is reported only if no other request follows."""
        self._unreported = unreported
        self._count_query()
        self._send_failure()

    def _count_query(self) -> None:
        self._queries += 1
        if self._queries > self.transport.limits.queries:
            raise ProtocolError(
                f"too many queries: {self._queries - 1} without a login",
                n.NO_MORE_AUTH_METHODS,
            )

    def _skip_key(self, offered: DeniedAttempt, signed: bool) -> None:
        """Refuse a key of another cluster: the right one may follow. No signature was verified, and
        it is reported only if no other request follows.
        """
        self._unreported = offered
        self._foreign_keys += 1
        if signed:
            self.transport.fault = Fault.AUTHFAIL
        if self._foreign_keys > self.transport.limits.foreign_keys:
            raise ProtocolError(
                f"too many authentication failures: {self._foreign_keys - 1} keys {_HINT}",
                n.NO_MORE_AUTH_METHODS,
            )
        self._send_failure()

    def _refuse(self, attempt: DeniedAttempt, proven: bool = False) -> None:
        """Refuse an attempt, and report it. ``proven``: the client proved who it is."""
        self._attempts += 1
        self.transport.fault = None if proven else Fault.AUTHFAIL
        self._unreported = None
        self.transport.factory.on_denied(attempt)
        if self._attempts >= self.transport.limits.attempts:
            text = f"too many authentication failures: {self._attempts} attempts were refused"
            if self._foreign_keys:
                text = f"{text}, and {self._foreign_keys} keys {_HINT}"
            raise ProtocolError(text, n.NO_MORE_AUTH_METHODS)
        self._send_failure()

    def _send_failure(self, partial: bool = False) -> None:
        methods = name_list(self.supportedAuthentications)
        self.transport.sendPacket(n.USERAUTH_FAILURE, methods + boolean(partial))

    # -- checking ---------------------------------------------------------------------
    def _key_offered(self, request: KeyRequest) -> None:
        certificate: Certificate | None = None
        try:
            algorithm = USER_ALGORITHMS.get(request.algorithm)
            if algorithm is None:
                raise BadCertificate(
                    f"a key of type {quoted(request.algorithm)} is not a certificate",
                    "not_a_certificate",
                )
            certificate = parse_certificate(request.blob)
            credentials = self._check(request, certificate)
        except BadCertificate as error:
            attempt = self._denied_certificate(request, certificate, error.reason, str(error))
            if error.reason in _FOREIGN:
                self._skip_key(attempt, signed=request.signature is not None)
                return
            if error.reason == "validity" and certificate is not None:
                self._explain_validity(certificate, error)
            self._refuse(attempt)
            return
        if request.signature is None:
            self._unreported = None
            self._count_query()
            self.transport.sendPacket(
                n.USERAUTH_PK_OK, string(request.algorithm) + string(request.blob)
            )
            return
        self._decide(request, certificate, credentials)

    def _check(self, request: KeyRequest, certificate: Certificate) -> ICertificateCredentials:
        """Return the identity of the certificate. Raises :class:`BadCertificate`."""
        transport = self.transport
        if request.host_key is not None and request.host_key != transport.first_host_key:
            raise BadCertificate("the login is bound to another host", "host_bound")
        if certificate.kind is CertKind.HOST and transport.factory.host_trust is not None:
            trust = transport.factory.host_trust()
            return self._check_member(request, certificate, trust)
        return self._check_user(request, certificate)

    def _check_user(self, request: KeyRequest, certificate: Certificate) -> CertificateCredentials:
        transport = self.transport
        factory = transport.factory
        trust = factory.user_trust()
        checked = check_user(
            certificate,
            request.algorithm,
            trust.authorities,
            request.login if factory.match_login and not joined_session(request.login) else None,
            transport.remote_addr()[0],
            validity_date(transport.clock, certificate.valid_after),
            trust.cluster,
        )
        self._check_signature(request, certificate, checked.verify_required)
        return CertificateCredentials(
            checked,
            request.login,
            certificate,
            transport.remote_addr(),
            transport.local_addr(),
            self._proof(request),
        )

    def _proof(self, request: KeyRequest) -> LoginProof | None:
        exchange = self.transport.sessionID
        if request.signature is None or exchange is None:
            return None
        transcript = self.transport.transcript if request.host_key is None else b""
        return LoginProof(exchange, request.signed, request.signature, transcript)

    def _check_member(
        self, request: KeyRequest, certificate: Certificate, trust: Trust
    ) -> MemberCredentials:
        """A host logs in under its id, with its host certificate."""
        transport = self.transport
        if USER_ALGORITHMS[request.algorithm].blob_type != certificate.type:
            raise BadCertificate(
                f"{quoted(request.algorithm)} is not allowed for this key", "algorithm"
            )
        checked = check_member(
            certificate,
            trust.authorities,
            trust.cluster,
            tuple(HostRole),
            validity_date(transport.clock, certificate.valid_after),
        )
        identity = checked.identity
        if identity is None or identity.host_id != request.login:
            raise BadCertificate(
                f"the certificate is not for login {quoted(request.login)}", "principal"
            )
        self._check_signature(request, certificate, False)
        return MemberCredentials(
            identity, certificate, transport.remote_addr(), transport.local_addr()
        )

    def _check_signature(
        self, request: KeyRequest, certificate: Certificate, verify_required: bool
    ) -> None:
        if request.signature is None:
            return
        session_id = self.transport.sessionID
        if session_id is None:
            raise ProtocolError("authentication before keys")
        certificate.key.verify(
            request.signature,
            string(session_id) + request.signed,
            (USER_ALGORITHMS[request.algorithm].signature,),
            user_verified=verify_required,
        )

    # -- deciding ---------------------------------------------------------------------
    def _decide(
        self, request: KeyRequest, certificate: Certificate, credentials: ICertificateCredentials
    ) -> None:
        transport = self.transport
        transport.hold()
        decision: Deferred[Any] = self.portal.login(credentials, None, IConchUser)
        decision.addCallbacks(
            self._admitted,
            self._not_admitted,
            callbackArgs=(isinstance(credentials, MemberCredentials),),
            errbackArgs=(request, certificate),
        )
        decision.addErrback(self._failed)

    def _admitted(self, result: tuple[Any, Any, Any], member: bool = False) -> None:
        _, avatar, logout = result
        transport = self.transport
        if member:
            transport.factory.admission.member_entered(transport.remote_addr()[0])
        if transport.closing:
            logout()
            return
        connection = self._next_service(result)
        transport.avatar = avatar
        transport.logoutFunction = logout
        transport.authenticated()
        transport.sendPacket(n.USERAUTH_SUCCESS, b"")
        transport.setService(connection())
        transport.release()

    def _next_service(self, result: tuple[Any, Any, Any]) -> Any:
        """Return what makes the next service."""
        return self.transport.factory.getService(self.transport, CONNECTION, admitted=True)

    def _not_admitted(
        self, failure: Failure, request: KeyRequest, certificate: Certificate
    ) -> None:
        error = failure.value
        reason = error.reason if isinstance(error, AccessDenied) else "unavailable"
        message = str(error) if isinstance(error, TeleError) else "the server could not decide"
        if not isinstance(error, TeleError):
            log.failure("login could not be decided", failure, login=request.login)
        transport = self.transport
        attempt = self._denied_certificate(request, certificate, reason, message)
        if transport.closing:
            transport.factory.on_denied(attempt)
            return
        self._send_banner(message)
        self._refuse(attempt, proven=True)
        transport.release()

    def _failed(self, failure: Failure) -> None:
        """Handling the decision raised: close the connection."""
        error = failure.value
        if isinstance(error, ProtocolError):
            self.transport.sendDisconnect(error.disconnect_code, str(error))
            return
        log.failure("login failed", failure)
        self.transport.sendDisconnect(n.BY_APPLICATION, b"internal error")

    # -- reporting ----------------------------------------------------------------------
    def _explain_validity(self, certificate: Certificate, error: BadCertificate) -> None:
        """Send what is wrong with the dates of a certificate of this cluster, and of no other."""
        if is_genuine(certificate, self.transport.factory.user_trust().authorities):
            self._send_banner(f"this server does not accept the certificate: {error}")

    def _send_banner(self, message: str) -> None:
        """Have the client show a text, such as why the login is refused."""
        self.transport.sendPacket(
            n.USERAUTH_BANNER, string(terminal_lines(message, BANNER_LIMIT)) + string(b"")
        )

    def _denied(self, login: str, method: bytes, reason: str, message: str) -> DeniedAttempt:
        shown = method.decode("ascii", "backslashreplace")[:LOGIN_LIMIT]
        return DeniedAttempt(login, self.transport.remote_addr(), shown, reason, message)

    def _denied_certificate(
        self, request: KeyRequest, certificate: Certificate | None, reason: str, message: str
    ) -> DeniedAttempt:
        attempt = self._denied(request.login, request.method, reason, message)
        if certificate is None:
            return attempt
        return evolve(
            attempt,
            key_id=certificate.key_id,
            serial=certificate.serial,
            fingerprint=certificate.key.fingerprint,
        )
