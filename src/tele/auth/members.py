"""Which machines are members, and which of them are alive?

Laws of this file:

* A member is known by role and host id. Removing the record ends its membership: it can
  neither announce itself nor renew, and its certificates run out.
* Labels that a token bound win over whatever the host says of itself.
* Watchers are told when something changed that matters to them: not each heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from attrs import Factory, evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.auth.shelf import Shelf
from tele.errors import AccessDenied, NotFound
from tele.interfaces import Change, IBackend
from tele.loop import make_logger, now
from tele.model.codec import decode
from tele.model.identity import HostIdentity, HostRole
from tele.model.presence import FORGET_AFTER, OFFLINE_AFTER, Host, Presence, Status

log = make_logger(__name__)

MEMBERS = "/members/"
HOSTS = "/hosts/"
LOOK_SECONDS = 5.0


@frozen
class Member:
    """A machine that joined, in one role."""

    host_id: str
    role: HostRole
    name: str
    ssh_public_key: str
    joined: datetime
    labels: Mapping[str, str] = Factory(dict)


@frozen
class LastWord:
    """What a member said last, and when."""

    host_id: str
    presence: Presence
    heard: datetime
    labels: Mapping[str, str] = Factory(dict)


def member_key(role: HostRole, host_id: str) -> str:
    """Return the name of a member on its shelf."""
    return f"{role.value}/{host_id}"


class Members:
    """The machines of a cluster. :meth:`start` first, :meth:`stop` at the end."""

    def __init__(
        self, backend: IBackend, clock: IReactorTime, forget_after: timedelta = FORGET_AFTER
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._forget_after = forget_after
        self.members = Shelf(backend, MEMBERS, Member)
        self._words = Shelf(backend, HOSTS, LastWord)
        self._heard: dict[HostRole, dict[str, LastWord]] = {role: {} for role in HostRole}
        self._shown: dict[HostRole, tuple[object, ...]] = {}
        self._watchers: dict[HostRole, list[Callable[[], None]]] = {role: [] for role in HostRole}
        self._stop_watching: Callable[[], None] | None = None
        self._timer: IDelayedCall | None = None

    async def start(self) -> None:
        """Read what is stored and follow it from now on."""
        watch = await self._backend.watch(HOSTS, self._changed)
        self._stop_watching = watch.stop
        for kept in await self._words.list():
            self._heard[kept.value.presence.role][kept.value.host_id] = kept.value
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Follow nothing any more."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- what members do --------------------------------------------------------------
    async def admit(self, member: Member) -> Member | None:
        """Make somebody a member; returns the member of that id and role there was before."""
        before: list[Member] = []

        def replace(present: Member | None) -> Member:
            before[:] = [] if present is None else [present]
            return member

        await self.members.change(member_key(member.role, member.host_id), replace)
        return before[0] if before else None

    async def get(self, role: HostRole, host_id: str) -> Member | None:
        """Return a member, or None."""
        kept = await self.members.get(member_key(role, host_id))
        return None if kept is None else kept.value

    async def require(self, identity: HostIdentity) -> Member:
        """Return the member that ``identity`` is; raises :class:`AccessDenied` if removed."""
        member = await self.get(identity.role, identity.host_id)
        if member is None:
            raise AccessDenied(
                f"{identity.role.value} {identity.name} was removed from the cluster;"
                " join again with a token",
                "removed",
            )
        return member

    async def announce(self, identity: HostIdentity, presence: Presence) -> Mapping[str, str]:
        """Take a member's word that it lives; returns the labels that its token bound."""
        member = await self.require(identity)
        presence = evolve(presence, role=identity.role, name=member.name)
        word = LastWord(
            identity.host_id, presence, now(self._clock), {**presence.labels, **member.labels}
        )
        key = member_key(identity.role, identity.host_id)
        await self._backend.commit(self._words.put(key, word, ttl=self._forget_after))
        return member.labels

    async def remove(self, host_id: str) -> tuple[Member, ...]:
        """End the membership of a machine in all its roles. Raises :class:`NotFound`."""
        gone = []
        for role in HostRole:
            key = member_key(role, host_id)
            member = await self.get(role, host_id)
            if member is None and host_id not in self._heard[role]:
                continue
            await self._backend.commit(self.members.delete(key), self._words.delete(key))
            if member is not None:
                gone.append(member)
        if not gone:
            raise NotFound(f"no such node: {host_id!r}; tele nodes ls shows the nodes")
        return tuple(gone)

    # -- what others see --------------------------------------------------------------
    def hosts(self, role: HostRole) -> tuple[Host, ...]:
        """Return all hosts of a role, by name, with their status now."""
        moment = now(self._clock)
        shown = [self._show(word, moment) for word in self._heard[role].values()]
        return tuple(sorted(shown, key=lambda host: (host.name, host.id)))

    def _show(self, word: LastWord, moment: datetime) -> Host:
        said = word.presence
        online = moment - word.heard < OFFLINE_AFTER
        return Host(
            id=word.host_id,
            name=said.name,
            role=said.role,
            addresses=said.addresses,
            labels=word.labels,
            mode=said.mode,
            status=Status.ONLINE if online else Status.OFFLINE,
            last_seen=word.heard,
            version=said.version,
            rotation=said.rotation,
        )

    def watch(self, role: HostRole, receiver: Callable[[tuple[Host, ...]], None]) -> Deferred[None]:
        """Tell ``receiver`` the hosts of ``role`` at once and at each change that matters.

        Cancel the Deferred to end it.
        """

        def tell() -> None:
            receiver(self.hosts(role))

        watchers = self._watchers[role]
        watchers.append(tell)
        answer: Deferred[None] = Deferred(lambda _: watchers.remove(tell))
        self._shown.setdefault(role, self._essence(role))
        tell()
        return answer

    # -- inside -----------------------------------------------------------------------
    def _changed(self, change: Change) -> None:
        role_name, _, host_id = change.key.removeprefix(HOSTS).partition("/")
        role = HostRole(role_name)
        if change.item is None:
            self._heard[role].pop(host_id, None)
        else:
            self._heard[role][host_id] = decode(LastWord, change.item.value)
        self._tell_if_changed(role)

    def _essence(self, role: HostRole) -> tuple[object, ...]:
        return tuple(evolve(host, last_seen=_NEVER) for host in self.hosts(role))

    def _tell_if_changed(self, role: HostRole) -> None:
        if not self._watchers[role]:
            self._shown.pop(role, None)
            return
        essence = self._essence(role)
        if essence != self._shown.get(role):
            self._shown[role] = essence
            for tell in list(self._watchers[role]):
                tell()

    def _look(self) -> None:
        """Notice those who fell silent."""
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)
        for role in HostRole:
            self._tell_if_changed(role)


_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
