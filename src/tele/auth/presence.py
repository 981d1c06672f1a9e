"""Which machines are alive, and who is told when that changes?

Invariants:

* What a host says is kept in this process at once; the store gets changes at once and
  mere heartbeats in batches, so that a large fleet costs a few commits a minute. They do not use
  up what is reserved for a full disk.
* Whether a host lives goes by how long ago this process heard of it, whatever clocks say; by dates
  only what was stored before it started.
* Watchers are told what changed and matters to them: not each heartbeat, and many changes of
  one moment together. One message of it serves them all.
* A heartbeat, or a change, costs the same however many hosts there are (a new name, one
  search for its place among the others), and so does a page of a list.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from attrs import Factory, define, evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.auth.repository import Repository
from tele.errors import TeleError
from tele.interfaces import Change, Delete, IBackend, Put
from tele.log import make_logger
from tele.loop import now
from tele.model.api.members import HostChanges
from tele.model.codec import decode
from tele.model.identity import HostRole
from tele.model.presence import FORGET_AFTER, OFFLINE_AFTER, Host, Presence, Status

log = make_logger(__name__)

HOSTS: Final = "/hosts/"
#: How long hosts have to come back after auth has started, before they can count as gone.
RETURN_TIME: Final = timedelta(minutes=5)
OFFLINE_SECONDS: Final = OFFLINE_AFTER.total_seconds()
#: How often the silent are noticed.
CHECK_SECONDS: Final = 5.0
#: How long heartbeats may wait to be stored, together.
FLUSH_SECONDS: Final = 10.0
#: How long changes may wait to be told, together.
NOTIFY_SECONDS: Final = 0.1
BATCH: Final = 500
#: Hosts in one message to a watcher, and the pause before the next one: a reader keeps up.
PAGE: Final = 500
PAGE_SECONDS: Final = 0.02


@frozen
class Announcement:
    """What a host said last, and when. ``labels`` are its own and those bound to it.

    ``source`` is the address that a proxy called from.
    """

    host_id: str
    presence: Presence
    heard: datetime
    labels: Mapping[str, str] = Factory(dict)
    source: str = ""

    def same(self, other: Announcement | None) -> bool:
        """Whether nothing but the time differs."""
        return other is not None and evolve(other, heard=self.heard) == self


Receiver = Callable[[HostChanges], None]


@define(eq=False)
class _Watcher:
    """Somebody who is told; ``left`` are hosts that they were not told of at all yet."""

    receiver: Receiver
    left: list[str]
    timer: IDelayedCall | None = None


class Hosts:
    """The machines that said something within ``forget_after``. :meth:`start` first."""

    def __init__(
        self,
        backend: IBackend,
        clock: IReactorTime,
        forget_after: timedelta = FORGET_AFTER,
        disk_full: Callable[[], bool] = lambda: False,
    ) -> None:
        self._disk_full = disk_full
        self._backend = backend
        self._clock = clock
        self._forget_after = forget_after
        self._words = Repository(backend, HOSTS, Announcement)
        self._heard: dict[HostRole, dict[str, Announcement]] = {role: {} for role in HostRole}
        #: When that was by ``clock.seconds()``.
        self._moments: dict[HostRole, dict[str, float]] = {role: {} for role in HostRole}
        self._online: dict[HostRole, set[str]] = {role: set() for role in HostRole}
        #: Names and ids in order, for pages.
        self._order: dict[HostRole, list[tuple[str, str]]] = {role: [] for role in HostRole}
        self._unstored: dict[tuple[HostRole, str], None] = {}
        self._unnotified: dict[HostRole, set[str]] = {role: set() for role in HostRole}
        self._watchers: dict[HostRole, dict[_Watcher, None]] = {role: {} for role in HostRole}
        self._stop_watching: Callable[[], None] | None = None
        self._settled_at = clock.seconds()
        self._timers: dict[str, IDelayedCall] = {}

    async def start(self) -> None:
        """Read what is stored and follow it from now on."""
        self._settled_at = self._clock.seconds() + RETURN_TIME.total_seconds()
        self._stop_watching = (await self._backend.watch(HOSTS, self._changed)).stop
        for kept in await self._words.list():
            age = max(0.0, (now(self._clock) - kept.value.heard).total_seconds())
            self._take(kept.value.presence.role, kept.value, self._clock.seconds() - age)
        self._later("look", CHECK_SECONDS, self._start_check)

    async def stop(self) -> None:
        """Store what is not stored yet and follow nothing any more."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._flush()

    def _later(self, name: str, seconds: float, function: Callable[[], None]) -> None:
        def run() -> None:
            del self._timers[name]
            function()

        if name not in self._timers:
            self._timers[name] = self._clock.callLater(seconds, run)

    # -- what hosts say ---------------------------------------------------------------
    async def observe(self, role: HostRole, word: Announcement) -> None:
        """Take a host's word that it lives; durable on return if it says anything new."""
        news = not word.same(self._heard[role].get(word.host_id))
        self._take(role, word, self._clock.seconds())
        if news:
            await self._backend.commit(self._put(role, word))
        elif self._stop_watching is not None:
            self._unstored[role, word.host_id] = None
            self._later("flush", FLUSH_SECONDS, self._flush_soon)

    def _put(self, role: HostRole, word: Announcement) -> Put:
        return self._words.put(f"{role.value}/{word.host_id}", word, ttl=self._forget_after)

    def forgotten(self, role: HostRole, host_id: str) -> Delete:
        """Return the change that removes what a host said."""
        self._unstored.pop((role, host_id), None)
        return self._words.delete(f"{role.value}/{host_id}")

    def _flush_soon(self) -> None:
        Deferred.fromCoroutine(self._flush()).addErrback(
            lambda failure: log.failure("heartbeats are not stored", failure)
        )

    async def _flush(self) -> None:
        while self._unstored and not self._disk_full():
            batch = list(islice(self._unstored, BATCH))
            words = [(role, self._heard[role].get(host_id)) for role, host_id in batch]
            for key in batch:
                self._unstored.pop(key, None)
            try:
                await self._backend.commit(*(self._put(r, w) for r, w in words if w is not None))
            except TeleError as error:
                # The next heartbeats come within half a minute.
                log.warn("heartbeats are not stored: {why!s}", why=error)
                return

    # -- what others see --------------------------------------------------------------
    @property
    def settles_in(self) -> float:
        """For how many seconds whoever is silent may be on the way back from auth's absence."""
        return max(0.0, self._settled_at - self._clock.seconds())

    def known(self, role: HostRole, host_id: str) -> bool:
        """Whether a host said anything lately."""
        return host_id in self._heard[role]

    def is_online(self, role: HostRole, host_id: str) -> bool:
        """Whether a host lives."""
        moment = self._moments[role].get(host_id)
        return moment is not None and self._clock.seconds() - moment < OFFLINE_SECONDS

    def last_seen(self, role: HostRole, host_id: str) -> datetime | None:
        """Return the time of a host's last word, if that is remembered."""
        word = self._heard[role].get(host_id)
        return None if word is None else word.heard

    def has_proxy_at(self, address: str) -> bool:
        """Whether a proxy calls auth from this address."""
        return any(word.source == address for word in self._heard[HostRole.PROXY].values())

    def all(self, role: HostRole) -> tuple[Host, ...]:
        """Return all hosts of a role, by name, with their status now."""
        return tuple(self.after(role, ""))

    def after(self, role: HostRole, place: str) -> Iterator[Host]:
        """Yield the hosts of a role that come after ``place``: a name, ``/`` and an id."""
        order = self._order[role]
        name, _, host_id = place.partition("/")
        for at in range(bisect_right(order, (name, host_id)), len(order)):
            yield self._show(role, self._heard[role][order[at][1]])

    def watch(self, role: HostRole, receiver: Receiver) -> Deferred[None]:
        """Tell ``receiver`` the hosts of ``role``, and each change that matters.

        The first message comes at once. Cancel the Deferred to end it.
        """
        watcher = _Watcher(receiver, list(self._heard[role]))
        self._watchers[role][watcher] = None

        def ended(_: Deferred[None]) -> None:
            self._watchers[role].pop(watcher, None)
            if watcher.timer is not None:
                watcher.timer.cancel()

        self._page(role, watcher, first=True)
        return Deferred(ended)

    def _page(self, role: HostRole, watcher: _Watcher, *, first: bool = False) -> None:
        watcher.timer = None
        page, watcher.left = watcher.left[:PAGE], watcher.left[PAGE:]
        if watcher.left:
            watcher.timer = self._clock.callLater(PAGE_SECONDS, self._page, role, watcher)
        watcher.receiver(HostChanges(self._shown(role, page), (), first, not watcher.left))

    def _shown(self, role: HostRole, ids: Iterable[str]) -> tuple[Host, ...]:
        words = (self._heard[role].get(host_id) for host_id in ids)
        return tuple(self._show(role, word) for word in words if word is not None)

    def _show(self, role: HostRole, word: Announcement) -> Host:
        said = word.presence
        return Host(
            id=word.host_id,
            name=said.name,
            role=said.role,
            addresses=said.addresses,
            labels=word.labels,
            mode=said.mode,
            status=Status.ONLINE if self.is_online(role, word.host_id) else Status.OFFLINE,
            last_seen=word.heard,
            version=said.version,
            rotation=said.rotation,
            tunnels=said.tunnels,
            peer=said.peer,
            peer_header=said.peer_header,
        )

    # -- inside -----------------------------------------------------------------------
    def _changed(self, change: Change) -> None:
        role_name, _, host_id = change.key.removeprefix(HOSTS).partition("/")
        role = HostRole(role_name)
        if change.item is not None:
            self._stored(role, decode(Announcement, change.item.value))
        elif (word := self._heard[role].pop(host_id, None)) is not None:
            self._moments[role].pop(host_id, None)
            self._unplace(role, word)
            self._online[role].discard(host_id)
            self._unstored.pop((role, host_id), None)
            self._notify_soon(role, host_id)

    def _stored(self, role: HostRole, word: Announcement) -> None:
        """Take what this auth stored itself, which it knows, or what another one heard just now."""
        known = self._heard[role].get(word.host_id)
        # Something a little older was on the way. If it is much older, a clock was set back.
        if known is None or not timedelta(0) <= known.heard - word.heard < OFFLINE_AFTER:
            self._take(role, word, self._clock.seconds())

    def _take(self, role: HostRole, word: Announcement, moment: float) -> None:
        before = self._heard[role].get(word.host_id)
        self._moments[role][word.host_id] = moment
        self._heard[role][word.host_id] = word
        if before is None or before.presence.name != word.presence.name:
            if before is not None:
                self._unplace(role, before)
            insort(self._order[role], (word.presence.name, word.host_id))
        online = self.is_online(role, word.host_id)
        if not word.same(before) or online != (word.host_id in self._online[role]):
            self._notify_soon(role, word.host_id)
        (self._online[role].add if online else self._online[role].discard)(word.host_id)

    def _unplace(self, role: HostRole, word: Announcement) -> None:
        order = self._order[role]
        del order[bisect_left(order, (word.presence.name, word.host_id))]

    def _start_check(self) -> None:
        """Notice those who fell silent."""
        for role, online in self._online.items():
            silent = [host_id for host_id in online if not self.is_online(role, host_id)]
            online.difference_update(silent)
            if silent:
                self._notify_soon(role, *silent)
        self._later("look", CHECK_SECONDS, self._start_check)

    def _notify_soon(self, role: HostRole, *host_ids: str) -> None:
        if self._watchers[role]:
            self._unnotified[role].update(host_ids)
            self._later("tell", NOTIFY_SECONDS, self._notify)

    def _notify(self) -> None:
        for role, ids in self._unnotified.items():
            changed, self._unnotified[role] = sorted(ids), set()
            for start in range(0, len(changed), PAGE):
                some = changed[start : start + PAGE]
                gone = tuple(host_id for host_id in some if host_id not in self._heard[role])
                changes = HostChanges(self._shown(role, some), gone)
                for watcher in list(self._watchers[role]):
                    watcher.receiver(changes)
