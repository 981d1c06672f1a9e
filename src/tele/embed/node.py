"""How is a node made from its configuration, with its membership?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tele.config.values import (
    Address,
    NodeConfig,
)
from tele.data_dir import DataDirLock
from tele.embed.addresses import host_name, public_address
from tele.embed.egress import host_dialer, network
from tele.embed.host_users import account_options, host_users
from tele.embed.hosts import (
    HostService,
    agreeing,
    join_settings,
    limits_of,
    open_store,
    server_settings,
)
from tele.embed.plugins import choose
from tele.embed.recorders import make_recorders
from tele.errors import InvalidInput
from tele.interfaces import (
    IJoinedTracer,
    IRecorder,
    ISessionTracer,
    ISessionTracerFactory,
    ISubsystemFactory,
    NamedRecorder,
    Surroundings,
)
from tele.loop import make_monotonic
from tele.membership.files import private_folder
from tele.membership.joining import JoinSettings
from tele.membership.member import Member
from tele.membership.store import MemberStore
from tele.model.identity import HostRole
from tele.model.presence import Mode
from tele.node.labels import LabelCommand, Labels
from tele.node.presence import NodePresence
from tele.node.service import NodeService
from tele.node.settings import Ingress, SessionSettings
from tele.node.spawning import Spawning, session_options
from tele.reactor import Reactor


def node_service(
    reactor: Reactor,
    config: NodeConfig,
    data_dir: Path,
    *,
    join: JoinSettings | None = None,
    store: MemberStore | None = None,
    recorder: IRecorder | Sequence[NamedRecorder] | None = None,
) -> HostService:
    """Return a node, which starts its membership itself.

    ``join`` and ``store`` come from ``config`` by default. ``recorder`` replaces the one that
    ``config`` chooses; several have names. Raises :class:`tele.errors.Conflict` when another
    process runs the node of ``data_dir``.
    """
    make_monotonic(reactor)
    lock = DataDirLock(private_folder(data_dir), HostRole.NODE.value)
    try:
        return _locked_node(reactor, config, data_dir, lock, join, store, recorder)
    except BaseException:
        lock.release()
        raise


def _locked_node(
    reactor: Reactor,
    config: NodeConfig,
    data_dir: Path,
    lock: DataDirLock,
    join: JoinSettings | None,
    store: MemberStore | None,
    recorder: IRecorder | Sequence[NamedRecorder] | None,
) -> HostService:
    folder = private_folder(data_dir)
    if join is None:
        if config.join is None:
            raise InvalidInput("node.join: missing: where is auth?")
        join = join_settings(config.join)
    options = account_options(
        session_options(config.pam, config.kill_leftovers), config.host_users, folder
    )
    tracer: ISessionTracer = choose(
        ISessionTracerFactory, config.tracer, Surroundings(reactor, folder)
    )
    if IJoinedTracer.providedBy(tracer):
        options = options._replace(tracer=tracer.descriptor)
    spawning = Spawning(reactor, options)
    commands = tuple(
        LabelCommand(name, each.command, each.period) for name, each in config.commands.items()
    )
    labels = Labels(reactor, spawning, config.labels, commands)
    listen = config.listen_at
    tunnelled = config.join is not None and config.join.proxy is not None
    mode = Mode.DIRECT if not tunnelled else Mode.TUNNEL if listen is None else Mode.BOTH
    presence = NodePresence(config.name or host_name(), labels, mode=mode)
    store = agreeing(store or open_store(config, data_dir), join, HostRole.NODE, data_dir)
    dialer = host_dialer(reactor, config.join)
    tunnels = None
    if tunnelled:
        # With all that a tunnel is, which a node that clients reach directly does not need.
        from tele.embed.tunnelling import Tunnelling

        tunnels = Tunnelling(reactor, config.tunnels, join, dialer, limits_of(config))
    member = Member(
        reactor,
        store=store,
        settings=join,
        presence=presence,
        network=network(dialer) if tunnels is None else tunnels.network,
    )
    if tunnels is not None:
        tunnels.member = member
    if recorder is None:
        recorder = make_recorders(reactor, data_dir, HostRole.NODE, member, config.recorder)
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
            host_users(reactor, config.host_users, folder, options, spawning.request_account),
            config.host_users.accounts is not None,
            tracer,
        ),
        ingress=Ingress(
            None if listen is None else (listen.host, listen.port),
            lambda port: public_address(listen or Address("", port), config.public_addr, port),
            None if tunnels is None else tunnels.agents,
        ),
        server=server_settings(config),
    )
    return HostService(member, serving, recorder, lock)
