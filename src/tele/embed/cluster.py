"""How do all parts of one configuration run in one process?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred

from tele.certs.check import LATEST
from tele.config.reading import Loaded
from tele.config.values import Address, AuthConfig, JoinConfig, NodeConfig, ProxyConfig
from tele.data_dir import DataDirLock
from tele.embed.addresses import is_wildcard
from tele.embed.hosts import HostService, join_settings, open_store
from tele.embed.metrics import (
    auth_numbers,
    auth_problem,
    host_numbers,
    host_problem,
    metrics_service,
)
from tele.errors import InvalidInput, Unavailable
from tele.interfaces import IAuthority
from tele.log import make_logger
from tele.loop import make_monotonic, now
from tele.measures.metric import Measured
from tele.membership.files import private_folder
from tele.membership.joining import JoinSettings
from tele.membership.store import MemberStore
from tele.model.api.authorities import AUTHORITIES, AuthorityList
from tele.model.api.operation import Nothing
from tele.model.api.tokens import ADD_TOKEN, NewToken, TokenAdded
from tele.model.authority import AuthorityKind, authority_of
from tele.model.identity import Caller, HostRole, UserIdentity
from tele.reactor import Reactor

if TYPE_CHECKING:
    from tele.auth.service import AuthService

_log = make_logger(__name__)


class ClusterService(MultiService):
    """The parts of one configuration, each started when those before it serve.

    All of them are locked in data_dir before the first is started, until the last has stopped.
    Only parts that run are imported: they are most of the memory of an idle process.

    ``ready`` fires with this service when all of them serve, or fails with the error of
    the first that cannot.
    """

    def __init__(self, reactor: Reactor, loaded: Loaded, parts: Sequence[str] = ()) -> None:
        super().__init__()
        make_monotonic(reactor)
        self.ready: Deferred[ClusterService] = Deferred()
        self.auth: AuthService | None = None
        self.proxy: HostService | None = None
        self.node: HostService | None = None
        #: When the node began to serve.
        self.node_since: datetime | None = None
        self._reactor = reactor
        self._loaded = loaded
        self._parts = parts or ("auth", "proxy", "node")
        self._starting: Deferred[None] | None = None
        self._lock: DataDirLock | None = None
        self._auth_port = 0

    @property
    def owner(self) -> IAuthority:
        """Auth of this process, called as its owner. Raises Unavailable before it serves."""
        config = self._loaded.config.auth
        if config is None or self.auth is None or self.auth.authority is None:
            raise Unavailable("auth does not run in this process")
        from tele.auth.local import ADMIN_ROLES, LOCAL_ADMIN

        owner = UserIdentity(LOCAL_ADMIN, config.cluster_name, LATEST, ADMIN_ROLES)
        return self.auth.authority.as_caller(Caller(owner, "local"))

    def startService(self) -> None:
        """Start the parts, one after another."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addCallbacks(lambda _: self.ready.callback(self), self.ready.errback)

    def stopService(self) -> Deferred[Any]:
        """Stop all parts, the last first."""
        self.running = 0
        if self._starting is not None:
            self._starting.cancel()
        return Deferred.fromCoroutine(self._stop())

    def force(self) -> None:
        """When it stops, or while it does: do not wait for sessions."""
        for host in (self.node, self.proxy):
            if host is not None:
                host.force()

    async def _stop(self) -> None:
        parts = ", ".join(self.configured)
        _log.info("stopping", parts=parts)
        for service in reversed(list(self)):
            await maybeDeferred(service.stopService)
        if self._lock is not None:
            self._lock.release()
        _log.info("stopped", parts=parts)

    @property
    def configured(self) -> tuple[str, ...]:
        """The names of the parts that are run."""
        return tuple(part for part in self._parts if getattr(self._loaded.config, part) is not None)

    async def _start(self) -> None:
        config = self._loaded.config
        self._lock = DataDirLock(private_folder(config.data_dir), *self.configured)
        if "auth" in self._parts and config.auth is not None:
            self._add_metrics(
                "auth",
                config.auth,
                lambda: auth_problem(self.auth),
                lambda: auth_numbers(self.auth),
            )
            from tele.embed.auth import auth_service

            self.auth = auth_service(self._reactor, config.auth, config.data_dir)
            self.auth.setServiceParent(self)
            self._auth_port = await self.auth.ready
        if "proxy" in self._parts and config.proxy is not None:
            from tele.embed.proxy import proxy_service

            self._add_host_metrics("proxy", config.proxy, lambda: self.proxy)
            store = open_store(config.proxy, config.data_dir)
            join = await self._join(config.proxy.join, store, HostRole.PROXY)
            self.proxy = proxy_service(
                self._reactor, config.proxy, config.data_dir, join=join, store=store
            )
            self.proxy.setServiceParent(self)
            await self.proxy.ready
        if "node" in self._parts and config.node is not None:
            from tele.embed.node import node_service

            self._add_host_metrics("node", config.node, lambda: self.node)
            store = open_store(config.node, config.data_dir)
            join = await self._join(config.node.join, store, HostRole.NODE)
            self.node = node_service(
                self._reactor, config.node, config.data_dir, join=join, store=store
            )
            self.node.setServiceParent(self)
            await self.node.ready
            self.node_since = now(self._reactor)

    def _add_host_metrics(
        self, part: str, config: NodeConfig | ProxyConfig, host: Callable[[], HostService | None]
    ) -> None:
        self._add_metrics(
            part, config, lambda: host_problem(host(), part),
            lambda: host_numbers(self._reactor, host()),
        )  # fmt: skip

    def _add_metrics(
        self,
        part: str,
        config: AuthConfig | NodeConfig | ProxyConfig,
        problem: Callable[[], str],
        measured: Callable[[], Iterable[Measured]],
    ) -> None:
        """Serve the numbers of a part: added before it, this stops after it."""
        made = metrics_service(self._reactor, part, config, problem, measured)
        if made is not None:
            made.setServiceParent(self)

    async def _join(
        self, join: JoinConfig | None, store: MemberStore, role: HostRole
    ) -> JoinSettings:
        """Return how a host joins: as configured, or the auth of this process, with a token."""
        if join is not None:
            return join_settings(join)
        config = self._loaded.config.auth
        if config is None or self.auth is None:
            raise InvalidInput(f"{role.value}.join: missing: where is auth?")
        authority = self.auth.authority
        identity = store.identity
        needed = identity is None or not (authority and await authority.is_member(identity.host))
        pins, token = await own_join(self.owner, role if needed else None)
        host = config.listen.host
        address = Address("127.0.0.1" if is_wildcard(host) else host, self._auth_port)
        return JoinSettings((str(address),), pins, lambda: token)


async def own_join(authority: IAuthority, role: HostRole | None) -> tuple[tuple[str, ...], str]:
    """Return the pins of the cluster's host authority, and a token for ``role`` if there is one.

    A host in the process of its auth needs a token at its first start, and after it was removed. An
    expired certificate needs none.
    """
    token = ""
    if role is not None:
        made: TokenAdded = await authority.perform(ADD_TOKEN, NewToken((role,), max_uses=1))
        token = made.token
    known: AuthorityList = await authority.perform(AUTHORITIES, Nothing())
    host = authority_of(known.trusted, AuthorityKind.HOST)
    return () if host is None else host.pins, token
