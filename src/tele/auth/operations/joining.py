"""How does a host join, renew its certificates, and rejoin after they expired?

Invariants:

* A token or a proof is checked before anything else that an unauthenticated client sends is
  compared with the cluster's state: without one, a client learns nothing here.
* A host becomes a member, and its use of a token is counted, in one commit or not at all.
* The host id is made here, or is that of the token. Name and addresses are claims, and are checked
  against those of all other hosts.
* Only nodes and proxies join, by whatever method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from tele.auth.authorizer import host_caller
from tele.auth.copied_hosts import CopiedHosts
from tele.auth.generations import Copied
from tele.auth.handlers import Handler, handler
from tele.auth.issuing import Issuer, check_keys, is_host_name
from tele.auth.join_methods import Admission, JoinMethods
from tele.auth.journal import Journal
from tele.auth.members import Member, Members, Overtaken, addresses_of
from tele.auth.session_ends import SessionEnds
from tele.auth.state import State
from tele.auth.tokens import Tokens
from tele.certs.names import check_name
from tele.certs.rejoin import check_rejoin
from tele.errors import AccessDenied, BadCertificate, InvalidInput, Unavailable, quoted
from tele.interfaces import IJoinMethod, Put
from tele.loop import now
from tele.model.addresses import host_of, plain_address, plain_host
from tele.model.api import members as api
from tele.model.api import table
from tele.model.api.members import PublicKeys
from tele.model.authority import Certificates
from tele.model.cluster_settings import HostCertificates
from tele.model.codec import format_time
from tele.model.identity import Caller, HostIdentity
from tele.model.scalars import format_duration

ATTEMPTS: Final = 20


class JoinOperations:
    """Operations that end in host certificates."""

    def __init__(
        self,
        cluster: str,
        clock: IReactorTime,
        issuer: Issuer,
        tokens: Tokens,
        methods: Iterable[IJoinMethod],
        members: Members,
        state: State,
        ends: SessionEnds,
        journal: Journal,
        copies: CopiedHosts,
        new_id: Callable[[], str],
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._issuer = issuer
        self._tokens = tokens
        self._methods = JoinMethods(methods)
        self._members = members
        self._state = state
        self._ends = ends
        self._journal = journal
        self._copies = copies
        self._new_id = new_id
        # Hosts that join with one token at the same time would make each other's commits fail.
        self._joining = DeferredLock()

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.JOIN, self.join),
            handler(table.REJOIN, self.rejoin),
            handler(table.RENEW, self.renew),
        )

    async def join(self, request: api.JoinRequest, caller: Caller) -> Certificates:
        """Make the caller a member, by a token or by another join method."""
        check_name(request.name, self._cluster, request.role)
        check_keys(request.keys)
        claimed = _addresses(request.addresses, caller)
        # A method may take long, so it is asked once, and not while other hosts wait.
        admission = await self._methods.check(request, caller.seen_addr)
        if admission is None:
            await self._tokens.claim(request.token, request.role)
        if self._members.is_proxys(request.role, "", request.name):
            raise InvalidInput(f"{quoted(request.name)} is a proxy's name; choose another one")
        joining = self._joining.run(self._admit, request, caller, claimed, admission)
        member, replaced = await joining
        certificates = self._issue(member, request.keys, member.issued)
        await self._journal.emit(
            "node.join",
            Caller(None, caller.remote_addr),
            server_id=member.host_id,
            server_name=member.name,
            role=member.role.value,
            replaced=[old.host_id for old in replaced],
            replaced_names=[old.name for old in replaced],
            **({} if admission is None else {"method": admission.method}),
        )
        if replaced:
            self._ends.check_soon()
        return certificates

    def _admit(
        self,
        request: api.JoinRequest,
        caller: Caller,
        claimed: list[str],
        admission: Admission | None,
    ) -> Deferred[tuple[Member, tuple[Member, ...]]]:
        return Deferred.fromCoroutine(self._admit_one(request, caller, claimed, admission))

    async def _admit_one(
        self,
        request: api.JoinRequest,
        caller: Caller,
        claimed: list[str],
        admission: Admission | None,
    ) -> tuple[Member, tuple[Member, ...]]:
        for _ in range(ATTEMPTS):
            uses: tuple[Put, ...] = ()
            admitted = admission
            if admitted is None:
                use, admitted = await self._tokens.claim(request.token, request.role)
                uses = (use,)
            moment = now(self._clock)
            member = Member(
                admitted.host_id or self._new_id(), request.role, request.name, request.keys.ssh,
                moment, moment + self._rules.lifetime, issued=moment, labels=admitted.labels,
                addresses=admitted.addresses,
            )  # fmt: skip
            source = await self._members.source_of(member, claimed, host_of(caller.seen_addr))
            member = evolve(member, source=source)
            try:
                return await self._members.admit(member, admitted.replaces, moment, *uses)
            except Overtaken:
                continue
        raise Unavailable("too many hosts join at the same time; try again")

    @property
    def _rules(self) -> HostCertificates:
        return self._state.settings.host_certificates

    def _issue(
        self, member: Member, keys: PublicKeys, issued: datetime, serial: int = 0
    ) -> Certificates:
        return self._issuer.host(
            member.host_id, member.name, member.role, keys, addresses_of(member), issued,
            member.expires - issued, serial,
        )  # fmt: skip

    async def rejoin(self, request: api.RejoinRequest, caller: Caller) -> Certificates:
        """Issue certificates to a member whose certificates have expired."""
        check_keys(request.keys)
        member = await self._proven(request)
        locked = self._state.policy.locks_host(member.host_id, now(self._clock))
        if locked is not None:
            raise AccessDenied(locked.message, locked.reason.value)
        is_valid = not self._issuer.is_dropped(member.issued)
        if is_valid and self._members.may_be_online(member, now(self._clock)):
            # It may be a copy of the host's disk.
            raise Unavailable(
                f"{member.role.value} {member.name} ({member.host_id}) has a valid certificate and"
                " is online, or may be: auth has just started; try again when it is offline"
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
            if member is None or member.sshd:
                raise BadCertificate("no such member", "proof")
            check_rejoin(
                member.ssh_public_key, request.signature, self._cluster, request.host_id,
                request.role, request.keys.ssh, request.keys.tls,
            )  # fmt: skip
        except BadCertificate:
            raise AccessDenied(
                f"this host is not a member of the cluster as {request.role.value}, was removed, or"
                " has another key than the registered one; join with a token",
                "removed",
            ) from None
        limit = self._rules.rejoin_limit
        if now(self._clock) > member.ends + limit:
            raise AccessDenied(
                f"the certificate of {member.name} expired more than {format_duration(limit)} ago;"
                " join with a token",
                "expired",
            )
        return member

    async def renew(self, request: api.RenewRequest, caller: Caller) -> Certificates:
        """Issue new certificates to a member, which may have a new name."""
        host = host_caller(caller)
        member = await self._members.require(host)
        check_name(request.name, self._cluster, host.role)
        check_keys(request.keys)
        if request.name != member.name and self._members.is_proxys(
            host.role, host.host_id, request.name
        ):
            raise InvalidInput(f"{quoted(request.name)} is a proxy's name; choose another one")
        claimed = _addresses(request.addresses, caller)
        source = await self._members.source_of(member, claimed, host_of(caller.seen_addr))
        try:
            _, certificates = await self._renew(member, request.name, request.keys, source, host)
        except Copied:
            if await self._copies.locks(caller, host):
                raise
            _, certificates = await self._renew(member, request.name, request.keys, source, host)
        renamed = {"renamed_from": member.name} if member.name != request.name else {}
        await self._journal.emit(
            "cert.issue", caller, kind="host", role=host.role.value, name=request.name, **renamed
        )
        return certificates

    async def _renew(
        self,
        member: Member,
        name: str,
        keys: PublicKeys,
        source: str,
        used: HostIdentity | None = None,
    ) -> tuple[Member, Certificates]:
        """Store what ``member`` gets, and issue exactly that: it may be removed at this moment.

        ``used`` is the identity by which it asks; None: it has proved its key.
        """
        issued, serial = max(now(self._clock), member.since), self._issuer.serial_number()
        expires = issued + self._rules.lifetime
        renewed = await self._members.renew(
            member, name, keys.ssh, issued, expires, source, serial, used
        )
        return renewed, self._issue(renewed, keys, issued, serial)


def _addresses(addresses: tuple[str, ...], caller: Caller) -> list[str]:
    """Return the hosts of addresses; an address of all interfaces stands for the caller's own."""
    hosts: list[str] = []
    for address in addresses:
        host = plain_host(host_of(address))
        if not is_host_name(host):
            raise InvalidInput(f"{quoted(address)} is not an address")
        ip = plain_address(host)
        unspecified = ip is not None and ip.is_unspecified
        hosts.append(host_of(caller.seen_addr) if unspecified else host)
    return [host for host in dict.fromkeys(hosts) if is_host_name(host)]
