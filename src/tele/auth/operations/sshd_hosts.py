"""How are machines that run OpenSSH's sshd registered, and who says that they can be reached?

Invariants:

* Such a machine has the name, the labels and the address that an administrator gave it, and nothing
  that it says itself. Its names are in the namespace of all hosts.
* Whether it is online is what proxies say, who connect to it. A proxy that lies makes it appear
  online or offline, and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from tele.auth.handlers import Handler, handler
from tele.auth.issuing import is_host_name
from tele.auth.journal import Journal
from tele.auth.members import Member, Members
from tele.auth.operations.hosts import check_label
from tele.auth.presence import Announcement, Hosts
from tele.auth.sshd_names import check_name as check_further_name
from tele.auth.sshd_names import check_no_members
from tele.certs.names import check_name
from tele.errors import Conflict, InvalidInput, NotFound, quoted
from tele.loop import now
from tele.model.addresses import Address
from tele.model.api import table
from tele.model.api.hosts import AddHost, ReportHostProbes
from tele.model.api.operation import Nothing
from tele.model.identity import Caller, HostRole
from tele.model.presence import NEVER, Host, Presence

#: The port of an address without one.
SSHD_PORT = 22


class SshdHostOperations:
    """Operations on machines with sshd. ``new_id()`` makes their host ids."""

    def __init__(
        self,
        cluster: str,
        clock: IReactorTime,
        members: Members,
        hosts: Hosts,
        journal: Journal,
        new_id: Callable[[], str],
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._members = members
        self._hosts = hosts
        self._journal = journal
        self._new_id = new_id

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.ADD_HOST, self.add_host),
            handler(table.REPORT_HOST_PROBES, self.report_host_probes),
        )

    async def add_host(self, request: AddHost, caller: Caller) -> Host:
        """Register a machine, or give it other values."""
        address = self._check(request)
        for name in request.names:
            check_no_members(name, self._hosts)
        before = await self._members.named(request.name)
        if before is not None and not (before.sshd and request.replace):
            instead = "change that (--replace)" if before.sshd else "remove that first"
            raise Conflict(
                f"the name {request.name} belongs to {before.role.value} {before.host_id}; choose"
                f" another one, or {instead}; tele nodes rm removes it"
            )
        host_id = self._new_id() if before is None else before.host_id
        names = tuple(dict.fromkeys(name.lower() for name in request.names))
        member = Member(
            host_id, HostRole.NODE, request.name, "", now(self._clock), labels=request.labels,
            addresses=names, sshd=True,
        )  # fmt: skip
        presence = Presence(
            request.name, HostRole.NODE, (address,), request.labels, sshd=True, names=names
        )
        announcement = Announcement(host_id, presence, NEVER, request.labels)
        await self._members.register(member, self._hosts.registered(announcement))
        await self._journal.emit(
            "node.add", caller, server_id=host_id, server_name=request.name, address=address,
            labels=dict(request.labels), names=list(names), replaced=before is not None,
        )  # fmt: skip
        host = self._hosts.find(HostRole.NODE, host_id)
        if host is None:
            raise NotFound(f"node {request.name} was removed at this moment")
        return host

    def _check(self, request: AddHost) -> str:
        """Return the address as it is stored. Raises :class:`InvalidInput`."""
        check_name(request.name, self._cluster, HostRole.NODE)
        for name in request.names:
            check_further_name(name, self._cluster)
        for name in (request.name, *request.names):
            if self._members.is_proxys(HostRole.NODE, "", name):
                raise InvalidInput(f"{quoted(name)} is a proxy's name; choose another one")
        for key, value in request.labels.items():
            check_label(key, value)
        address = Address.parse(request.address, SSHD_PORT)
        if not is_host_name(address.host):
            raise InvalidInput(f"{quoted(request.address)} is not an address such as db1:22")
        return str(address)

    async def report_host_probes(self, request: ReportHostProbes, caller: Caller) -> Nothing:
        """Note which machines a proxy could connect to."""
        moment = now(self._clock)
        for probe in request.items:
            reached = moment if probe.ok else None
            await self._hosts.probed(probe.host_id, reached, probe.problem, probe.address)
        return Nothing()
