"""How does a proxy start, serve and stop? It has no state but what auth tells it."""

from __future__ import annotations

import resource
import uuid
from collections.abc import Collection
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IStreamClientEndpoint
from twisted.internet.task import LoopingCall, deferLater

from tele.admission.limits import Limits
from tele.admission.rate_limiter import RateLimiter, ReportLimiter
from tele.audit.chain import event
from tele.audit.lines import log_event
from tele.conch.client.transport import MemberVerifier
from tele.conch.server.connection_admission import Refused, denied_limiter
from tele.conch.server.credentials import DeniedAttempt, Trust, make_portal
from tele.conch.server.drain import Drain, has_channels
from tele.conch.server.factory import ServerAlgorithms, SSHServerFactory
from tele.conch.server.transport import SSHServerTransport
from tele.conch.transport.exchange import HostKeys
from tele.errors import TeleError, Unavailable
from tele.https.trust import ServerTls
from tele.log import make_logger
from tele.loop import backoff, now
from tele.membership.identity import tls_authorities
from tele.membership.member import Member
from tele.model.access import Denied
from tele.model.addresses import Address, source_network
from tele.model.api.hosts import WATCH_HOSTS, HostChanges, WatchHosts
from tele.model.api.members import Proxy
from tele.model.authority import AuthorityKind
from tele.model.identity import HostIdentity, HostRole
from tele.model.revocation import HostRevocation
from tele.outbound.dialer import Dialer
from tele.outbound.name_lookup import Names
from tele.proxy.admission import Admission, limits_for
from tele.proxy.auth_reach import AuthReach
from tele.proxy.demultiplexer import Demultiplexer, Doors
from tele.proxy.jump import DENIED_BURST, DENIED_PER_SECOND, Jump
from tele.proxy.jump import Visitor as JumpVisitor
from tele.proxy.realm import ProxyRealm
from tele.proxy.tls_routes import Pages, Relay, https_route
from tele.proxy.user_limits import People, person_limits
from tele.routing.dialer import NodeDialer
from tele.routing.index import NodeIndex
from tele.routing.known_nodes import KnownNodes
from tele.routing.peers import CONNECT_SECONDS, PeerAvatar, Peers
from tele.sockets.direct import listen
from tele.tunnel.acceptor import AgentAvatar, Tunnel, Tunnels
from tele.tunnel.messages import Visitor, auth_as_destination
from tele.tunnel.relayed_channels import OPEN_SECONDS, MemberConnection
from tele.tunnel.vouching import vouch

log = make_logger(__name__)

DIAL_SECONDS: Final = 10.0
#: Where a node serves that does not say at which port.
NODE_PORT: Final = 3022
#: Where a proxy serves that does not say at which port.
PROXY_PORT: Final = 3080
#: Denials of people who passed the log-in, in the audit in one go, and how many more each second.
VISITORS_DENIED_BURST: Final = 500.0
VISITORS_DENIED_PER_SECOND: Final = 20.0
#: How often it is looked whether those with a tunnel are still members.
LOOK_SECONDS: Final = 30.0
#: What counts as the number of descriptors where the system sets no limit.
UNLIMITED: Final = 1 << 20


def _is_visitor(transport: SSHServerTransport) -> bool:
    """Whether somebody passes through. What a node does on its tunnel is no reason to stay."""
    return has_channels(transport) and not isinstance(transport.avatar, AgentAvatar)


