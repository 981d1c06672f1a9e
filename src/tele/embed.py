"""How does a program run parts of tele? The names for embedders.

Everything here takes values of :mod:`tele.config.values`, which a program may build by
itself as well as read from a file, and gives Twisted services. Their ``ready`` fires when
they serve.

Laws of this file:

* It composes and decides nothing: what a part does is in its own room.
* Nothing is opened before a service is started, so that twistd may fork first.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.plugin import getPlugins
from zope.interface import implementer
from zope.interface.interface import InterfaceClass

import tele.plugins
from tele._version import VERSION
from tele.auth.local import ADMIN_ROLES, LOCAL_ADMIN
from tele.auth.service import AuthService
from tele.certs.check import LATEST
from tele.config.reading import Loaded, load, parse, read_address
from tele.config.values import (
    Address,
    AuthConfig,
    Chosen,
    JoinConfig,
    Keep,
    NodeConfig,
    Pins,
    ProxyConfig,
)
from tele.errors import InvalidInput, Unavailable, quoted
from tele.interfaces import (
    IArchiveFactory,
    IAuditSinkFactory,
    IAuthority,
    IBackendFactory,
    IRecorder,
    IRecorderFactory,
    RecorderSurroundings,
    Surroundings,
)
from tele.loop import now
from tele.membership.files import private_folder
from tele.membership.joining import JoinSettings
from tele.membership.member import Member
from tele.membership.store import DirectoryStore, MemberStore, MemoryStore, host_id_in
from tele.model.api.operation import Nothing, Operation
from tele.model.api.people import AuthorityList, NewToken, TokenAdded
from tele.model.api.table import ADD_TOKEN, AUTHORITIES
from tele.model.authority import AuthorityKind, authority_of
from tele.model.identity import Caller, HostRole, UserIdentity
from tele.model.presence import Presence
from tele.model.resources import NAME_PATTERN
from tele.node.labels import LabelCommand, Labels
from tele.node.presence import NodePresence
from tele.node.service import NodeService
from tele.node.spawning import Spawning
from tele.proxy.service import ProxyService

__all__ = [
    "Address",
    "AuthConfig",
    "AuthService",
    "Chosen",
    "ClusterService",
    "HostService",
    "JoinConfig",
    "JoinSettings",
    "Keep",
    "Loaded",
    "NodeConfig",
    "Pins",
    "ProxyConfig",
    "auth_service",
    "choose",
    "join_settings",
    "load_config",
    "node_service",
    "parse",
    "proxy_service",
    "read_address",
]

#: Which interface the factory of each key's plugin provides.
_FACTORIES: Mapping[str, InterfaceClass] = {
    "auth.store": IBackendFactory,
    "auth.recordings": IArchiveFactory,
    "auth.audit": IAuditSinkFactory,
    "node.recorder": IRecorderFactory,
}
#: Longer paths do not fit into a socket's address (unix(7)).
_SOCKET_PATH_LIMIT = 107
LOCAL_SOCKET = "auth.sock"
#: How often hosts in the process of their auth are looked after.
LOOK_SECONDS = 60.0


def load_config(path: Path) -> Loaded:
    """Read a configuration file; raises :class:`tele.errors.ConfigError` with all problems."""
    return load(path, {key: [f.kind for f in _factories(i)] for key, i in _FACTORIES.items()})


def _factories(interface: InterfaceClass) -> list[Any]:
    found: Any = getPlugins(interface, tele.plugins)
    return list(found)


def choose(interface: InterfaceClass, chosen: Chosen, surroundings: Surroundings) -> Any:
    """Return what the plugin of ``chosen`` makes; raises :class:`InvalidInput`.

    ``interface`` is one of the factory interfaces of :mod:`tele.interfaces`.
    """
    known = {factory.kind: factory for factory in _factories(interface)}
    if chosen.kind not in known:
        raise InvalidInput(
            f"no plugin for {quoted(chosen.kind)}; there are {', '.join(sorted(known))}"
        )
    return known[chosen.kind].make(chosen.arguments, surroundings)


def host_name() -> str:
    """Return what people call this machine, as ``hostname`` prints it."""
    name = socket.gethostname()
    return name if re.fullmatch(NAME_PATTERN, name, re.ASCII) else "localhost"


def is_wildcard(host: str) -> bool:
    """Whether listening at ``host`` is listening on all interfaces."""
    return host in ("", "0.0.0.0", "::")  # noqa: S104  (compared, not bound)


def public_address(listen: Address, given: Address | None, port: int) -> str:
    """Return where others reach what listens at ``listen``, with the ``port`` it got.

    An address of all interfaces becomes the one that this machine uses to reach others.
    """
    if given is not None:
        return str(given)
    host = listen.host
    if is_wildcard(host):
        family, other = (
            (socket.AF_INET6, "2001:db8::1") if host == "::" else (socket.AF_INET, "192.0.2.1")
        )
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((other, 9))  # sends nothing
                host = probe.getsockname()[0]
        except OSError:
            host = "127.0.0.1"
    return str(Address(host, port))


def join_settings(join: JoinConfig) -> JoinSettings:
    """Return how a host joins; its token file is read when it is needed."""
    address = join.auth or join.proxy
    if address is None:
        raise InvalidInput("join: give one of auth and proxy")
    return JoinSettings(
        (str(address),),
        join.ca_pin.values if join.ca_pin is not None else (),
        _token_reader(join.token_file),
    )


def _token_reader(path: Path | None) -> Callable[[], str | None]:
    def read() -> str | None:
        if path is None:
            return None
        try:
            return path.read_text("utf-8").strip()
        except OSError as error:
            raise InvalidInput(f"token_file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidInput(f"token_file {path}: this is no token") from None

    return read


def _forget_dead_socket(path: Path) -> None:
    """Remove the socket of an auth that was killed, and Twisted's lock beside it.

    That lock names a process. After a crash its number may be somebody else's, and auth
    would not start until they end; so the socket itself says whether anybody listens.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        except OSError:
            return  # longer than an address may be: there is none


