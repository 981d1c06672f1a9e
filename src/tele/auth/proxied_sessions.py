"""Which sessions has auth registered for a proxy that ends users' SSH?

A proxy registers each session with the user's proof before it begins. What a proxy reports and
records is accepted for its registered sessions only.

Keys: ``/proxied-sessions/<session id>``, for as long as a recording may arrive late, and
``/session-proofs/<proof>`` for as long as the proof may be shown.

Invariants:

* A session belongs to one proxy, one user, one login and one host, for good. So does what the user
  signed: a proof that was used for one session is good for no other.
* Its id is no other session's. The host knows it, by the certificate that the proxy logs in with.
* A proxy gets certificates for a session while it runs: none after its end, none once it is overdue
  in the list of those that run, where an administrator sees and ends it, and a bounded number.
* The host's name and id in events and recordings are auth's own knowledge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from attrs import evolve, frozen

from tele.auth.recording_claims import BEHIND, is_id
from tele.auth.repository import Repository
from tele.auth.target_keys import TargetKeys
from tele.errors import AccessDenied, Conflict
from tele.interfaces import IBackend
from tele.model.event import Event
from tele.model.session import RecordingStart

PREFIX: Final = "/proxied-sessions/"
PROOFS: Final = "/session-proofs/"
SESSION_END: Final = "session.end"
#: How long a proof is remembered: longer than any certificate of a user is valid.
PROOF_LIFE: Final = timedelta(days=2)
#: Logins to the host in one session: so many at once, and one more for each period since it was
#: registered. A client whose host, or its sshd's time limits, end the connection logs in again.
LOGINS_BURST: Final = 20
LOGIN_PERIOD: Final = timedelta(minutes=1)
#: How long the event of a session's start may be on its way.
START_GRACE: Final = timedelta(minutes=2)


@frozen
class ProxiedSession:
    """A session of ``user`` as ``login`` on the host ``node``, which ends at a proxy.

    ``proof`` is the SHA-256 of the session identifier of the user's connection, in hex;
    ``proxy_id`` and ``registered`` are set when it is registered. ``logins`` is how many were
    certified, and ``ended`` whether the proxy has reported the end.
    """

    user: str
    login: str
    login_session: str
    node_id: str
    node: str
    remote_addr: str
    proof: str
    proxy_id: str = ""
    registered: datetime | None = None
    logins: int = 0
    ended: bool = False

    def is_same(self, other: ProxiedSession) -> bool:
        """Whether this is ``other``, whose host may have another name now."""
        return self == evolve(
            other,
            node=self.node,
            registered=self.registered,
            logins=self.logins,
            ended=self.ended,
        )

    def age(self, moment: datetime) -> timedelta:
        """How long ago it was registered."""
        return moment - (self.registered or moment)

    def one_more_login(self, moment: datetime) -> ProxiedSession:
        """Return it with a login more. Raises :class:`AccessDenied` if those are too many."""
        if self.logins >= LOGINS_BURST + max(timedelta(), self.age(moment)) // LOGIN_PERIOD:
            raise AccessDenied(
                f"this session has logged in to {self.node} {self.logins} times; connect again",
                "session",
            )
        return evolve(self, logins=self.logins + 1)


@frozen
class _Proven:
    """The session that a proof was shown for."""

    proxy_id: str
    session_id: str


class ProxiedSessions:
    """The sessions that proxies have registered."""

    def __init__(self, backend: IBackend) -> None:
        self.keys = TargetKeys(backend)
        self._proofs = Repository(backend, PROOFS, _Proven)
        self._sessions = Repository(backend, PREFIX, ProxiedSession)

    async def register(
        self,
        proxy_id: str,
        session_id: str,
        session: ProxiedSession,
        moment: datetime,
        runs: Callable[[], Awaitable[bool]],
        login: bool = True,
    ) -> ProxiedSession:
        """Register a session for a proxy, again if need be; with ``login``, for one more login.

        ``runs()``: whether the proxy's event of its start has come, and none of its end. Raises
        :class:`Conflict` if it is registered as another one, or its proof for another one, and
        :class:`AccessDenied` if it runs no more, or logs in too often.
        """
        if not is_id(session_id):
            raise Conflict("the id of a session has to be a UUID")

        proven = _Proven(proxy_id, session_id)
        new = evolve(session, proxy_id=proxy_id, registered=moment)

        def first(present: _Proven | None) -> _Proven:
            if present not in (None, proven):
                raise Conflict("this login of the user was used for another session")
            return proven

        def same(present: ProxiedSession | None) -> ProxiedSession:
            if present is None:
                present = new
            elif not present.is_same(new):
                raise Conflict("this id is that of another session")
            if present.ended:
                raise AccessDenied("this session has ended", "session")
            present = evolve(
                present, node=new.node, registered=present.registered or new.registered
            )
            return present.one_more_login(moment) if login else present

        known = await self.find(proxy_id, session_id)
        if known is None:
            await self._proofs.change(session.proof, first, ttl=PROOF_LIFE)
        elif known.is_same(new) and known.age(moment) > START_GRACE and not await runs():
            raise AccessDenied("this session does not run, as far as auth knows", "session")
        return await self._sessions.change(session_id, same, ttl=BEHIND)

    async def find(self, proxy_id: str, session_id: str) -> ProxiedSession | None:
        """Return a session that is registered for a proxy, or None."""
        found = await self._sessions.get(session_id) if is_id(session_id) else None
        return found.value if found is not None and found.value.proxy_id == proxy_id else None

    async def has(self, session_id: str) -> bool:
        """Whether an id is that of a session which is registered for a proxy."""
        return is_id(session_id) and await self._sessions.get(session_id) is not None

    async def claimed(self, proxy_id: str, value: Event) -> Event | str:
        """Return an event of a proxy about a session as it is stored, or why it cannot be."""
        known = await self.find(proxy_id, value.session_id)
        if known is None:
            return "its session is not registered for this proxy"
        if (value.user, value.login) != (known.user, known.login):
            return f"its session is of {known.user} as {known.login}"
        if value.event == SESSION_END and not known.ended:
            await self._end(value.session_id)
        fields = {**value.fields, "node": known.node, "node_id": known.node_id}
        return evolve(
            value,
            login_session=known.login_session,
            remote_addr=known.remote_addr,
            fields=fields,
        )

    async def _end(self, session_id: str) -> None:
        """Certify nothing for a session any more, whatever its proxy reports later."""

        def ended(present: ProxiedSession | None) -> ProxiedSession:
            if present is None:
                raise Conflict("the session is not registered any more")
            return evolve(present, ended=True)

        await self._sessions.change(session_id, ended, ttl=BEHIND)

    async def check_recording(self, proxy_id: str, start: RecordingStart) -> str:
        """Return the name of the host that a recording of a proxy is about.

        Raises :class:`AccessDenied` unless it is one of a registered session.
        """
        known = await self.find(proxy_id, start.id)
        stated = (start.user, start.login, start.login_session, start.node_id)
        if known is None or stated != (
            known.user,
            known.login,
            known.login_session,
            known.node_id,
        ):
            raise AccessDenied("the session is not registered for this proxy", "host")
        return known.node
