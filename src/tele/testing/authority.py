"""How does a member behave when auth is unreachable, refuses, or has removed it? A fake auth.

Invariant: it issues real certificates, answers at once, and keeps every call and its request.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

from tele.certs.issue import HostCertificateRequest, issue_host
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.pins import check_pins, pin
from tele.certs.rejoin import check_rejoin
from tele.certs.x509 import TlsKey, issue_tls, make_authority
from tele.errors import AccessDenied, InvalidInput, TeleError, Unreachable
from tele.interfaces import IAuthority
from tele.loop import now
from tele.membership.joining import Network
from tele.model.api.members import Announced, ClusterInfo, ClusterState, PublicKeys
from tele.model.api.operation import Nothing, Operation
from tele.model.authority import AuthorityKind, Certificates, TrustedAuthority
from tele.model.identity import HostIdentity, HostRole
from tele.model.presence import CLOCK
from tele.model.resources import RecordingSettings

CLUSTER = "small"


@implementer(IAuthority)
@define
class FakeAuthority:
    """Answers the calls of a member, and keeps their requests. Unreachable while ``away``."""

    clock: Clock
    life: timedelta = timedelta(hours=24)
    token: str = "right"  # noqa: S105  (of nothing)
    away: bool = False
    refusal: TeleError | None = None
    removed: bool = False
    ssh: PrivateKey = field(factory=PrivateKey.generate)
    tls: TlsKey = field(factory=TlsKey.generate)
    calls: list[str] = field(factory=list)
    announced: list[Any] = field(factory=list)
    #: Whether it asks hosts how far their clocks are off.
    wants_clock: bool = False
    events: list[Any] = field(factory=list)
    reports: list[Any] = field(factory=list)
    bound: dict[str, str] = field(factory=dict)
    closed: int = 0
    state: ClusterState = field(init=False)
    certificate: str = field(init=False)
    _followers: list[tuple[Callable[[Any], None], Deferred[None]]] = field(factory=list)
    _hosts: dict[str, HostIdentity] = field(factory=dict)
    _keys: dict[str, str] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        at = now(self.clock)
        self.certificate = make_authority(CLUSTER, AuthorityKind.HOST, self.tls, at, os.urandom)
        trusted = TrustedAuthority(
            AuthorityKind.HOST, (self.ssh.public.line,), (self.certificate,), (self.pin,)
        )
        self.state = ClusterState(CLUSTER, 1, at, (trusted,), (), (), RecordingSettings())

    @property
    def pin(self) -> str:
        """The CA's pin."""
        return pin(self.certificate)

    @property
    def network(self) -> Network:
        """A network in which every address is this auth."""
        return Network(self._connect, self._fetch)

    def _connect(
        self,
        reactor: IReactorTime,
        addresses: Sequence[str],
        identity: Any,
        trust: Any,
        server_name: str,
    ) -> FakeAuthority:
        assert server_name == f"auth.{CLUSTER}"
        return self

    def _fetch(
        self, reactor: IReactorTime, address: str, pins: Sequence[str]
    ) -> Deferred[ClusterInfo]:
        self.calls.append("cluster")
        if self.away:
            return fail(Unreachable(f"{address} did not answer"))
        try:
            check_pins([self.certificate], pins)
        except AccessDenied as denied:
            return fail(denied)
        return succeed(ClusterInfo(CLUSTER, "1", now(self.clock), self.state.authorities))

    def close(self) -> None:
        """Count a closed connection."""
        self.closed += 1

    # -- operations -------------------------------------------------------------------
    def perform(self, operation: Operation[Any, Any], request: Any) -> Deferred[Any]:
        """See :class:`IAuthority`."""
        self.calls.append(operation.name)
        if self.away:
            return fail(Unreachable("auth did not answer"))
        if self.refusal is not None:
            return fail(self.refusal)
        if self.removed and operation.name != "join":
            return fail(AccessDenied("web1 is no member of the cluster", "removed"))
        try:
            return succeed(getattr(self, f"_{operation.name}")(request))
        except TeleError as error:
            return fail(error)

    def _join(self, request: Any) -> Certificates:
        if request.token != self.token:
            raise AccessDenied("token expired or not found", "token")
        self.removed = False
        return self._issue(
            request.keys, str(uuid4()), request.name, request.role, request.addresses
        )

    def _rejoin(self, request: Any) -> Certificates:
        host = self._hosts.get(request.host_id)
        if host is None or self.removed:
            raise AccessDenied("this host is no member of the cluster", "removed")
        keys = request.keys
        check_rejoin(
            self._keys[host.host_id], request.signature, CLUSTER, host.host_id, request.role,
            keys.ssh, keys.tls,
        )  # fmt: skip
        return self._issue(keys, host.host_id, host.name, host.role, ())

    def _renew(self, request: Any) -> Certificates:
        host = list(self._hosts.values())[-1]
        return self._issue(request.keys, host.host_id, request.name, host.role, request.addresses)

    def _issue(
        self,
        keys: PublicKeys,
        host_id: str,
        name: str,
        role: HostRole,
        addresses: tuple[str, ...],
    ) -> Certificates:
        at = now(self.clock)
        host = HostIdentity(host_id, name, CLUSTER, role, at + self.life)
        self._hosts[host_id] = host
        self._keys[host_id] = keys.ssh
        wanted = HostCertificateRequest(host_id, name, CLUSTER, role, addresses, self.life)
        ssh = issue_host(self.ssh, parse_line(keys.ssh), wanted, at, os.urandom)
        tls = issue_tls(self.certificate, self.tls, keys.tls, host, at, os.urandom)
        return Certificates(ssh.line, tls, at + self.life, self.state.authorities)

    def _announce(self, request: Any) -> Announced:
        self.announced.append(request)
        wanted = self.wants_clock and CLOCK in request.features
        return Announced(labels=self.bound, time=now(self.clock), wants_clock=wanted)

    def _emit_events(self, request: Any) -> Nothing:
        if any(event.fields.get("bad") for event in request.events):
            raise InvalidInput("one of them is bad")
        self.events.extend(request.events)
        return Nothing()

    def _report_sessions(self, request: Any) -> Nothing:
        self.reports.append(request)
        return Nothing()

    # -- the state --------------------------------------------------------------------
    def follow(
        self, operation: Operation[Any, Any], request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        """See :class:`IAuthority`."""
        self.calls.append(operation.name)
        if self.away:
            return fail(Unreachable("auth did not answer"))
        if self.refusal is not None:
            return fail(self.refusal)
        if self.removed:
            return fail(AccessDenied("web1 is no member of the cluster", "removed"))
        done: Deferred[None] = Deferred()
        self._followers.append((receiver, done))
        receiver(self.state)
        return done

    def change(self, **changes: Any) -> None:
        """Change the state and send it to all followers."""
        self.state = evolve(self.state, revision=self.state.revision + 1, **changes)
        for receiver, _ in self._followers:
            receiver(self.state)

    def leave(self) -> None:
        """Become unreachable: streams break, calls fail."""
        self.away = True
        followers, self._followers = self._followers, []
        for _, done in followers:
            if not done.called:
                done.errback(Unreachable("the connection broke"))
