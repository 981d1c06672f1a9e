"""Which recorded sessions run, of all users, of one, and how many on a host?

``/sessions/<id>`` and ``/sessions-of/<user>/<id>`` exist while a session runs.

Invariant: each session is decoded once, however often the sessions are listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Final

from attrs import evolve, frozen

from tele.auth.recording_claims import is_id
from tele.auth.recording_search import received_at, stamp_of
from tele.auth.repository import Repository
from tele.errors import Conflict, NotFound, quoted
from tele.interfaces import Delete, IBackend, Put
from tele.model.identity import HostPlace
from tele.model.session import Session

SESSIONS: Final = "/sessions/"
SESSIONS_OF: Final = "/sessions-of/"
#: How often the sessions of a host that is at its limit are counted anew, and for how long a
#: session without an end counts.
COUNT_SECONDS: Final = timedelta(seconds=30)
COUNTS_FOR: Final = timedelta(days=7)
_NEVER: Final = datetime(2000, 1, 1, tzinfo=UTC)


@frozen
class Running:
    """A session that runs; lists are ordered by ``mark``, and continue after one."""

    revision: int
    mark: str
    session: Session


def mark_of(session: Session) -> str:
    """Return by what a session is ordered in lists."""
    return f"{stamp_of(received_at(session))}-{session.id}"


def _user_key(user: str, session_id: str) -> str:
    return f"{SESSIONS_OF}{user}/{session_id}"


class RunningSessions:
    """The sessions that have not ended."""

    def __init__(self, backend: IBackend, now: Callable[[], datetime]) -> None:
        self._backend = backend
        self._now = now
        self._sessions = Repository(backend, SESSIONS, Session)
        self._known: dict[str, Running] = {}
        self._on_host: Counter[HostPlace] = Counter()
        self._counted = _NEVER

    async def all(self) -> list[Running]:
        """Return all of them, oldest first."""
        items = await self._backend.range(SESSIONS, SESSIONS[:-1] + "0")
        known: dict[str, Running] = {}
        for item in items:
            before = self._known.get(item.key)
            if before is None or before.revision != item.revision:
                session = self._sessions.read(item).value
                before = Running(item.revision, mark_of(session), session)
            known[item.key] = before
        self._known = known
        return sorted(known.values(), key=attrgetter("mark"))

    async def of_user(self, user: str) -> list[Running]:
        """Return those of one user, oldest first."""
        prefix = f"{SESSIONS_OF}{user}/"
        items = await self._backend.range(prefix, prefix[:-1] + "0")
        names = [item.key.removeprefix(prefix) for item in items]
        found = await self._sessions.get_many(names)
        running = [Running(each.revision, mark_of(each.value), each.value) for each in found]
        return sorted(running, key=attrgetter("mark"))

    async def is_running(self, session_id: str) -> bool:
        """Whether a session has not ended."""
        return await self._sessions.get(session_id) is not None

    async def get(self, session_id: str) -> Session:
        """Return a session that runs. Raises :class:`NotFound`."""
        found = await self._sessions.get(session_id) if is_id(session_id) else None
        if found is None:
            raise NotFound(
                f"no such session runs: {quoted(session_id)}; tele sessions ls shows those that do"
            )
        return found.value

    async def is_below_limit(self, host: HostPlace, limit: int) -> bool:
        """Whether fewer than ``limit`` sessions run that a host records."""
        moment = self._now()
        if self._on_host[host] >= limit and abs(moment - self._counted) >= COUNT_SECONDS:
            # Some may have ended at another auth on this store, or without a report.
            self._counted = moment
            since = moment - COUNTS_FOR
            self._on_host = Counter(
                each.session.recorded_by
                for each in await self.all()
                if received_at(each.session) > since
            )
        return self._on_host[host] < limit

    # -- changes ----------------------------------------------------------------------
    def start(self, session: Session) -> Sequence[Put]:
        """Return the changes that make a session run; call :meth:`started` after the commit."""
        return (
            self._sessions.put(session.id, session),
            Put(_user_key(session.user, session.id), b""),
        )

    def started(self, session: Session) -> None:
        """Count a session that runs from now on."""
        self._on_host[session.recorded_by] += 1

    async def mark_interactive(self, session_id: str) -> None:
        """Note that a session has a terminal, if it runs."""
        found = await self._sessions.get(session_id)
        if found is not None and not found.value.interactive:
            session = evolve(found.value, interactive=True)
            with suppress(Conflict):  # it ended meanwhile
                await self._backend.commit(self._sessions.put(session_id, session, found.revision))

    async def end(self, session_id: str) -> None:
        """Note that a session has ended, if it runs."""
        found = await self._sessions.get(session_id)
        if found is not None:
            await self._backend.commit(
                self._sessions.delete(session_id),
                Delete(_user_key(found.value.user, session_id)),
            )
            self._on_host[found.value.recorded_by] -= 1
