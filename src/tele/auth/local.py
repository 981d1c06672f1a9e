"""Auth itself, in this process: every operation of the table, for any caller.

Invariants:

* Every call passes the gate first, wherever it comes from; the API's server in front of it
  is not relied upon.
* A request is decoded after its sender has passed the gate.
* Every denial is an audit event, once.
* What changes something begins only while its event can be kept (:mod:`tele.auth.disk`).
* A stream ends when its reader may not read it any more: at the change that says so, or, where
  only time does, a few seconds later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from attrs import Factory, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from tele.audit.log import AuditLog
from tele.auth.authorities import Authorities
from tele.auth.authorizer import LOCAL_ADMIN as LOCAL_ADMIN
from tele.auth.authorizer import Authorizer
from tele.auth.disk import DiskWatch
from tele.auth.issuing import Issuer
from tele.auth.journal import LOCAL as LOCAL
from tele.auth.journal import Journal
from tele.auth.limits import RecordingLimits
from tele.auth.members import Members
from tele.auth.operations.administration import Administration
from tele.auth.operations.certificates import ADMIN_ROLES as ADMIN_ROLES
from tele.auth.operations.certificates import Signing
from tele.auth.operations.locking import Locking
from tele.auth.operations.machines import Machines
from tele.auth.operations.recordings import RecordingOperations
from tele.auth.passwords import Passwords
from tele.auth.presence import Hosts
from tele.auth.recordings import Recordings
from tele.auth.session_ends import SessionEnds
from tele.auth.state import LOCKS, REVOKED_HOSTS, State
from tele.auth.tokens import Tokens
from tele.auth.users import Users
from tele.errors import AccessDenied, InvalidInput, NotLoggedIn, TeleError
from tele.https.handler import IHandler
from tele.interfaces import IAuthority
from tele.log import make_logger
from tele.loop import now
from tele.model.api.members import PublicKeys
from tele.model.api.operation import Operation
from tele.model.api.table import LOGIN, OPERATIONS
from tele.model.authority import Certificates
from tele.model.identity import Caller, HostIdentity, UserIdentity

log = make_logger(__name__)

#: How often it is asked again whether somebody may still read a stream: a machine, a person.
CHECK_SECONDS: Final = 30.0
CHECK_USER_SECONDS: Final = 3.0


@frozen
class Collaborators:
    """What auth is made of."""

    cluster: str
    authorities: Authorities
    issuer: Issuer
    state: State
    hosts: Hosts
    members: Members
    users: Users
    passwords: Passwords
    tokens: Tokens
    recordings: Recordings
    audit: AuditLog
    ends: SessionEnds
    disk: DiskWatch
    limits: RecordingLimits = Factory(RecordingLimits)


@implementer(IHandler)
class LocalAuthority:
    """Auth itself. ``parts`` have been started; ``new_id()`` makes the ids of hosts that join."""

    def __init__(
        self,
        parts: Collaborators,
        clock: IReactorTime,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self._clock = clock
        self._state = parts.state
        self._streams: set[_Stream] = set()
        parts.state.on_change(self._changed)
        self._members = parts.members
        self.suite = parts.authorities.suite
        self._disk = parts.disk
        self._journal = Journal(parts.audit, parts.cluster, clock, lambda: parts.disk.is_full)
        self._authorizer = Authorizer(parts.cluster, parts.state, parts.members, parts.users, clock)
        self._signing = Signing(
            parts.cluster, clock, parts.authorities, parts.issuer, parts.passwords, parts.users,
            parts.state, parts.members, parts.hosts, self._authorizer, self._journal,
        )  # fmt: skip
        desks = (
            self._signing,
            Machines(
                parts.cluster, clock, parts.authorities, parts.issuer, parts.tokens, parts.members,
                parts.hosts, parts.state, parts.ends, parts.disk, self._authorizer,
                self._journal, new_id,
            ),
            Administration(
                parts.users, parts.tokens, parts.authorities, parts.passwords, parts.recordings,
                clock, self._authorizer, self._journal,
            ),
            Locking(
                clock, parts.users, parts.hosts, parts.recordings, self._authorizer, self._journal
            ),
            RecordingOperations(
                parts.cluster, clock, parts.recordings, parts.hosts, parts.members, parts.audit,
                parts.ends, parts.limits, self._authorizer, self._journal,
            ),
        )  # fmt: skip
        self._methods = {name: _method(desks, name) for name in OPERATIONS}

    # -- what the API's server calls --------------------------------------------------
    async def check(self, operation: Operation[Any, Any], caller: Caller) -> None:
        """Pass the gate alone, before a large request is let in; raises a :class:`TeleError`."""
        try:
            await self._authorizer.check(operation, caller)
            self._disk.admit(operation)
        except (AccessDenied, NotLoggedIn) as error:
            await self.denied(operation, caller, error)
            raise

    async def handle(self, operation: Operation[Any, Any], request: Any, caller: Caller) -> Any:
        """Perform an operation for ``caller``; raises a :class:`TeleError`."""
        return await self.perform(operation, lambda: request, caller)

    async def perform(
        self, operation: Operation[Any, Any], read: Callable[[], Any], caller: Caller
    ) -> Any:
        """The same for a request that ``read()`` decodes once the caller has passed the gate."""
        if operation.streams:
            raise InvalidInput(f"{operation.name} is a stream: follow it")
        try:
            await self._authorizer.check(operation, caller)
            self._disk.admit(operation)
            performed: Awaitable[Any] = self._methods[operation.name](read(), caller)
            return await performed
        except (AccessDenied, NotLoggedIn) as error:
            if operation is not LOGIN:  # which says more about it itself
                await self.denied(operation, caller, error)
            raise

    def follow(
        self,
        operation: Operation[Any, Any],
        request: Any,
        caller: Caller,
        receiver: Callable[[Any], None],
    ) -> Deferred[None]:
        """Tell ``receiver`` each value of a streaming operation; cancel to end it."""
        return Deferred.fromCoroutine(self._follow(operation, request, caller, receiver))

    async def _follow(
        self,
        operation: Operation[Any, Any],
        request: Any,
        caller: Caller,
        receiver: Callable[[Any], None],
    ) -> None:
        if not operation.streams:
            raise InvalidInput(f"{operation.name} is no stream")
        try:
            await self._authorizer.check(operation, caller)
        except (AccessDenied, NotLoggedIn) as error:
            await self.denied(operation, caller, error)
            raise
        stream = _Stream(
            self._clock,
            caller,
            lambda: self._authorizer.check(operation, caller),
            self._methods[operation.name](request, receiver),
        )
        self._streams.add(stream)
        try:
            await stream.end()
        except (AccessDenied, NotLoggedIn) as error:
            await self.denied(operation, caller, error)
            raise
        finally:
            self._streams.discard(stream)

    def _changed(self, prefix: str) -> None:
        """Look whether those who read streams still may. Whole fleets read: most changes are
        about people, and cost nothing for machines.
        """
        policy, moment = self._state.policy, now(self._clock)
        hosts = prefix in (LOCKS, REVOKED_HOSTS)
        for stream in list(self._streams):
            who = stream.caller.identity
            if isinstance(who, UserIdentity) or (
                hosts
                and isinstance(who, HostIdentity)
                and policy.refuses_host(who, moment) is not None
            ):
                stream.check()

    def as_caller(self, caller: Caller) -> IAuthority:
        """Return auth as ``caller`` sees it, with the interface of a remote one."""
        return _AsCaller(self, caller)

    async def denied(
        self, operation: Operation[Any, Any], caller: Caller, error: TeleError
    ) -> None:
        """Say in the audit that a call was refused."""
        await self._journal.denied(operation, caller, error)

    async def emit(self, name: str, caller: Caller | None = None, /, **fields: Any) -> None:
        """Append an event that ``caller`` caused."""
        await self._journal.emit(name, caller, **fields)

    # -- in this process only ---------------------------------------------------------
    async def ensure_admin(self, user: str, logins: tuple[str, ...]) -> None:
        """Make ``user`` an administrator who may log in as ``logins``, without a password."""
        await self._signing.ensure_admin(user, logins)

    async def is_member(self, host: HostIdentity) -> bool:
        """Whether a host that has a certificate has not been removed or replaced since."""
        try:
            await self._members.require(host)
        except AccessDenied:
            return False
        return True

    async def issue_for(
        self, user: str, keys: PublicKeys, ttl: timedelta = timedelta(hours=12)
    ) -> Certificates:
        """Issue certificates for a user without asking for a password."""
        return await self._signing.issue_for(user, keys, ttl)


def _method(desks: tuple[object, ...], name: str) -> Callable[..., Any]:
    (found,) = (getattr(desk, name) for desk in desks if hasattr(desk, name))
    method: Callable[..., Any] = found
    return method


class _Stream:
    """A stream that runs, and is ended when ``check`` fails."""

    def __init__(
        self,
        clock: IReactorTime,
        caller: Caller,
        check: Callable[[], Any],
        running: Deferred[None],
    ) -> None:
        self.caller = caller
        user = isinstance(caller.identity, UserIdentity)
        self._pause = CHECK_USER_SECONDS if user else CHECK_SECONDS
        self._clock = clock
        self._check = check
        self._running = running
        self._error: TeleError | None = None
        self._timer: IDelayedCall | None = None

    async def end(self) -> None:
        """Wait for the end; raises the error of ``check`` if that ended it."""
        self._timer = self._clock.callLater(self._pause, self._wake)
        try:
            await self._running
        except CancelledError:
            if self._error is not None:
                raise self._error from None
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _wake(self) -> None:
        self._timer = None
        self.check()

    def check(self) -> None:
        """Ask now whether it may go on."""
        checking: Deferred[None] = Deferred.fromCoroutine(self._check())
        checking.addCallbacks(self._go_on, self._stop)

    def _go_on(self, _: object) -> None:
        if not self._running.called and self._timer is None:
            self._timer = self._clock.callLater(self._pause, self._wake)

    def _stop(self, failure: Any) -> None:
        if not failure.check(AccessDenied, NotLoggedIn):
            # The store does not answer: that is no reason to turn readers away.
            log.warn("cannot check the reader of a stream: {why!s}", why=failure.value)
            self._go_on(None)
        elif not self._running.called:
            self._error = failure.value
            self._running.cancel()


@implementer(IAuthority)
class _AsCaller:
    """Auth in this process, with the interface of a remote one."""

    def __init__(self, authority: LocalAuthority, caller: Caller) -> None:
        self._authority = authority
        self._caller = caller

    def perform(self, operation: Operation[Any, Any], request: Any) -> Deferred[Any]:
        """See :class:`IAuthority`."""
        return Deferred.fromCoroutine(self._authority.handle(operation, request, self._caller))

    def follow(
        self, operation: Operation[Any, Any], request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        """See :class:`IAuthority`."""
        return self._authority.follow(operation, request, self._caller, receiver)
