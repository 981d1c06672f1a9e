"""How do the checkers of a Conch program let somebody in (passwords, plain keys)?

For programs with a portal of their own (:class:`tele.conch.conch_factory.SSHFactory`), never
for a node or proxy of tele, which know certificates only. Conch's points of extension are
kept: ``interfaceToMethod``, ``supportedAuthentications``, ``tryAuth`` and methods
``auth_<name>(data)`` that return a Deferred of what ``Portal.login`` returns.

Invariants:

* A method is offered only if the program's portal has a checker for it, or the program
  says so itself.
* A signature is verified here, by our rules, before a checker is asked; what a checker says
  of a key without a signature never lets anybody in.
* A password is in no log, audit or error.
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

#: Failures that are a plain no; all others are mistakes of the program.
_NO = (UnauthorizedLogin, ConchError, TeleError, CancelledError)


class PortalUserAuthServer(SSHUserAuthServer):
    """The authentication service of a Conch program's server."""

    interfaceToMethod = conch.SSHUserAuthServer.interfaceToMethod
    #: Seconds before a wrong password is answered.
    passwordDelay = 1
    #: Where time comes from; the transport's clock if it is None.
    clock: Any = None
    user = b""
    nextService = b""
    method = b""
    _packet = b""
    _question = False
    _waiting: Deferred[Any] | None = None
    _takes_certificates = False

    def serviceStarted(self) -> None:
        """Look which methods the portal has checkers for."""
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
        """The connection ends, or authentication did."""
        super().serviceStopped()
        self._packet = b""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def ssh_USERAUTH_REQUEST(self, packet: bytes) -> Deferred[Any]:
        """One request to log in; fires when it is answered."""
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
        self.method, self._packet, self._question = method, packet, False
        self.transport.hold()
        kind = PUBLICKEY if method == HOSTBOUND else method
        trying = maybeDeferred(self.tryAuth, kind, self.user, data)
        trying.addCallback(self._admitted)
        trying.addErrback(self._not_let_in, login)
        trying.addErrback(self._failed)
        return trying

    def tryAuth(self, kind: bytes, user: bytes, data: bytes) -> Deferred[Any]:
        """Ask the method ``auth_<kind>``; ``data`` is the request's part for it."""
        if kind not in self.supportedAuthentications:
            return fail(ConchError("this method is not offered"))
        name = kind.decode("ascii").replace("-", "_")
        method = getattr(self, f"auth_{name}", None)
        answer = None if method is None else method(data)
        if answer is None:
            return fail(ConchError("this method is offered and not there"))
        asked: Deferred[Any] = answer
        return asked

    # -- methods ----------------------------------------------------------------------
    def auth_publickey(self, packet: bytes) -> Deferred[Any]:
        """A plain key, or the question whether it would do."""
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
            self._question = True
            return self._would_do(request)
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

    def _would_do(self, request: KeyRequest) -> Deferred[Any]:
        """Ask about a key that has not proved anything yet."""
        asked = self._log_in(SSHPrivateKey(self.user, request.algorithm, request.blob, None, None))
        return asked.addCallbacks(self._let_in_for_nothing, self._key_known, errbackArgs=(request,))

    def _let_in_for_nothing(self, result: tuple[Any, Any, Any]) -> None:
        result[2]()
        log.error("a checker accepts keys without a signature; nobody was let in")
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
            return fail(UnauthorizedLogin("passwords are not changed here"))
        reader.end()
        asked = self._log_in(UsernamePassword(self.user, password))
        return asked.addErrback(self._later)

    def _later(self, failure: Failure) -> Deferred[Any] | Failure:
        """Make whoever guesses passwords wait."""
        if not self.passwordDelay:
            return failure
        clock = self.clock or self.transport.clock
        self._waiting = deferLater(clock, self.passwordDelay, lambda: failure)
        return self._waiting

    def _log_in(self, credentials: Any) -> Deferred[Any]:
        return maybeDeferred(self.portal.login, credentials, None, IConchUser)

    # -- answers ----------------------------------------------------------------------
    def _next_service(self, result: tuple[Any, Any, Any]) -> Any:
        """Return what the program's factory has for the service that the client wants."""
        transport = self.transport
        _, transport.avatar, log_out = result  # Conch's factories look at the avatar
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

    def _not_let_in(self, failure: Failure, login: str) -> Failure | None:
        transport, error = self.transport, failure.value
        self._waiting = None
        self._packet = b""
        if isinstance(error, ProtocolError) or transport.isAuthenticated:
            return failure  # the peer's mistake, or the next service's
        if isinstance(error, IgnoreAuthentication):  # the method has answered
            transport.release()
            return None
        if isinstance(error, NotEnoughAuthentication) and not transport.closing:
            self._count_query()
            self._send_failure(partial=True)
            transport.release()
            return None
        if not isinstance(error, _NO):
            log.failure("nobody could decide about {login!r}", failure, login=login)
        reason = error.reason if isinstance(error, AccessDenied | BadCertificate) else "checker"
        attempt = self._denied(login, self.method, reason, "not let in")
        if transport.closing:
            transport.factory.on_denied(attempt)
            return None
        (self._ask if self._question else self._refuse)(attempt)
        transport.release()
        return None
