"""How do the checkers of a Conch program authenticate clients (passwords, plain keys)?

For programs with a portal of their own (:class:`tele.conch.compat.server.SSHFactory`), never for a
node or proxy of tele, which accept certificates only. Conch's points of extension are
the same: ``interfaceToMethod``, ``supportedAuthentications``, ``tryAuth`` and methods
``auth_<name>(data)`` that return a Deferred of what ``Portal.login`` returns.

Invariants:

* A method is offered only if the program's portal has a checker for it, or the program lists it.
* A signature is verified here, by our rules, before a checker is asked. No checker can authenticate
  a client by a key without a signature.
* A password is in no log, audit event or error.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from twisted.conch.error import (
    ConchError,
    IgnoreAuthentication,
    NotEnoughAuthentication,
    ValidPublicKey,
)
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh import keys
from twisted.conch.ssh import userauth as conch
from twisted.cred.credentials import SSHPrivateKey, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tele.certs.algorithms import PLAIN_ALGORITHMS, USER_ALGORITHMS
from tele.certs.keys import parse_public_key
from tele.conch.server.credentials import ICertificateCredentials
from tele.conch.server.userauth import (
    HOSTBOUND,
    PUBLICKEY,
    KeyRequest,
    SSHUserAuthServer,
    read_key_request,
    read_login,
)
from tele.errors import AccessDenied, BadCertificate, ProtocolError, TeleError
from tele.log import make_logger
from tele.wire import numbers as n
from tele.wire.fields import Reader, string

log = make_logger(__name__)

PASSWORD_LIMIT = 4096

#: Failures that are a refusal; all others are errors of the program.
_REFUSALS = (UnauthorizedLogin, ConchError, TeleError, CancelledError)


class PortalUserAuthServer(SSHUserAuthServer):
    """The authentication service of a Conch program's server."""

    interfaceToMethod = conch.SSHUserAuthServer.interfaceToMethod
    #: Seconds before a wrong password is answered.
    passwordDelay = 1
    #: The clock of delays; None is the transport's.
    clock: Any = None
    user = b""
    nextService = b""
    method = b""
    _packet = b""
    _is_query = False
    _waiting: Deferred[Any] | None = None
    _takes_certificates = False

    def serviceStarted(self) -> None:
        """Offer the methods that the portal has checkers for."""
        super().serviceStarted()
        interfaces = list(self.portal.listCredentialsInterfaces())
        self._takes_certificates = ICertificateCredentials in interfaces
        methods = {self.interfaceToMethod[i] for i in interfaces if i in self.interfaceToMethod}
        if self._takes_certificates:
            methods.add(PUBLICKEY)
        if not self.transport.isEncrypted("in"):
            methods.discard(b"password")
        self.supportedAuthentications = sorted(methods, reverse=True)

    def serviceStopped(self) -> None:
        """The connection or the authentication ended."""
        super().serviceStopped()
        self._packet = b""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def ssh_USERAUTH_REQUEST(self, packet: bytes) -> Deferred[Any]:
        """Handle one authentication request; fires when it is answered."""
        login, service, method, data = read_login(packet)
        if method == b"none":
            self._none(login)
            return succeed(None)
        if self._takes_certificates and method in (PUBLICKEY, HOSTBOUND):
            request = read_key_request(packet)
            if request.algorithm in USER_ALGORITHMS:
                self.nextService = service
                self._key_offered(request)
                return succeed(None)
        self.user, self.nextService = login.encode("utf-8"), service
        self.method, self._packet, self._is_query = method, packet, False
        self.transport.hold()
        kind = PUBLICKEY if method == HOSTBOUND else method
        attempt = maybeDeferred(self.tryAuth, kind, self.user, data)
        attempt.addCallback(self._admitted)
        attempt.addErrback(self._refused, login)
        attempt.addErrback(self._failed)
        return attempt

    def tryAuth(self, kind: bytes, user: bytes, data: bytes) -> Deferred[Any]:
        """Call the method ``auth_<kind>``; ``data`` is its part of the request."""
        if kind not in self.supportedAuthentications:
            return fail(ConchError("this method is not offered"))
        name = kind.decode("ascii").replace("-", "_")
        method = getattr(self, f"auth_{name}", None)
        answer = None if method is None else method(data)
        if answer is None:
            return fail(ConchError("this method is offered and not implemented"))
        deferred: Deferred[Any] = answer
        return deferred

    # -- methods ----------------------------------------------------------------------
    def auth_publickey(self, packet: bytes) -> Deferred[Any]:
        """A plain key, or the query whether it would be accepted."""
        request = read_key_request(self._packet)
        algorithm = PLAIN_ALGORITHMS.get(request.algorithm)
        if algorithm is None:
            raise BadCertificate("an algorithm that is not offered", "algorithm")
        if request.host_key is not None and request.host_key != self.transport.first_host_key:
            raise BadCertificate("the login is bound to another host", "host_bound")
        key = parse_public_key(request.blob)
        if key.type != algorithm.blob_type:
            raise BadCertificate("the key is not of the algorithm's kind", "key")
        if request.signature is None:
            self._is_query = True
            return self._query(request)
        session_id = self.transport.sessionID
        if session_id is None:
            raise ProtocolError("authentication before keys")
        signed = string(session_id) + request.signed
        key.verify(request.signature, signed, (algorithm.signature,))
        known = keys.Key.fromString(request.blob)
        if known.isSecurityKey():
            signed = conch.SSHUserAuthServer._wrapMessageWithSKMetadata(
                request.signature, signed, known.application
            )
        return self._log_in(
            SSHPrivateKey(self.user, request.algorithm, request.blob, signed, request.signature)
        )

    def _query(self, request: KeyRequest) -> Deferred[Any]:
        """Ask the checkers about a key without a signature."""
        query = self._log_in(SSHPrivateKey(self.user, request.algorithm, request.blob, None, None))
        return query.addCallbacks(self._unsigned_accepted, self._key_known, errbackArgs=(request,))

    def _unsigned_accepted(self, result: tuple[Any, Any, Any]) -> None:
        result[2]()
        log.error("login refused: the checker accepts a key without a signature", user=self.user)
        raise UnauthorizedLogin("no signature")

    def _key_known(self, failure: Failure, request: KeyRequest) -> Failure:
        if not failure.check(ValidPublicKey):
            return failure
        self._count_query()
        answer = string(request.algorithm) + string(request.blob)
        self.transport.sendPacket(n.USERAUTH_PK_OK, answer)
        return Failure(IgnoreAuthentication())

    def auth_password(self, packet: bytes) -> Deferred[Any]:
        """A password."""
        reader = Reader(packet)
        change, password = reader.boolean(), reader.string(PASSWORD_LIMIT)
        if change:
            return fail(UnauthorizedLogin("passwords cannot be changed"))
        reader.end()
        attempt = self._log_in(UsernamePassword(self.user, password))
        return attempt.addErrback(self._delay)

    def _delay(self, failure: Failure) -> Deferred[Any] | Failure:
        """Delay the answer to a wrong password, against guessing."""
        if not self.passwordDelay:
            return failure
        clock = self.clock or self.transport.clock
        self._waiting = deferLater(clock, self.passwordDelay, lambda: failure)
        return self._waiting

    def _log_in(self, credentials: Any) -> Deferred[Any]:
        return maybeDeferred(self.portal.login, credentials, None, IConchUser)

    # -- answers ----------------------------------------------------------------------
    def _next_service(self, result: tuple[Any, Any, Any]) -> Any:
        """Return what the program's factory has for the service that the client requests."""
        transport = self.transport
        _, transport.avatar, log_out = result  # Conch's factories read the avatar
        make = None
        try:
            with suppress(KeyError):
                make = transport.factory.getService(transport, self.nextService)
        finally:
            if make is None:
                del transport.avatar
                log_out()
        if make is None:
            raise ConchError("there is no such service")
        return make

    def _refused(self, failure: Failure, login: str) -> Failure | None:
        transport, error = self.transport, failure.value
        self._waiting = None
        self._packet = b""
        if isinstance(error, ProtocolError) or transport.isAuthenticated:
            return failure  # an error of the peer's, or of the next service
        if isinstance(error, IgnoreAuthentication):  # the method has answered
            transport.release()
            return None
        if isinstance(error, NotEnoughAuthentication) and not transport.closing:
            self._count_query()
            self._send_failure(partial=True)
            transport.release()
            return None
        if not isinstance(error, _REFUSALS):
            log.failure("checker failed", failure, login=login)
        reason = error.reason if isinstance(error, AccessDenied | BadCertificate) else "checker"
        attempt = self._denied(login, self.method, reason, "authentication failed")
        if transport.closing:
            transport.factory.on_denied(attempt)
            return None
        (self._ask if self._is_query else self._refuse)(attempt)
        transport.release()
        return None
