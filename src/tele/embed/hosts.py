"""How are nodes and proxies made from their configuration, with their membership?

Invariant: what serves is stopped before what it needs, the membership last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import implementer

from tele._version import VERSION
from tele.admission.limits import PROXY_STARTUPS, STARTUPS, Limits, fitted
from tele.admission.penalties import LOOPBACK, PenaltyRules
from tele.capacity.descriptors import process_budget
from tele.conch.server.factory import ServerAlgorithms
from tele.conch.server.settings import ServerSettings
from tele.config.values import (
    Address,
    HttpsCertConfig,
    JoinConfig,
    Keep,
    NodeConfig,
    PenaltiesConfig,
    ProxyConfig,
    ProxyProtocol,
)
from tele.data_dir import DataDirLock
from tele.embed.addresses import host_name, public_address
from tele.embed.egress import network, way_out
from tele.embed.plugins import choose
from tele.embed.tunnelling import Tunnelling
from tele.errors import InvalidInput
from tele.https.file_certificate import FileCertificate
from tele.interfaces import (
    IAuthority,
    IRecorder,
    IRecorderFactory,
    ISubsystemFactory,
    RecorderSurroundings,
    Surroundings,
)
from tele.loop import make_monotonic, now
from tele.membership.agreement import check_kept_identity
from tele.membership.files import private_folder
from tele.membership.joining import JoinSettings
from tele.membership.member import Member
from tele.membership.store import DirectoryStore, MemberStore, MemoryStore
from tele.model.api.operation import Operation
from tele.model.identity import HostRole
from tele.model.presence import Mode, Presence
from tele.node.labels import LabelCommand, Labels
from tele.node.presence import NodePresence
from tele.node.service import NodeService
from tele.node.settings import Ingress, SessionSettings
from tele.node.spawning import Spawning, session_options
from tele.private_files import read_secret
from tele.proxy.service import ProxyService


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
            return read_secret(path, "token_file").decode("utf-8").strip()
        except OSError as error:
            raise InvalidInput(f"token_file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidInput(f"token_file {path}: this is no token") from None

    return read


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
    """A node or a proxy with its membership. ``ready`` fires with the port.

    ``lock`` is released when everything has stopped.
    """

    def __init__(
        self, member: Member, serving: Any, recorder: Any = None, lock: DataDirLock | None = None
    ) -> None:
        super().__init__()
        self.member = member
        self.serving = serving
        self.ready: Deferred[int] = serving.ready
        self._recorder = recorder
        self._lock = lock
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

    def force(self) -> None:
        """When it stops, or while it does: wait for nobody."""
        self.serving.force()

    async def _stop(self) -> None:
        # What serves first: its last events and recordings still need the membership.
        for service in (self.serving, self._recorder, self.member):
            if IService.providedBy(service) and service.running:
                await maybeDeferred(service.stopService)
        if self._lock is not None:
            self._lock.release()

    def stopService(self) -> Deferred[None]:
        """Stop what serves, then the recorder, then the membership."""
        self._stopped = True
        self.running = 0
        return Deferred.fromCoroutine(self._stop())


def limits_of(config: NodeConfig | ProxyConfig) -> Limits:
    """Return the bounds for whoever comes: also those that the process's descriptors set."""
    startups = PROXY_STARTUPS if isinstance(config, ProxyConfig) else STARTUPS
    limits = Limits(
        startups=startups,
        keepalive_interval=config.keepalive.total_seconds(),
        penalties=penalty_rules(config.penalties),
    )
    return fitted(limits, process_budget().shares.unauthenticated)


def server_settings(config: NodeConfig | ProxyConfig) -> ServerSettings:
    """Return limits, algorithms and the time to drain of an SSH server."""
    return ServerSettings(
        limits_of(config), ssh_algorithms(config), config.shutdown_grace.total_seconds()
    )


def ssh_algorithms(config: NodeConfig | ProxyConfig) -> ServerAlgorithms:
    """Return what is offered to SSH clients."""
    return ServerAlgorithms(_encoded(config.key_exchanges), _encoded(config.ciphers))


def _encoded(names: Sequence[str] | None) -> tuple[bytes, ...] | None:
    return None if names is None else tuple(name.encode("ascii") for name in names)


def penalty_rules(config: PenaltiesConfig) -> PenaltyRules:
    """Return what strangers are held responsible for."""
    return PenaltyRules(
        crash=config.crash.total_seconds(),
        authfail=config.authfail.total_seconds(),
        noauth=config.noauth.total_seconds(),
        refuseconnection=config.refuseconnection.total_seconds(),
        grace_exceeded=config.grace_exceeded.total_seconds(),
        max=config.max.total_seconds(),
        min=config.min.total_seconds(),
        max_sources=config.max_sources,
        overflow=config.overflow,
        ipv4_bits=config.ipv4_bits,
        ipv6_bits=config.ipv6_bits,
        exempt=(*LOOPBACK, *(network.value for network in config.exempt)),
    )


def open_store(config: NodeConfig | ProxyConfig, data_dir: Path) -> MemberStore:
    """Open what a host remembers of its membership, in ``data_dir`` or in memory."""
    if isinstance(config, NodeConfig):
        if config.state is Keep.MEMORY:
            return MemoryStore()
        return DirectoryStore(private_folder(data_dir), HostRole.NODE)
    return DirectoryStore(private_folder(data_dir), HostRole.PROXY)


