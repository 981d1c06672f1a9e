"""Auth itself, in this process: every operation of the table, for any caller.

Invariants:

* Every call is authorized first, wherever it comes from; the API's server in front of it is not
  relied upon.
* A request is decoded after its caller is authorized.
* Every denial is an audit event, once.
* A change begins only while its event can be stored (:mod:`tele.auth.disk`).
* A stream ends when its reader is not authorized any more (:mod:`tele.auth.streams`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from attrs import Factory, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.audit.log import AuditLog
from tele.auth.authorities import Authorities
from tele.auth.authority_numbers import AuthorityNumbers
from tele.auth.authorizer import LOCAL_ADMIN as LOCAL_ADMIN
from tele.auth.authorizer import Authorizer
from tele.auth.cluster_settings import ClusterSettings
from tele.auth.connection_claims import ConnectionClaims
from tele.auth.copied_hosts import CopiedHosts
from tele.auth.disk import DiskWatch
from tele.auth.handlers import Handlers
from tele.auth.heads import HeadPublisher
from tele.auth.host_quotas import HostQuotas
from tele.auth.invitations import Invitations
from tele.auth.issued import IssuedCertificates
from tele.auth.issuing import Issuer
from tele.auth.journal import LOCAL as LOCAL
from tele.auth.journal import Journal
from tele.auth.limits import RecordingLimits
from tele.auth.live_sessions import LiveSessions
from tele.auth.members import Members
from tele.auth.operations.administration import Administration
from tele.auth.operations.audit import AuditOperations
from tele.auth.operations.bots import BotOperations
from tele.auth.operations.certificates import ADMIN_ROLES as ADMIN_ROLES
from tele.auth.operations.certificates import CertificateOperations
from tele.auth.operations.cluster import ClusterOperations
from tele.auth.operations.factor_checks import FactorChecks
from tele.auth.operations.hosts import HostOperations
from tele.auth.operations.invitations import InvitationOperations
from tele.auth.operations.joining import JoinOperations
from tele.auth.operations.keeping import KeepingOperations
from tele.auth.operations.locking import Locking
from tele.auth.operations.mfa import MfaOperations
from tele.auth.operations.plain_keys import PlainKeyOperations
from tele.auth.operations.proxying import ProxyingOperations
from tele.auth.operations.recordings import RecordingOperations
from tele.auth.operations.rotating import RotatingOperations
from tele.auth.operations.session_factors import SessionFactors
from tele.auth.operations.sessions import SessionOperations
from tele.auth.operations.sshd_hosts import SshdHostOperations
from tele.auth.passwords import Passwords
from tele.auth.presence import Hosts
from tele.auth.recording_uploads import RecordingUploads
from tele.auth.recordings import Recordings
from tele.auth.regular_work import Lease, RegularWork
from tele.auth.retention import Retention, RetentionRules
from tele.auth.second_factors import SecondFactors
from tele.auth.session_ends import SessionEnds
from tele.auth.state import State
from tele.auth.streams import Streams
from tele.auth.tokens import Tokens
from tele.auth.users import Users
from tele.errors import AccessDenied, InvalidInput, NotLoggedIn, TeleError
from tele.https.handler import IHandler
from tele.interfaces import IAuthority, IBackend, IJoinMethod
from tele.measures.metric import Measured, Sample
from tele.model.api.members import PublicKeys
from tele.model.api.operation import Operation
from tele.model.api.table import OPERATIONS
from tele.model.api.users import LOGIN
from tele.model.authority import Certificates
from tele.model.identity import Caller, HostIdentity
from tele.model.lifetimes import USER_LIFETIME

#: How often the phases of automatic rotations are looked at.
ROTATION_SECONDS: Final = 60.0
ROTATION_LEASE: Final = "/cluster/rotation"


@frozen
class Collaborators:
    """What auth is made of."""

    cluster: str
    authorities: Authorities
    issuer: Issuer
    state: State
    settings: ClusterSettings
    hosts: Hosts
    members: Members
    users: Users
    passwords: Passwords
    factors: SecondFactors
    tokens: Tokens
    invitations: Invitations
    issued: IssuedCertificates
    recordings: Recordings
    live: LiveSessions
    claims: ConnectionClaims
    uploads: RecordingUploads
    audit: AuditLog
    heads: HeadPublisher
    ends: SessionEnds
    disk: DiskWatch
    limits: RecordingLimits = Factory(RecordingLimits)
    join_methods: tuple[IJoinMethod, ...] = ()


@implementer(IHandler)
class LocalAuthority:
    """Auth itself. ``parts`` have been started; ``new_id()`` makes the ids of hosts that join."""

    def __init__(
        self,
        parts: Collaborators,
        clock: IReactorTime,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self._members = parts.members
        self._clock = clock
        self._recordings = parts.recordings
        self._disk = parts.disk
        self._streams = Streams(parts.state, clock)
        self.suite = parts.authorities.suite
        journal = Journal(parts.audit, parts.cluster, clock, lambda: parts.disk.is_full)
        copies = CopiedHosts(parts.members.generations, parts.users, parts.state, journal)
        authorizer = Authorizer(
            parts.cluster, parts.state, parts.members, parts.users, copies, clock
        )
        quotas = HostQuotas(clock, journal)
        checks = FactorChecks(parts.factors, journal)
        self._journal = journal
        self._authorizer = authorizer
        self._certificates = CertificateOperations(
            parts.cluster, clock, parts.authorities, parts.issuer, parts.passwords, parts.users,
            parts.state, parts.members, parts.hosts, parts.issued, authorizer, journal, checks,
        )  # fmt: skip
        administration = Administration(
            parts.users, parts.tokens, parts.invitations, parts.authorities, parts.passwords,
            parts.live, clock, authorizer, journal,
        )  # fmt: skip
        rotating = RotatingOperations(
            clock, parts.authorities, parts.hosts,
            lambda: parts.state.settings.host_certificates, parts.members, journal,
        )  # fmt: skip
        self._rotating = rotating
        self._measured: tuple[Measured, ...] = (
            journal, parts.hosts, parts.audit, parts.disk, AuthorityNumbers(parts.authorities)
        )  # fmt: skip
        resources = (
            self._certificates,
            JoinOperations(
                parts.cluster, clock, parts.issuer, parts.tokens, parts.join_methods,
                parts.members, parts.state, parts.ends, journal, copies, new_id,
            ),
            HostOperations(
                parts.cluster, clock, parts.authorities, parts.members, parts.hosts, parts.state,
                parts.ends, parts.disk, authorizer, journal, lambda: parts.heads.latest,
                parts.uploads.sealing,
            ),
            administration,
            MfaOperations(
                parts.factors, checks, parts.passwords, parts.users, administration, authorizer,
                journal,
            ),
            SessionFactors(clock, parts.state, parts.hosts, checks, self._certificates),
            InvitationOperations(
                parts.users, parts.invitations, self._certificates, journal, parts.factors, checks
            ),
            BotOperations(parts.users, parts.tokens, self._certificates, journal),
            ClusterOperations(parts.settings, parts.factors, journal),
            SshdHostOperations(
                parts.cluster, clock, parts.members, parts.hosts, journal, new_id
            ),
            Locking(clock, parts.users, parts.hosts, parts.live, authorizer, journal),
            SessionOperations(
                parts.live, parts.hosts, parts.members, parts.ends, quotas, authorizer,
                parts.users, parts.claims,
            ),
            RecordingOperations(
                clock, parts.recordings, parts.uploads, parts.hosts, parts.members, parts.limits,
                quotas, authorizer, journal,
            ),
            ProxyingOperations(
                parts.cluster, clock, parts.authorities, parts.issuer, parts.members, parts.hosts,
                parts.state, parts.recordings.proxied, parts.ends, quotas, journal,
            ),
            PlainKeyOperations(
                parts.cluster, clock, parts.authorities, parts.hosts, parts.state,
                parts.recordings.proxied.keys, authorizer, journal,
            ),
            rotating,
            KeepingOperations(clock, parts.recordings, parts.hosts, journal),
            AuditOperations(
                parts.cluster, clock, parts.audit, parts.heads, parts.recordings, parts.members,
                parts.ends, quotas, journal,
            ),
        )  # fmt: skip
        self._handlers = Handlers(
            OPERATIONS, [each for resource in resources for each in resource.handlers()]
        )

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        for each in self._measured:
            yield from each.samples()

    # -- what the API's server calls --------------------------------------------------
    async def check(self, operation: Operation[Any, Any], caller: Caller) -> None:
        """Authorize a call before its request is read; raises a :class:`TeleError`."""
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
        """Perform an operation on the request that ``read()`` decodes after authorization."""
        if operation.streams:
            raise InvalidInput(f"{operation.name} is a stream: follow it")
        try:
            await self._authorizer.check(operation, caller)
            self._disk.admit(operation)
            return await self._handlers[operation].perform(read(), caller)
        except (AccessDenied, NotLoggedIn) as error:
            if operation is not LOGIN:  # it emits an event of its own
                await self.denied(operation, caller, error)
            raise

    def follow(
        self,
        operation: Operation[Any, Any],
        request: Any,
        caller: Caller,
        receiver: Callable[[Any], None],
    ) -> Deferred[None]:
        """Call ``receiver`` with each value of a streaming operation; cancel to end it."""
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
            await self._streams.run(
                caller,
                lambda: self._authorizer.check(operation, caller),
                self._handlers.stream(operation).follow(request, receiver),
            )
        except (AccessDenied, NotLoggedIn) as error:
            await self.denied(operation, caller, error)
            raise

    def as_caller(self, caller: Caller) -> IAuthority:
        """Return auth as :class:`IAuthority`, called by ``caller``."""
        return _AsCaller(self, caller)

    async def denied(
        self, operation: Operation[Any, Any], caller: Caller, error: TeleError
    ) -> None:
        """Emit the event of a call that was refused."""
        await self._journal.denied(operation, caller, error)

    async def emit(self, name: str, caller: Caller | None = None, /, **fields: Any) -> None:
        """Append an event that ``caller`` caused."""
        await self._journal.emit(name, caller, **fields)

    # -- in this process only ---------------------------------------------------------
    def regular_work(
        self, rules: Callable[[], RetentionRules], backend: IBackend, owner: str
    ) -> tuple[RegularWork, RegularWork]:
        """Return what auth does by itself; ``owner`` is the id of this auth.

        It removes recordings by ``rules()``, and begins the phases of automatic rotations.
        """
        retention = Retention(rules, backend, self._clock, self._recordings, self._journal, owner)
        lease = Lease(backend, ROTATION_LEASE, owner, 2 * ROTATION_SECONDS)
        rotation = RegularWork(
            self._clock, "rotation", ROTATION_SECONDS, lease,
            lambda: self._rotating.has_automatic, self._rotating.advance,
            delay=ROTATION_SECONDS,
        )  # fmt: skip
        return retention.work, rotation

    async def ensure_admin(self, user: str, logins: tuple[str, ...]) -> None:
        """Make ``user`` an administrator who may log in as ``logins``, without a password."""
        await self._certificates.ensure_admin(user, logins)

    async def is_member(self, host: HostIdentity) -> bool:
        """Whether a host that has a certificate has not been removed or replaced since."""
        try:
            await self._members.require(host)
        except AccessDenied:
            return False
        return True

    async def issue_for(
        self, user: str, keys: PublicKeys, ttl: timedelta = USER_LIFETIME
    ) -> Certificates:
        """Issue certificates for a user without asking for a password."""
        return await self._certificates.issue_for(user, keys, ttl)


@implementer(IAuthority)
class _AsCaller:
    """Auth in this process, called by one caller."""

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
