"""How does a node start, serve and stop?

Invariants:

* The spawner is started before anything listens; labels are known before anybody is judged
  by them; nobody is let in before we are a member.
* Keys, trust and roles are looked up when they are used: a renewal needs no restart.
* A start that fails says why in one sentence and leaves nothing running.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocol

from tele.admission.limits import Limits
from tele.admission.slots import Slots
from tele.capacity.descriptors import DescriptorBudget, process_budget
from tele.conch.connection.connection import SSHConnection
from tele.conch.server.credentials import CertificateCredentials, DeniedAttempt, Trust, make_portal
from tele.conch.server.drain import Drain
from tele.conch.server.factory import ServerAlgorithms, SSHServerFactory
from tele.conch.server.transport import SSHServerTransport
from tele.conch.transport.exchange import HostKeys
from tele.errors import Conflict, ProtocolError, TeleError, Unavailable
from tele.interfaces import IRecorder, ISubsystem
from tele.log import make_logger
from tele.loop import now
from tele.membership.audit_reporter import AuditReporter
from tele.membership.member import Member
from tele.model.access import GatewayPorts, Grant
from tele.model.addresses import join_address
from tele.model.authority import AuthorityKind
from tele.model.identity import HostRole
from tele.model.resources import RecordingMode
from tele.model.session import RecordingStart
from tele.node.avatar import Visitor
from tele.node.forwards import WAITING_LIMIT
from tele.node.labels import Labels
from tele.node.presence import NodePresence
from tele.node.programs import ConnectionContext, NodePrograms
from tele.node.proxies import ProxyAddresses
from tele.node.realm import Accounts, NodeRealm, look_up
from tele.node.spawning import Spawning
from tele.node.subsystems import by_name
from tele.node.user_sockets import UserSockets
from tele.outbound.name_lookup import NameResolver
from tele.recording.tee import ConnectionTape
from tele.sockets.direct import listen, peer_address
from tele.spawner.accounts import own_login
from tele.tunnel.agent import Serve
from tele.tunnel.agents import Agents
from tele.tunnel.client_address import ClientAddressVerifier, WrongDestination, preface_size

_log = make_logger(__name__)

#: In nanoseconds, as frames of recordings have them.
SECOND: Final = 1_000_000_000


class NodeService(Service):
    """The SSH server of a machine.

    ``ready`` fires with the port (0: it binds none) when it serves, or fails with a
    :class:`TeleError`.

    :param member: the membership; started and stopped by whoever made it, before and after us.
    :param labels: with the same ``spawning``; both are started and stopped here.
    :param where: (interface, port) to listen on; port 0 is any. None binds no port.
    :param agents: given what serves visitors and whom to tell of changes, makes the tunnels
        to proxies; None has none.
    :param public: given the port, where others reach it (``host:port``).
    :param algorithms: what SSH clients are offered; None is what is usual.
    :param shutdown_grace: seconds that sessions have to end by themselves when we stop.
    :param recorder: takes part in every session; None records nothing.
    :param gateway: whether ports that listen for clients are open to other machines.
    :param subsystems: what clients may ask for by name, beside ``sftp``.
    :param budget: what users may take of the process's file descriptors; None is this process's.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        member: Member,
        spawning: Spawning,
        labels: Labels,
        presence: NodePresence,
        where: tuple[str, int] | None,
        public: Callable[[int], str],
        recorder: IRecorder | None,
        agents: Callable[[Serve, Callable[[], None]], Agents] | None = None,
        limits: Limits | None = None,
        algorithms: ServerAlgorithms | None = None,
        shutdown_grace: float = 0.0,
        gateway: GatewayPorts = GatewayPorts.NO,
        subsystems: Iterable[ISubsystem] = (),
        budget: DescriptorBudget | None = None,
        look_up: Callable[[str], None] = look_up,
    ) -> None:
        self.ready: Deferred[int] = Deferred()
        self._reactor = reactor
        self._member = member
        self._spawning = spawning
        self._labels = labels
        self._presence = presence
        self._where = where
        self._public = public
        self._recorder = recorder
        self._agents = None if agents is None else agents(self._serve, self._tunnels_changed)
        self._tunnelled: Deferred[None] = Deferred()
        self._identity: Any = None
        self._gateway = gateway
        self._subsystems = by_name(subsystems)
        self._budget = budget or process_budget()
        self._audit = AuditReporter(reactor, member)
        self._names = NameResolver(reactor)
        self._slots = Slots(WAITING_LIMIT)
        self._proxies = ProxyAddresses(self._resolve_proxy)
        self._trust: Trust | None = None
        self._port: Any = None
        self._starting: Deferred[int] | None = None
        self._accounts = Accounts(reactor, look_up)
        realm = self._realm = NodeRealm(
            reactor, member, lambda: labels.current, self._receive, self._accounts
        )
        self.factory = SSHServerFactory(
            portal=make_portal(realm),
            host_keys=self._host_keys,
            user_trust=self._user_trust,
            clock=reactor,
            connection=SSHConnection,
            limits=limits,
            algorithms=algorithms,
            on_denied=self._audit.denied,
            on_refused=self._audit.refused,
            shared=self._proxies.__contains__,
        )
        self._shutdown_grace = shutdown_grace
        self._farewell = Drain(reactor, lambda: self.factory.present)
        self._client_addresses = ClientAddressVerifier(
            lambda: member.host_id, lambda: member.verifier(HostRole.PROXY)
        )
        self.factory.preface = self._take_preface
        member.on_change(self._member_changed)
        member.report_sessions(lambda: realm.sessions)
        labels.on_change(self._labels_changed)

    # -- what the factory asks for ----------------------------------------------------
    def _host_keys(self) -> HostKeys:
        identity = self._member.identity
        return HostKeys(identity.keys.ssh, identity.ssh_certificate)

    def _user_trust(self) -> Trust:
        if self._trust is None:
            cluster = self._member.identity.host.cluster
            self._trust = Trust(cluster, self._member.ssh_trust(AuthorityKind.USER))
        return self._trust

    def _resolve_proxy(self, host: str) -> Deferred[list[str]]:
        """Look up where a proxy is, as one of this proxy's look-ups."""
        looking = Deferred.fromCoroutine(self._names.resolve(f"proxy {host}", host, 0))
        return looking.addCallback(lambda addresses: [each.host for each in addresses])

    def _member_changed(self) -> None:
        self._trust = None
        self._realm.look()
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
        self._realm.look()
        self._member.announce_soon()

    def _learn_proxies(self) -> None:
        try:
            proxies = self._member.state.proxies
        except Unavailable:
            return  # an identity comes before the first state
        self._proxies.update(each for proxy in proxies for each in proxy.addresses)

    # -- visitors whom a proxy brings -------------------------------------------------
    def _take_preface(self, transport: SSHServerTransport, data: bytes) -> int | None:
        size = preface_size(data)
        if size:
            try:
                visitor, proxy = self._client_addresses.verify(
                    data[:size], *self._member.clock.dates, elapsed=self._reactor.seconds()
                )
            except ProtocolError as error:
                self._audit.denied(
                    DeniedAttempt("", transport.remote_addr(), "proxy", "proxy", str(error))
                )
                if isinstance(error, WrongDestination):
                    # Another node says that it is here. That is no fault of the proxy's, whose
                    # visitors for this node are not to pay for it.
                    transport.fault = None
                raise
            transport.vouched_for(visitor.remote_addr, proxy)
        return size

    def _end_refused(self) -> None:
        """End what came by proxies that were removed or locked; all, if we were."""
        expelled = self._member.expelled
        for transport in list(self.factory.present):
            proxy = transport.vouched_by
            if expelled:
                transport.dismiss(f"this node takes part no more: {expelled}")
            elif proxy is not None and self._member.refuses(proxy):
                transport.dismiss("the proxy of this connection was removed or is locked")

    def _serve(self, remote_addr: tuple[str, int]) -> IProtocol | None:
        """Take in a visitor through a tunnel."""
        if not self.running:
            return None
        protocol: IProtocol = self.factory.build_vouched(peer_address(remote_addr))
        return protocol

    def _tunnels_changed(self) -> None:
        if self._agents is None:
            return
        self._presence.tunnels = self._agents.proxy_ids
        self._member.announce_soon()
        if self._presence.tunnels and not self._tunnelled.called:
            self._tunnelled.callback(None)

    def _receive(self, grant: Grant, credentials: CertificateCredentials) -> Visitor:
        visit = ConnectionContext(
            grant, str(uuid.uuid4()), credentials.remote_addr, credentials.local_addr
        )
        account = self._budget.account(grant.identity.user)
        programs = NodePrograms(self._spawning, visit, account, self._reactor, self._subsystems)
        return Visitor(
            self._reactor,
            visit,
            programs,
            self._tape(visit),
            self._audit,
            UserSockets(self._spawning, grant.login),
            self._gateway,
            self._names,
            account,
            self._slots,
        )

    def _tape(self, visit: ConnectionContext) -> ConnectionTape | None:
        if self._recorder is None or self._member.state.recording.mode is RecordingMode.OFF:
            return None
        host = self._member.identity.host
        grant = visit.grant
        start = RecordingStart(
            id=visit.session_id,
            kind="ssh",
            cluster=host.cluster,
            user=grant.identity.user,
            login=grant.login,
            roles=grant.roles,
            login_session=grant.identity.login_session,
            node=host.name,
            node_id=host.host_id,
            remote_addr=join_address(*visit.remote_addr),
            started=now(self._reactor),
        )
        began = self._reactor.seconds()
        return ConnectionTape(
            self._recorder,
            start,
            lambda: int((self._reactor.seconds() - began) * SECOND),
            record_input=grant.record_input,
            strict=grant.record_strictly and not grant.break_glass,
        )

    # -- life -------------------------------------------------------------------------
    def startService(self) -> None:
        """Begin to start; ``ready`` tells how it ended."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addCallbacks(self.ready.callback, self.ready.errback)

    async def _start(self) -> int:
        try:
            self._spawning.open()
        except OSError as error:
            raise TeleError(f"the spawner cannot be started: {error.strerror}") from None
        await self._labels.start()
        await self._member.ready()
        self._realm.look()
        if self._agents is not None:
            self._identity = self._member.identity
            self._agents.start()
        if self._where is None:
            await self._tunnelled
            _log.info("node serves {whom} through tunnels, and binds no port", whom=_whom())
            return 0
        return self._listen(*self._where)

    def _listen(self, interface: str, port: int) -> int:
        try:
            self._port = listen(self._reactor, port, self.factory, interface)
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            raise Conflict(
                f"the node cannot listen on {join_address(interface, port)}: {reason}"
            ) from None
        bound: int = self._port.getHost().port
        self._presence.addresses = (self._public(bound),)
        self._member.announce_soon()
        _log.info(
            "node serves {whom} on {where}",
            whom=_whom(),
            where=join_address(interface or "*", bound),
        )
        return bound

    def stopService(self) -> Deferred[None]:
        """Take nobody in any more, let sessions end until a deadline, and end the spawner."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def force(self) -> None:
        """When it stops, or while it does: wait for no session."""
        self._farewell.force()

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        self._labels.stop()
        if self._agents is not None:
            self._agents.stop()
        if self._port is not None:
            port, self._port = self._port, None
            await maybeDeferred(port.stopListening)
        await self._farewell.start(self._shutdown_grace, "the node is shutting down")
        self._realm.stop()
        self._names.close()
        self._accounts.close()
        await self._spawning.close()


def _whom() -> str:
    if os.geteuid() == 0:
        return "every account that the certificates allow"
    return f"the account {own_login()!r} only, which it runs as"