def descriptors() -> int:
    """Return how many descriptors this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


class ProxyService(Service):
    """A proxy of the cluster that ``member`` belongs to.

    ``listen_at`` is (host, port), port 0 for any; ``auth`` are auth's addresses, and ``out``
    is how they are reached. ``algorithms`` are what SSH clients are offered.
    ``shutdown_grace`` is how many seconds visitors have to end by themselves when we stop. With
    ``proxy_protocol`` connections come from a load balancer that says where from. ``https``
    shows a certificate to those who come for pages, the cluster's without. ``ready`` fires with
    the port when it serves, or fails with a :class:`TeleError`.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        member: Member,
        listen_at: tuple[str, int],
        auth: tuple[str, ...],
        limits: Limits | None = None,
        algorithms: ServerAlgorithms | None = None,
        out: Dialer | None = None,
        shutdown_grace: float = 0.0,
        proxy_protocol: bool = False,
        https: IOpenSSLServerConnectionCreator | None = None,
    ) -> None:
        self.ready: Deferred[int] = Deferred()
        self.port: int | None = None
        self._reactor = reactor
        self._out = out or Dialer(reactor)
        self._proxy_protocol = proxy_protocol
        self._https = https
        self._member = member
        self._listen_at = listen_at
        self._auth = auth
        self._limits = limits
        self._algorithms = algorithms
        self._shutdown_grace = shutdown_grace
        self._farewell = Drain(reactor, self._present, _is_visitor)
        self._limiter = denied_limiter()
        self._visitors_denied = ReportLimiter(
            RateLimiter(VISITORS_DENIED_BURST, VISITORS_DENIED_PER_SECOND),
            RateLimiter(DENIED_BURST, DENIED_PER_SECOND),
        )
        self._ssh: SSHServerFactory | None = None
        self._turn = 0
        self._identity: Any = None
        self._listening: Any = None
        self._following: Deferred[None] | None = None
        self._looking: LoopingCall | None = None
        self._index = NodeIndex("")
        self._known: KnownNodes | None = None
        self._ways: Any = None
        #: Nodes whose connections were ended because they were removed.
        self._revoked: frozenset[HostRevocation] = frozenset()
        self._jump: Jump | None = None
        self._tunnels: Tunnels | None = None
        self._peers: Peers | None = None
        self._names: Names | None = None

    def startService(self) -> None:
        """Begin to start; ``ready`` tells how it ended."""
        super().startService()
        Deferred.fromCoroutine(self._start()).addCallbacks(self.ready.callback, self.ready.errback)

    def force(self) -> None:
        """When it stops, or while it does: wait for no visitor."""
        self._farewell.force()

    def _present(self) -> Collection[SSHServerTransport]:
        return () if self._ssh is None else self._ssh.present

    async def stopService(self) -> None:
        """Take nobody in any more, and let visitors end until a deadline."""
        super().stopService()
        if self._following is not None:
            self._following.cancel()
            self._following = None
        if self._known is not None:
            self._known.stop()
        if self._looking is not None and self._looking.running:
            self._looking.stop()
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        if self._ssh is not None:
            self._ssh.stopFactory()
        if self._tunnels is not None:
            self._tunnels.leave()
        await self._farewell.start(self._shutdown_grace, "the proxy is shutting down")
        if self._jump is not None:
            self._jump.stop()
        if self._tunnels is not None:
            self._tunnels.close()
        if self._peers is not None:
            self._peers.close()
        if self._names is not None:
            self._names.close()

    async def _start(self) -> int:
        member = self._member
        await member.ready()
        host = member.identity.host
        index = self._index = NodeIndex(host.cluster)
        known = self._known = KnownNodes(self._reactor, member, index)
        known.restore()
        member.on_change(self._member_changed)
        self._identity = member.identity
        self._tunnels = tunnels = Tunnels(self._reactor, lambda: None, self._cloned)
        self._names = names = Names(self._reactor)

        def dial_proxy(proxy: Proxy) -> IStreamClientEndpoint:
            where = Address.parse(proxy.peer, PROXY_PORT)
            return names.endpoint(f"proxy {proxy.id}", *where, CONNECT_SECONDS)

        def dial_node(host_id: str, address: str) -> IStreamClientEndpoint:
            return names.endpoint(host_id, *Address.parse(address, NODE_PORT), OPEN_SECONDS)

        self._peers = Peers(
            self._reactor, member.client_identity, self._proxies_verifier, dial_proxy
        )
        ways = self._ways = NodeDialer(
            self._reactor, tunnels, self._peers, self._other_proxies, self._vouch, dial_node
        )
        jump = self._jump = Jump(
            self._reactor,
            lambda: member.state,
            lambda: member.policy,
            index,
            tunnels,
            ways,
            self._visitor_denied,
            self._visitor_ended,
            People(person_limits(descriptors())),
        )
        jump.look()
        realm = ProxyRealm(
            jump,
            lambda who: AgentAvatar(who.identity, who.remote_addr, tunnels, self._auth_endpoint),
            lambda who: PeerAvatar(who.identity, tunnels, self._refuses_peer),
            self._refuses,
        )
        self._ssh = ssh = SSHServerFactory(
            portal=make_portal(realm),
            host_keys=lambda: HostKeys(member.identity.keys.ssh, member.identity.ssh_certificate),
            user_trust=lambda: Trust(host.cluster, member.ssh_trust(AuthorityKind.USER)),
            host_trust=lambda: Trust(host.cluster, member.ssh_trust(AuthorityKind.HOST)),
            clock=self._reactor,
            connection=MemberConnection,
            match_login=False,
            on_denied=self._attempt_denied,
            on_refused=self._strangers_refused,
            limits=self._limits,
            algorithms=self._algorithms,
            shared=tunnels.has_nodes_at,
        )
        self._listen(ssh)
        self._following = Deferred.fromCoroutine(self._follow(index, known))
        self._following.addErrback(lambda _: None)
        self._looking = LoopingCall(self._look)
        self._looking.clock = self._reactor
        self._looking.start(LOOK_SECONDS, now=False)
        bound = self.port or 0
        log.info("proxy of cluster {name} serves on {host}:{port}",
                 name=host.cluster, host=self._listen_at[0], port=bound)  # fmt: skip
        return bound

    def _listen(self, ssh: SSHServerFactory) -> None:
        member = self._member
        cluster = member.identity.host.cluster
        reach = AuthReach(self._reactor, lambda: member.auth_away_since)
        pages = Pages(lambda: cluster, self._reactor, reach.unreachable_since)
        tls = self._https or ServerTls(
            lambda: member.identity.tls,
            lambda: tls_authorities(member.authorities),
            self._reactor,
        )
        doors = Doors(
            auth=lambda client, slot: Relay(
                self._auth_endpoint(), slot, self._reactor, self._word_for(client), reach.reached
            ),
            https=https_route(tls, pages, self._reactor),
            ssh=ssh.buildProtocol,
        )
        host, port = self._listen_at
        admission = Admission(self._reactor, ssh.admission, limits_for(ssh.limits, descriptors()))
        door = Demultiplexer(doors, admission, proxy_protocol=self._proxy_protocol)
        try:
            self._listening = listen(self._reactor, port, door, host)
        except CannotListenError as error:
            raise Unavailable(
                f"the proxy cannot listen on {host}:{port}: {error.socketError}; is something"
                " else running there?"
            ) from None
        self.port = int(self._listening.getHost().port)

    async def _follow(self, index: NodeIndex, known: KnownNodes) -> None:
        """Keep the index of nodes as auth tells it, for ever; it stays as it was meanwhile."""
        failures = 0

        def told(changes: HostChanges) -> None:
            nonlocal failures
            failures = 0
            index.change(changes)
            known.changed()

        while True:
            try:
                await self._member.authority.follow(WATCH_HOSTS, WatchHosts(HostRole.NODE), told)
            except TeleError as error:
                if failures == 0:
                    log.warn("the list of nodes is not followed: {why!s}", why=error)
            await deferLater(self._reactor, backoff(failures))
            failures += 1

    def _auth_endpoint(self) -> IStreamClientEndpoint:
        self._turn += 1
        host, port = Address.parse(self._auth[self._turn % len(self._auth)])
        return self._out.endpoint(host, port, DIAL_SECONDS)

    # -- other members ----------------------------------------------------------------
    def _proxies_verifier(self) -> MemberVerifier:
        return self._member.verifier(HostRole.PROXY)

    def _other_proxies(self) -> tuple[Proxy, ...]:
        own = self._member.host_id
        return tuple(proxy for proxy in self._member.state.proxies if proxy.id != own)

    def _word_for(self, client: Any) -> bytes:
        """What auth is told before a client: where it comes from."""
        destination = auth_as_destination(self._member.identity.host.cluster)
        return self._vouch(Visitor(destination, (client.host, client.port)))

    def _vouch(self, visitor: Visitor) -> bytes:
        identity = self._member.identity
        moment = self._member.clock.stated_seconds
        return vouch(visitor, identity.keys.ssh, identity.ssh_certificate, moment)

    def _refuses(self, host: HostIdentity) -> str:
        return self._member.expelled or self._member.refuses(host)

    def _refuses_peer(self, host: HostIdentity) -> str:
        if host.expires <= now(self._reactor):
            return "the certificate that this connection was made with has expired"
        if all(host.host_id != proxy.id for proxy in self._member.state.proxies):
            return "this proxy is not known to be one of the cluster"
        return self._refuses(host)

    def _member_changed(self) -> None:
        """The cluster's state or our identity is another: who is refused now goes."""
        if not self.running or self._tunnels is None:
            return
        if self._jump is not None:
            self._jump.look()
        self._end_refused()
        if self._identity is not self._member.identity:
            self._identity = self._member.identity
            if self._peers is not None:
                self._peers.renew()

    def _look(self) -> None:
        """End the tunnels of hosts that are no members any more, or are locked."""
        index = self._index
        find = index.get if index.told else (lambda _: index)
        if self._tunnels is not None:
            self._end_refused()
            self._tunnels.review(now(self._reactor), find)

    def _members_present(self) -> list[tuple[SSHServerTransport, HostIdentity]]:
        found = []
        for transport in self._present():
            avatar = getattr(transport, "avatar", None)
            if isinstance(avatar, AgentAvatar | PeerAvatar):
                found.append((transport, avatar.host))
        return found

    def _end_refused(self) -> None:
        """End the connections of and to hosts that were removed or are locked.

        They are all that there are, if this proxy was removed or locked itself.
        """
        if expelled := self._member.expelled:
            for transport in list(self._present()):
                transport.dismiss(f"this proxy takes part no more: {expelled}")
            return
        for transport, host in self._members_present():
            problem = self._refuses(host)
            if problem:
                transport.dismiss(problem)
        if self._peers is not None:
            self._peers.end_refused(self._member.refuses)
        revoked = self._member.policy.revoked_hosts(HostRole.NODE)
        for gone in revoked - self._revoked:
            self._index.revoke(gone.host_id, gone.before)
            self._ways.end_host(gone.host_id)
        self._revoked = revoked

    # -- audit ------------------------------------------------------------------------
    def _emit(self, name: str = "auth.denied", **fields: Any) -> None:
        host = self._member.identity.host
        made = event(
            name, str(uuid.uuid4()), now(self._reactor), host.cluster,
            server_id=host.host_id, server_name=host.name, ok=False, **fields,
        )  # fmt: skip
        log_event(made)
        self._member.emit(made)

    def _cloned(self, old: Tunnel, new: Tunnel) -> None:
        self._emit(
            "node.duplicate",
            remote_addr=_joined(new.remote_addr),
            error=f"two machines have the keys of node {new.host.name}: replace them",
            node_id=new.host.host_id,
            node=new.host.name,
            other_addr=_joined(old.remote_addr),
        )

    def _attempt_denied(self, attempt: DeniedAttempt) -> None:
        source = source_network(attempt.remote_addr[0])
        unsaid = self._limiter.admit(self._reactor.seconds(), source)
        if unsaid is None:
            return
        more: dict[str, Any] = {"others_not_listed": unsaid} if unsaid else {}
        self._emit(
            user=attempt.key_id[:128],
            login=attempt.login,
            remote_addr=_joined(attempt.remote_addr),
            error=attempt.message,
            reason=attempt.reason,
            method=attempt.method,
            key=attempt.fingerprint,
            **more,
        )

    def _strangers_refused(self, refused: Refused) -> None:
        self._emit(
            "auth.refused",
            error=f"{refused.count} connections were refused",
            count=refused.count,
            why=dict(refused.why),
            sources=list(refused.sources),
        )

    def _visitor_denied(self, visitor: JumpVisitor, target: str, error: TeleError) -> None:
        unsaid = self._visitors_denied.admit(self._reactor.seconds(), visitor.identity.user)
        if unsaid is None:
            return
        more: dict[str, Any] = {"others_not_listed": unsaid} if unsaid else {}
        reason = str(getattr(error, "reason", error.kind))
        self._emit(**_who(visitor), error=str(error), reason=reason, target=target[:256], **more)

    def _visitor_ended(self, visitor: JumpVisitor, denied: Denied) -> None:
        self._emit(
            "session.end",
            **_who(visitor),
            error=denied.message,
            reason=denied.reason.value,
            nodes=sorted({host.name for host in visitor.goes_to()}),
        )


def _who(visitor: JumpVisitor) -> dict[str, Any]:
    identity = visitor.identity
    return {
        "user": identity.user,
        "roles": identity.roles,
        "login_session": identity.login_session,
        "remote_addr": _joined(visitor.remote_addr),
    }


def _joined(address: tuple[str, int]) -> str:
    return str(Address(*address))
