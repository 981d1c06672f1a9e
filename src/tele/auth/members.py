"""Which machines are members of the cluster, and what may they call themselves?

Laws of this file:

* A member is known by role and host id. Removing the record ends its membership: it can
  do nothing through the API any more, and its certificates run out.
* Who joins again under an id replaces whoever had it: certificates from before count for
  nothing here from then on.
* A name is one machine's in its role. Taking another's needs a token and its holder to be
  gone or silent; a member cannot give itself another one's name, nor an address that
  another machine's proxy is reached by.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from attrs import Factory, evolve, frozen

from tele.auth.presence import Hosts
from tele.auth.shelf import Kept, Shelf
from tele.certs.issue import HOST_LIFETIME
from tele.errors import AccessDenied, Conflict, NotFound
from tele.interfaces import Delete, IBackend, Put
from tele.model.identity import HostIdentity, HostRole
from tele.model.presence import FORGET_AFTER

MEMBERS: Final = "/members/"
NAMES: Final = "/member-names/"
ATTEMPTS: Final = 20
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)


@frozen
class Member:
    """A machine that joined, in one role.

    ``labels`` are those that its token bound. ``valid_from`` is the end of the first
    certificate since it joined last: certificates that end earlier are somebody else's.
    """

    host_id: str
    role: HostRole
    name: str
    ssh_public_key: str
    joined: datetime
    valid_from: datetime = EARLIEST
    labels: Mapping[str, str] = Factory(dict)


@frozen
class NameHolder:
    """Whose a name is, in one role."""

    host_id: str


class Members:
    """The members of a cluster. ``hosts`` says which of them live."""

    def __init__(
        self, backend: IBackend, hosts: Hosts, forget_after: timedelta = FORGET_AFTER
    ) -> None:
        self._backend = backend
        self._hosts = hosts
        # Who has not renewed for so long has no valid certificate any more.
        self._ttl = max(forget_after, 2 * HOST_LIFETIME)
        self._members = Shelf(backend, MEMBERS, Member)
        self._names = Shelf(backend, NAMES, NameHolder)

    # -- who is one -------------------------------------------------------------------
    async def check_name(self, role: HostRole, host_id: str, name: str) -> None:
        """Raise :class:`Conflict` if ``name`` is that of another machine that lives."""
        holder = await self._holder(role, name)
        if holder is None or holder.value.host_id == host_id:
            return
        if self._hosts.is_online(role, holder.value.host_id):
            raise _taken(role, name, holder.value)

    async def require(self, identity: HostIdentity) -> Member:
        """Return the member that ``identity`` is.

        Raises :class:`AccessDenied` if it was removed, or replaced by another machine.
        """
        kept = await self._members.get(_key(identity.role, identity.host_id))
        shown = f"{identity.role.value} {identity.name}"
        if kept is None:
            raise AccessDenied(
                f"{shown} is no member of the cluster, or was removed from it; join with a token",
                "removed",
            )
        if identity.expires < kept.value.valid_from:
            raise AccessDenied(
                f"{shown} was replaced: a machine joined later with the same host id", "replaced"
            )
        return kept.value

    async def admit(self, member: Member, *more: Put) -> Member | None:
        """Make ``member`` one, together with the changes ``more``, all or nothing.

        Returns the member of that role and id there was before. Fails with
        :class:`Conflict` when somebody was faster.
        """
        before = await self._members.get(_key(member.role, member.host_id))
        holder = await self._holder(member.role, member.name)
        changes: list[Put | Delete] = [self._put(before, member), self._hold(holder, member), *more]
        if holder is not None and holder.value.host_id != member.host_id:
            # It is silent, and its name is another's now: two of that name would confuse.
            changes.append(self._hosts.forgotten(member.role, holder.value.host_id))
        await self._backend.commit(*changes, *await self._release(before, member))
        return None if before is None else before.value

    async def renew(self, member: Member, name: str, key: str, until: datetime) -> Member:
        """Note that ``member`` renewed its certificates, for ``name``, to end at ``until``.

        Fails with :class:`Conflict` when the name is another machine's.
        """
        for _ in range(ATTEMPTS):
            before = await self._members.get(_key(member.role, member.host_id))
            if before is None or before.value.joined != member.joined:
                raise AccessDenied("removed or replaced meanwhile; join again", "removed")
            renewed = evolve(
                before.value,
                name=name,
                ssh_public_key=key,
                # Had lifetimes been shortened, its own new certificate would end too early.
                valid_from=min(before.value.valid_from, until),
            )
            holder = await self._holder(member.role, name)
            changes: list[Put | Delete] = [self._put(before, renewed)]
            if holder is None or holder.value.host_id == member.host_id:
                changes.append(self._hold(holder, renewed))
            elif name != before.value.name:
                raise _taken(member.role, name, holder.value)
            try:
                await self._backend.commit(*changes, *await self._release(before, renewed))
            except Conflict:
                continue
            return renewed
        raise Conflict(f"{member.role.value} {name} changes too often; try again")

    async def remove(self, host_id: str) -> tuple[Member, ...]:
        """End the membership of a machine in all its roles. Raises :class:`NotFound`."""
        gone = []
        known = False
        for role in HostRole:
            kept = await self._members.get(_key(role, host_id))
            known = known or kept is not None or self._hosts.known(role, host_id)
            changes: list[Delete] = [self._hosts.forgotten(role, host_id)]
            if kept is not None:
                gone.append(kept.value)
                holder = await self._holder(role, kept.value.name)
                changes.append(self._members.delete(kept.name))
                if holder is not None and holder.value.host_id == host_id:
                    changes.append(self._names.delete(holder.name))
            await self._backend.commit(*changes)
        if not known:
            raise NotFound(f"no such node: {host_id!r}; tele nodes ls shows the nodes")
        return tuple(gone)

    # -- names and addresses ----------------------------------------------------------
    async def own_addresses(
        self, role: HostRole, host_id: str, addresses: Sequence[str]
    ) -> list[str]:
        """Return those ``addresses`` (hosts without port) by which nobody else is known."""
        if role is not HostRole.NODE:
            return list(addresses)
        own = []
        for address in addresses:
            holder = await self._holder(role, address.rstrip("."))
            anothers = holder is not None and holder.value.host_id != host_id
            if not anothers and not self.is_proxys(role, host_id, address):
                own.append(address)
        return own

    def is_proxys(self, role: HostRole, host_id: str, name: str) -> bool:
        """Whether another machine's proxy is reached by ``name``, a host name or address."""
        if role is not HostRole.NODE or _is_loopback(name):
            return False
        wanted = name.lower().rstrip(".")
        return any(
            wanted == host_of(address).lower().rstrip(".")
            for proxy in self._hosts.all(HostRole.PROXY)
            if proxy.id != host_id
            for address in proxy.addresses
        )

    # -- inside -----------------------------------------------------------------------
    async def _holder(self, role: HostRole, name: str) -> Kept[NameHolder] | None:
        return await self._names.get(_key(role, name.lower()))

    def _put(self, before: Kept[Member] | None, member: Member) -> Put:
        revision = 0 if before is None else before.revision
        return self._members.put(_key(member.role, member.host_id), member, revision, self._ttl)

    def _hold(self, holder: Kept[NameHolder] | None, member: Member) -> Put:
        held = NameHolder(member.host_id)
        revision = 0 if holder is None else holder.revision
        return self._names.put(_key(member.role, member.name.lower()), held, revision, self._ttl)

    async def _release(self, before: Kept[Member] | None, member: Member) -> list[Delete]:
        """Give up the name that a member had before, if it was its own."""
        if before is None or before.value.name.lower() == member.name.lower():
            return []
        holder = await self._holder(member.role, before.value.name)
        if holder is None or holder.value.host_id != member.host_id:
            return []
        return [self._names.delete(holder.name, holder.revision)]


def host_of(address: str) -> str:
    """Return the host of ``host:port``, ``[host]:port`` or a host alone, without brackets."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or (":" in host and not host.startswith("[")):
        host = address
    return host.strip("[]")


def _key(role: HostRole, rest: str) -> str:
    return f"{role.value}/{rest}"


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return text.lower() == "localhost"


def _taken(role: HostRole, name: str, holder: NameHolder) -> Conflict:
    return Conflict(
        f"the name {name} is that of {role.value} {holder.host_id}; choose another, or remove"
        f" that one first: tele nodes rm {holder.host_id}"
    )
