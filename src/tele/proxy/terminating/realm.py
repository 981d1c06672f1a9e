"""May a user log in to a target through this proxy? The realm of the target's server here.

Invariants:

* It is decided as a node decides (:mod:`tele.sessions.admission`), by the labels that the cluster
  knows of the target.
* No login succeeds before auth has registered the session, for which the user's proof is passed on:
  what this proxy reports and records of other sessions, auth does not believe.
* Nothing is joined here: what others see of a session would end at this proxy, too.
* A host that is not in the cluster any more has no users.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.conch.interfaces import IConchUser
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tele.conch.server.credentials import CertificateCredentials
from tele.errors import AccessDenied, Unavailable
from tele.model.access import Grant
from tele.model.joining import joined_session
from tele.model.presence import Host
from tele.proxy.terminating.avatar import TargetAvatar
from tele.proxy.terminating.registration import RegisteredSession
from tele.rbac.joining import AT_PROXIES
from tele.sessions.admission import Login, SessionAdmission, Target

Answer = tuple[Any, Any, Callable[[], None]]
#: Registers a session with auth. Raises a TeleError.
Register = Callable[[Host, CertificateCredentials], Awaitable[RegisteredSession]]
#: Makes the avatar of a registered session. Raises a TeleError if its user has no share left.
MakeAvatar = Callable[[Host, Grant, CertificateCredentials, RegisteredSession], TargetAvatar]


@implementer(IRealm)
class TargetRealm:
    """Decides who may log in to one target. ``find()`` returns what is known of it now, or None."""

    def __init__(
        self,
        host_id: str,
        find: Callable[[], Host | None],
        admission: SessionAdmission,
        register: Register,
        make_avatar: MakeAvatar,
    ) -> None:
        self._host_id = host_id
        self._find = find
        self._admission = admission
        self._register = register
        self._make_avatar = make_avatar

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Deferred[Answer]:
        """Return the avatar for :class:`CertificateCredentials`, or fail with a TeleError."""
        return Deferred.fromCoroutine(self._request(avatarId, interfaces))

    async def _request(self, credentials: CertificateCredentials, interfaces: Any) -> Answer:
        if IConchUser not in interfaces:
            raise Unavailable("this server has SSH users only")
        if joined_session(credentials.login):
            raise AccessDenied(AT_PROXIES.message, AT_PROXIES.reason.value)
        login = Login.of(credentials, self._target)
        self._admission.admit(login)
        registered = await self._register(self._host(), credentials)
        # Auth took a while: what counts is what is decided now.
        grant = self._admission.admit(login)
        avatar = self._make_avatar(self._host(), grant, credentials, registered)
        return IConchUser, avatar, await self._admission.enter(avatar, login)

    def _host(self) -> Host:
        host = self._find()
        if host is None:
            raise Unavailable("this host is not in the cluster any more")
        return host

    def _target(self) -> Target:
        host = self._find()
        return Target(self._host_id, {} if host is None else host.labels)