def auth_service(reactor: Any, config: AuthConfig, data_dir: Path) -> AuthService:
    """Return auth on the store and archive that ``config`` chooses.

    Opens the store: call it when the process is the one that will serve.
    """
    folder = private_folder(data_dir)
    surroundings = Surroundings(reactor, folder)
    local = folder / LOCAL_SOCKET
    _forget_dead_socket(local)
    archive = choose(IArchiveFactory, config.recordings, surroundings)
    sinks = [choose(IAuditSinkFactory, each, surroundings) for each in config.audit]
    return AuthService(
        reactor,
        cluster=config.cluster_name,
        backend=choose(IBackendFactory, config.store, surroundings),
        archive=archive,
        host_id=host_id_in(folder),
        name=host_name(),
        listen=(config.listen.host, config.listen.port),
        recording=config.session_recording,
        sinks=sinks,
        local_socket=local if len(bytes(local)) <= _SOCKET_PATH_LIMIT else None,
    )


@implementer(IAuthority)
class _AsMember:
    """Auth, called as a member; for parts that are made before there is an identity."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def perform(self, operation: Operation[Any, Any], request: Any) -> Deferred[Any]:
        """See :class:`tele.interfaces.IAuthority`."""
        return maybeDeferred(lambda: self._member.authority.perform(operation, request))

    def follow(
        self, operation: Operation[Any, Any], request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        """See :class:`tele.interfaces.IAuthority`."""
        return maybeDeferred(lambda: self._member.authority.follow(operation, request, receiver))


class HostService(MultiService):
    """A node or a proxy with its membership. ``ready`` fires with the port."""

    def __init__(self, member: Member, serving: Any, recorder: Any = None) -> None:
        super().__init__()
        self.member = member
        self.serving = serving
        self.ready: Deferred[int] = serving.ready
        self._recorder = recorder
        self._stopped = False

    def startService(self) -> None:
        """Start the membership and what serves; the recorder when there is an identity."""
        member_ready = self.member.ready()
        self.member.setServiceParent(self)
        self.serving.setServiceParent(self)
        super().startService()
        member_ready.addCallbacks(self._joined, lambda _: None)  # what serves fails by it, too

    def _joined(self, _: object) -> None:
        if IService.providedBy(self._recorder) and not self._stopped:
            self._recorder.setServiceParent(self)

    async def _stop(self) -> None:
        # What serves first: its last events and recordings still need the membership.
        for service in (self.serving, self._recorder, self.member):
            if IService.providedBy(service) and service.running:
                await maybeDeferred(service.stopService)

    def stopService(self) -> Deferred[None]:
        """Stop what serves, then the recorder, then the membership."""
        self._stopped = True
        self.running = 0
        return Deferred.fromCoroutine(self._stop())


def open_store(config: NodeConfig | ProxyConfig, data_dir: Path) -> MemberStore:
    """Open what a host remembers of its membership, in ``data_dir`` or in memory."""
    if isinstance(config, NodeConfig):
        if config.state is Keep.MEMORY:
            return MemoryStore()
        return DirectoryStore(private_folder(data_dir), HostRole.NODE)
    return DirectoryStore(private_folder(data_dir), HostRole.PROXY)


def node_service(
    reactor: Any,
    config: NodeConfig,
    data_dir: Path,
    *,
    join: JoinSettings | None = None,
    store: MemberStore | None = None,
    recorder: IRecorder | None = None,
) -> HostService:
    """Return a node, which starts its membership itself.

    ``join`` and ``store`` come from ``config`` if they are not given. ``recorder`` takes
    part in every session in place of the one that ``config`` chooses.
    """
    folder = private_folder(data_dir)
    if join is None:
        if config.join is None:
            raise InvalidInput("node.join: missing: where is auth?")
        join = join_settings(config.join)
    spawning = Spawning(reactor)
    commands = tuple(
        LabelCommand(name, each.command, each.period) for name, each in config.commands.items()
    )
    labels = Labels(reactor, spawning, config.labels, commands)
    presence = NodePresence(config.name or host_name(), labels)
    store = store or open_store(config, data_dir)
    member = Member(reactor, store=store, settings=join, presence=presence)
    if recorder is None:
        surroundings = RecorderSurroundings(
            reactor,
            folder,
            _AsMember(member),
            lambda data: member.identity.keys.ssh.sign(data),  # noqa: PLW0108 (keys change)
            lambda: member.identity.ssh_certificate.line,
        )
        recorder = choose(IRecorderFactory, config.recorder, surroundings)
    listen = config.listen or Address("0.0.0.0", 3022)  # noqa: S104  (a server's default)
    serving = NodeService(
        reactor,
        member=member,
        spawning=spawning,
        labels=labels,
        presence=presence,
        where=(listen.host, listen.port),
        public=lambda port: public_address(listen, config.public_addr, port),
        recorder=recorder,
    )
    return HostService(member, serving, recorder)


def proxy_service(
    reactor: Any,
    config: ProxyConfig,
    data_dir: Path,
    *,
    join: JoinSettings | None = None,
    store: MemberStore | None = None,
) -> HostService:
    """Return a proxy, which starts its membership itself.

    ``join`` and ``store`` come from ``config`` if they are not given.
    """
    if join is None:
        if config.join is None:
            raise InvalidInput("proxy.join: missing: where is auth?")
        join = join_settings(config.join)
    listen = config.listen
    said = Presence(
        name=config.name or host_name(),
        role=HostRole.PROXY,
        addresses=(public_address(listen, config.public_addr, listen.port),),
        version=VERSION,
    )
    member = Member(
        reactor,
        store=store or open_store(config, data_dir),
        settings=join,
        presence=lambda: said,
    )
    serving = ProxyService(
        reactor, member=member, listen_at=(listen.host, listen.port), auth=join.addresses
    )
    return HostService(member, serving)


class ClusterService(MultiService):
    """The parts of one configuration, each started when those before it serve.

    ``ready`` fires with this service when all of them serve, or fails with the error of
    the first that cannot.
    """

    def __init__(self, reactor: Any, loaded: Loaded, parts: Sequence[str] = ()) -> None:
        super().__init__()
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
        self._looking: list[LoopingCall] = []
        self._auth_port = 0

    @property
    def owner(self) -> IAuthority:
        """Auth of this process, called as its owner. Raises Unavailable before it serves."""
        config = self._loaded.config.auth
        if config is None or self.auth is None or self.auth.authority is None:
            raise Unavailable("auth does not run in this process")
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
        for looking in self._looking:
            if looking.running:
                looking.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            await maybeDeferred(service.stopService)

    async def _start(self) -> None:
        config = self._loaded.config
        if "auth" in self._parts and config.auth is not None:
            self.auth = auth_service(self._reactor, config.auth, config.data_dir)
            self.auth.setServiceParent(self)
            self._auth_port = await self.auth.ready
        if "proxy" in self._parts and config.proxy is not None:
            store = open_store(config.proxy, config.data_dir)
            join = await self._join(config.proxy.join, store, HostRole.PROXY)
            self.proxy = proxy_service(
                self._reactor, config.proxy, config.data_dir, join=join, store=store
            )
            self.proxy.setServiceParent(self)
            await self.proxy.ready
        if "node" in self._parts and config.node is not None:
            store = open_store(config.node, config.data_dir)
            join = await self._join(config.node.join, store, HostRole.NODE)
            self.node = node_service(
                self._reactor, config.node, config.data_dir, join=join, store=store
            )
            self.node.setServiceParent(self)
            await self.node.ready
            self.node_since = now(self._reactor)

    async def _join(
        self, join: JoinConfig | None, store: MemberStore, role: HostRole
    ) -> JoinSettings:
        """Return how a host joins: as configured, or auth of this process by a token from it."""
        if join is not None:
            return join_settings(join)
        config = self._loaded.config.auth
        if config is None or self.auth is None:
            raise InvalidInput(f"{role.value}.join: missing: where is auth?")
        tokens = OwnTokens(self.owner, role, store)
        pins = await tokens.look(now(self._reactor))
        looking = LoopingCall(lambda: Deferred.fromCoroutine(tokens.look(now(self._reactor))))
        looking.clock = self._reactor
        self._looking.append(looking)
        looking.start(LOOK_SECONDS, now=False)
        host = config.listen.host
        address = Address("127.0.0.1" if is_wildcard(host) else host, self._auth_port)
        return JoinSettings((str(address),), pins, tokens.take)


class OwnTokens:
    """Makes a token whenever a host in the process of its auth needs one to join.

    That is at its first start, and when its certificates ran out while the machine slept.
    """

    def __init__(self, authority: IAuthority, role: HostRole, store: MemberStore) -> None:
        self._authority = authority
        self._role = role
        self._store = store
        self._token: str | None = None

    async def look(self, moment: datetime) -> tuple[str, ...]:
        """Make a token if one is needed; return the pins of the cluster's host authority."""
        identity = self._store.identity
        if identity is None or identity.expires <= moment:
            made: TokenAdded = await self._authority.perform(
                ADD_TOKEN, NewToken((self._role,), max_uses=1)
            )
            self._token = made.token
        known: AuthorityList = await self._authority.perform(AUTHORITIES, Nothing())
        host = authority_of(known.trusted, AuthorityKind.HOST)
        return () if host is None else host.pins

    def take(self) -> str | None:
        """Return the token that was made last."""
        return self._token
