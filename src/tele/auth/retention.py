"""Which recordings are too old, or too many, and are removed by auth itself?

Invariants:

* A recording that is held, or still open, is never removed: a session that runs, or a node that is
  away, does not lose what it has not sent.
* Age is auth's own: the time that passed since it learnt of a session, not what a node says. A
  clock that is set forward removes nothing for a day (:mod:`tele.auth.regular_work`).
* Over the size the oldest go of the hosts that recorded most: a host that floods auth pushes out
  its own recordings, and no host keeps less than an equal share of the size for what others send,
  or do not close. What is held is taken from the size first, but half of it at most: who may hold
  recordings, and not remove any, cannot have the others removed.
* Each removal is an event, with the rule.
* It is done in steps between which other calls run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tele.auth.journal import Journal
from tele.auth.recording_search import INDEX, received_at, stamp_of
from tele.auth.recordings import Recordings
from tele.auth.regular_work import Lease, RegularWork
from tele.errors import Conflict, NotFound, TeleError, Unavailable
from tele.interfaces import Delete, IBackend, Put
from tele.log import make_logger
from tele.loop import now
from tele.model.api.paging import Paged
from tele.model.codec import format_duration
from tele.model.identity import HostPlace
from tele.model.session import Recording

log = make_logger(__name__)

LEASE: Final = "/recordings/retention"
#: How often recordings are looked at.
CHECK_SECONDS: Final = 600.0
#: For how many seconds no other auth of this store does it.
LEADS_FOR: Final = 2 * CHECK_SECONDS
#: Rows that are read with one call, and the wait after it.
STEP: Final = 200
_PAUSE: Final = 0.02
#: Recordings that are removed in one round, for each rule.
ROUND_LIMIT: Final = 2000


@frozen
class RetentionRules:
    """``max_age`` since auth learnt of a session, and bytes of all recordings; 0 is no limit."""

    max_age: timedelta = timedelta(0)
    max_size: int = 0

    @property
    def are_set(self) -> bool:
        """Whether anything is ever removed."""
        return bool(self.max_age or self.max_size)


def equal_share(sizes: Iterable[int], room: int) -> int:
    """Return the most that each host may keep of ``room`` bytes, if ``sizes`` are what they have.

    What a host does not use of an equal share is shared among the others.
    """
    ordered = sorted(sizes)
    for at, size in enumerate(ordered):
        share = room // (len(ordered) - at)
        if size > share:
            return share
        room -= size
    return ordered[-1] if ordered else 0


class Retention:
    """Removes recordings by ``rules()``, asked each time. ``owner`` is the id of this auth."""

    def __init__(
        self,
        rules: Callable[[], RetentionRules],
        backend: IBackend,
        clock: IReactorTime,
        recordings: Recordings,
        journal: Journal,
        owner: str,
    ) -> None:
        self._rules = rules
        self._backend = backend
        self._clock = clock
        self._recordings = recordings
        self._journal = journal
        self.work = RegularWork(
            clock, "retention", CHECK_SECONDS, Lease(backend, LEASE, owner, LEADS_FOR),
            lambda: rules().are_set, self._remove_by_rules,
        )  # fmt: skip

    async def _remove_by_rules(self) -> None:
        rules = self._rules()
        if rules.max_age:
            await self._by_age(rules.max_age)
        if rules.max_size:
            await self._by_size(rules.max_size)

    async def _by_age(self, max_age: timedelta) -> None:
        oldest = now(self._clock) - max_age
        rule = f"older than {format_duration(max_age)}"
        removed = 0
        async for row in self._rows(INDEX + stamp_of(oldest)):
            if received_at(row) < oldest and await self._remove(row, rule):
                removed += 1
                if removed == ROUND_LIMIT:
                    return

    async def _by_size(self, most: int) -> None:
        end = INDEX[:-1] + "0"
        held = await self._held()
        sizes: dict[HostPlace, int] = {}
        of_held = 0
        async for row in self._rows(end):
            if row.id in held:
                of_held += row.size
            else:
                sizes[row.recorded_by] = sizes.get(row.recorded_by, 0) + row.size
        room = max(most - of_held, most // 2)
        if of_held > most // 2:
            log.warn("what is held takes more than half of max_size", bytes=of_held)
        share = equal_share(sizes.values(), room)
        size = sum(sizes.values())
        if size <= room:
            return
        rule = (
            f"all recordings have more than {most >> 20:,} MiB, and those of its host more than"
            f" {share >> 20:,} MiB"
        )
        removed = 0
        async for row in self._rows(end):
            host = row.recorded_by
            if sizes.get(host, 0) <= share or row.id in held:
                continue
            if await self._remove(row, rule):
                size -= row.size
                sizes[host] -= row.size
                removed += 1
            if size <= room or removed == ROUND_LIMIT:
                return
        log.warn(
            "recordings that are held or not closed yet have more than max_size leaves them",
            bytes=size - room,
        )  # fmt: skip

    async def _held(self) -> set[str]:
        """Return the ids of recordings that are held."""
        holds, found, after = self._recordings.holds, set[str](), ""
        while True:
            page = await holds.list(Paged(STEP, after))
            found.update(hold.id for hold in page.items)
            after = page.next
            if not after:
                return found
            await deferLater(self._clock, _PAUSE)

    async def _rows(self, end: str) -> AsyncIterator[Recording]:
        """Give recordings up to the key ``end`` of the index, the oldest first."""
        start = INDEX
        while items := await self._backend.range(start, end, STEP):
            start = items[-1].key + "\0"
            ids = [item.key.removeprefix(INDEX).partition("-")[2] for item in items]
            for row in await self._recordings.find_many(ids):
                yield row
            await deferLater(self._clock, _PAUSE)

    async def _remove(self, row: Recording, rule: str) -> bool:
        """Remove a recording; returns whether it may be, and is gone."""
        if not (row.complete or row.incomplete):
            return False
        event = self._journal.event(
            "recording.expire", session_id=row.id, of_user=row.user, reason=rule, size=row.size,
            login=row.login,
        )  # fmt: skip

        async def commit(changes: Sequence[Put | Delete]) -> None:
            await self._journal.append(event, changes={event.id: changes})

        try:
            await self._recordings.delete(row, commit)
        except Unavailable:
            raise  # of the archive or the store: for others, too
        except (Conflict, NotFound):
            return False  # it is held
        except TeleError as error:
            log.warn("retention could not remove a recording", id=row.id, reason=str(error))
            return False
        return True
