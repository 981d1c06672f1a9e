"""Which recordings has a node not uploaded yet, and how are they closed when it is gone?

``/recordings/open/<host id>/<recording id>`` exists from the start of a recording until it is
complete, or closed as incomplete.

Invariants:

* A recording whose node is gone is closed as incomplete.
* The event is appended before the recording is closed, and once, however often auth tries.
* Nothing recorded is lost by that: a node that reconnects later resumes its recordings.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.audit.chain import event
from tele.audit.log import AuditLog
from tele.auth.host_places import place_key, places_below
from tele.auth.recordings import OPEN, ROWS, Recordings, open_key
from tele.auth.repository import Repository
from tele.interfaces import Delete, IBackend, Put
from tele.loop import now
from tele.model.identity import HostPlace
from tele.model.session import Recording, RecordingState, Session

#: Written when the open recordings of an older version's store are listed.
ADOPTED: Final = "/cluster/open-recordings"
#: Numbers of lost chunks that an event names, and recordings that are read with one call.
MISSING_SHOWN: Final = 100
PAGE: Final = 500


class OpenRecordings:
    """The recordings that are neither complete nor closed. Call :meth:`start` first."""

    def __init__(
        self,
        backend: IBackend,
        clock: IReactorTime,
        cluster: str,
        audit: AuditLog,
        recordings: Recordings,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._cluster = cluster
        self._audit = audit
        self._recordings = recordings

    async def start(self) -> None:
        """List the open recordings of a store of an older version, which had no list."""
        if await self._backend.get(ADOPTED) is not None:
            return
        rows, last = Repository(self._backend, ROWS, Recording), ""
        while page := await rows.list(PAGE, last):
            last = page[-1].name
            changes = [
                Put(open_key(entry.value), b"")
                for entry in page
                if entry.value.node_id and not (entry.value.complete or entry.value.incomplete)
            ]
            if changes:
                await self._backend.commit(*changes)
        await self._backend.commit(Put(ADOPTED, b"1"))

    async def hosts(self) -> set[HostPlace]:
        """Return the hosts with open recordings."""
        return await places_below(self._backend, OPEN)

    async def close(self, host: HostPlace, reason: str, ended: datetime) -> None:
        """Close a host's open recordings as incomplete.

        Sessions whose end the host has not reported ended at ``ended``.
        """
        prefix = f"{OPEN}{place_key(host)}/"
        start, end = prefix, prefix[:-1] + "0"
        while items := await self._backend.range(start, end, PAGE):
            start = items[-1].key + "\0"
            for item in items:
                await self._close(item.key, reason, ended)

    async def _close(self, key: str, reason: str, ended: datetime) -> None:
        row = await self._recordings.find(key.rpartition("/")[2])
        if row is None or row.complete or row.incomplete:
            await self._backend.commit(Delete(key))
            return
        details = await self._recordings.details(row, RecordingState.INCOMPLETE)
        closed = event(
            "recording.incomplete", f"{row.id}-incomplete-{details.available}",
            now(self._clock), self._cluster, ok=False, error=reason, session_id=row.id,
            user=row.user, login=row.login, server_id=row.node_id, server_name=row.node,
            chunks=details.available, missing=details.missing[:MISSING_SHOWN], by="auth",
        )  # fmt: skip
        await self._audit.append(closed)
        await self._recordings.close_incomplete(row.id, reason, ended)

    async def resumed(self, session: Session) -> None:
        """Reopen the recording of a session that auth had ended and that runs."""
        row = await self._recordings.find(session.id)
        if row is not None and row.recorded_by == session.recorded_by:
            await self._recordings.reopen(session)
