"""A real auth on loopback, and hosts that join it, all on a reactor of one's own."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field
from twisted.internet.defer import Deferred

from own_reactor import OwnReactor, own_reactor
from tele.admission.limits import Limits
from tele.auth.local import ADMIN_ROLES, LOCAL_ADMIN, LocalAuthority
from tele.auth.presence import Announcement, Hosts
from tele.auth.service import AuthService
from tele.certs.check import LATEST
from tele.certs.keys import PrivateKey
from tele.certs.suites import SignatureSuite
from tele.certs.x509 import TlsKey
from tele.conch.server.settings import ServerSettings
from tele.config.values import Address, JoinConfig, NodeConfig, Pins
from tele.embed.hosts import HostService
from tele.embed.node import node_service
from tele.interfaces import IAuthority, IJoinedTracer, IRecorder, NamedRecorder
from tele.membership.joining import JoinSettings
from tele.membership.member import Member
from tele.membership.store import DirectoryStore, MemberStore
from tele.model.api.audit import LIST_EVENTS, ListEvents
from tele.model.api.hosts import LIST_HOSTS, ListHosts
from tele.model.api.members import Proxy, PublicKeys
from tele.model.api.roles import PUT_ROLE, PutRole
from tele.model.api.tokens import ADD_TOKEN, NewToken
from tele.model.event import Event
from tele.model.identity import Caller, HostRole, UserIdentity
from tele.model.presence import Host, Presence
from tele.model.recording_modes import PROXY_FEATURES
from tele.model.resources import Conditions, Metadata, Role, RoleOptions, RoleSpec
from tele.node.labels import LabelCommand, Labels
from tele.node.local_accounts import LocalAccounts
from tele.node.presence import NodePresence
from tele.node.realm import look_up
from tele.node.service import NodeService
from tele.node.settings import Ingress, MakeAgents, SessionSettings
from tele.node.spawning import Spawning
from tele.proxy.service import ProxyService
from tele.recording.archives.directory import DirectoryArchive
from tele.spawner.spawn_messages import NO_OPTIONS
from tele.store.sqlite import SqliteBackend
from tele.tunnel.proxy_choice import preferred


def free_port() -> int:
    """Ask the kernel for a port of 127.0.0.1."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


def keep_announcements(monkeypatch: pytest.MonkeyPatch) -> list[Presence]:
    """Return a list of what hosts say to auth about themselves from now on."""
    announced: list[Presence] = []
    observe = Hosts.observe

    def heard(hosts: Hosts, role: HostRole, announcement: Announcement) -> Any:
        announced.append(announcement.presence)
        return observe(hosts, role, announcement)

    monkeypatch.setattr(Hosts, "observe", heard)
    return announced


ME = pwd.getpwuid(os.geteuid()).pw_name
NAME = "small"


@define
class SmallNode:
    """A node and its membership."""

    service: NodeService
    member: Member
    spawning: Spawning
    port: int = 0


@define
class SmallProxy:
    """A proxy and its membership."""

    service: ProxyService
    member: Member
    port: int = 0


@define
class TunnelNode:
    """A node that is reached through tunnels, as its configuration makes it."""

    host: HostService

    @property
    def serving(self) -> NodeService:
        """What serves clients."""
        assert isinstance(self.host.serving, NodeService)
        return self.host.serving

    @property
    def proxies(self) -> tuple[str, ...]:
        """The proxies that it has tunnels to."""
        return self.host.member._announcer._presence().tunnels


