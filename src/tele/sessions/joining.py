"""Who may join the sessions that run on a host, and stay in them?

A client that joins a session logs in with the name that :func:`tele.model.joining.join_login` says,
and a certificate of its user, whatever accounts that is for: it gets none.

Invariants:

* It is decided at the login, again when the client joins, and again whenever the cluster's rules
  change, or the roles that give the session; who may no longer join is disconnected, with the
  reason.
* It ends with the user's certificate, and with the session.
* The only thing that a client gets is one channel, on which it takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from attrs import evolve
from twisted.conch.avatar import ConchUser
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from tele.capacity.descriptors import Account
from tele.certs.check import LATEST
from tele.conch.connection.permissions import IPermissions, Permissions
from tele.conch.server.credentials import CertificateCredentials
from tele.conch.session.channel import SessionChannel
from tele.conch.session.runner import Runner, RunnerChannel
from tele.errors import AccessDenied, Unavailable
from tele.loop import DateTimer, now
from tele.membership.audit_reporter import AuditReporter, cut
from tele.membership.member import Member
from tele.membership.reviewing import Review
from tele.model.access import Denied, Reason
from tele.model.addresses import Address
from tele.model.identity import UserIdentity
from tele.model.joining import JoinGrant, JoinTarget
from tele.rbac.joining import AT_PROXIES, NOT_HERE
from tele.reactor import Reactor
from tele.sessions.admission import RECORD_SECONDS, SessionAdmission
from tele.sessions.sharing import SharedSession

_PERMISSIONS: Final = Permissions(permit_pty=True, max_sessions=1)


class JoinAvatar(ConchUser):
    """A user on a connection that may join ``session``. ``decide()`` decides that."""

    conn: Any = None
    keepalive_interval = 0.0

    def __init__(
        self,
        reactor: Reactor,
        grant: JoinGrant,
        session: SharedSession,
        credentials: CertificateCredentials,
        decide: Callable[[], JoinGrant | Denied],
        make_runner: Callable[[RunnerChannel, JoinAvatar], Runner],
        audit: AuditReporter,
        account: Account,
        recorded: Callable[[], Deferred[None]],
    ) -> None:
        super().__init__()
        self.clock = reactor
        self.grant = grant
        self.identity = grant.identity
        self.session = session
        self.remote_addr = credentials.remote_addr
        self.account = account
        #: Why access ended, once it has.
        self.ended: Denied | None = None
        self._decide = decide
        self._audit = audit
        self._recorded = recorded
        self._lease = account.take()
        self._expiry: DateTimer | None = None
        make = partial(SessionChannel, make_runner=lambda channel: make_runner(channel, self))
        self.channelLookup = {b"session": make}

    def __str__(self) -> str:
        """Return user and session, for the log."""
        return f"{self.identity.user} in session {self.session.session_id}"

    def __conform__(self, interface: Any) -> Any:
        """Its permissions: see ``zope.interface``."""
        return _PERMISSIONS if interface is IPermissions else None

    @property
    def event_fields(self) -> Mapping[str, Any]:
        """See :class:`tele.membership.audit_reporter.EventSubject`."""
        return {
            "user": self.identity.user,
            "login": self.session.login,
            "roles": self.identity.roles,
            "session_id": self.session.session_id,
            "login_session": self.identity.login_session,
            "remote_addr": str(Address(*self.remote_addr)),
        }

    def emit(self, name: str, **fields: Any) -> None:
        """Report an event of this user in the session."""
        texts = {k: cut(str(v)) if isinstance(v, Exception) else v for k, v in fields.items()}
        self._audit.emit(name, self, **texts)

    async def stored(self, name: str, **fields: Any) -> None:
        """Report an event, and return when it survives the end of this process. Raises
        :class:`Unavailable`.
        """
        self.emit(name, **fields)
        try:
            await self._recorded().addTimeout(RECORD_SECONDS, self.clock)
        except DeferredTimeout:
            raise Unavailable("the audit cannot be stored now: try again later") from None

    def check(self) -> None:
        """Raise :class:`AccessDenied` if the user may not join any more."""
        self.decide_again()
        if self.ended is not None:
            raise AccessDenied(self.ended.message, self.ended.reason.value)

    # -- access -----------------------------------------------------------------------
    def logged_in(self) -> None:
        """The user is logged in: it lasts as long as the certificate."""
        self.session.guests[self] = None
        self._expiry = DateTimer(self.clock, self.grant.expires, self._expired)

    def _expired(self) -> None:
        text = "the certificate has expired, and with it the right to join: log in again"
        self._expel(Denied(Reason.EXPIRED, text))

    def decide_again(self) -> None:
        """The rules of the cluster, or the roles that give the session, have changed."""
        decided = self._decide()
        if isinstance(decided, Denied):
            self._expel(decided)
        elif self.grant.modes - decided.modes:
            # They may take part in a mode that is not allowed any more: they can join again.
            self._expel(Denied(Reason.JOIN, "your roles have changed: join the session again"))
        else:
            self.grant = evolve(decided, expires=self.grant.expires)

    def session_ended(self) -> None:
        """The session has ended: a client that does not take part in it is disconnected."""
        if self.conn is not None and not self.conn.channels:
            self.conn.transport.evict("the session has ended")

    def _expel(self, denied: Denied) -> None:
        if self.ended is not None:
            return
        self.ended = denied
        if self.conn is not None:
            self.conn.transport.evict(denied.message)

    def logged_out(self) -> None:
        """The connection has ended."""
        if self._expiry is not None:
            self._expiry.cancel()
        self.session.guests.pop(self, None)
        self._lease.release()


class Joins:
    """The sessions of one host that may be joined, and those who do.

    :param labels: the host's own; those that the cluster bound to it win over them.
    :param account: what a user may have open.
    """

    def __init__(
        self,
        reactor: Reactor,
        member: Member,
        labels: Callable[[], Mapping[str, str]],
        make_runner: Callable[[RunnerChannel, JoinAvatar], Runner],
        audit: AuditReporter,
        account: Callable[[str], Account],
    ) -> None:
        self._reactor = reactor
        self._member = member
        self._labels = labels
        self._make_runner = make_runner
        self._audit = audit
        self._account = account
        self._sessions: dict[str, SharedSession] = {}
        self._present: dict[JoinAvatar, None] = {}
        self._review = Review(
            reactor,
            lambda: member.state,
            lambda: member.policy,
            lambda: self._present,
            lambda avatar: avatar.decide_again(),
            self._all_labels,
        )

    def began(self, session: SharedSession) -> None:
        """A session runs: it may be joined."""
        self._sessions[session.session_id] = session

    def over(self, session: SharedSession) -> None:
        """A session has ended."""
        self._sessions.pop(session.session_id, None)
        session.close()

    def _all_labels(self) -> dict[str, str]:
        return {**self._labels(), **self._member.bound_labels}

    def review(self) -> None:
        """The cluster's state or the labels may have changed: decide again about all."""
        self._review.check()

    def stop(self) -> None:
        """End the reviews."""
        self._review.stop()

    def enter(
        self, session_id: str, credentials: CertificateCredentials, admission: SessionAdmission
    ) -> tuple[JoinAvatar, Callable[[], None]]:
        """Let a client log in to join a session; return its avatar, and what is called at its end.

        Raises a TeleError if it may not.
        """
        admission.check_host()
        checked = credentials.checked
        if checked.session:
            raise AccessDenied("the certificate is for a session of a proxy", "certificate")
        if self._member.state.recording.mode.by_proxies:
            raise AccessDenied(AT_PROXIES.message, AT_PROXIES.reason.value)
        session = self._sessions.get(session_id)
        if session is None:
            raise AccessDenied(NOT_HERE.message, NOT_HERE.reason.value)

        def decide_about(identity: UserIdentity) -> JoinGrant | Denied:
            target = JoinTarget(session_id, session.roles, self._member.host_id, self._all_labels())
            return self._member.policy.decide_join(
                identity, target, now(self._reactor), checked.limits
            )

        def decide() -> JoinGrant | Denied:
            # A timer ends it with the certificate.
            return decide_about(evolve(checked.identity, expires=LATEST))

        decided = admission.by_fresh_locks(decide_about(checked.identity))
        if isinstance(decided, Denied):
            raise AccessDenied(decided.message, decided.reason.value)
        user = decided.identity.user
        avatar = JoinAvatar(
            self._reactor, decided, session, credentials, decide, self._make_runner, self._audit,
            self._account(user), self._member.recorded,
        )  # fmt: skip
        keepalive = self._member.policy.client_keepalive(decided.identity, now(self._reactor))
        avatar.keepalive_interval = keepalive.total_seconds()
        self._present[avatar] = None
        avatar.logged_in()

        def left() -> None:
            self._present.pop(avatar, None)
            avatar.logged_out()

        return avatar, left
