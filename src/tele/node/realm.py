"""May a user log in here, as that account? The realm of the portal.

Invariants:

* Who is let in, and may stay, is decided by ``tele.sessions.admission``, about this node and its
  labels; the account is looked up before, and what counts is what is decided after that.
* While proxies record sessions, no one logs in here but a proxy, with a certificate that auth made
  for one session of a user who has logged in there. Such a certificate is for this host, and for
  one login. Users of roles with ``break_glass`` log in also directly, with what these
  roles give, and the node records them.
* An account that roles have made is ready before it is looked up, and needed until the connection
  ends.
* A user who joins a session has no account: see :mod:`tele.sessions.joining`.
* Accounts are looked up in threads of their own, of which each user has a share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from twisted.conch.interfaces import IConchUser
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.conch.server.credentials import CertificateCredentials
from tele.errors import AccessDenied, Unavailable
from tele.loop import now
from tele.membership.member import Member
from tele.model.access import Grant
from tele.model.identity import HostRole
from tele.model.joining import joined_session
from tele.node.avatar import NodeAvatar
from tele.node.host_users import HostUsers
from tele.sessions.admission import Login, SessionAdmission, Target
from tele.sessions.joining import Joins
from tele.spawner.accounts import Refused, check_open, check_sessions, find_account
from tele.workers import Workers

#: Threads that wait for name services, and of one user at once.
ACCOUNT_THREADS: Final = 16
ACCOUNT_THREADS_PER_USER: Final = 4
#: Logins of one user that wait for such a thread.
ACCOUNTS_WAITING_PER_USER: Final = 1024
#: Seconds that a lookup may take, waiting included: less than the time to log in.
ACCOUNT_SECONDS: Final = 20.0

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


@implementer(IRealm)
class NodeRealm:
    """Decides who may log in on this node, and what they may do.

    :param labels: the node's own labels; those that the cluster bound to it win over them.
    :param make_avatar: makes the avatar for a grant and its credentials.
    :param accounts: knows the accounts of this machine.
    :param host_users: makes those that roles want.
    :param joins: admits those who join sessions.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        member: Member,
        labels: Callable[[], Mapping[str, str]],
        make_avatar: Callable[[Grant, CertificateCredentials], NodeAvatar],
        accounts: Accounts,
        host_users: HostUsers,
        joins: Joins,
    ) -> None:
        self._member = member
        self._labels = labels
        self._make_avatar = make_avatar
        self._accounts = accounts
        self._host_users = host_users
        self._reactor = reactor
        #: Serials of certificates for one login that were used, and until when they are valid.
        self._used: dict[int, datetime] = {}
        #: Its owner tells it of changes, and stops it.
        self.admission: Final = SessionAdmission(reactor, member, HostRole.NODE, self._all_labels)
        self._joins = joins

    def review(self) -> None:
        """The cluster's state or the labels may have changed: decide again about all."""
        self.admission.review()
        self._joins.review()

    def stop(self) -> None:
        """Decide no more."""
        self.admission.stop()
        self._joins.stop()

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Deferred[Answer]:
        """Return the avatar for :class:`CertificateCredentials`, or fail with AccessDenied."""
        return Deferred.fromCoroutine(self._request(avatarId, interfaces))

    async def _request(self, credentials: CertificateCredentials, interfaces: Any) -> Answer:
        if IConchUser not in interfaces:
            raise Unavailable("this server has SSH users only")
        if joined := joined_session(credentials.login):
            return IConchUser, *self._joins.enter(joined, credentials, self.admission)
        admission, login = self.admission, Login.of(credentials, self._target)
        grant = self._admit(login, credentials)
        self._check_session(credentials)
        user = grant.identity.user
        lease = await self._host_users.acquire(grant.login, user, grant.host_user)
        try:
            # Name services may wait for a network; the reactor must not.
            await self._accounts.check(grant.login, user)
            # That took a while: what counts is what is decided now.
            avatar = self._make_avatar(self._admit(login, credentials), credentials)
            avatar.use_account(lease)
            leave = await admission.enter(avatar, login)
        except BaseException:
            lease.release()
            raise

        shared = None if avatar.is_proxied else avatar.shared
        if shared is not None:
            self._joins.began(shared)

        def left() -> None:
            if shared is not None:
                self._joins.over(shared)
            leave()
            lease.release()

        return IConchUser, avatar, left

    def _admit(self, login: Login, credentials: CertificateCredentials) -> Grant:
        """Return what a login may do now. Raises a TeleError if it is not let in.

        Past the proxies that record it is what roles with ``break_glass`` give.
        """
        grant = self.admission.admit(login)
        if credentials.checked.session and grant.require_session_join:
            raise AccessDenied("a session that has to be watched ends at no proxy", "moderated")
        if credentials.checked.session or not grant.recording.mode.by_proxies:
            return grant
        emergency = grant.in_emergency()
        if emergency is None:
            raise AccessDenied(
                "sessions of this cluster are recorded by its proxies: connect through one, with"
                " tele ssh, or as tele config sets it up",
                "recording",
            )
        return emergency

    def _check_session(self, credentials: CertificateCredentials) -> None:
        """Refuse a certificate for a session on another host, or for a session a second time."""
        checked, moment = credentials.checked, now(self._reactor)
        if not checked.session:
            return
        if checked.target != self._member.host_id:
            raise AccessDenied("the certificate is for a session on another host", "certificate")
        serial, expires = checked.serial, checked.identity.expires
        # They expire in the order of their issue, within minutes.
        while self._used and next(iter(self._used.values())) <= moment:
            del self._used[next(iter(self._used))]
        if serial in self._used:
            raise AccessDenied("the certificate is for one login, and was used", "certificate")
        self._used[serial] = expires

    def _target(self) -> Target:
        return Target(self._member.host_id, self._all_labels())

    def _all_labels(self) -> dict[str, str]:
        return {**self._labels(), **self._member.bound_labels}
