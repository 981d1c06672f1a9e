"""How does a proxy log in to a target for a user?

Invariants:

* Nothing of the user's is sent to a target that has not proved itself, unless the cluster's host
  keys are not checked.
* Each step has a time limit. The error names the target, the step that failed, and what to check.
* :func:`connect_target` ends in exactly one of a connection service and an error of ours; when it
  is cancelled, the connection ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, Protocol

from attrs import Factory, evolve, frozen
from twisted.conch.ssh import userauth as conch_userauth
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure

from tele.admission.limits import Limits, RekeyPace
from tele.certs.algorithms import HOST_ALGORITHMS
from tele.certs.certificate import Certificate
from tele.conch.client.host_keys import PlainHostKey, parse_host_key
from tele.conch.client.target_connection import TargetConnection
from tele.conch.client.transport import BANNER_LIMIT, AwaitedTransport, One, Verifier
from tele.errors import (
    AccessDenied,
    BadCertificate,
    PeerError,
    ProtocolError,
    TeleError,
    Unavailable,
    Unreachable,
)
from tele.log import make_logger
from tele.loop import validity_date
from tele.sockets.tcp import connect_problem
from tele.text import printable_lines
from tele.wire import numbers as n
from tele.wire.fields import Reader

log = make_logger(__name__)


class Step(Enum):
    """Where a login to a target is. The value says what failed."""

    CONNECT = "cannot connect to {}"
    KEY_EXCHANGE = "{} does not complete the SSH key exchange"
    LOGIN = "{} does not complete the login"


#: Seconds that each step may take. An agent's user may have to confirm the signature.
SECONDS: Final = {Step.CONNECT: 15.0, Step.KEY_EXCHANGE: 15.0, Step.LOGIN: 75.0}


class LoginIdentity(Protocol):
    """Signs a login: with a key that we have, or that an agent has."""

    def sign_request(self, session_id: bytes, service: bytes) -> bytes | Deferred[bytes]:
        """Return the payload of a signed USERAUTH_REQUEST."""


@frozen
class TargetLogin:
    """A login to the target ``name``, as ``login``, with one of ``identities``.

    ``verifier`` None: the host key is not checked. ``advice`` is for the user whose certificate is
    not accepted. Key exchanges that the target starts count for ``user``, by ``pace``.
    """

    name: str
    login: str
    verifier: Verifier | None
    identities: Sequence[LoginIdentity]
    advice: str = "is TrustedUserCAKeys set in its sshd_config, and may this login log in there?"
    connection: Callable[[], Any] = TargetConnection
    limits: Limits = Factory(Limits)
    user: str = ""
    pace: RekeyPace | None = None


class TargetUserAuth(conch_userauth.SSHUserAuthClient):
    """Logs in with certificates: one signed request for each, the next one when it is refused."""

    transport: TargetTransport

    def __init__(self, login: TargetLogin, instance: Any) -> None:
        super().__init__(login.login.encode("utf-8"), instance)
        self._login = login
        self._left = list(login.identities)
        self._banner = b""

    def serviceStarted(self) -> None:
        """Do nothing: the request is sent already, see :meth:`send_request`."""

    def send_request(self) -> None:
        """Sign and send the next request; the first one right after the service request."""
        session_id = self.transport.sessionID
        if session_id is None:
            raise ProtocolError("authentication before keys")
        if not self._left:
            self._denied(self._login.advice)
            return
        identity = self._left.pop(0)
        signing = maybeDeferred(identity.sign_request, session_id, self.instance.name)
        signing.addCallbacks(self._signed, self._not_signed)

    def _signed(self, payload: bytes) -> None:
        self.transport.sendPacket(n.USERAUTH_REQUEST, payload)

    def _not_signed(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, TeleError):
            log.failure("login not signed", failure)
            error = PeerError("internal error")
        self.transport.failed(error)
        self.transport.sendDisconnect(n.NO_MORE_AUTH_METHODS, b"no signature")

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Handle a reply of the target."""
        match messageNum:
            case n.USERAUTH_SUCCESS:
                self.transport.authenticated()
                self.transport.setService(self.instance)
            case n.USERAUTH_FAILURE:
                self._refused(packet)
            case n.USERAUTH_BANNER:
                text = Reader(packet).string()
                self._banner = (self._banner + text)[:BANNER_LIMIT]
            case _:
                raise ProtocolError(f"message {messageNum} during authentication")

    def _refused(self, packet: bytes) -> None:
        reader = Reader(packet)
        methods, partial = reader.name_list(), reader.boolean()
        reader.end()
        if partial:
            more = printable_lines(b", ".join(methods[:8]).decode("ascii", "replace"))
            self._denied(f"it wants more than that: {more} (AuthenticationMethods)")
        else:
            self.send_request()

    def _denied(self, advice: str) -> None:
        login, name = self._login.login, self._login.name
        text = f"{name} does not accept the certificate for login {login!r}: {advice}"
        banner = printable_lines(self._banner.decode("utf-8", "replace")).strip()
        if banner:
            text += f"\n{name} says: {banner}"
        self.transport.failed(AccessDenied(text))
        self.transport.sendDisconnect(n.NO_MORE_AUTH_METHODS, b"no more authentication methods")


