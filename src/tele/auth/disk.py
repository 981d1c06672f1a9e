"""What does auth still do when its disk gets full, and who is told?

While some of the store's reserve is used (:mod:`tele.store.reserve`) the disk counts as full.
Invariants:

* What has to be on record is on record before it is answered. So on a full disk nothing begins
  that changes something, but for :data:`ON_FULL_DISK`: hosts stay members, people log in, and
  administrators see what is there, stop who does harm and make room.
* Hosts keep what is refused: recordings, which end first, while there is still room for the
  rest, and events.
* Denials do not use the reserve up: on a full disk they are counted, and said with the next one.
* The operator is told before: in the log and in the audit, once for each step, and in
  ``/v1/health``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.errors import StorageFull
from tele.interfaces import IArchive, IBackend, IOnDisk
from tele.log import make_logger
from tele.model.api import table
from tele.model.api.operation import Operation
from tele.model.disk import DiskLevel, DiskSpace

log = make_logger(__name__)

#: How often auth looks whether it has something to say.
CHECK_SECONDS: Final = 10.0
#: What is done on a full disk, beside what only reads.
ON_FULL_DISK: Final = frozenset(
    operation.name
    for operation in (
        table.LOGIN, table.RENEW, table.REJOIN, table.ANNOUNCE,
        table.DELETE_RECORDING, table.DELETE_USER, table.DELETE_ROLE, table.DELETE_TOKEN,
        table.DELETE_HOST, table.PUT_LOCK, table.DELETE_LOCK, table.KILL_SESSION,
    )
)  # fmt: skip

_ORDER: Final = list(DiskLevel)
_SAID: Final = {
    DiskLevel.OK: "there is space again",
    DiskLevel.LOW: "less than a tenth is free; remove recordings, or enlarge the disk",
    DiskLevel.TIGHT: "recordings are refused, nodes keep them; remove some, or enlarge the disk",
    DiskLevel.FULL: "only log-ins and what makes room are let through; remove recordings (tele"
    " recordings rm), or enlarge the disk",
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
        """How full the fuller one is."""
        return max(map(self._level, self._disks), key=_ORDER.index)

    @property
    def is_full(self) -> bool:
        """Whether what is left for the store is reserved."""
        return self._level("store") is DiskLevel.FULL

    def admit(self, operation: Operation[Any, Any]) -> None:
        """Raise :class:`StorageFull` unless this is done now."""
        if operation.method == "GET" or operation.name in ON_FULL_DISK or not self.is_full:
            return
        raise StorageFull(
            "auth's disk is full: this is refused until there is space; an administrator makes room"
            " with tele recordings rm"
        )

    # -- telling ----------------------------------------------------------------------
    def start(self, emit: Emit) -> None:
        """Say from now on when a level changes: ``emit`` takes an event's name and fields."""
        self._timer = self._clock.callLater(CHECK_SECONDS, self.start, emit)
        for disk in self._disks:
            space, level = self._space(disk), self._level(disk)
            if space is not None and level is not self._reported[disk]:
                self._notify(emit, disk, level, space)

    def stop(self) -> None:
        """Say nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _notify(self, emit: Emit, disk: str, level: DiskLevel, space: DiskSpace) -> None:
        worse = _ORDER.index(level) > _ORDER.index(self._reported[disk])
        self._reported[disk] = level
        (log.warn if worse else log.info)(
            "the disk of auth's {disk} is {now}, {free} of {total} bytes and {files_free} of"
            " {files} inodes are free: {what}",
            disk=disk, now=level.value, free=space.free, total=space.total,
            files_free=space.files_free, files=space.files, what=_SAID[level],
        )  # fmt: skip
        Deferred.fromCoroutine(_emit(emit, disk, level, space)).addErrback(
            lambda failure: log.failure("the level of the disk is not in the audit", failure)
        )


async def _emit(emit: Emit, disk: str, level: DiskLevel, space: DiskSpace) -> None:
    good = level is DiskLevel.OK
    await emit(
        "disk.low", ok=good, error="" if good else _SAID[level], disk=disk, level=level.value,
        free=space.free, total=space.total, files_free=space.files_free, files=space.files,
    )  # fmt: skip
