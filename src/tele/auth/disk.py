"""Which operations run while auth's disk is full, and how does the operator notice?

The disk counts as full while a part of the store's reserve is used (:mod:`tele.store.reserve`).

Invariants:

* An operation is answered after its event is stored. So on a full disk no operation that changes
  something begins, but for :data:`ON_FULL_DISK`: hosts stay members, users log in, and
  administrators read, lock and delete.
* Hosts keep what is refused: recordings, which are refused first, while there is space for the
  rest, and events.
* Denials use no reserve: on a full disk they are counted, and the next event has the count.
* The operator is warned before: in the log and in the audit, once for each level, and in
  ``/v1/health``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.errors import StorageFull
from tele.interfaces import IArchive, IBackend, IOnDisk
from tele.log import make_logger
from tele.measures import catalogue
from tele.measures.metric import Sample
from tele.model.api import table
from tele.model.api.operation import Operation
from tele.model.disk import DiskLevel, DiskSpace

log = make_logger(__name__)

#: How often the level is checked.
CHECK_SECONDS: Final = 10.0
#: Operations that run on a full disk, beside those that only read.
ON_FULL_DISK: Final = frozenset(
    operation.name
    for operation in (
        table.LOGIN, table.RENEW, table.REJOIN, table.ANNOUNCE,
        table.DELETE_RECORDING, table.DELETE_USER, table.DELETE_ROLE, table.DELETE_TOKEN,
        table.DELETE_HOST, table.PUT_LOCK, table.DELETE_LOCK, table.KILL_SESSION,
        table.HOLD_RECORDING,
    )
)  # fmt: skip

_ORDER: Final = list(DiskLevel)
_ADVICE: Final = {
    DiskLevel.OK: "there is space again",
    DiskLevel.LOW: "less than a tenth is free; remove recordings, or enlarge the disk",
    DiskLevel.TIGHT: "recordings are refused, nodes keep them; remove some, or enlarge the disk",
    DiskLevel.FULL: "only logins and deletions are accepted; remove recordings (tele recordings"
    " rm), or enlarge the disk",
}

Emit = Callable[..., Awaitable[None]]


class DiskWatch:
    """Knows how full the disks of the store and of the recordings are."""

    def __init__(self, store: IBackend, archive: IArchive, clock: IReactorTime) -> None:
        self._disks = {"store": IOnDisk(store, None), "recordings": IOnDisk(archive, None)}
        self._clock = clock
        self._reported = dict.fromkeys(self._disks, DiskLevel.OK)
        self._timer: IDelayedCall | None = None

    def _space(self, disk: str) -> DiskSpace | None:
        on_disk = self._disks[disk]
        found: DiskSpace | None = None if on_disk is None else on_disk.space()
        return found

    def _level(self, disk: str) -> DiskLevel:
        space = self._space(disk)
        return DiskLevel.OK if space is None else space.level

    @property
    def level(self) -> DiskLevel:
        """The level of the fuller disk."""
        return max(map(self._level, self._disks), key=_ORDER.index)

    @property
    def is_full(self) -> bool:
        """Whether the store uses its reserve."""
        return self._level("store") is DiskLevel.FULL

    def admit(self, operation: Operation[Any, Any]) -> None:
        """Raise :class:`StorageFull` for an operation that does not run now."""
        if operation.method == "GET" or operation.name in ON_FULL_DISK or not self.is_full:
            return
        raise StorageFull(
            "auth's disk is full: the call is refused until there is space; an administrator can"
            " remove recordings: tele recordings rm"
        )

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        for disk in self._disks:
            space = self._space(disk)
            if space is not None:
                yield catalogue.DISK_FREE.at(space.free, disk)
                yield catalogue.DISK_SIZE.at(space.total, disk)
        yield catalogue.DISK_FULL.at(self.is_full)

    # -- reporting --------------------------------------------------------------------
    def start(self, emit: Emit) -> None:
        """Report each change of a level from now on; ``emit`` takes an event's name and fields."""
        self._timer = self._clock.callLater(CHECK_SECONDS, self.start, emit)
        for disk in self._disks:
            space, level = self._space(disk), self._level(disk)
            if space is not None and level is not self._reported[disk]:
                self._notify(emit, disk, level, space)

    def stop(self) -> None:
        """Report nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _notify(self, emit: Emit, disk: str, level: DiskLevel, space: DiskSpace) -> None:
        worse = _ORDER.index(level) > _ORDER.index(self._reported[disk])
        self._reported[disk] = level
        (log.warn if worse else log.info)(
            "disk level changed", disk=disk, disk_level=level.value, free=space.free,
            total=space.total, files_free=space.files_free, files=space.files,
            advice=_ADVICE[level],
        )  # fmt: skip
        Deferred.fromCoroutine(_emit(emit, disk, level, space)).addErrback(
            lambda failure: log.failure("cannot emit the event of the disk level", failure)
        )


async def _emit(emit: Emit, disk: str, level: DiskLevel, space: DiskSpace) -> None:
    good = level is DiskLevel.OK
    await emit(
        "disk.low", ok=good, error="" if good else _ADVICE[level], disk=disk, level=level.value,
        free=space.free, total=space.total, files_free=space.files_free, files=space.files,
    )  # fmt: skip
