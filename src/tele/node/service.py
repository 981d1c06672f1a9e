"""How does a node start, serve and stop?

Invariants:

* The spawner is started before anything listens; labels are known before roles are applied to
  them, and before auth is told of them; no login succeeds before the node is a member.
* A node that was a member before its restart is announced when clients reach it.
* Keys, trust and roles are looked up when they are used: a renewal needs no restart.
* A start that fails says why in one sentence and leaves nothing running.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocol

from tele.conch.connection.connection import SSHConnection
from tele.conch.server.credentials import DeniedAttempt, make_portal
from tele.conch.server.drain import Drain
from tele.conch.server.factory import SSHServerFactory
from tele.conch.server.numbers import server_samples
from tele.conch.server.settings import ServerSettings
from tele.conch.server.transport import SSHServerTransport
from tele.errors import Conflict, ProtocolError, TeleError, Unavailable
from tele.log import make_logger
from tele.measures import catalogue
from tele.measures.metric import Sample
from tele.membership.audit_reporter import AuditReporter
from tele.membership.identity import MemberIdentity
from tele.membership.member import Member
from tele.membership.numbers import login_samples
from tele.membership.server_settings import allowed_by
from tele.membership.ssh_trust import SSHTrust
from tele.model.addresses import Address
from tele.model.identity import HostRole
from tele.node.avatars import AvatarFactory
from tele.node.host_users import HostUsers
from tele.node.presence import NodePresence
from tele.node.proxies import ProxyAddresses
from tele.node.realm import Accounts, NodeRealm, look_up
from tele.node.settings import Ingress, SessionSettings
from tele.node.tracing import Tracing
from tele.outbound.name_lookup import NameResolver
from tele.reactor import Reactor
from tele.sessions.join_runner import JoinRunner
from tele.sessions.joining import Joins
from tele.sockets.direct import listen, peer_address
from tele.spawner.accounts import own_login
from tele.tunnel.client_address import ClientAddressVerifier, WrongDestination, preface_size

#: How long the first announcement after a restart waits for a tunnel.
FIRST_TUNNEL: Final = 5.0

_log = make_logger(__name__)


class NodeService(Service):
    """The SSH server of a machine.

    ``ready`` fires with the port (0: it binds none) when it serves, or fails with a
    :class:`TeleError`.

    :param member: the membership; its owner starts it before, and stops it after this service.
    :param presence: what auth is told of this node; its labels are started and stopped here.
    :param sessions: what sessions have.
    :param ingress: how clients reach the node.
    :param server: limits, algorithms and the time to drain.
    :param look_up: checks an account of this machine.
    """

    def __init__(
        self,
        reactor: Reactor,
        *,
        member: Member,
        presence: NodePresence,
        sessions: SessionSettings,
        ingress: Ingress,
        server: ServerSettings,
        look_up: Callable[[str], None] = look_up,
    ) -> None:
        self.ready: Deferred[int] = Deferred()
        self._reactor = reactor
        self._member = member
        self._presence = presence
        self._labels = presence.labels
        self._spawning = sessions.spawning
        self._ingress = ingress
        self._grace = server.shutdown_grace
        make_agents = ingress.agents
        self._agents = (
            None if make_agents is None else make_agents(self._serve, self._tunnels_changed)
        )
        self._tunnelled: Deferred[None] = Deferred()
        self._identity: MemberIdentity | None = None
        self._audit = AuditReporter(reactor, member)
        self._names = NameResolver(reactor)
        self._proxies = ProxyAddresses(self._resolve_proxy)
        self._port: IListeningPort | None = None
        self._starting: Deferred[int] | None = None
        self._accounts = Accounts(reactor, look_up)
        self._tracing = Tracing(reactor, sessions.tracer)
        presence.missing = self._tracing.missing
        self.avatars = AvatarFactory(
            reactor, member, sessions, self._audit, self._names, self._tracing
        )
        self._host_users = HostUsers(
            reactor, sessions.host_users, self._audit, enabled=sessions.makes_accounts
        )
        self._realm = realm = NodeRealm(
            reactor,
            member,
            lambda: self._labels.current,
            self.avatars.make,
            self._accounts,
            self._host_users,
            Joins(
                reactor,
                member,
                lambda: self._labels.current,
                JoinRunner,
                self._audit,
                sessions.budget.account,
            ),
        )
        trust = SSHTrust(member)
        self.factory = SSHServerFactory(
            portal=make_portal(realm),
            host_keys=trust.host_keys,
            user_trust=trust.users,
            clock=reactor,
            connection=SSHConnection,
            limits=server.limits,
            algorithms=server.algorithms,
            on_denied=self._audit.denied,
            on_refused=self._audit.refused,
            banner=self._banner,
            allowed=allowed_by(member),
            shared=self._proxies.__contains__,
            part=HostRole.NODE.value,
        )
        self._drain = Drain(reactor, lambda: self.factory.present)
        self._client_addresses = ClientAddressVerifier(
            lambda: member.host_id, lambda: member.verifier(HostRole.PROXY)
        )
        self.factory.preface = self._take_preface
        if ingress.listen is not None and ingress.listen[1]:
            # A new member is announced, and gets a certificate, before it listens.
            presence.addresses = (ingress.advertise(ingress.listen[1]),)
        # Until labels and tunnels are known auth shows those from before a restart: without a label
        # roles would deny, and without a tunnel there would be no route.
        member.hold_announcements()
        self._first_tunnel: IDelayedCall | None = None
        member.on_change(self._member_changed)
        member.report_sessions(lambda: realm.admission.sessions)
        self._labels.on_change(self._labels_changed)

    # -- numbers ----------------------------------------------------------------------
    @property
    def problem(self) -> str:
        """Why it serves no clients now, or nothing."""
        if not self.running:
            return "the node is stopping" if self.ready.called else "the node is starting"
        return self._realm.admission.problem if self.ready.called else "the node is starting"

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        yield from login_samples(self._audit)
        yield from server_samples(self.factory)
        yield catalogue.SESSIONS.at(len(self._realm.admission.sessions))
        if self._agents is not None:
            yield catalogue.TUNNELS.at(len(self._agents.proxy_ids))

    # -- membership -------------------------------------------------------------------
    def _resolve_proxy(self, host: str) -> Deferred[list[str]]:
        """Look up the addresses of a proxy, in the share of that proxy."""
        looking = Deferred.fromCoroutine(self._names.resolve(f"proxy {host}", host, 0))
        return looking.addCallback(lambda addresses: [each.host for each in addresses])

    def _member_changed(self) -> None:
        self._realm.review()
        self._learn_proxies()
        self._end_refused()
        if self._agents is None:
            return
        identity = self._member.identity
        if self._identity not in (None, identity):
            self._agents.renew()
        self._identity = identity
        self._agents.check()

    def _labels_changed(self) -> None:
        self._realm.review()
        self._member.announce_soon()

    def _learn_proxies(self) -> None:
        try:
            proxies = self._member.state.proxies
        except Unavailable:
            return  # an identity comes before the first state
        self._proxies.update(each for proxy in proxies for each in proxy.addresses)

    # -- connections through proxies --------------------------------------------------
    def _banner(self, transport: SSHServerTransport) -> str:
        """Return the cluster's banner; a proxy that ends users' SSH has shown it to them."""
        member = self._member
        proxied = transport.vouched_by is not None and member.state.recording.mode.by_proxies
        return "" if proxied else member.settings.banner

    def _take_preface(self, transport: SSHServerTransport, data: bytes) -> int | None:
        try:
            size = preface_size(data)
            if not size:
                return size
            client, proxy = self._client_addresses.verify(
                data[:size], *self._member.clock.dates, elapsed=self._reactor.seconds()
            )
        except ProtocolError as error:
            self._audit.denied(
                DeniedAttempt("", transport.remote_addr(), "proxy", "proxy", str(error))
            )
            if isinstance(error, WrongDestination):
                # Another node claims this address. That is no fault of the proxy: its
                # clients for this node are not penalised for it.
                transport.fault = None
            raise
        transport.vouched_for(client.remote_addr, proxy)
        return size

    def _end_refused(self) -> None:
        """End connections of proxies that were removed or locked; all, if this node was."""
        expelled = self._member.expelled
        for transport in list(self.factory.present):
            proxy = transport.vouched_by
            if expelled:
                transport.dismiss(f"this node is no longer a member: {expelled}")
            elif proxy is not None and self._member.refuses(proxy):
                transport.dismiss("the proxy of this connection was removed or is locked")

    def _serve(self, remote_addr: tuple[str, int]) -> IProtocol | None:
        """Return the protocol for a client that connects through a tunnel."""
        if not self.running:
            return None
        return self.factory.build_vouched(peer_address(remote_addr))

    def _tunnels_changed(self) -> None:
        if self._agents is None:
            return
        self._presence.tunnels = self._agents.proxy_ids
        self._member.announce_soon()
        self._announce_if_reached()
        if self._presence.tunnels and not self._tunnelled.called:
            self._tunnelled.callback(None)

    def _announce_if_reached(self) -> None:
        """Make the first announcement, if it has all that it will have."""
        listens = self._ingress.listen is None or self._port is not None
        if listens and (self._agents is None or self._presence.tunnels):
            self._member.release_announcements()

    # -- life -------------------------------------------------------------------------
    def startService(self) -> None:
        """Begin to start; ``ready`` fires when that is done."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addCallbacks(self.ready.callback, self.ready.errback)

    async def _start(self) -> int:
        try:
            self._spawning.open()
        except OSError as error:
            raise TeleError(f"the spawner cannot be started: {error.strerror}") from None
        await self._host_users.start()
        await self._labels.start()
        ready = self._member.ready()
        if not ready.called:
            # What a new member decides by is in auth's answer to its announcement.
            self._member.release_announcements()
        await ready
        self._realm.review()
        if self._agents is not None:
            self._identity = self._member.identity
            release = self._member.release_announcements
            self._first_tunnel = self._reactor.callLater(FIRST_TUNNEL, release)
            self._agents.start()
        if self._ingress.listen is None:
            await self._tunnelled
            _log.info("node serves through tunnels", accounts=_accounts())
            return 0
        return self._listen(*self._ingress.listen)

    def _listen(self, interface: str, port: int) -> int:
        try:
            listening = listen(self._reactor, port, self.factory, interface)
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            raise Conflict(
                f"the node cannot listen on {Address(interface, port)!s}: {reason}"
            ) from None
        self._port = listening
        host: Any = listening.getHost()
        bound: int = host.port
        self._presence.addresses = (self._ingress.advertise(bound),)
        self._member.announce_soon()
        self._announce_if_reached()
        _log.info(
            "node serves", address=str(Address(interface or "*", bound)), accounts=_accounts()
        )
        return bound

    def stopService(self) -> Deferred[None]:
        """Accept no connections, let sessions end until a deadline, and end the spawner."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def force(self) -> None:
        """Wait for no session when it stops, also if it is stopping."""
        self._drain.force()

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        self._labels.stop()
        if self._first_tunnel is not None and self._first_tunnel.active():
            self._first_tunnel.cancel()
        if self._agents is not None:
            self._agents.stop()
        if self._port is not None:
            port, self._port = self._port, None
            await maybeDeferred(port.stopListening)
        await self._drain.start(self._grace, "the node is shutting down")
        self._realm.stop()
        await self._host_users.stop()
        self._names.close()
        self._accounts.close()
        await self._spawning.close()
        await self._tracing.stop()


def _accounts() -> str:
    """Return which accounts are served: as an ordinary user only one's own."""
    return "all" if os.geteuid() == 0 else own_login()
