"""Which recordings must not be removed, and which are being removed?

A legal hold is ``/recordings/holds/<id>``; ``/recordings/removing/<id>/<number>`` exists while a
recording is removed, one for each removal. Older versions had ``/recordings/removing/<id>``.

Invariants:

* A held recording is removed neither by a person nor by retention.
* Holds and removals of the same recording at the same time do not both succeed: each writes its own
  key first and looks at the others' then, and takes back its own key alone.
* A hold begins, and ends, in the commit that appends the event of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final
from uuid import uuid4

from tele.auth.repository import Repository
from tele.errors import Conflict
from tele.interfaces import Delete, IBackend, Put
from tele.model.api.keeping import Hold, HoldList
from tele.model.api.paging import Paged

HOLDS: Final = "/recordings/holds/"
REMOVING: Final = "/recordings/removing/"

#: Commits changes with an event.
Commit = Callable[[Sequence[Put | Delete]], Awaitable[None]]


class Holds:
    """The holds of a cluster."""

    def __init__(self, backend: IBackend) -> None:
        self._backend = backend
        self._holds = Repository(backend, HOLDS, Hold)

    async def find(self, recording_id: str) -> Hold | None:
        """Return the hold of a recording, if it is held."""
        entry = await self._holds.get(recording_id)
        return None if entry is None else entry.value

    async def list(self, request: Paged) -> HoldList:
        """Return a page of holds, by id."""
        entries = await self._holds.list(request.limit, request.after)
        items = tuple(entry.value for entry in entries)
        full = len(items) == request.limit
        return HoldList(items, items[-1].id if full and items else "")

    async def hold(self, hold: Hold, commit: Commit) -> None:
        """Hold a recording that exists. Raises :class:`Conflict`, and holds nothing then."""
        if (present := await self.find(hold.id)) is not None:
            raise Conflict(f"it is held already, by {present.by}: {present.reason}")
        await self._refuse_removing(hold.id)
        await commit([self._holds.put(hold.id, hold)])
        try:
            await self._refuse_removing(hold.id)
        except Conflict:
            written = await self._holds.get(hold.id)
            if written is not None and written.value == hold:  # and no other one's
                with suppress(Conflict):
                    await self._backend.commit(self._holds.delete(hold.id, written.revision))
            raise

    async def _removals(self, recording_id: str) -> Sequence[str]:
        key = REMOVING + recording_id
        return [item.key for item in await self._backend.range(key, f"{key}~")]

    async def _refuse_removing(self, recording_id: str) -> None:
        if await self._removals(recording_id):
            raise Conflict("the recording is being removed")

    async def release(self, recording_id: str, commit: Commit) -> None:
        """End a hold. Raises :class:`Conflict` if there is none."""
        if await self.find(recording_id) is None:
            raise Conflict("the recording is not held")
        await commit([self._holds.delete(recording_id)])

    async def begin_removal(self, recording_id: str) -> None:
        """Refuse holds from now on. Raises :class:`Conflict` for a recording that is held."""
        await self._refuse_held(recording_id)
        mine = f"{REMOVING}{recording_id}/{uuid4()}"
        await self._backend.commit(Put(mine, b""))
        try:
            await self._refuse_held(recording_id)
        except Conflict:
            await self._backend.commit(Delete(mine))
            raise

    async def _refuse_held(self, recording_id: str) -> None:
        hold = await self.find(recording_id)
        if hold is not None:
            raise Conflict(
                f"recording {recording_id} is held since {hold.since:%Y-%m-%d} by {hold.by}"
                f" ({hold.reason}); tele recordings release ends a hold"
            )

    async def end_of_removal(self, recording_id: str) -> Sequence[Delete]:
        """Return the changes that belong to the last commit of a removal."""
        return [Delete(key) for key in await self._removals(recording_id)]
