"""How does a proxy start, serve and stop? It has no state but what auth sends it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IOpenSSLServerConnectionCreator
from twisted.internet.task import LoopingCall

from tele.admission.limits import Limits
from tele.conch.server.credentials import Trust, make_portal
from tele.conch.server.drain import Drain, has_channels
from tele.conch.server.factory import ServerAlgorithms, SSHServerFactory
from tele.conch.server.numbers import server_samples
from tele.conch.server.settings import ServerSettings
from tele.conch.server.transport import SSHServerTransport
from tele.conch.transport.exchange import HostKeys
from tele.errors import Unavailable
from tele.https.site import Site
from tele.interfaces import IRecorder
from tele.log import make_logger
from tele.loop import now
from tele.measures import catalogue
from tele.measures.metric import Sample
from tele.membership.audit_reporter import AuditReporter
from tele.membership.member import Member
from tele.membership.numbers import login_samples
from tele.membership.server_settings import allowed_by
from tele.model.addresses import Address
from tele.model.authority import AuthorityKind
from tele.model.identity import HostIdentity, HostRole
from tele.outbound.dialer import Dialer
from tele.proxy.audit import JumpAudit
from tele.proxy.auth_reach import AuthEndpoints
from tele.proxy.jump import JumpHost
from tele.proxy.port import PortSettings, descriptors, listen_for_clients
from tele.proxy.realm import ProxyRealm
from tele.proxy.terminating.service import Terminating
from tele.proxy.user_limits import UserUsage, user_limits
from tele.reactor import Reactor
from tele.routing.peers import PeerAvatar
from tele.routing.router import Router
from tele.tunnel.acceptor import AgentAvatar
from tele.tunnel.relayed_channels import MemberConnection

log = make_logger(__name__)

#: How often tunnels are checked for hosts that are locked, or members no more.
CHECK_SECONDS: Final = 30.0


def _has_user_channels(transport: SSHServerTransport) -> bool:
    """Whether a user is connected to a node. Channels of a tunnel do not delay the stop."""
    return has_channels(transport) and not isinstance(transport.avatar, AgentAvatar)


class ProxyService(Service):
    """A proxy of the cluster that ``member`` belongs to.

    ``listen_at`` is (host, port), port 0 for any; ``auth`` are auth's addresses, and ``dialer``
    connects to them. ``algorithms`` are offered to SSH clients. ``shutdown_grace`` is how many
    seconds users have to end their sessions when it stops. ``proxy_protocol``, ``https`` and
    ``site`` are explained at :class:`PortSettings`. ``recorder`` takes part in sessions that end
    here. ``ready`` fires with the port when it serves, or fails with a
    :class:`tele.errors.TeleError`.
    """

    def __init__(
        self,
        reactor: Reactor,
        *,
        member: Member,
        listen_at: tuple[str, int],
        auth: tuple[str, ...],
        limits: Limits | None = None,
        algorithms: ServerAlgorithms | None = None,
        dialer: Dialer | None = None,
        shutdown_grace: float = 0.0,
        proxy_protocol: bool = False,
        https: IOpenSSLServerConnectionCreator | None = None,
        site: Site | None = None,
        recorder: IRecorder | None = None,
    ) -> None:
        self.ready: Deferred[int] = Deferred()
        self.port: int | None = None
        self._reactor = reactor
        self._member = member
        self._settings = PortSettings(*listen_at, proxy_protocol, https, site)
        self._auth = AuthEndpoints(dialer or Dialer(reactor), auth)
        self._limits = limits
        self._algorithms = algorithms
        self._recorder = recorder
        self._usage = UserUsage(user_limits(descriptors()))
        self._shutdown_grace = shutdown_grace
        self._drain = Drain(reactor, self._present, _has_user_channels)
        self._reporter = AuditReporter(reactor, member)
        self._audit = JumpAudit(reactor, self._reporter)
        self._router: Router | None = None
        self._ssh: SSHServerFactory | None = None
        self._jump: JumpHost | None = None
        self._terminating: Terminating | None = None
        self._listening: IListeningPort | None = None
        self._checks = LoopingCall(self._check)
        self._checks.clock = reactor

    @property
    def router(self) -> Router:
        """The nodes, and the connections to them. Raises :class:`Unavailable` before it serves."""
        if self._router is None:
            raise Unavailable("the proxy does not serve yet")
        return self._router

    @property
    def problem(self) -> str:
        """Why it serves no clients now, or nothing."""
        member = self._member
        if not self.running and self.ready.called:
            return "the proxy is stopping"
        if self.port is None or member.expires is None:
            return "the proxy is starting"
        if member.expelled:
            return f"this proxy is no longer part of the cluster: {member.expelled}"
        if member.expires <= now(self._reactor):
            return "the certificate of this proxy has expired while auth was away"
        return ""

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        yield from login_samples(self._reporter)
        if self._router is None or self._ssh is None or self._terminating is None:
            return
        yield from server_samples(self._ssh, self._terminating.present)
        yield from self._router.samples()
        yield catalogue.SESSIONS.at(len(self._terminating.admission.sessions))

    def startService(self) -> None:
        """Begin to start; ``ready`` tells how it ended."""
        super().startService()
        Deferred.fromCoroutine(self._start()).addCallbacks(self.ready.callback, self.ready.errback)

    def force(self) -> None:
        """When it stops, or while it does: do not wait for sessions."""
        self._drain.force()

    def _present(self) -> Collection[SSHServerTransport]:
        """All connections; those that end here before those that they came on."""
        if self._ssh is None or self._terminating is None:
            return ()
        return [*self._terminating.present, *self._ssh.present]

    async def stopService(self) -> None:
        """Accept no more connections, and let sessions end until a deadline."""
        super().stopService()
        if self._checks.running:
            self._checks.stop()
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        if self._ssh is not None:
            self._ssh.stopFactory()
        if self._terminating is not None:
            self._terminating.stop_accepting()
        if self._router is not None:
            self._router.drain()
        await self._drain.start(self._shutdown_grace, "the proxy is shutting down")
        if self._jump is not None:
            self._jump.stop()
        if self._terminating is not None:
            self._terminating.stop()
        if self._router is not None:
            self._router.close()

    async def _start(self) -> int:
        member = self._member
        await member.ready()
        router = self._router = Router(self._reactor, member, self._audit.duplicate)
        terminating = self._terminating = self._make_terminating(router)
        jump = self._jump = self._make_jump_host(router, terminating)
        ssh = self._ssh = self._make_ssh(router, jump)
        member.on_change(self._member_changed)
        router.on_nodes_changed(terminating.review)
        member.report_sessions(lambda: terminating.admission.sessions)
        jump.check()
        listening = self._listening = listen_for_clients(
            self._reactor, self._settings, member, ssh, self._auth, router
        )
        address: Any = listening.getHost()
        port = self.port = int(address.port)
        router.start()
        terminating.start()
        self._checks.start(CHECK_SECONDS, now=False)
        log.info("proxy is serving", cluster=member.identity.host.cluster,
                 address=str(Address(self._settings.host, port)))  # fmt: skip
        return port

    def _make_terminating(self, router: Router) -> Terminating:
        settings = ServerSettings(
            self._limits or Limits(), self._algorithms or ServerAlgorithms(), self._shutdown_grace
        )
        return Terminating(
            self._reactor, self._member, router, self._reporter, self._usage, self._recorder,
            settings,
        )  # fmt: skip

    def _make_jump_host(self, router: Router, terminating: Terminating) -> JumpHost:
        member = self._member
        return JumpHost(
            self._reactor,
            lambda: member.state,
            lambda: member.policy,
            router.index,
            lambda host_id: router.tunnels.get(host_id) is not None,
            terminating.route,
            self._audit,
            self._usage,
        )

    def _make_ssh(self, router: Router, jump: JumpHost) -> SSHServerFactory:
        member, tunnels, auth = self._member, router.tunnels, self._auth
        cluster = member.identity.host.cluster
        realm = ProxyRealm(
            jump,
            lambda node: AgentAvatar(node.identity, node.remote_addr, tunnels, auth.next),
            lambda proxy: PeerAvatar(proxy.identity, tunnels, self._refuses_peer),
            self._refuses,
        )
        return SSHServerFactory(
            portal=make_portal(realm),
            host_keys=lambda: HostKeys(member.identity.keys.ssh, member.identity.ssh_certificate),
            user_trust=lambda: Trust(cluster, member.ssh_trust(AuthorityKind.USER)),
            host_trust=lambda: Trust(cluster, member.ssh_trust(AuthorityKind.HOST)),
            clock=self._reactor,
            connection=MemberConnection,
            match_login=False,
            on_denied=self._reporter.denied,
            on_refused=self._reporter.refused,
            limits=self._limits,
            algorithms=self._algorithms,
            allowed=allowed_by(member),
            shared=tunnels.has_nodes_at,
            part=HostRole.PROXY.value,
        )

    # -- hosts that are refused -------------------------------------------------------
    def _refuses(self, host: HostIdentity) -> str:
        return self._member.expelled or self._member.refuses(host)

    def _refuses_peer(self, host: HostIdentity) -> str:
        if host.expires <= now(self._reactor):
            return "the certificate of this connection has expired"
        if all(host.host_id != proxy.id for proxy in self._member.state.proxies):
            return "this proxy is not known to be one of the cluster"
        return self._refuses(host)

    def _member_changed(self) -> None:
        """The cluster's state or our identity has changed: end what is refused now."""
        if not self.running or self._router is None:
            return
        if self._terminating is not None:
            self._terminating.review()
        if self._jump is not None:
            self._jump.check()
        self._end_refused()
        self._router.renew()

    def _check(self) -> None:
        """End the tunnels of hosts that are locked, or members no more."""
        if self._router is not None:
            self._end_refused()
            self._router.check()

    def _end_refused(self) -> None:
        """End the connections of and to hosts that were removed or are locked.

        They are all connections, if this proxy was removed or locked itself.
        """
        if expelled := self._member.expelled:
            for transport in list(self._present()):
                transport.dismiss(f"this proxy is no longer part of the cluster: {expelled}")
            return
        for transport in list(self._present()):
            avatar = getattr(transport, "avatar", None)
            if isinstance(avatar, AgentAvatar | PeerAvatar):
                problem = self._refuses(avatar.host)
                if problem:
                    transport.dismiss(problem)
        if self._router is not None:
            self._router.end_refused()
