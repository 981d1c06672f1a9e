"""How do machines join, stay members and say that they live, and who sees them?

Laws of this file:

* A token is looked at before anything else that a stranger says is compared with what the
  cluster knows: without one, nothing can be learned here.
* A machine becomes a member, and its use of the token counts, in one commit or not at all.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Final

from cryptography import x509
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from tele._version import VERSION
from tele.auth.authorities import Authorities
from tele.auth.gate import Gate, host_caller
from tele.auth.issuing import Issuer, check_keys, is_host_name
from tele.auth.journal import Journal
from tele.auth.members import Member, Members, host_of
from tele.auth.operations.paging import page_limit
from tele.auth.presence import Hosts, LastWord
from tele.auth.state import State
from tele.auth.tokens import Tokens
from tele.certs.names import check_name
from tele.errors import Conflict, InvalidInput, Unavailable, quoted
from tele.https.blocking import split_address
from tele.loop import now
from tele.model.api import members as api
from tele.model.api.operation import Nothing
from tele.model.authority import Certificates
from tele.model.identity import Caller, HostRole, UserIdentity
from tele.model.presence import Host, Presence, Status
from tele.rbac.decision import may_reach
from tele.rbac.labels import allows

ADDRESSES_LIMIT: Final = 32
TUNNELS_LIMIT: Final = 64
LABELS_LIMIT: Final = 128
LABEL_LIMIT: Final = 1024
ATTEMPTS: Final = 20


class Machines:
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
        gate: Gate,
        journal: Journal,
    ) -> None:
        self._cluster_name = cluster
        self._clock = clock
        self._authorities = authorities
        self._issuer = issuer
        self._tokens = tokens
        self._members = members
        self._hosts = hosts
        self._state = state
        self._gate = gate
        self._journal = journal
        # Many machines may come with one token at once: one after the other, so that
        # they do not make each other's commits fail.
        self._joining = DeferredLock()

    # -- anyone -----------------------------------------------------------------------
    async def health(self, request: Nothing, caller: Caller) -> api.Health:
        """Auth is there."""
        return api.Health("ok", VERSION)

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
        _check_host_id(request.host_id)
        check_name(request.name, request.host_id, request.role)
        check_keys(request.keys)
        addresses = _addresses(request.addresses, caller)
        await self._tokens.claim(request.token, request.role)
        await self._check_new_name(request.role, request.host_id, request.name)
        addresses = await self._members.own_addresses(request.role, request.host_id, addresses)
        certificates = self._issuer.host(
            request.host_id, request.name, request.role, request.keys, addresses
        )
        before = await self._joining.run(self._admit, request, _end_of(certificates))
        await self._journal.emit(
            "node.join",
            Caller(None, caller.remote_addr),
            server_id=request.host_id,
            server_name=request.name,
            role=request.role.value,
            replaced=before is not None,
            renamed_from=before.name if before and before.name != request.name else "",
        )
        return certificates

    def _admit(self, request: api.JoinRequest, until: datetime) -> Deferred[Member | None]:
        return Deferred.fromCoroutine(self._admit_with_token(request, until))

    async def _admit_with_token(self, request: api.JoinRequest, until: datetime) -> Member | None:
        for _ in range(ATTEMPTS):
            use, labels = await self._tokens.claim(request.token, request.role)
            member = Member(
                request.host_id, request.role, request.name, request.keys.ssh, now(self._clock),
                until, labels,
            )  # fmt: skip
            try:
                return await self._members.admit(member, use)
            except Conflict:  # another auth was faster
                continue
        raise Unavailable("too many machines join at this moment; try again")

    async def _check_new_name(self, role: HostRole, host_id: str, name: str) -> None:
        if self._members.is_proxys(role, host_id, name):
            raise InvalidInput(f"{quoted(name)} is a proxy's name; choose another one")
        await self._members.check_name(role, host_id, name)

    # -- hosts ------------------------------------------------------------------------
    async def renew(self, request: api.RenewRequest, caller: Caller) -> Certificates:
        """New certificates for a member, perhaps under another name."""
        host = host_caller(caller)
        member = await self._members.require(host)
        check_name(request.name, host.host_id, host.role)
        check_keys(request.keys)
        if request.name != member.name and self._members.is_proxys(
            host.role, host.host_id, request.name
        ):
            raise InvalidInput(f"{quoted(request.name)} is a proxy's name; choose another one")
        addresses = await self._members.own_addresses(
            host.role, host.host_id, _addresses(request.addresses, caller)
        )
        certificates = self._issuer.host(
            host.host_id, request.name, host.role, request.keys, addresses
        )
        await self._members.renew(member, request.name, request.keys.ssh, _end_of(certificates))
        renamed = {"renamed_from": member.name} if member.name != request.name else {}
        await self._journal.emit(
            "cert.issue", caller, kind="host", role=host.role.value, name=request.name, **renamed
        )
        return certificates

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
        await self._hosts.hear(host.role, LastWord(host.host_id, said, now(self._clock), labels))
        return api.Announced(labels=member.labels)

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
        limit = page_limit(request.limit)
        wanted = _selector(request.labels)
        hosts = [
            host
            for host in self._hosts.all(request.role)
            if not wanted or allows(wanted, host.labels)
        ]
        identity = caller.identity
        if isinstance(identity, UserIdentity) and not await self._gate.may(caller, "node", "list"):
            hosts = [host for host in hosts if self._reaches(identity, host)]
        keys = [f"{host.name}/{host.id}" for host in hosts]
        left = [(key, host) for key, host in zip(keys, hosts, strict=True) if _after(key, request)]
        page = left[:limit]
        following = page[-1][0] if len(left) > len(page) else ""
        return api.HostList(tuple(host for _, host in page), following)

    def _reaches(self, identity: UserIdentity, host: Host) -> bool:
        if host.role is not HostRole.NODE:
            return True
        locks = self._state.locks.values()
        denied = may_reach(
            identity, host.labels, self._state.roles, locks, now(self._clock), host.id
        )
        return denied is None

    async def delete_host(self, request: api.ById, caller: Caller) -> Nothing:
        """Forget a machine; it is no member any more."""
        removed = await self._members.remove(request.id)
        if not removed:  # it said something lately, but its membership had ended
            await self._journal.emit("node.delete", caller, server_id=request.id)
        for member in removed:
            await self._journal.emit(
                "node.delete", caller, server_id=member.host_id, server_name=member.name,
                role=member.role.value,
            )  # fmt: skip
        return Nothing()


def _end_of(certificates: Certificates) -> datetime:
    """When the TLS certificate ends, to the second that it says."""
    return x509.load_pem_x509_certificate(certificates.tls.encode("ascii")).not_valid_after_utc


def _after(key: str, request: api.ListHosts) -> bool:
    # By name, then id, as the list is; "/" is in no name.
    return not request.after or key.split("/") > request.after.split("/")


def _check_host_id(text: str) -> None:
    try:
        canonical = str(uuid.UUID(text))
    except ValueError:
        raise InvalidInput("host_id has to be a UUID") from None
    if canonical != text:
        raise InvalidInput("host_id has to be a UUID in its canonical form")


def _check_presence(said: Presence) -> None:
    if len(said.addresses) > ADDRESSES_LIMIT:
        raise InvalidInput(f"more than {ADDRESSES_LIMIT} addresses")
    for address in (*said.addresses, *([said.peer] if said.peer else ())):
        # Everybody who dials it reads it, and is not to stumble over it.
        host, port = split_address(address)
        if not is_host_name(host) or address not in (f"{host}:{port}", f"[{host}]:{port}"):
            raise InvalidInput(f"{quoted(address)} is no address")
    if len(said.tunnels) > TUNNELS_LIMIT:
        raise InvalidInput(f"more than {TUNNELS_LIMIT} tunnels")
    for proxy in said.tunnels:
        _check_host_id(proxy)
    if len(said.labels) > LABELS_LIMIT:
        raise InvalidInput(f"more than {LABELS_LIMIT} labels")
    for key, value in said.labels.items():
        if not key or max(len(key), len(value)) > LABEL_LIMIT:
            raise InvalidInput(f"label {quoted(key)}: 1 to {LABEL_LIMIT} characters, please")


def _selector(labels: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    wanted: dict[str, tuple[str, ...]] = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not key or not equals:
            raise InvalidInput(f"{quoted(label)} is no label: expected key=value")
        wanted[key] = (value,)
    return wanted


def _addresses(said: tuple[str, ...], caller: Caller) -> list[str]:
    """The hosts of ``host:port`` addresses; an address of all interfaces is the caller's own."""
    if len(said) > ADDRESSES_LIMIT:
        raise InvalidInput(f"more than {ADDRESSES_LIMIT} addresses")
    hosts: list[str] = []
    for address in said:
        host = host_of(address)
        if not is_host_name(host):
            raise InvalidInput(f"{quoted(address)} is no address")
        try:
            unspecified = ipaddress.ip_address(host).is_unspecified
        except ValueError:
            unspecified = False
        hosts.append(host_of(caller.remote_addr) if unspecified else host)
    return [host for host in dict.fromkeys(hosts) if is_host_name(host)]
