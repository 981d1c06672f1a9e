"""Which hosts are online, and how do watchers learn of changes?

Invariants:

* An announcement takes effect in this process at once. Changes are stored at once, mere heartbeats
  in batches, so that a large fleet costs a few commits a minute; heartbeats use no reserve of a
  full disk.
* Whether a host is online depends on the seconds since its last announcement, by the monotonic
  clock; dates count only for what was stored before this process started.
* Watchers are notified of changes, not of heartbeats, and of all changes within
  :data:`NOTIFY_SECONDS` together. All watchers get the same message.
* A heartbeat, a change or a page of a list costs the same however many hosts there are (a new name:
  one binary search).
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

from tele.admission.rate_limiter import RateLimiter
from tele.auth.repository import Repository
from tele.errors import TeleError
from tele.interfaces import Change, Delete, IBackend, Put
from tele.log import make_logger
from tele.loop import now
from tele.measures import catalogue
from tele.measures.metric import Sample, Tally
from tele.model.api.hosts import HostChanges
from tele.model.codec import decode
from tele.model.identity import HostRole
from tele.model.presence import FORGET_AFTER, NEVER, OFFLINE_AFTER, Host, Presence, Status

log = make_logger(__name__)

HOSTS: Final = "/hosts/"
#: How long hosts have to reconnect after auth has started, before they can count as gone.
RETURN_TIME: Final = timedelta(minutes=5)
OFFLINE_SECONDS: Final = OFFLINE_AFTER.total_seconds()
#: How often hosts are checked for having gone offline.
CHECK_SECONDS: Final = 5.0
#: Changes of what is wrong with a host that no proxy reaches: at once, and each second.
PROBLEMS_BURST: Final = 3.0
PROBLEMS_PER_SECOND: Final = 1 / 600
#: How long heartbeats are gathered before they are stored.
FLUSH_SECONDS: Final = 10.0
#: How long changes are gathered before watchers are notified.
NOTIFY_SECONDS: Final = 0.1
BATCH: Final = 500
#: Hosts in one message to a watcher, and the pause before the next, so that a reader keeps up.
PAGE: Final = 500
PAGE_SECONDS: Final = 0.02


@frozen
class Announcement:
    """A host's last announcement. ``labels`` are its own and those bound to it.

    ``source`` is the address that a proxy called from.
    """

    host_id: str
    presence: Presence
    received: datetime
    labels: Mapping[str, str] = Factory(dict)
    source: str = ""

    def same(self, other: Announcement | None) -> bool:
        """Whether only the time differs."""
        return other is not None and evolve(other, received=self.received) == self


Receiver = Callable[[HostChanges], None]


@define(eq=False)
class _Watcher:
    """A watcher; ``left`` are hosts of which it has not been notified at all yet."""

    receiver: Receiver
    left: list[str]
    timer: IDelayedCall | None = None


class Hosts:
    """The hosts that announced themselves within ``forget_after``. Call :meth:`start` first."""

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
        self._repository = Repository(backend, HOSTS, Announcement)
        self._announced: dict[HostRole, dict[str, Announcement]] = {role: {} for role in HostRole}
        #: When that was by ``clock.seconds()``.
        self._moments: dict[HostRole, dict[str, float]] = {role: {} for role in HostRole}
        self._online: dict[HostRole, set[str]] = {role: set() for role in HostRole}
        #: Names and ids in order, for pages.
        self._order: dict[HostRole, list[tuple[str, str]]] = {role: [] for role in HostRole}
        self._unstored: dict[tuple[HostRole, str], None] = {}
        self._unnotified: dict[HostRole, set[str]] = {role: set() for role in HostRole}
        self._watchers: dict[HostRole, dict[_Watcher, None]] = {role: {} for role in HostRole}
        self._stop_watching: Callable[[], None] | None = None
        #: Stores of another problem of a host that has one.
        self._problems = RateLimiter(PROBLEMS_BURST, PROBLEMS_PER_SECOND)
        self._settled_at = clock.seconds()
        self._timers: dict[str, IDelayedCall] = {}
        self._observed = Tally()

    async def start(self) -> None:
        """Read the stored announcements and follow their changes."""
        self._settled_at = self._clock.seconds() + RETURN_TIME.total_seconds()
        self._stop_watching = (await self._backend.watch(HOSTS, self._changed)).stop
        for entry in await self._repository.list():
            age = max(0.0, (now(self._clock) - entry.value.received).total_seconds())
            self._take(entry.value.presence.role, entry.value, self._clock.seconds() - age)
        self._later("check", CHECK_SECONDS, self._check_silent)

    async def stop(self) -> None:
        """Store the gathered heartbeats and stop following changes."""
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

    # -- announcements ----------------------------------------------------------------
    async def observe(self, role: HostRole, announcement: Announcement) -> None:
        """Take an announcement; it is durable on return if it changes anything."""
        self._observed.add(role.value)
        changed = not announcement.same(self._announced[role].get(announcement.host_id))
        self._take(role, announcement, self._clock.seconds())
        if changed:
            await self._backend.commit(self._put(role, announcement))
        elif self._stop_watching is not None:
            self._unstored[role, announcement.host_id] = None
            self._later("flush", FLUSH_SECONDS, self._flush_soon)

    async def probed(
        self, host_id: str, reached: datetime | None, problem: str, address: str = ""
    ) -> None:
        """Note that a proxy has reached a host which announces nothing itself, or why it has not.

        At another ``address`` it has found nothing of the host as it is registered now.
        While another proxy reaches it, it is online, without a problem. What differs from proxy to
        proxy, or from probe to probe, is stored now and then.
        """
        role = HostRole.NODE
        before = self._announced[role].get(host_id)
        if before is None or not before.presence.sshd:
            return  # it was removed meanwhile
        if address and address not in before.presence.addresses:
            return
        if reached is not None:
            presence = evolve(before.presence, problem="")
            await self.observe(role, evolve(before, presence=presence, received=reached))
        elif not self.is_online(role, host_id) and problem != before.presence.problem:
            moment = self._clock.seconds()
            if before.presence.problem and not self._problems.take(host_id, moment):
                return  # several proxies find different ones
            after = evolve(before, presence=evolve(before.presence, problem=problem))
            self._take(role, after, self._moments[role][host_id])
            await self._backend.commit(self._put(role, after))

    def registered(self, announcement: Announcement) -> Put:
        """Return the change that lists a host which announces nothing itself (``sshd``)."""
        return self._put(HostRole.NODE, announcement)

    def _put(self, role: HostRole, announcement: Announcement) -> Put:
        # One that was registered stays until it is removed.
        ttl = None if announcement.presence.sshd else self._forget_after
        return self._repository.put(f"{role.value}/{announcement.host_id}", announcement, ttl=ttl)

    def forgotten(self, role: HostRole, host_id: str) -> Delete:
        """Return the change that removes a host's announcement."""
        self._unstored.pop((role, host_id), None)
        return self._repository.delete(f"{role.value}/{host_id}")

    def _flush_soon(self) -> None:
        Deferred.fromCoroutine(self._flush()).addErrback(
            lambda failure: log.failure("cannot store heartbeats", failure)
        )

    async def _flush(self) -> None:
        while self._unstored and not self._disk_full():
            batch = list(islice(self._unstored, BATCH))
            announcements = [(role, self._announced[role].get(host_id)) for role, host_id in batch]
            for key in batch:
                self._unstored.pop(key, None)
            try:
                await self._backend.commit(
                    *(self._put(r, w) for r, w in announcements if w is not None)
                )
            except TeleError as error:
                # The next heartbeats come within half a minute.
                log.warn("cannot store heartbeats", error=str(error))
                return

    # -- hosts ------------------------------------------------------------------------
    @property
    def settles_in(self) -> float:
        """For how many seconds more an offline host may be about to reconnect to auth."""
        return max(0.0, self._settled_at - self._clock.seconds())

    def known(self, role: HostRole, host_id: str) -> bool:
        """Whether a host has announced itself within ``forget_after``."""
        return host_id in self._announced[role]

    def is_online(self, role: HostRole, host_id: str) -> bool:
        """Whether a host is online."""
        moment = self._moments[role].get(host_id)
        return moment is not None and self._clock.seconds() - moment < OFFLINE_SECONDS

    def find(self, role: HostRole, host_id: str) -> Host | None:
        """Return a host as it is listed, or None."""
        announcement = self._announced[role].get(host_id)
        return None if announcement is None else self._show(role, announcement)

    def named(self, role: HostRole, name: str) -> Host | None:
        """Return the host of a role that has this name, or None."""
        found = next(self.after(role, f"{name}/"), None)
        return found if found is not None and found.name == name else None

    def features(self, role: HostRole, host_id: str) -> tuple[str, ...]:
        """Return what a host has announced that it can do. Nothing of it is in lists."""
        announcement = self._announced[role].get(host_id)
        return () if announcement is None else announcement.presence.features

    def clock_ahead(self, role: HostRole, host_id: str) -> int | None:
        """Return by how many seconds a host's clock is ahead of auth's, as it reports."""
        announcement = self._announced[role].get(host_id)
        return None if announcement is None else announcement.presence.clock_ahead

    def last_seen(self, role: HostRole, host_id: str) -> datetime | None:
        """Return the time of a host's last announcement, or None."""
        announcement = self._announced[role].get(host_id)
        return None if announcement is None else announcement.received

    def has_proxy_at(self, address: str) -> bool:
        """Whether a proxy calls auth from this address."""
        proxies = self._announced[HostRole.PROXY].values()
        return any(announcement.source == address for announcement in proxies)

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        for role in (HostRole.NODE, HostRole.PROXY):
            online = len(self._online[role])
            yield catalogue.HOSTS.at(online, role.value, Status.ONLINE.value)
            offline = len(self._announced[role]) - online
            yield catalogue.HOSTS.at(offline, role.value, Status.OFFLINE.value)
        yield from self._observed.samples(catalogue.ANNOUNCEMENTS)

    def all(self, role: HostRole) -> tuple[Host, ...]:
        """Return all hosts of a role, by name, with their status now."""
        return tuple(self.after(role, ""))

    def after(self, role: HostRole, place: str) -> Iterator[Host]:
        """Yield the hosts of a role that come after ``place``: a name, ``/`` and an id."""
        order = self._order[role]
        name, _, host_id = place.partition("/")
        for at in range(bisect_right(order, (name, host_id)), len(order)):
            yield self._show(role, self._announced[role][order[at][1]])

    def watch(self, role: HostRole, receiver: Receiver) -> Deferred[None]:
        """Call ``receiver`` with the hosts of ``role``, and with each change.

        The first call is made before this returns. Cancel the Deferred to end it.
        """
        watcher = _Watcher(receiver, list(self._announced[role]))
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
        announcements = (self._announced[role].get(host_id) for host_id in ids)
        return tuple(
            self._show(role, announcement)
            for announcement in announcements
            if announcement is not None
        )

    def _show(self, role: HostRole, announcement: Announcement) -> Host:
        presence = announcement.presence
        return Host(
            id=announcement.host_id,
            name=presence.name,
            role=presence.role,
            addresses=presence.addresses,
            labels=announcement.labels,
            mode=presence.mode,
            status=Status.ONLINE if self.is_online(role, announcement.host_id) else Status.OFFLINE,
            last_seen=announcement.received,
            version=presence.version,
            rotation=presence.rotation,
            tunnels=presence.tunnels,
            peer=presence.peer,
            peer_header=presence.peer_header,
            sshd=presence.sshd,
            names=presence.names,
            problem=presence.problem,
            tracing=presence.tracing,
            untraced=presence.untraced,
        )

    # -- inside -----------------------------------------------------------------------
    def _changed(self, change: Change) -> None:
        role_name, _, host_id = change.key.removeprefix(HOSTS).partition("/")
        role = HostRole(role_name)
        if change.item is not None:
            self._stored(role, decode(Announcement, change.item.value))
        elif (announcement := self._announced[role].pop(host_id, None)) is not None:
            self._moments[role].pop(host_id, None)
            self._unplace(role, announcement)
            self._online[role].discard(host_id)
            self._unstored.pop((role, host_id), None)
            self._notify_soon(role, host_id)

    def _stored(self, role: HostRole, announcement: Announcement) -> None:
        """Take an announcement that this auth stored itself, or that another auth received."""
        if announcement.received == NEVER:
            self._take(role, announcement, self._clock.seconds() - OFFLINE_SECONDS)
            return
        known = self._announced[role].get(announcement.host_id)
        # A slightly older one is outdated. If it is much older, a clock was set back.
        age = None if known is None else known.received - announcement.received
        if age is None or not timedelta(0) <= age < OFFLINE_AFTER:
            self._take(role, announcement, self._clock.seconds())

    def _take(self, role: HostRole, announcement: Announcement, moment: float) -> None:
        before = self._announced[role].get(announcement.host_id)
        self._moments[role][announcement.host_id] = moment
        self._announced[role][announcement.host_id] = announcement
        if before is None or before.presence.name != announcement.presence.name:
            if before is not None:
                self._unplace(role, before)
            insort(self._order[role], (announcement.presence.name, announcement.host_id))
        online = self.is_online(role, announcement.host_id)
        if not announcement.same(before) or online != (announcement.host_id in self._online[role]):
            self._notify_soon(role, announcement.host_id)
        (self._online[role].add if online else self._online[role].discard)(announcement.host_id)

    def _unplace(self, role: HostRole, announcement: Announcement) -> None:
        order = self._order[role]
        del order[bisect_left(order, (announcement.presence.name, announcement.host_id))]

    def _check_silent(self) -> None:
        """Take hosts offline whose announcements stopped."""
        for role, online in self._online.items():
            silent = [host_id for host_id in online if not self.is_online(role, host_id)]
            online.difference_update(silent)
            if silent:
                self._notify_soon(role, *silent)
        self._later("check", CHECK_SECONDS, self._check_silent)

    def _notify_soon(self, role: HostRole, *host_ids: str) -> None:
        if self._watchers[role]:
            self._unnotified[role].update(host_ids)
            self._later("notify", NOTIFY_SECONDS, self._notify)

    def _notify(self) -> None:
        for role, ids in self._unnotified.items():
            changed, self._unnotified[role] = sorted(ids), set()
            for start in range(0, len(changed), PAGE):
                some = changed[start : start + PAGE]
                gone = tuple(host_id for host_id in some if host_id not in self._announced[role])
                changes = HostChanges(self._shown(role, some), gone)
                for watcher in list(self._watchers[role]):
                    watcher.receiver(changes)
