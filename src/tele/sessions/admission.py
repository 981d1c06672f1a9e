"""May a user begin a session on a host, and may they stay?

Invariants:

* The certificate was checked before; here the roles decide and give a Grant: at the login, and
  again whenever the cluster's rules change, for as long as the connection lasts.
* A connection ends when its user could not log in any more.
* What the certificate withholds, no role gives back.
* A login succeeds after its audit event is stored: the event survives the end of this process.
* A role with ``lock: strict`` lets no login in on a state older than :data:`STRICT_STATE_SECONDS`;
  what has begun goes on.
* No login succeeds without a valid certificate of this member, without storage for its event (the
  disk, or auth when the disk is full), or with an unknown recording mode. Without storage, users
  of roles with ``break_glass`` still log in, and get what these roles give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Final, Protocol, TypeVar

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from tele.certs.check import LATEST
from tele.conch.server.credentials import CertificateCredentials
from tele.errors import AccessDenied, TeleError, Unavailable
from tele.log import make_logger
from tele.loop import now
from tele.membership.member import Member
from tele.membership.reviewing import Review
from tele.model.access import CertificateLimits, Denied, Grant, Reason, connections
from tele.model.api.sessions import CLAIM_CONNECTION, ClaimConnection
from tele.model.identity import HostRole, UserIdentity
from tele.model.joining import JoinGrant
from tele.sessions.context import ConnectionContext
from tele.text import duration

#: Seconds that a login waits for its event to be stored: on disk, or by auth if that is full.
RECORD_SECONDS: Final = 20.0
#: Seconds that auth has to count the connections of a user.
CLAIM_SECONDS: Final = 5.0

#: How old the locks may be, in seconds, by which a login is decided that a role wants strict.
STRICT_STATE_SECONDS: Final = 300.0

#: Nothing can be joined at a proxy.
UNWATCHED: Final = Denied(
    Reason.MODERATED,
    "a role demands that your sessions are watched (require_session_join), and those that a proxy"
    " records cannot be",
)

Decision = TypeVar("Decision", Grant, JoinGrant)

log = make_logger(__name__)


class AdmittedSession(Protocol):
    """What is decided about: the connection of a user."""

    context: ConnectionContext

    #: Whether it is a part of a session at a proxy, which counts there.
    is_proxied: bool

    @property
    def ended(self) -> Denied | None:
        """Why access ended, once it has."""

    @property
    def grant(self) -> Grant:
        """What the user may do now."""

    def logged_in(self) -> None:
        """The user is logged in, unless the event of that cannot be stored."""

    def logged_out(self) -> None:
        """The connection has ended, or the user is not logged in after all."""

    def regranted(self, grant: Grant) -> None:
        """From now on the user may do this."""

    def expelled(self, denied: Denied) -> None:
        """The user could not log in any more."""


@frozen
class Target:
    """A host that users log in to, as roles and locks name it."""

    host_id: str
    labels: Mapping[str, str]


@frozen
class Login:
    """What a decision about a connection depends on. The certificate itself is not kept.

    ``target`` returns what is true now of the host that it is for.
    """

    identity: UserIdentity
    login: str
    limits: CertificateLimits
    target: Callable[[], Target]

    @classmethod
    def of(cls, credentials: CertificateCredentials, target: Callable[[], Target]) -> Login:
        """Return what ``credentials`` say."""
        checked = credentials.checked
        return cls(checked.identity, credentials.login, checked.limits, target)


class SessionAdmission:
    """Decides about the sessions that a member of the cluster serves.

    :param role: the member's, for what users are told.
    :param labels: what :class:`Review` compares of the targets: a change of it is a reason to
        decide again.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        member: Member,
        role: HostRole,
        labels: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._member = member
        self._role = role
        self._here = f"this {role.value}"
        self._present: dict[AdmittedSession, Login] = {}
        self._review = Review(
            reactor,
            lambda: member.state,
            lambda: member.policy,
            lambda: self._present,
            self._decide_again,
            labels,
        )

    @property
    def sessions(self) -> tuple[str, ...]:
        """The ids of the sessions of all connections."""
        return tuple(session.context.session_id for session in self._present)

    def review(self) -> None:
        """The cluster's state or the labels may have changed: decide again about all."""
        self._review.check()

    def stop(self) -> None:
        """End the reviews."""
        self._review.stop()

    @property
    def problem(self) -> str:
        """Why no user is let in now, or nothing. Some roles let users in without storage."""
        return self._problem or ("" if self._member.can_record else str(self._no_storage()))

    @property
    def _problem(self) -> str:
        member, here = self._member, self._here
        if member.identity.expires <= now(self._reactor):
            return (
                f"the certificate of {here} has expired while auth was away; it accepts no logins"
                " until it has a new one"
            )
        if member.expelled:
            return f"{here} accepts no logins: {member.expelled}"
        if problem := member.state.recording.problem:
            return (
                f"{here} cannot record sessions as the cluster says, and accepts no logins:"
                f" {problem}"
            )
        return ""

    def check_host(self) -> None:
        """Raise a TeleError if no user is let in now, whatever roles allow."""
        if problem := self._problem:
            raise Unavailable(problem)

    def admit(self, login: Login) -> Grant:
        """Return what a login may do now. Raises a TeleError if it is not let in."""
        self.check_host()
        decision = self.by_fresh_locks(self._decide(login, login.identity))
        if isinstance(decision, Denied):
            raise AccessDenied(decision.message, decision.reason.value)
        if self._member.can_record:
            return decision
        emergency = decision.in_emergency()
        if emergency is None:
            raise self._no_storage()
        return emergency

    async def enter(self, session: AdmittedSession, login: Login) -> Callable[[], None]:
        """Let an admitted session begin, once that is stored; return what is called at its end.

        Raises a TeleError if it cannot be stored, or access ended meanwhile: the session is over.
        """
        self._present[session] = login

        def leave() -> None:
            self._present.pop(session, None)
            session.logged_out()

        try:
            await self._count(session)
            session.logged_in()
            await self._stored(session)
            if (ended := session.ended) is not None:
                raise AccessDenied(ended.message, ended.reason.value)
        except BaseException:
            leave()
            raise
        return leave

    async def _count(self, session: AdmittedSession) -> None:
        """Raise :class:`AccessDenied` if the user has as many connections as the roles allow.

        Auth counts those of all hosts. While it does not answer, those of this host count.
        """
        grant, user = session.grant, session.grant.identity.user
        limit = grant.max_connections
        if limit is None or session.is_proxied:
            return
        here = sum(each.grant.identity.user == user for each in self._present)
        if here > limit:
            raise AccessDenied(
                f"{connections(here - 1)} open for {user} on {self._here}, and the roles allow"
                f" {limit} (max_connections): end one first",
                Reason.CONNECTIONS.value,
            )
        claim = ClaimConnection(session.context.session_id, user, limit)
        try:
            claiming = Deferred.fromCoroutine(self._claimed(claim))
            await claiming.addTimeout(CLAIM_SECONDS, self._reactor)
        except AccessDenied:
            raise
        except (TeleError, DeferredTimeout) as error:
            log.warn(
                "auth does not count connections, those of this host are",
                user=user, error=str(error) or "no answer in time",
            )  # fmt: skip

    async def _claimed(self, claim: ClaimConnection) -> None:
        await self._member.authority.perform(CLAIM_CONNECTION, claim)

    async def _stored(self, session: AdmittedSession) -> None:
        """Return when the event of the login is stored: nothing begins before that.

        If that takes too long, the session is left what roles with ``break_glass`` give.
        """
        grant = session.grant
        recorded = self._member.recorded(or_refused=grant.break_glass)
        if not grant.break_glass:
            recorded.addTimeout(RECORD_SECONDS, self._reactor)
        try:
            await recorded
        except DeferredTimeout:
            emergency = session.grant.in_emergency()
            if emergency is None:
                raise self._no_storage() from None
            session.regranted(emergency)

    def _no_storage(self) -> Unavailable:
        return Unavailable(
            f"{self._here} accepts no logins: its disk is full, or too slow for its audit, and auth"
            " does not take events now"
        )

    def by_fresh_locks(self, decision: Decision | Denied) -> Decision | Denied:
        """Return ``decision``, or a denial if a role wants the locks of now and they may be old."""
        if isinstance(decision, Denied) or not decision.strict_locks:
            return decision
        age = self._member.state_age
        if age <= STRICT_STATE_SECONDS:
            return decision
        since = "since it was started" if age == inf else f"for {duration(age)}"
        return Denied(
            Reason.STALE,
            f"{self._here} has not heard from auth {since}, and a role of {decision.identity.user}"
            " (lock: strict) lets no login in without the locks of now",
        )

    def _decide_again(self, session: AdmittedSession) -> None:
        """Decide again about a connection; that its certificate has expired does not end it."""
        login = self._present.get(session)
        if login is None:
            return  # it ended meanwhile
        identity = evolve(login.identity, expires=LATEST)
        decision = self._decide(login, identity, session.context.session_id)
        if session.grant.emergency and isinstance(decision, Grant):
            decision = decision.in_emergency() or Denied(
                Reason.RECORDING, "no role of yours with break_glass allows this any more"
            )
        if isinstance(decision, Denied):
            session.expelled(decision)
        else:
            # It is recorded as it began: its recorder is open.
            granted = session.grant
            session.regranted(
                evolve(decision, expires=granted.expires, recording=granted.recording)
            )

    def _decide(self, login: Login, identity: UserIdentity, session_id: str = "") -> Grant | Denied:
        target = login.target()
        decision = self._member.policy.decide(
            identity,
            login.login,
            target.labels,
            now(self._reactor),
            target.host_id,
            login.limits,
            session_id,
        )
        if self._role is HostRole.PROXY and isinstance(decision, Grant):
            return UNWATCHED if decision.require_session_join else decision
        return decision