def _agreeing(
    store: MemberStore, join: JoinSettings, role: HostRole, data_dir: Path
) -> MemberStore:
    """Return ``store`` if what it keeps is of the cluster that ``join`` means; else close it."""
    try:
        check_kept_identity(store, join.pins, role, data_dir)
    except InvalidInput as error:
        store.close()
        raise InvalidInput(f"{role.value}.join: {error}") from None
    return store


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
    part in every session in place of the one that ``config`` chooses. Raises
    :class:`tele.errors.Conflict` when another process runs the node of ``data_dir``.
    """
    make_monotonic(reactor)
    lock = DataDirLock(private_folder(data_dir), HostRole.NODE.value)
    try:
        return _locked_node(reactor, config, data_dir, lock, join, store, recorder)
    except BaseException:
        lock.release()
        raise


def _locked_node(
    reactor: Any,
    config: NodeConfig,
    data_dir: Path,
    lock: DataDirLock,
    join: JoinSettings | None,
    store: MemberStore | None,
    recorder: IRecorder | None,
) -> HostService:
    folder = private_folder(data_dir)
    if join is None:
        if config.join is None:
            raise InvalidInput("node.join: missing: where is auth?")
        join = join_settings(config.join)
    spawning = Spawning(reactor, session_options(config.pam, config.kill_leftovers))
    commands = tuple(
        LabelCommand(name, each.command, each.period) for name, each in config.commands.items()
    )
    labels = Labels(reactor, spawning, config.labels, commands)
    listen = config.listen
    tunnelled = config.join is not None and config.join.proxy is not None
    if listen is None and not tunnelled:
        listen = Address("0.0.0.0", 3022)  # noqa: S104  (a server's default)
    mode = Mode.DIRECT if not tunnelled else Mode.TUNNEL if listen is None else Mode.BOTH
    presence = NodePresence(config.name or host_name(), labels, mode=mode)
    store = _agreeing(store or open_store(config, data_dir), join, HostRole.NODE, data_dir)
    out = way_out(reactor, config.join)
    tunnels = None
    if tunnelled:
        tunnels = Tunnelling(reactor, config.tunnels, join, out, limits_of(config))
    member = Member(
        reactor,
        store=store,
        settings=join,
        presence=presence,
        network=network(out) if tunnels is None else tunnels.network,
    )
    if tunnels is not None:
        tunnels.member = member
    if recorder is None:
        surroundings = RecorderSurroundings(
            reactor,
            folder,
            _AsMember(member),
            lambda data: member.identity.keys.ssh.sign(data),  # noqa: PLW0108 (keys change)
            lambda: member.identity.ssh_certificate.line,
        )
        recorder = choose(IRecorderFactory, config.recorder, surroundings)
    serving = NodeService(
        reactor,
        member=member,
        presence=presence,
        sessions=SessionSettings(
            spawning,
            recorder,
            config.gateway_ports,
            [
                choose(ISubsystemFactory, chosen, Surroundings(reactor, folder))
                for chosen in config.subsystems
            ],
        ),
        ingress=Ingress(
            None if listen is None else (listen.host, listen.port),
            lambda port: public_address(listen or Address("", port), config.public_addr, port),
            None if tunnels is None else tunnels.agents,
        ),
        server=server_settings(config),
    )
    return HostService(member, serving, recorder, lock)


def _given(reactor: Any, files: HttpsCertConfig) -> FileCertificate:
    try:
        return FileCertificate(files.cert, files.key, reactor, lambda: now(reactor))
    except InvalidInput as error:
        raise InvalidInput(f"proxy.https_cert: {error}") from None


def proxy_service(
    reactor: Any,
    config: ProxyConfig,
    data_dir: Path,
    *,
    join: JoinSettings | None = None,
    store: MemberStore | None = None,
) -> HostService:
    """Return a proxy, which starts its membership itself.

    ``join`` and ``store`` come from ``config`` if they are not given. Raises
    :class:`tele.errors.Conflict` when another process runs the proxy of ``data_dir``.
    """
    make_monotonic(reactor)
    lock = DataDirLock(private_folder(data_dir), HostRole.PROXY.value)
    try:
        return _locked_proxy(reactor, config, data_dir, lock, join, store)
    except BaseException:
        lock.release()
        raise


def _locked_proxy(
    reactor: Any,
    config: ProxyConfig,
    data_dir: Path,
    lock: DataDirLock,
    join: JoinSettings | None,
    store: MemberStore | None,
) -> HostService:
    if join is None:
        if config.join is None:
            raise InvalidInput("proxy.join: missing: where is auth?")
        join = join_settings(config.join)
    listen = config.listen
    https = None if config.https_cert is None else _given(reactor, config.https_cert)
    required = config.proxy_protocol is ProxyProtocol.REQUIRED
    said = Presence(
        # Not the machine's: the node on it has that one.
        name=config.name or f"{host_name()}-proxy",
        role=HostRole.PROXY,
        addresses=(public_address(listen, config.public_addr, listen.port),),
        version=VERSION,
        peer=public_address(listen, config.peer_addr, listen.port),
        peer_header=required,
    )
    out = way_out(reactor, config.join)
    member = Member(
        reactor,
        store=_agreeing(store or open_store(config, data_dir), join, HostRole.PROXY, data_dir),
        settings=join,
        presence=lambda: said,
        network=network(out),
    )
    serving = ProxyService(
        reactor,
        member=member,
        listen_at=(listen.host, listen.port),
        auth=join.addresses,
        limits=limits_of(config),
        algorithms=ssh_algorithms(config),
        out=out,
        shutdown_grace=config.shutdown_grace.total_seconds(),
        proxy_protocol=required,
        https=https,
    )
    return HostService(member, serving, lock=lock)
