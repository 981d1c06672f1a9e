"""How is a proxy made from its configuration, with its membership?"""

from __future__ import annotations

from pathlib import Path

from tele._version import VERSION
from tele.config.values import (
    Chosen,
    HttpsCertConfig,
    ProxyConfig,
    ProxyProtocol,
    Web,
)
from tele.data_dir import DataDirLock
from tele.embed.addresses import host_name, public_address
from tele.embed.egress import host_dialer, network
from tele.embed.hosts import (
    HostService,
    agreeing,
    join_settings,
    limits_of,
    open_store,
    ssh_algorithms,
)
from tele.embed.recorders import make_recorder
from tele.errors import InvalidInput
from tele.https.file_certificate import FileCertificate
from tele.loop import make_monotonic, now
from tele.membership.files import private_folder
from tele.membership.joining import JoinSettings
from tele.membership.member import Member
from tele.membership.store import MemberStore
from tele.model.identity import HostRole
from tele.model.presence import Presence
from tele.model.recording_modes import PROXY_FEATURES
from tele.proxy.service import ProxyService
from tele.reactor import Reactor
from tele.web.built import read_built
from tele.web.site import WebSite


def _given(reactor: Reactor, files: HttpsCertConfig) -> FileCertificate:
    try:
        return FileCertificate(files.cert, files.key, reactor, lambda: now(reactor))
    except InvalidInput as error:
        raise InvalidInput(f"proxy.https_cert: {error}") from None


def _site(config: ProxyConfig) -> WebSite | None:
    if config.web is Web.OFF:
        return None
    return WebSite(read_built(), own_certificate=config.https_cert is not None)


def proxy_service(
    reactor: Reactor,
    config: ProxyConfig,
    data_dir: Path,
    *,
    join: JoinSettings | None = None,
    store: MemberStore | None = None,
) -> HostService:
    """Return a proxy, which starts its membership itself.

    ``join`` and ``store`` come from ``config`` by default. Raises :class:`tele.errors.Conflict`
    when another process runs the proxy of ``data_dir``.
    """
    make_monotonic(reactor)
    lock = DataDirLock(private_folder(data_dir), HostRole.PROXY.value)
    try:
        return _locked_proxy(reactor, config, data_dir, lock, join, store)
    except BaseException:
        lock.release()
        raise


def _locked_proxy(
    reactor: Reactor,
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
    presence = Presence(
        # Not the machine's name: its node has that one.
        name=config.name or f"{host_name()}-proxy",
        role=HostRole.PROXY,
        addresses=(public_address(listen, config.public_addr, listen.port),),
        version=VERSION,
        peer=public_address(listen, config.peer_addr, listen.port),
        peer_header=required,
        features=PROXY_FEATURES,
    )
    dialer = host_dialer(reactor, config.join)
    member = Member(
        reactor,
        store=agreeing(store or open_store(config, data_dir), join, HostRole.PROXY, data_dir),
        settings=join,
        presence=lambda: presence,
        network=network(dialer),
    )
    recorder = make_recorder(reactor, data_dir, HostRole.PROXY, member, Chosen("tape"))
    serving = ProxyService(
        reactor,
        member=member,
        listen_at=(listen.host, listen.port),
        auth=join.addresses,
        limits=limits_of(config),
        algorithms=ssh_algorithms(config),
        dialer=dialer,
        shutdown_grace=config.shutdown_grace.total_seconds(),
        proxy_protocol=required,
        https=https,
        site=_site(config),
        recorder=recorder,
    )
    return HostService(member, serving, recorder, lock)
