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
from tele.auth.recordings import OPEN, ROWS, Recordings, open_key
from tele.auth.repository import Repository
from tele.interfaces import Delete, IBackend, Put
from tele.loop import now
from tele.model.session import Recording, RecordingState, Session

#: Written when the open recordings of an older version's store are listed.
ADOPTED: Final = "/cluster/open-recordings"
#: Numbers of lost chunks that an event names, and recordings that are read with one call.
MISSING_SHOWN: Final = 100
PAGE: Final = 500


async def hosts_below(backend: IBackend, prefix: str) -> set[str]:
    """Return the host ids that have keys ``<prefix><host id>/...``, without reading them all."""
    found: set[str] = set()
    start, end = prefix, prefix[:-1] + "0"
    while items := await backend.range(start, end, 1):
        host_id = items[0].key.removeprefix(prefix).partition("/")[0]
        found.add(host_id)
        start = f"{prefix}{host_id}0"  # the character after the slash
    return found


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

    async def hosts(self) -> set[str]:
        """Return the ids of the nodes with open recordings."""
        return await hosts_below(self._backend, OPEN)

    async def close(self, host_id: str, reason: str, ended: datetime) -> None:
        """Close a node's open recordings as incomplete.

        Sessions whose end the node has not reported ended at ``ended``.
        """
        prefix = f"{OPEN}{host_id}/"
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
        if row is not None and row.node_id == session.node_id:
            await self._recordings.reopen(session)
