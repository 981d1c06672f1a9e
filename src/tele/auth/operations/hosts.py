"""What do hosts announce, and who sees them?

Invariant: what a host announces is a claim: auth fills in its id, its name and its role.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tele._version import VERSION
from tele.auth.authorities import Authorities
from tele.auth.authorizer import Authorizer, host_caller
from tele.auth.disk import DiskWatch
from tele.auth.handlers import Handler, StreamHandler, handler, stream
from tele.auth.issuing import is_host_name
from tele.auth.journal import Journal
from tele.auth.members import (
    Members,
)
from tele.auth.presence import Announcement, Hosts
from tele.auth.recording_sealing import RecordingSealing
from tele.auth.session_ends import SessionEnds
from tele.auth.state import State
from tele.auth.tokens import check_host_id
from tele.errors import InvalidInput, quoted
from tele.loop import now
from tele.model.addresses import Address, host_of
from tele.model.api import members as api
from tele.model.api import table
from tele.model.api.hosts import HostChanges, HostList, ListHosts, WatchHosts
from tele.model.api.operation import Nothing
from tele.model.api.paging import ById
from tele.model.audit_head import AUDIT_HEADS, SignedHead
from tele.model.identity import Caller, HostRole, Identity, UserIdentity
from tele.model.presence import CLOCK, CLOCK_LIMIT, LABEL_LIMIT, Host, Presence, Status
from tele.model.recording_modes import FEATURE
from tele.rbac.selector import read_selector

#: Hosts that are read for one page: with a narrow selection a page may be short.
SCAN_LIMIT: Final = 1000


class HostOperations:
    """Operations of hosts, and on hosts."""

    def __init__(
        self,
        cluster: str,
        clock: IReactorTime,
        authorities: Authorities,
        members: Members,
        hosts: Hosts,
        state: State,
        ends: SessionEnds,
        disk: DiskWatch,
        authorizer: Authorizer,
        journal: Journal,
        head: Callable[[], SignedHead | None],
        sealing: RecordingSealing,
    ) -> None:
        self._head = head
        self._sealing = sealing
        self._ends = ends
        self._disk = disk
        self._cluster = cluster
        self._clock = clock
        self._authorities = authorities
        self._members = members
        self._hosts = hosts
        self._state = state
        self._authorizer = authorizer
        self._journal = journal

    def handlers(self) -> tuple[Handler | StreamHandler, ...]:
        """The rows of the table."""
        return (
            handler(table.HEALTH, self.health),
            handler(table.CLUSTER, self.cluster),
            handler(table.ANNOUNCE, self.announce),
            handler(table.LIST_HOSTS, self.list_hosts),
            handler(table.DELETE_HOST, self.delete_host),
            stream(table.WATCH_STATE, self.watch_state),
            stream(table.WATCH_HOSTS, self.watch_hosts),
        )

    # -- anyone -----------------------------------------------------------------------
    async def health(self, request: Nothing, caller: Caller) -> api.Health:
        """Return the health of auth."""
        return api.Health("ok", VERSION, self._disk.level)

    async def cluster(self, request: Nothing, caller: Caller) -> api.ClusterInfo:
        """Return the public facts of the cluster."""
        proxies = self._hosts.all(HostRole.PROXY)
        moment = now(self._clock)
        return api.ClusterInfo(
            self._cluster,
            VERSION,
            moment,
            self._authorities.trusted,
            tuple(a for p in proxies if p.status is Status.ONLINE for a in p.addresses),
            tuple(each.former for each in self._authorities.successions(moment)),
        )

    # -- hosts ------------------------------------------------------------------------
    async def announce(self, request: Presence, caller: Caller) -> api.Announced:
        """Take a member's announcement."""
        host = host_caller(caller)
        member = await self._members.require(host)
        _check_presence(request)
        is_proxy = host.role is HostRole.PROXY
        presence = Presence(
            member.name, host.role, request.addresses, request.labels, request.mode,
            request.version[:64], request.rotation[:64],
            () if is_proxy else request.tunnels, request.peer if is_proxy else "",
            request.peer_header and is_proxy, request.features,
            tracing=() if is_proxy else request.tracing,
            untraced="" if is_proxy else request.untraced,
            clock_ahead=request.clock_ahead,
        )  # fmt: skip
        labels = {**request.labels, **member.labels}
        source = host_of(caller.seen_addr) if is_proxy else ""
        announcement = Announcement(host.host_id, presence, now(self._clock), labels, source)
        await self._hosts.observe(host.role, announcement)
        await self._sealing.announced(member)
        # Hosts of an older version do not know the key.
        head = self._head() if AUDIT_HEADS in request.features else None
        wants_clock = CLOCK in request.features
        return api.Announced(
            labels=member.labels, time=now(self._clock), head=head, wants_clock=wants_clock
        )

    def watch_state(
        self, request: api.WatchState, receiver: Callable[[api.ClusterState], None]
    ) -> Deferred[None]:
        """Call ``receiver`` with the cluster's state now and at each change."""
        return self._state.watch(receiver)

    def watch_hosts(
        self, request: WatchHosts, receiver: Callable[[HostChanges], None]
    ) -> Deferred[None]:
        """Call ``receiver`` with all hosts of a role, and with each change."""
        return self._hosts.watch(request.role, receiver)

    # -- users ------------------------------------------------------------------------
    async def list_hosts(self, request: ListHosts, caller: Caller) -> HostList:
        """Return a page of the hosts that the caller may see, by name."""
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
                return HostList(tuple(page), last)
            last = f"{host.name}/{host.id}"
            if wanted.selects(host.labels) and (everything or self._reaches(identity, host)):
                page.append(host)
        return HostList(tuple(page))

    def _reaches(self, identity: Identity | None, host: Host) -> bool:
        if not isinstance(identity, UserIdentity) or host.role is not HostRole.NODE:
            return True
        moment = now(self._clock)
        return self._state.policy.may_reach(identity, host.labels, moment, host.id) is None

    async def delete_host(self, request: ById, caller: Caller) -> Nothing:
        """End a host's membership and revoke its certificates."""
        removed = await self._members.remove(request.id, now(self._clock))
        if not removed:  # its membership had ended, but not its announcement
            await self._journal.emit("node.delete", caller, server_id=request.id)
        for member in removed:
            await self._journal.emit(
                "node.delete", caller, server_id=member.host_id, server_name=member.name,
                role=member.role.value,
            )  # fmt: skip
        self._ends.check_soon()
        return Nothing()


def _check_presence(presence: Presence) -> None:
    for address in (*presence.addresses, *([presence.peer] if presence.peer else ())):
        # Those who dial it have to be able to read it.
        read = Address.parse(address)
        if not is_host_name(read.host) or address not in (str(read), f"[{read.host}]:{read.port}"):
            raise InvalidInput(f"{quoted(address)} is not an address")
    for feature in presence.features:
        if not FEATURE.fullmatch(feature):
            raise InvalidInput(f"{quoted(feature)} is not the name of a feature")
    if abs(presence.clock_ahead or 0) > CLOCK_LIMIT:
        raise InvalidInput(f"clock_ahead has to be within {CLOCK_LIMIT} seconds")
    for proxy in presence.tunnels:
        check_host_id(proxy)
    for key, value in presence.labels.items():
        check_label(key, value)


def check_label(key: str, value: str) -> None:
    """Raise :class:`InvalidInput` for a label that no host may have."""
    if not key or max(len(key), len(value)) > LABEL_LIMIT:
        raise InvalidInput(f"label {quoted(key)} has to have 1 to {LABEL_LIMIT} characters")
