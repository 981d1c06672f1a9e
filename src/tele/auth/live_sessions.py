"""Which sessions are shown as running, and can be ended: those that are recorded, and all others?

A session is known by its recording, by the event of its start, or both; the recording, which says
whether it has a terminal, is preferred.

Invariants:

* A session that is not recorded, in the mode ``off`` or because a disk was full, is shown, too.
* A session at a proxy is shown once: the one on the node behind it belongs to it, and is not shown
  beside it.
* Each start is decoded once, however often the sessions are listed.
"""

from __future__ import annotations

from operator import attrgetter

from tele.auth.recordings import Recordings
from tele.auth.repository import Versioned
from tele.auth.running_sessions import Running, mark_of
from tele.auth.session_starts import (
    SESSION_STARTS,
    SESSION_STARTS_OF,
    StartedSession,
    all_starts,
    starts_of_host,
)
from tele.errors import NotFound
from tele.interfaces import IBackend
from tele.model.session import Session


class LiveSessions:
    """The sessions that have not ended, recorded or not."""

    def __init__(self, backend: IBackend, recordings: Recordings) -> None:
        self._backend = backend
        self._recordings = recordings
        self._starts = all_starts(backend)
        self._known: dict[str, Versioned[StartedSession]] = {}

    async def all(self) -> list[Running]:
        """Return all of them, oldest first."""
        known: dict[str, Versioned[StartedSession]] = {}
        for item in await self._backend.range(SESSION_STARTS, SESSION_STARTS[:-1] + "0"):
            before = self._known.get(item.key)
            if before is None or before.revision != item.revision:
                before = self._starts.read(item)
            known[item.key] = before
        self._known = known
        return await self._merged(None, list(known.values()))

    async def of_user(self, user: str) -> list[Running]:
        """Return those of one user, oldest first."""
        prefix = f"{SESSION_STARTS_OF}{user}/"
        items = await self._backend.range(prefix, prefix[:-1] + "0")
        names = [item.key.removeprefix(prefix) for item in items]
        return await self._merged(user, list(await self._starts.get_many(names)))

    async def get(self, session_id: str) -> Session:
        """Return one. Raises :class:`NotFound`."""
        try:
            return await self._recordings.sessions.get(session_id)
        except NotFound:
            for each in await self.all():
                if each.session.id == session_id:
                    return each.session
            raise

    async def roles_of(self, session: Session) -> tuple[str, ...]:
        """Return the roles that allowed the login, as the host has reported them."""
        start = await starts_of_host(self._backend, session.recorded_by).get(session.id)
        return () if start is None else start.value.roles

    async def is_recorded(self, session: Session) -> bool:
        """Whether auth has a recording of a session that runs."""
        return await self._recordings.sessions.is_running(session.id)

    async def _merged(
        self, user: str | None, starts: list[Versioned[StartedSession]]
    ) -> list[Running]:
        found = {each.session.id: each for each in await self._recordings.running(user)}
        for start in starts:
            started = start.value
            if not started.of_session:
                session = started.session
                found.setdefault(session.id, Running(start.revision, mark_of(session), session))
        return sorted(found.values(), key=attrgetter("mark"))