class TargetHostTransport(AwaitedTransport):
    """A transport to a target, which has to have a host certificate.

    A plain host key is taken only to be refused with the reason: without it no algorithm would be
    common, which says less.
    """

    #: ``SHA256:...`` of the host key that the target proved.
    host_fingerprint = ""

    def host_key_algorithms(self) -> tuple[bytes, ...]:
        """See :class:`Transport`: a plain key is last, to be refused with the reason."""
        return tuple(HOST_ALGORITHMS)

    def _verified_certificate(self, host_key: bytes) -> Deferred[Any]:
        return maybeDeferred(self._checked, parse_host_key(host_key))

    def _checked(self, shown: Certificate | PlainHostKey) -> Any:
        if self._verifier is not None:
            if isinstance(shown, PlainHostKey):
                raise BadCertificate(
                    "it has no host certificate: sign its key with 'tele ca sign-host', and set"
                    " HostCertificate in its sshd_config",
                    "kind",
                )
            moment = validity_date(self.clock, shown.valid_after)
            self.host = self._verifier.verify(shown, moment)
        if self.host_fingerprint not in ("", shown.key.fingerprint):
            raise ProtocolError("another host key than before", n.HOST_KEY_NOT_VERIFIABLE)
        self.host_fingerprint = shown.key.fingerprint
        return shown


class TargetTransport(TargetHostTransport):
    """A transport that logs in to a target."""

    def __init__(self, clock: IReactorTime, login: TargetLogin) -> None:
        # The steps have their own limits.
        limits = evolve(login.limits, login_grace=sum(SECONDS.values()))
        super().__init__(clock, login.verifier, login.connection, limits)
        self._login = login
        self.rekey_pace = login.pace
        self._step = Step.KEY_EXCHANGE
        self._step_timer: IDelayedCall | None = None
        self._error: TeleError | None = None

    # -- steps ------------------------------------------------------------------------
    def connectionMade(self) -> None:
        """See :class:`Transport`."""
        super().connectionMade()
        self._begin(Step.KEY_EXCHANGE)

    def _begin(self, step: Step) -> None:
        self._stop_step()
        self._step = step
        self._step_timer = self.clock.callLater(SECONDS[step], self._step_is_late)

    def _stop_step(self) -> None:
        timer, self._step_timer = self._step_timer, None
        if timer is not None:
            timer.cancel()

    def _step_is_late(self) -> None:
        self._step_timer = None
        self.failed(Unreachable(f"no answer in {SECONDS[self._step]:.0f} seconds"))
        self._abort()

    def rekey_source(self) -> str:
        """See :class:`Transport`."""
        return self._login.user

    # -- the login --------------------------------------------------------------------
    def connectionSecure(self) -> None:
        """Request authentication and log in, without waiting for the reply."""
        self._begin(Step.LOGIN)
        authentication = TargetUserAuth(self._login, self._connection())
        authentication.transport = self
        self.requestService(authentication)
        authentication.send_request()

    def setService(self, service: Any) -> None:
        """See :class:`AwaitedTransport`."""
        if self.isAuthenticated:
            self._stop_step()
        super().setService(service)

    def failed(self, error: TeleError) -> None:
        """See :class:`AwaitedTransport`."""
        self._stop_step()
        super().failed(self._explained(error))

    def _explained(self, error: TeleError) -> TeleError:
        name = self._login.name
        if isinstance(error, AccessDenied | Unavailable):
            return error  # not the target's fault
        if isinstance(error, BadCertificate):
            return BadCertificate(f"the host key of {name} is refused: {error}", error.reason)
        kind = Unreachable if isinstance(error, Unreachable) else PeerError
        return kind(f"{self._step.value.format(name)}: {error}")

    def connectionLost(self, reason: Failure | None = None) -> None:
        """See :class:`AwaitedTransport`."""
        self._stop_step()
        super().connectionLost(reason)

    def _cancelled(self, waiting: Deferred[Any]) -> None:
        self._stop_step()
        super()._cancelled(waiting)


def connect_target(
    reactor: IReactorTime, endpoint: IStreamClientEndpoint, login: TargetLogin
) -> Deferred[Any]:
    """Connect to a target and log in.

    Fires with the connection service that ``login.connection`` made; its ``transport`` is a
    :class:`TargetTransport`. Fails with :class:`Unreachable` (no connection, or no answer in time),
    :class:`BadCertificate` (not the expected host), :class:`AccessDenied` (the login) or
    :class:`PeerError`; can be cancelled.
    """

    async def log_in() -> Any:
        transport = TargetTransport(reactor, login)
        ready = transport.ready()
        cannot = Step.CONNECT.value.format(login.name)
        try:
            connecting = endpoint.connect(One(transport))
            await connecting.addTimeout(SECONDS[Step.CONNECT], reactor)
        except (TeleError, CancelledError):
            raise
        except DeferredTimeout:
            seconds = SECONDS[Step.CONNECT]
            raise Unreachable(f"{cannot}: no answer in {seconds:.0f} seconds") from None
        except Exception as error:
            raise Unreachable(f"{cannot}: {connect_problem(error)}") from error
        return await ready

    return Deferred.fromCoroutine(log_in())