@define
class SmallCluster:
    """One auth, started and stopped at will."""

    reactor: OwnReactor
    folder: Path
    auth: AuthService | None = None
    port: int = 0
    nodes: list[SmallNode] = field(factory=list)
    proxies: list[SmallProxy] = field(factory=list)
    tunnel_nodes: list[TunnelNode] = field(factory=list)
    ssh_keys: dict[str, PrivateKey] = field(factory=dict)
    programs: list[subprocess.Popen[bytes]] = field(factory=list)
    #: The source address of clients of proxies.
    source: str = "127.0.0.1"
    #: Where auth, nodes and proxies listen.
    interface: str = "127.0.0.1"
    #: The configured suite.
    suite: SignatureSuite | None = None

    # -- auth -------------------------------------------------------------------------
    def start_auth(self) -> None:
        """Start auth, on the same port as before if it ran before."""
        self.auth = AuthService(
            self.reactor,
            cluster=NAME,
            backend=SqliteBackend(self.folder / "auth.sqlite", self.reactor),
            archive=DirectoryArchive(self.folder / "recordings", self.reactor),
            host_id="11111111-1111-4111-8111-111111111111",
            name="auth",
            listen=(self.interface, self.port),
            suite=self.suite,
        )
        self.auth.startService()
        self.port = self.reactor.wait(self.auth.ready)

    def stop_auth(self) -> None:
        """Stop auth; its store stays."""
        assert self.auth is not None
        auth, self.auth = self.auth, None
        stopping: Any = auth.stopService()
        self.reactor.wait(stopping)

    @property
    def local(self) -> LocalAuthority:
        """Auth in this process."""
        assert self.auth is not None
        assert self.auth.authority is not None
        return self.auth.authority

    @property
    def admin(self) -> IAuthority:
        """Auth as an administrator sees it."""
        identity = UserIdentity(LOCAL_ADMIN, NAME, LATEST, ADMIN_ROLES)
        return self.local.as_caller(Caller(identity, "local"))

    def settings(self, labels: Mapping[str, str] | None = None) -> JoinSettings:
        """Make a token, and return how to join with it."""
        request = NewToken((HostRole.NODE, HostRole.PROXY), labels=labels or {})
        added = self.reactor.wait(self.admin.perform(ADD_TOKEN, request))
        return JoinSettings((f"127.0.0.1:{self.port}",), (added.ca_pin,), lambda: added.token)

    def events(self, name: str = "") -> tuple[Event, ...]:
        """Return the audit's events of this name."""
        listed = self.reactor.wait(self.admin.perform(LIST_EVENTS, ListEvents(event=name)))
        items: tuple[Event, ...] = listed.items
        return items

    def wait_event(self, name: str, count: int = 1) -> tuple[Event, ...]:
        """Wait until the audit has so many events of this name."""
        self.reactor.until(lambda: len(self.events(name)) >= count)
        return self.events(name)

    def hosts(self) -> tuple[Host, ...]:
        """Return the nodes as ``tele ls`` shows them."""
        listed = self.reactor.wait(self.admin.perform(LIST_HOSTS, ListHosts()))
        items: tuple[Host, ...] = listed.items
        return items

    # -- hosts ------------------------------------------------------------------------
    def member(self, store: MemberStore, presence: Any = None, **named: Any) -> Member:
        """Return a membership that is not started."""
        named.setdefault("settings", self.settings() if self.auth else JoinSettings(()))
        announced = Presence("web1", HostRole.NODE, ("127.0.0.1:1",))
        return Member(self.reactor, store=store, presence=presence or (lambda: announced), **named)

    def node(
        self,
        *,
        name: str = "web1",
        labels: Mapping[str, str] | None = None,
        commands: tuple[LabelCommand, ...] = (),
        recorder: IRecorder | Sequence[NamedRecorder] | None = None,
        settings: JoinSettings | None = None,
        port: int = 0,
        agents: MakeAgents | None = None,
        limits: Limits | None = None,
        look_up: Callable[[str], None] = look_up,
        accounts: bool = False,
        **sessions: Any,
    ) -> SmallNode:
        """Start a node and wait until it serves; ``sessions`` has more of what these have.

        With ``accounts`` roles have accounts of this machine made.
        """
        options = NO_OPTIONS
        if accounts:
            options = options._replace(accounts=str(self.folder / f"{name}-accounts"))
        if IJoinedTracer.providedBy(sessions.get("tracer")):
            options = options._replace(tracer=sessions["tracer"].descriptor)
        spawning = Spawning(self.reactor, options)
        if accounts:
            sessions["host_users"] = LocalAccounts(spawning.request_account)
        own = Labels(self.reactor, spawning, labels or {}, commands)
        presence = NodePresence(name, own)
        store = DirectoryStore(self.folder / name, HostRole.NODE)
        member = self.member(store, presence, settings=settings or self.settings())
        service = NodeService(
            self.reactor,
            member=member,
            presence=presence,
            sessions=SessionSettings(spawning, recorder, **sessions),
            ingress=Ingress((self.interface, port), lambda bound: f"127.0.0.1:{bound}", agents),
            server=ServerSettings(limits or Limits()),
            look_up=look_up,
        )
        node = SmallNode(service, member, spawning)
        self.nodes.append(node)
        member.startService()
        service.startService()
        node.port = self.reactor.wait(service.ready)
        return node

    def stop_node(self, node: SmallNode) -> None:
        """Stop a node; its folder stays."""
        self.nodes.remove(node)
        self.reactor.wait(node.service.stopService())
        self.reactor.wait(node.member.stopService())

    def proxy(
        self,
        name: str = "proxy1",
        port: int = 0,
        public: int = 0,
        settings: JoinSettings | None = None,
        **service: Any,
    ) -> SmallProxy:
        """Start a proxy and wait until it serves; ``port`` 0 asks the kernel for one.

        ``public`` is the port where a load balancer stands before it, if there is one;
        ``settings`` are how it joins; by default with a new token of auth.
        ``service`` has more of how it serves.
        """
        port = port or free_port()
        store = DirectoryStore(self.folder / name, HostRole.PROXY)
        at = f"127.0.0.1:{port}"
        announced = Presence(
            name,
            HostRole.PROXY,
            (f"127.0.0.1:{public or port}",),
            peer=at,
            peer_header=service.get("proxy_protocol", False),
            features=PROXY_FEATURES,
        )
        member = self.member(store, lambda: announced, settings=settings or self.settings())
        serving = ProxyService(
            self.reactor,
            member=member,
            listen_at=(self.interface, port),
            auth=(f"127.0.0.1:{self.port}",),
            **service,
        )
        proxy = SmallProxy(serving, member, public or port)
        self.proxies.append(proxy)
        member.startService()
        serving.startService()
        self.reactor.wait(serving.ready)
        return proxy

    def stop_proxy(self, proxy: SmallProxy) -> None:
        """Stop a proxy; its folder stays."""
        self.proxies.remove(proxy)
        self.reactor.wait(Deferred.fromCoroutine(proxy.service.stopService()))
        self.reactor.wait(proxy.member.stopService())

    def tunnel_node(
        self,
        proxy: SmallProxy,
        name: str = "nat1",
        folder: str = "",
        join: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> TunnelNode:
        """Start a node that knows only ``proxy``, and wait until it serves.

        ``join`` has more of how it joins.
        """
        settings = self.settings()
        token = self.folder / f"{name}.token"
        token.touch(0o600)
        token.write_text(settings.token() or "")
        values = NodeConfig(
            name=name,
            join=JoinConfig(
                **{"proxy": Address("127.0.0.1", proxy.port), **(join or {})},
                token_file=token,
                ca_pin=Pins(settings.pins),
            ),
            **config,
        )
        host = node_service(self.reactor, values, self.folder / (folder or name))
        node = TunnelNode(host)
        self.tunnel_nodes.append(node)
        host.startService()
        self.reactor.wait(host.ready)
        return node

    def settled(self, node: TunnelNode, *proxies: SmallProxy) -> str:
        """Wait until ``node``, which wants one tunnel, has it to whom it likes best; return its id.

        Its first tunnel may be to the proxy that it joined at. All ``proxies`` know the last.
        """
        known = [Proxy(proxy.member.host_id, "", ()) for proxy in proxies]
        host_id = node.host.member.host_id
        best = preferred(host_id, known)[0].id

        def is_known(proxy: SmallProxy) -> bool:
            host = proxy.service.router.index.get(host_id)
            return host is not None and host.tunnels == (best,)

        self.reactor.until(lambda: node.proxies == (best,) and all(map(is_known, proxies)))
        return best

    def stop_tunnel_node(self, node: TunnelNode) -> None:
        """Stop such a node; its folder stays."""
        self.tunnel_nodes.remove(node)
        self.reactor.wait(node.host.stopService())

    # -- users ------------------------------------------------------------------------
    def person(self, name: str, *logins: str, ttl: timedelta = timedelta(hours=1)) -> None:
        """Make an administrator with a certificate for ``logins``."""
        self.reactor.wait(self.local.ensure_admin(name, logins))
        self.certify(name, ttl)

    def certify(self, name: str, ttl: timedelta = timedelta(hours=1)) -> None:
        """Give a user a new certificate, with the roles that they have now."""
        key = self.ssh_keys.setdefault(name, PrivateKey.generate())
        public = PublicKeys(key.public.line, TlsKey.generate().public_pem)
        certificates = self.reactor.wait(self.local.issue_for(name, public, ttl))
        folder = self.folder / "people"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(key.to_openssh())
        (folder / name).chmod(0o600)
        (folder / f"{name}-cert.pub").write_text(certificates.ssh + "\n")
        host = next(a for a in certificates.authorities if a.kind.value == "host")
        (folder / "known_hosts").write_text(
            "".join(f"@cert-authority * {line}\n" for line in host.ssh_public_keys)
        )

    def ssh_words(self, person: str, node: SmallNode, *args: str, login: str = ME) -> list[str]:
        """Return the arguments of OpenSSH's client."""
        folder = self.folder / "people"
        options = (
            f"Port={node.port}", "BatchMode=yes", f"IdentityFile={folder}/{person}",
            f"CertificateFile={folder}/{person}-cert.pub", "IdentitiesOnly=yes",
            f"UserKnownHostsFile={folder}/known_hosts", "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes", "HostKeyAlias=web1.small", f"User={login}",
        )  # fmt: skip
        return ["-F", "none", *(w for o in options for w in ("-o", o)), *args]

    def start(self, program: str, *args: str) -> subprocess.Popen[bytes]:
        """Start a program that ends with the cluster at the latest."""
        process = subprocess.Popen(
            [program, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=self.folder,
        )
        self.programs.append(process)
        return process

    def run(
        self, program: str, *args: str, stdin: bytes | None = None, seconds: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program while the reactor turns."""
        process = subprocess.Popen(
            [program, *args],
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
        )
        done: list[tuple[bytes, bytes]] = []
        pool = self.reactor.getThreadPool()
        pool.callInThread(lambda: done.append(process.communicate(stdin)))
        try:
            self.reactor.until(lambda: bool(done), seconds)
        finally:
            if not done:
                process.kill()
                self.reactor.until(lambda: bool(done))
        return subprocess.CompletedProcess(process.args, process.returncode, *done[0])

    def ssh(
        self,
        person: str,
        node: SmallNode,
        *args: str,
        login: str = ME,
        stdin: bytes | None = None,
        options: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[bytes]:
        """Run OpenSSH's client as a user."""
        first = self.ssh_words(person, node, *options, "127.0.0.1", *args, login=login)
        return self.run("ssh", *first, stdin=stdin)

    def jump_words(self, person: str, proxy: SmallProxy, host: str, *args: str) -> list[str]:
        """Return the arguments of OpenSSH's client through ``proxy`` to the node ``host``."""
        folder = self.folder / "people"
        common = (
            "BatchMode yes", f"IdentityFile {folder}/{person}",
            f"CertificateFile {folder}/{person}-cert.pub", "IdentitiesOnly yes",
            f"UserKnownHostsFile {folder}/known_hosts", "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes", f"User {ME}",
        )  # fmt: skip
        lines = ["Host jump", "HostName 127.0.0.1", f"Port {proxy.port}",
                 f"HostKeyAlias {proxy.member.host_id}", f"BindAddress {self.source}",
                 "Host *", *common]  # fmt: skip
        file = self.folder / f"ssh_config_{person}_{proxy.port}"
        file.write_text("\n".join(lines) + "\n")
        return ["-F", str(file), "-J", "jump", host, *args]

    def jump(
        self, person: str, proxy: SmallProxy, host: str, *args: str, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run OpenSSH's client through ``proxy`` to the node ``host``."""
        return self.run("ssh", *self.jump_words(person, proxy, host, *args), stdin=stdin)

    def stop(self) -> None:
        """Stop all."""
        for program in self.programs:
            program.kill()
            program.communicate()
        for tunnelled in list(self.tunnel_nodes):
            self.stop_tunnel_node(tunnelled)
        for node in list(self.nodes):
            self.stop_node(node)
        for proxy in list(self.proxies):
            self.stop_proxy(proxy)
        if self.auth is not None:
            self.stop_auth()


def set_options(cluster: SmallCluster, node: SmallNode, **options: Any) -> None:
    """Have the role that allows everything allow this much."""
    set_role(cluster, node, **options)


def set_role(
    cluster: SmallCluster,
    node: SmallNode,
    allow: Mapping[str, Any] | None = None,
    deny: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Have that role allow and deny this as well."""
    everything = Conditions(logins=("{{internal.logins}}",), node_labels={"*": ("*",)})
    spec = RoleSpec(
        allow=evolve(everything, **allow or {}),
        deny=Conditions(**deny or {}),
        options=RoleOptions(**options),
    )
    role = Role(Metadata("access"), spec)
    cluster.reactor.wait(cluster.admin.perform(PUT_ROLE, PutRole("access", role)))
    cluster.reactor.until(lambda: any(r.spec == spec for r in node.member.state.roles))


@contextmanager
def small_cluster(folder: Path) -> Iterator[SmallCluster]:
    """A cluster whose auth runs."""
    with own_reactor() as reactor:
        cluster = SmallCluster(reactor, folder)
        cluster.start_auth()
        try:
            yield cluster
        finally:
            cluster.stop()
