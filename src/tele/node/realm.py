"""May a user log in here, as that account? The realm of the portal.

Invariants:

* The certificate was checked before; here the roles decide and give a Grant: at the login, and
  again whenever the cluster's rules change, for as long as the connection lasts.
* A connection ends when its user could not log in any more.
* What the certificate withholds, no role gives back.
* A login succeeds after its audit event is stored: the event survives the end of this process.
* No login succeeds without a valid certificate of the node, without storage for its event (the
  disk, or auth when the disk is full), or with an unknown recording mode. Without storage, users
  of roles with ``break_glass`` still log in.
* Accounts are looked up in threads of their own, of which each user has a share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import evolve, frozen
from twisted.conch.interfaces import IConchUser
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.certs.check import LATEST
from tele.conch.server.credentials import CertificateCredentials
from tele.errors import AccessDenied, Unavailable
from tele.loop import now
from tele.membership.member import Member
from tele.membership.reviewing import Review
from tele.model.access import CertificateLimits, Denied, Grant
from tele.model.identity import UserIdentity
from tele.node.avatar import NodeAvatar
from tele.spawner.accounts import Refused, check_open, check_sessions, find_account
from tele.workers import Workers

#: Threads that wait for name services, and of one user at once.
ACCOUNT_THREADS: Final = 16
ACCOUNT_THREADS_PER_USER: Final = 4
#: Logins of one user that wait for such a thread.
ACCOUNTS_WAITING_PER_USER: Final = 1024
#: Seconds that a lookup may take, waiting included: less than the time to log in.
ACCOUNT_SECONDS: Final = 20.0
#: Seconds that a login waits for its event to be stored: on disk, or by auth if that is full.
RECORD_SECONDS: Final = 20.0
NO_STORAGE: Final = (
    "this node accepts no logins: its disk is full, or too slow for its audit, and auth does not"
    " take events now"
)

Answer = tuple[Any, Any, Callable[[], None]]


def look_up(login: str) -> None:
    """Raise Refused unless the account ``login`` exists, can be served, and is open. May wait.

    An account without sessions (nologin) is refused here: forwarding alone is a use of it, too.
    """
    account = find_account(login)
    check_open(account)
    check_sessions(account)


class Accounts:
    """Looks accounts up, in threads of its own. Its owner closes it."""

    def __init__(self, reactor: IReactorTime, look_up: Callable[[str], None] = look_up) -> None:
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
        """End the threads."""
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
    """Decides who may log in on this node, and what they may do.

    :param labels: the node's own labels; those that the cluster bound to it win over them.
    :param make_avatar: makes the avatar for a grant and its credentials.
    :param accounts: knows the accounts of this machine.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        member: Member,
        labels: Callable[[], Mapping[str, str]],
        make_avatar: Callable[[Grant, CertificateCredentials], NodeAvatar],
        accounts: Accounts,
    ) -> None:
        self._reactor = reactor
        self._member = member
        self._labels = labels
        self._make_avatar = make_avatar
        self._accounts = accounts
        self._present: dict[NodeAvatar, Login] = {}
        self._review = Review(
            reactor,
            lambda: member.state,
            lambda: member.policy,
            lambda: self._present,
            self._decide_again,
            self._all_labels,
        )

    @property
    def sessions(self) -> tuple[str, ...]:
        """The ids of the sessions of all connections."""
        return tuple(avatar.context.session_id for avatar in self._present)

    def review(self) -> None:
        """The cluster's state or labels of this node may have changed: decide again about all."""
        self._review.check()

    def stop(self) -> None:
        """End the reviews."""
        self._review.stop()

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Deferred[Answer]:
        """Return the avatar for :class:`CertificateCredentials`, or fail with AccessDenied."""
        return Deferred.fromCoroutine(self._request(avatarId, interfaces))

    async def _request(self, credentials: CertificateCredentials, interfaces: Any) -> Answer:
        if IConchUser not in interfaces:
            raise Unavailable("this server has SSH users only")
        login = Login.of(credentials)
        grant = self._admit(login)
        # Name services may wait for a network; the reactor must not.
        await self._accounts.check(grant.login, grant.identity.user)
        # That took a while: what counts is what is decided now.
        avatar = self._make_avatar(self._admit(login), credentials)
        self._present[avatar] = login
        avatar.logged_in()

        def logged_out() -> None:
            self._present.pop(avatar, None)
            avatar.logged_out()

        try:
            await self._stored(avatar.grant)
            if (ended := avatar.ended) is not None:
                raise AccessDenied(ended.message, ended.reason.value)
        except BaseException:
            logged_out()
            raise
        return IConchUser, avatar, logged_out

    async def _stored(self, grant: Grant) -> None:
        """Return when the event of the login is stored: nothing begins before that."""
        recorded = self._member.recorded(or_refused=grant.break_glass)
        if not grant.break_glass:
            recorded.addTimeout(RECORD_SECONDS, self._reactor)
        try:
            await recorded
        except DeferredTimeout:
            raise Unavailable(NO_STORAGE) from None

    def _all_labels(self) -> dict[str, str]:
        return {**self._labels(), **self._member.bound_labels}

    def _admit(self, login: Login) -> Grant:
        member = self._member
        if member.identity.expires <= now(self._reactor):
            raise Unavailable(
                "the certificate of this node has expired while auth was away; it accepts no logins"
                " until it has a new one"
            )
        if member.expelled:
            raise Unavailable(f"this node accepts no logins: {member.expelled}")
        if problem := member.state.recording.problem:
            raise Unavailable(
                "this node cannot record sessions as the cluster says, and accepts no logins:"
                f" {problem}"
            )
        decision = self._decide(login, login.identity)
        if isinstance(decision, Denied):
            raise AccessDenied(decision.message, decision.reason.value)
        if not (member.can_record or decision.break_glass):
            raise Unavailable(NO_STORAGE)
        return decision

    def _decide_again(self, avatar: NodeAvatar) -> None:
        """Decide again about a connection; that its certificate has expired does not end it."""
        login = self._present.get(avatar)
        if login is None:
            return  # it ended meanwhile
        identity = evolve(login.identity, expires=LATEST)
        decision = self._decide(login, identity, avatar.context.session_id)
        if isinstance(decision, Denied):
            avatar.expelled(decision)
        else:
            avatar.regranted(evolve(decision, expires=avatar.grant.expires))

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
