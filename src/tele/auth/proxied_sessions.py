"""Which sessions has auth registered for a proxy that ends users' SSH?

A proxy registers each session with the user's proof before it begins. What a proxy reports and
records is accepted for its registered sessions only.

Keys: ``/proxied-sessions/<session id>``, for as long as a recording may arrive late, and
``/session-proofs/<proof>`` for as long as the proof may be shown.

Invariants:

* A session belongs to one proxy, one user, one login and one host, for good. So does what the user
  signed: a proof that was used for one session is good for no other.
* Its id is nobody else's. The host knows it, by the certificate that the proxy logs in with.
* The host's name and id in events and recordings are auth's own knowledge.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from attrs import evolve, frozen

from tele.auth.recording_claims import BEHIND, is_id
from tele.auth.repository import Repository
from tele.errors import AccessDenied, Conflict
from tele.interfaces import IBackend
from tele.model.event import Event
from tele.model.session import RecordingStart

PREFIX: Final = "/proxied-sessions/"
PROOFS: Final = "/session-proofs/"
#: How long a proof is remembered: longer than any certificate of a user is valid.
PROOF_LIFE: Final = timedelta(days=2)


@frozen
class ProxiedSession:
    """A session of ``user`` as ``login`` on the host ``node``, which ends at a proxy.

    ``proof`` is the SHA-256 of the session identifier of the user's connection, in hex;
    ``proxy_id`` is set when it is registered.
    """

    user: str
    login: str
    login_session: str
    node_id: str
    node: str
    remote_addr: str
    proof: str
    proxy_id: str = ""


@frozen
class _Proven:
    """The session that a proof was shown for."""

    proxy_id: str
    session_id: str


class ProxiedSessions:
    """The sessions that proxies have registered."""

    def __init__(self, backend: IBackend) -> None:
        self._proofs = Repository(backend, PROOFS, _Proven)
        self._sessions = Repository(backend, PREFIX, ProxiedSession)

    async def register(self, proxy_id: str, session_id: str, session: ProxiedSession) -> None:
        """Register a session for a proxy, again if need be.

        Raises :class:`Conflict` if it is registered as another one, or its proof for another one.
        """
        if not is_id(session_id):
            raise Conflict("the id of a session has to be a UUID")

        proven, session = _Proven(proxy_id, session_id), evolve(session, proxy_id=proxy_id)

        def first(present: _Proven | None) -> _Proven:
            if present not in (None, proven):
                raise Conflict("this login of the user was used for another session")
            return proven

        def same(present: ProxiedSession | None) -> ProxiedSession:
            if present is not None and evolve(present, node=session.node) != session:
                raise Conflict("this id is that of another session")
            return session

        await self._proofs.change(session.proof, first, ttl=PROOF_LIFE)
        await self._sessions.change(session_id, same, ttl=BEHIND)

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
        fields = {**value.fields, "node": known.node, "node_id": known.node_id}
        return evolve(
            value,
            login_session=known.login_session,
            remote_addr=known.remote_addr,
            fields=fields,
        )

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
