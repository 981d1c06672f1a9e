"""May they come in here, as that account? The portal's realm.

Invariants:

* The certificate was checked before; here the roles decide and give a Grant: at the login, and
  again whenever the cluster's rules change, for as long as the connection lasts.
* Who would not be let in any more does not stay in.
* What the certificate withholds, no role gives back.
* A visitor is in after the event of it is written: it survives the end of this process.
* Without a valid certificate of our own, without a place to put it on record, or with sessions
  to be recorded in a way that we do not know, nobody comes in. Where the disk is full that place
  is auth; without either, those come in whom a role lets in all the same (``break_glass``).
* Accounts are looked up in threads of their own, of which each person has a share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import evolve, frozen
from twisted.conch.interfaces import IConchUser
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from zope.interface import implementer

from tele.certs.check import LATEST
from tele.conch.server.credentials import CertificateCredentials
from tele.errors import AccessDenied, Unavailable
from tele.loop import now
from tele.membership.member import Member
from tele.membership.reviewing import Review
from tele.model.access import CertificateLimits, Denied, Grant
from tele.model.identity import UserIdentity
from tele.node.avatar import Visitor
from tele.node.programs import ConnectionContext
from tele.spawner.accounts import Refused, check_open, check_sessions, find_account
from tele.workers import Workers

#: Threads that wait for name services, and of one person at once.
ACCOUNT_THREADS: Final = 16
ACCOUNT_THREADS_PER_USER: Final = 4
#: Logins of one person that wait for such a thread.
ACCOUNTS_WAITING_PER_USER: Final = 1024
#: How long a look-up may take, its waiting included: less than the time to log in.
ACCOUNT_SECONDS: Final = 20.0
#: How long a log-in waits until it is on record: on a slow disk, or at auth if the disk is full.
RECORD_SECONDS: Final = 20.0
NO_ROOM: Final = (
    "this node lets nobody in: its disk is full, or too slow for its audit, and auth does not take"
    " events now"
)

Answer = tuple[Any, Any, Callable[[], None]]


def look_up(login: str) -> None:
    """Raise Refused unless the account ``login`` is there, ours to serve, and open. May wait.

    Also one that is for no sessions is refused here: forwarding alone is a use of it, too.
    """
    account = find_account(login)
    check_open(account)
    check_sessions(account)


class Accounts:
    """Looks accounts up, in threads that nothing else uses. Close it when its owner stops."""

    def __init__(self, reactor: Any, look_up: Callable[[str], None] = look_up) -> None:
        self._look_up = look_up
        self.workers = Workers(
            reactor,
            "this node's name service",
            threads=ACCOUNT_THREADS,
            share=ACCOUNT_THREADS_PER_USER,
            waiting=ACCOUNTS_WAITING_PER_USER,
            seconds=ACCOUNT_SECONDS,
        )

    async def check(self, login: str, user: str) -> None:
        """Raise :class:`AccessDenied` unless ``user`` may be served as ``login``."""
        try:
            await self.workers.call(user, self._look_up, login)
        except Refused as refused:
            raise AccessDenied(str(refused), refused.reason) from None

    def close(self) -> None:
        """Look nothing up any more."""
        self.workers.close()


@frozen
class Login:
    """What a decision about a connection depends on. The certificate itself is not kept."""

    identity: UserIdentity
    login: str
    limits: CertificateLimits

    @classmethod
    def of(cls, credentials: CertificateCredentials) -> Login:
        """Return what ``credentials`` say."""
        checked = credentials.checked
        return cls(checked.identity, credentials.login, checked.limits)


@implementer(IRealm)
class NodeRealm:
    """Decides who may be what on this node.

    :param labels: the node's own labels; those that the cluster bound to it win over them.
    :param receive: makes the avatar for a grant and its credentials.
    :param accounts: knows the accounts of this machine.
    """

    def __init__(
        self,
        reactor: Any,
        member: Member,
        labels: Callable[[], Mapping[str, str]],
        receive: Callable[[Grant, CertificateCredentials], Visitor],
        accounts: Accounts,
    ) -> None:
        self._reactor = reactor
        self._member = member
        self._labels = labels
        self._receive = receive
        self._accounts = accounts
        self._present: dict[Visitor, Login] = {}
        self._review = Review(
            reactor,
            lambda: member.state,
            lambda: member.policy,
            lambda: self._present,
            self._again,
            self._all_labels,
        )

    @property
    def sessions(self) -> tuple[str, ...]:
        """The ids of the sessions of those who are in."""
        return tuple(visitor.visit.session_id for visitor in self._present)

    def look(self) -> None:
        """The cluster's state, or labels of this node, may have changed: who may stay?"""
        self._review.check()

    def stop(self) -> None:
        """Ask about nobody any more."""
        self._review.stop()

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Deferred[Answer]:
        """Return the visitor for :class:`CertificateCredentials`, or fail with AccessDenied."""
        return Deferred.fromCoroutine(self._request(avatarId, interfaces))

    async def _request(self, credentials: CertificateCredentials, interfaces: Any) -> Answer:
        if IConchUser not in interfaces:
            raise Unavailable("this server has SSH users only")
        login = Login.of(credentials)
        grant = self._admit(login)
        # Name services may wait for a network; the reactor must not.
        await self._accounts.check(grant.login, grant.identity.user)
        # That took a while: what counts is what is decided now.
        visitor = self._receive(self._admit(login), credentials)
        self._present[visitor] = login
        visitor.arrived()

        def left() -> None:
            self._present.pop(visitor, None)
            visitor.left()

        try:
            await self._on_record(visitor.grant)
            if (ended := visitor.ended) is not None:
                raise AccessDenied(ended.message, ended.reason.value)
        except BaseException:
            left()
            raise
        return IConchUser, visitor, left

    async def _on_record(self, grant: Grant) -> None:
        """Return when the start of a session is: nothing begins before that."""
        recorded = self._member.recorded(or_refused=grant.break_glass)
        if not grant.break_glass:
            recorded.addTimeout(RECORD_SECONDS, self._reactor)
        try:
            await recorded
        except DeferredTimeout:
            raise Unavailable(NO_ROOM) from None

    def _all_labels(self) -> dict[str, str]:
        return {**self._labels(), **self._member.bound_labels}

    def _admit(self, login: Login) -> Grant:
        member = self._member
        if member.identity.expires <= now(self._reactor):
            raise Unavailable(
                "this node's own certificate has expired while auth was away; it lets nobody in"
                " until it has a new one"
            )
        if member.expelled:
            raise Unavailable(f"this node lets nobody in: {member.expelled}")
        if problem := member.state.recording.problem:
            raise Unavailable(
                "this node cannot record sessions as the cluster says, and lets nobody in:"
                f" {problem}"
            )
        decision = self._decide(login, login.identity)
        if isinstance(decision, Denied):
            raise AccessDenied(decision.message, decision.reason.value)
        if not (member.can_record or decision.break_glass):
            raise Unavailable(NO_ROOM)
        return decision

    def _again(self, visitor: Visitor) -> None:
        """Decide about somebody who is in; the end of their certificate is not their end."""
        login = self._present.get(visitor)
        if login is None:
            return  # they left meanwhile
        identity = evolve(login.identity, expires=LATEST)
        decision = self._decide(login, identity, visitor.visit.session_id)
        if isinstance(decision, Denied):
            visitor.expelled(decision)
        else:
            visitor.regranted(evolve(decision, expires=visitor.grant.expires))

    def _decide(self, login: Login, identity: UserIdentity, session_id: str = "") -> Grant | Denied:
        return self._member.policy.decide(
            identity,
            login.login,
            self._all_labels(),
            now(self._reactor),
            self._member.host_id,
            login.limits,
            session_id,
        )


def context_of(
    grant: Grant, credentials: CertificateCredentials, session_id: str
) -> ConnectionContext:
    """Return between whom this connection is."""
    return ConnectionContext(grant, session_id, credentials.remote_addr, credentials.local_addr)
