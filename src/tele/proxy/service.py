"""How does a proxy start, serve and stop? It has no state but what auth tells it."""

from __future__ import annotations

import uuid
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory

from tele.audit.chain import event
from tele.conch.allowance import Allowance, Ration
from tele.conch.connection import SSHConnection
from tele.conch.credentials import DeniedAttempt, Trust, make_portal
from tele.conch.door import Refused
from tele.conch.exchange import HostKeys
from tele.conch.factory import SSHServerFactory
from tele.conch.limits import Limits
from tele.conch.sockets import DirectReactor, listen
from tele.errors import TeleError, Unavailable, Unreachable
from tele.https.blocking import split_address
from tele.https.trust import ServerTls
from tele.loop import backoff, make_logger, now
from tele.membership.identity import tls_authorities
from tele.membership.member import Member
from tele.model.api import table
from tele.model.api.members import HostList, WatchHosts
from tele.model.authority import AuthorityKind
from tele.model.identity import HostRole
from tele.model.presence import Host
from tele.proxy.demultiplexer import Demultiplexer, Doors
from tele.proxy.doors import Relay, https_door, make_pages
from tele.proxy.index import NodeIndex
from tele.proxy.jump import JumpRealm, Visitor

log = make_logger(__name__)

DIAL_SECONDS: Final = 10.0
#: Refusals of strangers in the audit in one go, and how many more each second.
DENIED_BURST: Final = 100.0
DENIED_PER_SECOND: Final = 5.0


class ProxyService(Service):
    """A proxy of the cluster that ``member`` belongs to.

    ``listen_at`` is (host, port), port 0 for any; ``auth`` are auth's addresses.
    ``ready`` fires with the port when it serves, or fails with a :class:`TeleError`.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        member: Member,
        listen_at: tuple[str, int],
        auth: tuple[str, ...],
        limits: Limits | None = None,
    ) -> None:
        self.ready: Deferred[int] = Deferred()
        self.port: int | None = None
        self._reactor = reactor
        self._direct: Any = DirectReactor(reactor)
        self._member = member
        self._listen_at = listen_at
        self._auth = auth
        self._limits = limits
        self._ration = Ration(Allowance(DENIED_BURST, DENIED_PER_SECOND))
        self._ssh: SSHServerFactory | None = None
        self._turn = 0
        self._listening: Any = None
        self._following: Deferred[None] | None = None
        self._site: Any = None

    def startService(self) -> None:
        """Begin to start; ``ready`` tells how it ended."""
        super().startService()
        Deferred.fromCoroutine(self._start()).addCallbacks(self.ready.callback, self.ready.errback)

    async def stopService(self) -> None:
        """Take nobody in any more."""
        super().stopService()
        if self._following is not None:
            self._following.cancel()
            self._following = None
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        if self._ssh is not None:
            self._ssh.stopFactory()

    async def _start(self) -> int:
        await self._member.ready()
        cluster = self._member.identity.host.cluster
        index = NodeIndex(cluster)
        realm = JumpRealm(
            lambda: self._member.state,
            lambda: now(self._reactor),
            index,
            self._dial,
            self._visitor_denied,
        )
        self._ssh = ssh = SSHServerFactory(
            portal=make_portal(realm),
            host_keys=lambda: HostKeys(
                self._member.identity.keys.ssh, self._member.identity.ssh_certificate
            ),
            user_trust=lambda: Trust(cluster, self._member.ssh_trust(AuthorityKind.USER)),
            clock=self._reactor,
            connection=SSHConnection,
            match_login=False,
            on_denied=self._attempt_denied,
            on_refused=self._strangers_refused,
            limits=self._limits,
        )
        self._site = make_pages(lambda: cluster)
        tls = ServerTls(
            lambda: self._member.identity.tls, lambda: tls_authorities(self._member.authorities)
        )
        doors = Doors(
            auth=self._auth_door,
            https=https_door(tls, self._site, self._reactor),
            ssh=ssh.buildProtocol,
        )
        host, port = self._listen_at
        try:
            self._listening = listen(self._reactor, port, Demultiplexer(doors, self._reactor), host)
        except CannotListenError as error:
            raise Unavailable(
                f"the proxy cannot listen on {host}:{port}: {error.socketError}; is something"
                " else running there?"
            ) from None
        self.port = bound = int(self._listening.getHost().port)
        self._following = Deferred.fromCoroutine(self._follow(index))
        self._following.addErrback(lambda _: None)
        log.info("proxy of cluster {name} serves on {host}:{port}",
                 name=cluster, host=host, port=bound)  # fmt: skip
        return bound

    async def _follow(self, index: NodeIndex) -> None:
        """Keep the index of nodes as auth tells it, for ever; it stays as it was meanwhile."""
        failures = 0

        def told(hosts: HostList) -> None:
            nonlocal failures
            failures = 0
            index.replace(hosts.items)

        while True:
            try:
                await self._member.authority.follow(
                    table.WATCH_HOSTS, WatchHosts(HostRole.NODE), told
                )
            except TeleError as error:
                if failures == 0:
                    log.warn("the list of nodes is not followed: {why!s}", why=error)
            pause: Deferred[None] = Deferred()
            timer = self._reactor.callLater(backoff(failures), pause.callback, None)
            failures += 1
            try:
                await pause
            finally:
                if timer.active():
                    timer.cancel()

    # -- connections ------------------------------------------------------------------
    def _auth_door(self, address: IAddress) -> IProtocol:
        self._turn += 1
        host, port = split_address(self._auth[self._turn % len(self._auth)])
        return Relay(HostnameEndpoint(self._reactor, host, port, timeout=DIAL_SECONDS))

    def _dial(self, host: Host, factory: IProtocolFactory) -> Deferred[Any]:
        if not host.addresses:
            return fail(Unreachable(f"node {host.name} has no address; it is in a tunnel"))

        async def dial() -> Any:
            problem: Exception = Unreachable(f"node {host.name} has no address")
            for address in host.addresses:
                name, port = split_address(address, 3022)
                endpoint = HostnameEndpoint(self._direct, name, port, timeout=DIAL_SECONDS)
                try:
                    return await endpoint.connect(factory)
                except Exception as error:
                    problem = error
            raise problem

        return Deferred.fromCoroutine(dial())

    # -- audit ------------------------------------------------------------------------
    def _emit(self, name: str = "auth.denied", **fields: Any) -> None:
        host = self._member.identity.host
        self._member.emit(
            event(
                name, str(uuid.uuid4()), now(self._reactor), host.cluster,
                server_id=host.host_id, server_name=host.name, ok=False, **fields,
            )
        )  # fmt: skip

    def _attempt_denied(self, attempt: DeniedAttempt) -> None:
        unsaid = self._ration.admit(self._reactor.seconds())
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

    def _visitor_denied(self, visitor: Visitor, target: str, error: TeleError) -> None:
        self._emit(
            user=visitor.identity.user,
            roles=visitor.identity.roles,
            login_session=visitor.identity.login_session,
            remote_addr=_joined(visitor.remote_addr),
            error=str(error),
            reason=str(getattr(error, "reason", error.kind)),
            target=target[:256],
        )


def _joined(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
