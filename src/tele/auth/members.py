"""Which hosts are members of the cluster, and what are their names?

Invariants:

* A member is identified by role and host id, and by the SSH host key that is registered for it. An
  id is made when a host joins. A host keeps its id by proof of its key, and gets an existing one
  only by a token that is bound to it.
* Names of hosts in all roles, and addresses in their certificates, share one namespace without
  case. A name of one host is given to another only by a token that may replace the host.
* A host that is online is never replaced. For a while after auth has started, every host counts as
  online: it may be about to reconnect.
* The certificates of a removed or replaced host are revoked in the commit that removes it, whatever
  the clock said when they were issued. A renewal at that moment is revoked, too, or fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from attrs import evolve

from tele.auth.generations import Generations
from tele.auth.member_record import Member as Member
from tele.auth.member_record import (
    NameHolder,
    is_loopback,
    names_of,
    outlasting,
    revocation_of,
    revoked_for,
)
from tele.auth.member_record import addresses_of as addresses_of
from tele.auth.presence import Hosts
from tele.auth.repository import Repository, Versioned
from tele.auth.state import REVOKED_HOSTS
from tele.errors import AccessDenied, Conflict, NotFound, Unavailable, quoted
from tele.interfaces import Delete, IBackend, Put
from tele.model.addresses import host_of
from tele.model.cluster_settings import HostCertificates
from tele.model.identity import HostIdentity, HostRole
from tele.model.presence import OFFLINE_AFTER
from tele.model.revocation import HostRevocation

MEMBERS: Final = "/members/"
NAMES: Final = "/member-names/"
#: Written when all members of an older version's store have their names.
ADOPTED: Final = "/cluster/member-names"
ATTEMPTS: Final = 20


class Overtaken(Conflict):
    """Another auth changed the same keys at the same time: try again."""


class Members:
    """The members of a cluster. ``hosts`` knows which of them are online.

    ``rules()`` are those of the cluster now.
    """

    def __init__(
        self,
        backend: IBackend,
        hosts: Hosts,
        rules: Callable[[], HostCertificates] = HostCertificates,
    ) -> None:
        self._backend = backend
        self._rules = rules
        self.generations = Generations(backend)
        self._hosts = hosts
        self._members = Repository(backend, MEMBERS, Member)
        self._names = Repository(backend, NAMES, NameHolder)
        self._revoked = Repository(backend, REVOKED_HOSTS, HostRevocation)
        #: Ids of hosts that are being removed: they cannot delay that by renewing all the time.
        self._leaving: set[str] = set()

    async def start(self) -> None:
        """Register the names of the members of an older version's store.

        It had a namespace for each role. A name of two members goes to the node: that of the proxy
        is in no certificate.
        """
        await self.generations.start()
        if await self._backend.get(ADOPTED) is not None:
            return
        nodes_first = sorted(await self._members.list(), key=lambda k: k.value.role.value)
        for entry in nodes_first:
            for name in names_of(entry.value):
                hold, other = await self._hold(name, entry.value)
                if other is None:
                    await self._backend.commit(hold)
        await self._backend.commit(Put(ADOPTED, b"1"))

    # -- members ----------------------------------------------------------------------
    async def find(self, role: HostRole, host_id: str) -> Member | None:
        """Return a member, or None."""
        entry = await self._members.get(_key(role, host_id))
        return None if entry is None else entry.value

    async def ends(self, hosts: Sequence[tuple[HostRole, str]]) -> Mapping[str, datetime]:
        """Return the end of the last certificate of each of these members, by host id."""
        found = await self._members.get_many([_key(role, host_id) for role, host_id in hosts])
        return {entry.value.host_id: entry.value.ends for entry in found}

    async def named(self, name: str) -> Member | None:
        """Return the member that a name or an address belongs to, or None."""
        holder = await self._names.get(name.lower())
        return None if holder is None else await self.find(holder.value.role, holder.value.host_id)

    async def require(self, identity: HostIdentity) -> Member:
        """Return the member that ``identity`` is.

        Raises :class:`AccessDenied` if it was removed, or replaced by another host.
        """
        member = await self.find(identity.role, identity.host_id)
        shown = f"{identity.role.value} {identity.name}"
        if member is None or member.sshd:
            raise AccessDenied(
                f"{shown} is not a member of the cluster, or was removed; join with a token",
                "removed",
            )
        if identity.issued < member.since:
            raise AccessDenied(
                f"{shown} was replaced by a host that joined later with its host id", "replaced"
            )
        return member

    async def admit(
        self, member: Member, replaces: Collection[str], now: datetime, *more: Put
    ) -> tuple[Member, tuple[Member, ...]]:
        """Store a new member in one commit with the changes ``more``.

        ``replaces`` are names that it may take from offline hosts. Returns the stored member, and
        those that it replaced. Raises :class:`Conflict` if a name is another host's,
        :class:`Unavailable` while it is not known which hosts are online, and :class:`Overtaken`.
        """
        before = await self._members.get(_key(member.role, member.host_id))
        changes: dict[str, Put | Delete] = {}
        held: dict[str, Put | Delete] = {}
        replaced: dict[str, Versioned[Member]] = {}
        if before is not None:
            self._check_offline(before.value, f"the host id {member.host_id}", now)
            replaced[before.name] = before
        # Taking a name over ends the membership of its holder.
        for name in names_of(member):
            hold, other = await self._hold(name, member)
            held.update(_by_key(hold))
            if other is None:
                continue
            self._check_offline(other.value, f"the name {name}", now)
            if name not in {each.lower() for each in replaces}:
                raise _taken(name, other.value)
            replaced[other.name] = other
        for gone in replaced.values():
            changes.update(await self._removal(gone, now))
        stored, revision = member, 0
        if before is not None:
            since, revision = revocation_of(before.value, now).before, before.revision
            stored = evolve(member, since=since, issued=max(member.issued, since))
        changes.update(_by_key(self._put(stored, revision)))
        changes.update(held)
        try:
            await self._backend.commit(*changes.values(), *more)
        except Conflict as conflict:
            raise Overtaken(str(conflict)) from None
        return stored, tuple(gone.value for gone in replaced.values())

    def may_be_online(self, member: Member, now: datetime) -> bool:
        """Whether a host with a valid certificate is online, or may be about to reconnect."""
        online = self._hosts.is_online(member.role, member.host_id)
        new = abs(now - member.joined) < OFFLINE_AFTER
        return now < member.ends and (online or new or self._hosts.settles_in > 0)

    async def renew(
        self,
        member: Member,
        name: str,
        key: str,
        issued: datetime,
        expires: datetime,
        source: str,
        serial: int = 0,
        used: HostIdentity | None = None,
    ) -> Member:
        """Store that ``member`` gets certificates for ``name`` and the address ``source``.

        ``serial`` is that of the TLS certificate, ``used`` the identity by which it asks; None: it
        has proved its key. Raises :class:`Conflict` if a name or an address is another host's, and
        :class:`tele.auth.generations.Copied`.
        """
        for _ in range(ATTEMPTS):
            before = await self._members.get(_key(member.role, member.host_id))
            if before is None or before.value.joined != member.joined:
                raise AccessDenied("the host was removed or replaced; join again", "removed")
            renewed = evolve(
                before.value, name=name, ssh_public_key=key, expires=expires, source=source,
                issued=max(before.value.issued, issued),
                outlasting=outlasting(before.value, expires),
            )  # fmt: skip
            following = await self.generations.renewed(
                used, (member.role, member.host_id), before.value.issued, serial, renewed.issued,
                expires,
            )  # fmt: skip
            changes: dict[str, Put | Delete] = _by_key(
                self._put(renewed, before.revision), *following
            )
            for old in set(names_of(before.value)) - set(names_of(renewed)):
                changes.update(_by_key(*await self._release(old, renewed)))
            for each in names_of(renewed):
                hold, other = await self._hold(each, renewed)
                if other is not None:
                    raise _taken(each, other.value)
                changes.update(_by_key(hold))
            if member.host_id in self._leaving:
                raise Unavailable(f"{member.role.value} {member.name} is being removed")
            try:
                await self._backend.commit(*changes.values())
            except Conflict:
                continue
            return renewed
        raise Conflict(f"{member.role.value} {name} changes too often; try again")

    async def note_told_to_seal(self, member: Member, moment: datetime) -> None:
        """Store when a member was told to seal recordings, unless it is changed meanwhile."""
        entry = await self._members.get(_key(member.role, member.host_id))
        if entry is not None and entry.value == member:
            with suppress(Conflict):  # it announces itself again
                told = evolve(member, told_to_seal=moment)
                await self._backend.commit(self._put(told, entry.revision))

    async def register(self, member: Member, *more: Put) -> None:
        """Store a machine that does not join, in one commit with the changes ``more``.

        Another one with its id is replaced. Raises :class:`Conflict` if a name is another host's.
        """
        for _ in range(ATTEMPTS):
            before = await self._members.get(_key(member.role, member.host_id))
            changes: dict[str, Put | Delete] = {}
            for old in () if before is None else names_of(before.value):
                changes.update(_by_key(*await self._release(old, member)))
            for name in names_of(member):
                hold, other = await self._hold(name, member)
                if other is not None:
                    raise _taken(name, other.value)
                changes.update(_by_key(hold))
            changes.update(_by_key(self._put(member, 0 if before is None else before.revision)))
            try:
                await self._backend.commit(*changes.values(), *more)
            except Conflict:
                continue
            return
        raise Conflict(f"{member.role.value} {member.name} changes too often; try again")

    async def remove(self, wanted: str, now: datetime) -> tuple[Member, ...]:
        """End the membership of the host with this id, in all its roles, or with this name.

        Raises :class:`NotFound`.
        """
        leaving: set[str] = set()
        try:
            for _ in range(ATTEMPTS):
                changes, gone = await self._removals(wanted, now)
                if not changes:
                    raise NotFound(f"no such node: {quoted(wanted)}; tele nodes ls shows the nodes")
                leaving.update(member.host_id for member in gone)
                self._leaving |= leaving
                try:
                    await self._backend.commit(*changes.values())
                except Conflict:
                    continue  # it renewed at this moment: that is removed, too
                return gone
        finally:
            self._leaving -= leaving
        raise Conflict(f"{quoted(wanted)} changes too often; try again")

    async def _removals(
        self, wanted: str, now: datetime
    ) -> tuple[dict[str, Put | Delete], tuple[Member, ...]]:
        """Return the changes that end the memberships ``wanted`` stands for, and the members.

        The commit conflicts if any of these members has changed meanwhile.
        """
        found = [await self._members.get(_key(role, wanted)) for role in HostRole]
        holder = await self._names.get(wanted.lower())
        if not any(found) and holder is not None:
            found = [await self._members.get(_key(holder.value.role, holder.value.host_id))]
        gone = tuple(entry for entry in found if entry is not None)
        changes: dict[str, Put | Delete] = {}
        for entry in gone:
            changes.update(await self._removal(entry, now))
        # An announcement may outlast the membership.
        announced = [role for role in HostRole if self._hosts.known(role, wanted)]
        for role in announced:
            changes.update(_by_key(self._hosts.forgotten(role, wanted)))
        return changes, tuple(entry.value for entry in gone)

    # -- names and addresses ----------------------------------------------------------
    async def source_of(self, member: Member, claimed: Collection[str], caller: str) -> str:
        """Return the address ``caller`` if certificates of ``member`` may be for it, or nothing.

        They may if it is among the ``claimed`` (hosts without port), no other host has it, and no
        proxy calls from it: it is the address of all calls through that proxy.
        """
        if member.role is not HostRole.NODE or caller not in claimed:
            return ""
        taken = self._hosts.has_proxy_at(caller) or await self._other(caller, member) is not None
        return "" if taken and not is_loopback(caller) else caller

    def is_proxys(self, role: HostRole, host_id: str, name: str) -> bool:
        """Whether ``name`` is the host name of an address of another host's proxy."""
        if role is not HostRole.NODE:
            return False
        wanted = name.lower().rstrip(".")
        return any(
            wanted == host_of(address).lower().rstrip(".")
            for proxy in self._hosts.all(HostRole.PROXY)
            if proxy.id != host_id
            for address in proxy.addresses
        )

    # -- inside -----------------------------------------------------------------------
    def _check_offline(self, member: Member, what: str, now: datetime) -> None:
        shown = f"{member.role.value} {member.name} ({member.host_id})"
        online = self._hosts.is_online(member.role, member.host_id)
        # A time of joining in the future is from before the clock was set back.
        if online or abs(now - member.joined) < OFFLINE_AFTER:
            raise Conflict(
                f"{what} belongs to {shown}, which is online; choose another, or remove that host"
                f" first: tele nodes rm {member.host_id}"
            )
        if (seconds := self._hosts.settles_in) > 0:
            raise Unavailable(
                f"{what} belongs to {shown}, which may reconnect: auth has just started; try again"
                f" in {seconds:.0f} s, or remove that host first: tele nodes rm {member.host_id}"
            )

    async def _removal(self, entry: Versioned[Member], now: datetime) -> dict[str, Put | Delete]:
        """Return the changes that end a membership, by key; they conflict if it has changed."""
        member = entry.value
        revocation = revocation_of(member, now)
        changes: list[Put | Delete] = [
            self._members.delete(entry.name, entry.revision),
            self._revoked.put(entry.name, revocation, ttl=revoked_for(member, revocation, now)),
            self._hosts.forgotten(member.role, member.host_id),
        ]
        for name in names_of(member):
            changes += await self._release(name, member)
        return _by_key(*changes)

    def _put(self, member: Member, revision: int) -> Put:
        life = self._life(member)
        return self._members.put(_key(member.role, member.host_id), member, revision, life)

    def _life(self, member: Member) -> timedelta | None:
        """Return how long a member is stored: longer than it may rejoin, so that a late host gets
        that error and not "unknown". A registered one stays until it is removed.
        """
        rules = self._rules()
        return None if member.sshd else rules.lifetime + rules.rejoin_limit + timedelta(days=1)

    async def _other(self, name: str, member: Member) -> Member | None:
        """Return another member that a name or an address belongs to, or None."""
        holder = await self._names.get(name.lower())
        if holder is None or _is(holder.value, member):
            return None
        return await self.find(holder.value.role, holder.value.host_id)

    async def _hold(self, name: str, member: Member) -> tuple[Put, Versioned[Member] | None]:
        """Return the change that gives a name or an address to ``member``, and its present holder.

        The change conflicts if the holder has changed meanwhile.
        """
        holder = await self._names.get(name.lower())
        held = NameHolder(member.role, member.host_id)
        revision = 0 if holder is None else holder.revision
        other = None
        if holder is not None and not _is(holder.value, member):
            other = await self._members.get(_key(holder.value.role, holder.value.host_id))
        return self._names.put(name.lower(), held, revision, self._life(member)), other

    async def _release(self, name: str, member: Member) -> list[Put | Delete]:
        """Return the changes that release a name, if it is the member's."""
        holder = await self._names.get(name.lower())
        if holder is None or not _is(holder.value, member):
            return []
        return [self._names.delete(holder.name, holder.revision)]


def _key(role: HostRole, rest: str) -> str:
    return f"{role.value}/{rest}"


def _is(holder: NameHolder, member: Member) -> bool:
    return (holder.role, holder.host_id) == (member.role, member.host_id)


def _by_key(*changes: Put | Delete) -> dict[str, Put | Delete]:
    return {change.key: change for change in changes}


def _taken(name: str, member: Member) -> Conflict:
    return Conflict(
        f"the name {name} belongs to {member.role.value} {member.name} ({member.host_id}); choose"
        f" another, remove that host first (tele nodes rm {member.host_id}), or join with a token"
        f" that may replace it (tele tokens add --replace {name})"
    )
