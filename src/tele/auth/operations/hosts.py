"""How do hosts join, stay members and say that they live, and who sees them?

Invariants:

* A token, or a proof, is looked at before anything else that an unauthenticated client says is
  compared with what the cluster knows: without one, nothing can be learned here.
* A host becomes a member, and its use of the token counts, in one commit or not at all.
* What a host says of itself is a claim: its id is made here, its name and addresses are checked
  against those of all others.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from tele._version import VERSION
from tele.auth.authorities import Authorities
from tele.auth.authorizer import Authorizer, host_caller
from tele.auth.disk import DiskWatch
from tele.auth.handlers import Handler, StreamHandler, handler, stream
from tele.auth.issuing import Issuer, check_keys, is_host_name
from tele.auth.journal import Journal
from tele.auth.members import (
    REJOIN_LIMIT,
    Member,
    Members,
    Overtaken,
    addresses_of,
)
from tele.auth.presence import Announcement, Hosts
from tele.auth.session_ends import SessionEnds
from tele.auth.state import State
from tele.auth.tokens import Tokens, check_host_id
from tele.certs.issue import HOST_LIFETIME
from tele.certs.names import check_name
from tele.certs.rejoin import check_rejoin
from tele.errors import AccessDenied, BadCertificate, InvalidInput, Unavailable, quoted
from tele.loop import now
from tele.model.addresses import Address, host_of, plain_address, plain_host
from tele.model.api import members as api
from tele.model.api import table
from tele.model.api.members import PublicKeys
from tele.model.api.operation import Nothing
from tele.model.authority import Certificates
from tele.model.codec import format_time
from tele.model.identity import Caller, HostRole, Identity, UserIdentity
from tele.model.presence import Host, Presence, Status
from tele.rbac.selector import read_selector

LABEL_LIMIT: Final = 1024
ATTEMPTS: Final = 20
#: Hosts that are looked at for one page: one that selects little is short, and goes on.
SCAN_LIMIT: Final = 1000


class HostOperations:
    """Operations of hosts, and on them."""

    def __init__(
        self,
        cluster: str,
        clock: IReactorTime,
        authorities: Authorities,
        issuer: Issuer,
        tokens: Tokens,
        members: Members,
        hosts: Hosts,
        state: State,
        ends: SessionEnds,
        disk: DiskWatch,
        authorizer: Authorizer,
        journal: Journal,
        new_id: Callable[[], str],
    ) -> None:
        self._ends = ends
        self._disk = disk
        self._new_id = new_id
        self._cluster_name = cluster
        self._clock = clock
        self._authorities = authorities
        self._issuer = issuer
        self._tokens = tokens
        self._members = members
        self._hosts = hosts
        self._state = state
        self._authorizer = authorizer
        self._journal = journal
        # Many machines may come with one token at once: one after the other, so that
        # they do not make each other's commits fail.
        self._joining = DeferredLock()

    def handlers(self) -> tuple[Handler | StreamHandler, ...]:
        """The rows of the table."""
        return (
            handler(table.HEALTH, self.health),
            handler(table.CLUSTER, self.cluster),
            handler(table.JOIN, self.join),
            handler(table.REJOIN, self.rejoin),
            handler(table.RENEW, self.renew),
            handler(table.ANNOUNCE, self.announce),
            handler(table.LIST_HOSTS, self.list_hosts),
            handler(table.DELETE_HOST, self.delete_host),
            stream(table.WATCH_STATE, self.watch_state),
            stream(table.WATCH_HOSTS, self.watch_hosts),
        )

    # -- anyone -----------------------------------------------------------------------
    async def health(self, request: Nothing, caller: Caller) -> api.Health:
        """Auth is there."""
        return api.Health("ok", VERSION, self._disk.level)

    async def cluster(self, request: Nothing, caller: Caller) -> api.ClusterInfo:
        """What anybody may know."""
        proxies = self._hosts.all(HostRole.PROXY)
        return api.ClusterInfo(
            self._cluster_name,
            VERSION,
            now(self._clock),
            self._authorities.trusted,
            tuple(a for p in proxies if p.status is Status.ONLINE for a in p.addresses),
        )

    async def join(self, request: api.JoinRequest, caller: Caller) -> Certificates:
        """Become a member."""
        check_name(request.name, self._cluster_name, request.role)
        check_keys(request.keys)
        claimed = _addresses(request.addresses, caller)
        await self._tokens.claim(request.token, request.role)
        if self._members.is_proxys(request.role, "", request.name):
            raise InvalidInput(f"{quoted(request.name)} is a proxy's name; choose another one")
        admitting = self._joining.run(self._admit, request, caller, claimed)
        member, replaced = await admitting
        certificates = self._issue(member, request.keys, member.issued)
        await self._journal.emit(
            "node.join",
            Caller(None, caller.remote_addr),
            server_id=member.host_id,
            server_name=member.name,
            role=member.role.value,
            replaced=[old.host_id for old in replaced],
            replaced_names=[old.name for old in replaced],
        )
        if replaced:
            self._ends.check_soon()
        return certificates

    def _admit(
        self, request: api.JoinRequest, caller: Caller, claimed: list[str]
    ) -> Deferred[tuple[Member, tuple[Member, ...]]]:
        return Deferred.fromCoroutine(self._admit_with_token(request, caller, claimed))

    async def _admit_with_token(
        self, request: api.JoinRequest, caller: Caller, claimed: list[str]
    ) -> tuple[Member, tuple[Member, ...]]:
        for _ in range(ATTEMPTS):
            use, token = await self._tokens.claim(request.token, request.role)
            moment = now(self._clock)
            member = Member(
                token.host_id or self._new_id(), request.role, request.name, request.keys.ssh,
                moment, moment + HOST_LIFETIME, issued=moment, labels=token.labels,
                addresses=token.addresses,
            )  # fmt: skip
            source = await self._members.source_of(member, claimed, host_of(caller.seen_addr))
            member = evolve(member, source=source)
            try:
                return await self._members.admit(member, token.replaces, moment, use)
            except Overtaken:
                continue
        raise Unavailable("too many hosts join at this moment; try again")

    def _issue(self, member: Member, keys: PublicKeys, issued: datetime) -> Certificates:
        addresses = addresses_of(member)
        return self._issuer.host(
            member.host_id, member.name, member.role, keys, addresses, issued, HOST_LIFETIME
        )

    async def rejoin(self, request: api.RejoinRequest, caller: Caller) -> Certificates:
        """New certificates for a member whose old ones have expired."""
        check_keys(request.keys)
        member = await self._proven(request)
        locked = self._state.policy.locks_host(member.host_id, now(self._clock))
        if locked is not None:
            raise AccessDenied(locked.message, locked.reason.value)
        if self._members.lives(member, now(self._clock)):
            # Somebody has an old copy of its disk, perhaps.
            raise Unavailable(
                f"{member.role.value} {member.name} ({member.host_id}) has a good certificate and"
                " is online, or auth has just started and waits for it: it does not come back"
                " twice; try again when it is offline"
            )
        before = member.ends
        member, certificates = await self._renew(member, member.name, request.keys, member.source)
        await self._journal.emit(
            "node.rejoin",
            Caller(None, caller.remote_addr),
            server_id=member.host_id,
            server_name=member.name,
            role=member.role.value,
            expired=format_time(before),
        )
        return certificates

    async def _proven(self, request: api.RejoinRequest) -> Member:
        """Return the member that made the request. Raises :class:`AccessDenied`."""
        member = await self._members.find(request.role, request.host_id)
        try:
            if member is None:
                raise BadCertificate("no such member", "proof")
            check_rejoin(
                member.ssh_public_key, request.signature, self._cluster_name, request.host_id,
                request.role, request.keys.ssh, request.keys.tls,
            )  # fmt: skip
        except BadCertificate:
            raise AccessDenied(
                f"this host is no member of the cluster as {request.role.value}, was removed from"
                " it, or has another key than the registered one; join with a token",
                "removed",
            ) from None
        if now(self._clock) > member.ends + REJOIN_LIMIT:
            raise AccessDenied(
                f"the certificate of {member.name} expired more than {REJOIN_LIMIT.days} days ago;"
                " join with a token",
                "expired",
            )
        return member

    # -- hosts ------------------------------------------------------------------------
    async def renew(self, request: api.RenewRequest, caller: Caller) -> Certificates:
        """New certificates for a member, perhaps under another name."""
        host = host_caller(caller)
        member = await self._members.require(host)
        check_name(request.name, self._cluster_name, host.role)
        check_keys(request.keys)
        if request.name != member.name and self._members.is_proxys(
            host.role, host.host_id, request.name
        ):
            raise InvalidInput(f"{quoted(request.name)} is a proxy's name; choose another one")
        claimed = _addresses(request.addresses, caller)
        source = await self._members.source_of(member, claimed, host_of(caller.seen_addr))
        _, certificates = await self._renew(member, request.name, request.keys, source)
        renamed = {"renamed_from": member.name} if member.name != request.name else {}
        await self._journal.emit(
            "cert.issue", caller, kind="host", role=host.role.value, name=request.name, **renamed
        )
        return certificates

    async def _renew(
        self, member: Member, name: str, keys: PublicKeys, source: str
    ) -> tuple[Member, Certificates]:
        """Note what ``member`` gets, and issue that and nothing later: it may be removed now."""
        issued = max(now(self._clock), member.since)
        expires = issued + HOST_LIFETIME
        renewed = await self._members.renew(member, name, keys.ssh, issued, expires, source)
        return renewed, self._issue(renewed, keys, issued)

    async def announce(self, request: Presence, caller: Caller) -> api.Announced:
        """A member lives."""
        host = host_caller(caller)
        member = await self._members.require(host)
        _check_presence(request)
        is_proxy = host.role is HostRole.PROXY
        said = Presence(
            member.name, host.role, request.addresses, request.labels, request.mode,
            request.version[:64], request.rotation[:64],
            () if is_proxy else request.tunnels, request.peer if is_proxy else "",
            request.peer_header and is_proxy,
        )  # fmt: skip
        labels = {**request.labels, **member.labels}
        source = host_of(caller.seen_addr) if is_proxy else ""
        word = Announcement(host.host_id, said, now(self._clock), labels, source)
        await self._hosts.observe(host.role, word)
        return api.Announced(labels=member.labels, time=now(self._clock))

    def watch_state(
        self, request: api.WatchState, receiver: Callable[[api.ClusterState], None]
    ) -> Deferred[None]:
        """The cluster's state, at once and at each change."""
        return self._state.watch(receiver)

    def watch_hosts(
        self, request: api.WatchHosts, receiver: Callable[[api.HostChanges], None]
    ) -> Deferred[None]:
        """All hosts of a role, and each change."""
        return self._hosts.watch(request.role, receiver)

    # -- people -----------------------------------------------------------------------
    async def list_hosts(self, request: api.ListHosts, caller: Caller) -> api.HostList:
        """Hosts that the caller may see, by name."""
        limit = request.limit
        wanted = read_selector(request.labels)
        identity = caller.identity
        everything = not isinstance(identity, UserIdentity) or await self._authorizer.may(
            caller, "node", "list"
        )
        page: list[Host] = []
        last = ""
        for looked, host in enumerate(self._hosts.after(request.role, request.after)):
            if len(page) == limit or looked == SCAN_LIMIT:
                return api.HostList(tuple(page), last)
            last = f"{host.name}/{host.id}"
            if wanted.selects(host.labels) and (everything or self._reaches(identity, host)):
                page.append(host)
        return api.HostList(tuple(page))

    def _reaches(self, identity: Identity | None, host: Host) -> bool:
        if not isinstance(identity, UserIdentity) or host.role is not HostRole.NODE:
            return True
        moment = now(self._clock)
        return self._state.policy.may_reach(identity, host.labels, moment, host.id) is None

    async def delete_host(self, request: api.ById, caller: Caller) -> Nothing:
        """End a host's membership; what was issued to it is revoked."""
        removed = await self._members.remove(request.id, now(self._clock))
        if not removed:  # it said something lately, but its membership had ended
            await self._journal.emit("node.delete", caller, server_id=request.id)
        for member in removed:
            await self._journal.emit(
                "node.delete", caller, server_id=member.host_id, server_name=member.name,
                role=member.role.value,
            )  # fmt: skip
        self._ends.check_soon()
        return Nothing()


def _check_presence(said: Presence) -> None:
    for address in (*said.addresses, *([said.peer] if said.peer else ())):
        # Everybody who dials it reads it, and is not to stumble over it.
        read = Address.parse(address)
        if not is_host_name(read.host) or address not in (str(read), f"[{read.host}]:{read.port}"):
            raise InvalidInput(f"{quoted(address)} is no address")
    for proxy in said.tunnels:
        check_host_id(proxy)
    for key, value in said.labels.items():
        if not key or max(len(key), len(value)) > LABEL_LIMIT:
            raise InvalidInput(f"label {quoted(key)}: 1 to {LABEL_LIMIT} characters, please")


def _addresses(said: tuple[str, ...], caller: Caller) -> list[str]:
    """The hosts of ``host:port`` addresses; an address of all interfaces is the caller's own."""
    hosts: list[str] = []
    for address in said:
        host = plain_host(host_of(address))
        if not is_host_name(host):
            raise InvalidInput(f"{quoted(address)} is no address")
        ip = plain_address(host)
        unspecified = ip is not None and ip.is_unspecified
        hosts.append(host_of(caller.seen_addr) if unspecified else host)
    return [host for host in dict.fromkeys(hosts) if is_host_name(host)]
