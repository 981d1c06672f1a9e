"""How long are recordings kept? Removal, legal hold, and uploads that do not go on.

Invariants:

* A removal, a hold and its end have a reason, which is one printable line, and an event.
* What runs is not removed: the session would run on without being listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.auth.authorizer import user_caller
from tele.auth.handlers import Handler, handler
from tele.auth.holds import Commit
from tele.auth.journal import Journal
from tele.auth.operations.recordings import state_of
from tele.auth.presence import Hosts
from tele.auth.recordings import Recordings
from tele.errors import Conflict, InvalidInput, NotFound
from tele.interfaces import Delete, Put
from tele.loop import now
from tele.model.api import keeping as api
from tele.model.api import table
from tele.model.api.operation import Nothing
from tele.model.api.paging import ById, Paged
from tele.model.event import Event
from tele.model.identity import Caller
from tele.model.session import RecordingState

#: Rows of one answer: the first of them say enough.
STUCK_SHOWN: Final = 1000


class KeepingOperations:
    """Operations on how long recordings are kept."""

    def __init__(
        self, clock: IReactorTime, recordings: Recordings, hosts: Hosts, journal: Journal
    ) -> None:
        self._clock = clock
        self._recordings = recordings
        self._hosts = hosts
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.DELETE_RECORDING, self.delete_recording),
            handler(table.HOLD_RECORDING, self.hold_recording),
            handler(table.RELEASE_RECORDING, self.release_recording),
            handler(table.LIST_HOLDS, self.list_holds),
            handler(table.LIST_STUCK, self.list_stuck),
            handler(table.RETRY_RECORDING, self.retry_recording),
        )

    async def delete_recording(self, request: api.RemoveRecording, caller: Caller) -> Nothing:
        """Remove a recording, in the commit that appends the event of it."""
        reason = reason_of(request.reason)
        row = await self._recordings.get(request.id)
        if await state_of(row, self._recordings, self._hosts) is RecordingState.RUNNING:
            raise Conflict(
                f"session {row.id} is running: end it first (tele sessions kill {row.id}), or wait"
            )
        event = self._journal.event(
            "recording.delete", caller, session_id=row.id, of_user=row.user, reason=reason
        )
        await self._recordings.delete(row, self._commit(event))
        return Nothing()

    async def hold_recording(self, request: api.HoldRecording, caller: Caller) -> Nothing:
        """Hold a recording."""
        reason = reason_of(request.reason)
        row = await self._recordings.get(request.id)
        by = user_caller(caller).user
        event = self._journal.event(
            "recording.hold", caller, session_id=row.id, of_user=row.user, reason=reason
        )
        hold = api.Hold(row.id, reason, by, now(self._clock))
        await self._recordings.holds.hold(hold, self._commit(event))
        return Nothing()

    async def release_recording(self, request: api.ReleaseRecording, caller: Caller) -> Nothing:
        """End a hold."""
        reason = reason_of(request.reason)
        row = await self._recordings.get(request.id)
        event = self._journal.event(
            "recording.release", caller, session_id=row.id, of_user=row.user, reason=reason
        )
        await self._recordings.holds.release(row.id, self._commit(event))
        return Nothing()

    async def list_holds(self, request: Paged, caller: Caller) -> api.HoldList:
        """Return a page of holds."""
        return await self._recordings.holds.list(request)

    async def list_stuck(self, request: Nothing, caller: Caller) -> api.StuckList:
        """Return uploads that do not go on; none with an archive that does not upload."""
        uploading = self._recordings.uploading
        found = [] if uploading is None else await uploading.stuck()
        return api.StuckList(tuple(found[:STUCK_SHOWN]))

    async def retry_recording(self, request: ById, caller: Caller) -> Nothing:
        """Upload a stuck recording again."""
        row = await self._recordings.get(request.id)
        uploading = self._recordings.uploading
        if uploading is None:
            raise NotFound("the archive of this cluster stores at once: no upload is stuck")
        await uploading.retry(row.id)
        await self._journal.emit("recording.retry", caller, session_id=row.id, of_user=row.user)
        return Nothing()

    def _commit(self, event: Event) -> Commit:
        """Return what commits changes with an event."""

        async def commit(changes: Sequence[Put | Delete]) -> None:
            await self._journal.append(event, changes={event.id: changes})

        return commit


def reason_of(reason: str) -> str:
    """Return a reason, without spaces around it. Raises :class:`InvalidInput`."""
    if not reason.strip():
        raise InvalidInput("a reason is needed; it is in the audit")
    if not reason.isprintable():
        raise InvalidInput("a reason is one line of printable characters")
    return reason.strip()
