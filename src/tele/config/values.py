"""What can be configured? Every section and key, with its meaning and its default.

The reference (``docs/reference/configuration``) is printed from these classes, so that
the two never differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from attrs import Factory, field, frozen

from tele.admission.penalties import Overflow, PenaltyRules
from tele.certs.suites import SignatureSuite, suite_problem
from tele.config.host_users import HostUsersConfig as HostUsersConfig
from tele.config.keys import key
from tele.config.metrics import AUTH_METRICS, NODE_METRICS, PROXY_METRICS
from tele.config.metrics import MetricsAddress as MetricsAddress
from tele.config.recordings import (
    RecordingEncryptionConfig,
    RecordingLimitsConfig,
    RecordingsRetentionConfig,
)
from tele.config.scalars import Chosen as Chosen
from tele.config.scalars import Keep as Keep
from tele.config.scalars import Level as Level
from tele.config.scalars import LogForm as LogForm
from tele.config.scalars import Network as Network
from tele.config.scalars import Pins as Pins
from tele.config.scalars import ProxyProtocol as ProxyProtocol
from tele.config.scalars import Web as Web
from tele.config.signing_keys import SigningKeysConfig
from tele.errors import quoted
from tele.model.access import GatewayPorts
from tele.model.addresses import Address as Address
from tele.model.names import HOST_NAME_PATTERN
from tele.model.resources import RecordingSettings, keepalive_problem
from tele.model.sizes import Size as Size
from tele.outbound.egress import EgressProxy
from tele.wire.ciphers import CIPHERS, SERVER_CIPHERS
from tele.wire.key_agreement import METHODS

_CLUSTER = re.compile(
    r"(?=.{1,64}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
)
_NAME = re.compile(HOST_NAME_PATTERN, re.ASCII)


def cluster_name_problem(name: str) -> str:
    """Return what is wrong with the name of a cluster, or nothing."""
    if _CLUSTER.fullmatch(name):
        return ""
    return "a cluster's name is one of DNS: lower case letters, digits and - between dots"


def _recorders_problem(chosen: tuple[Chosen, ...]) -> str:
    if not chosen:
        return "name a recorder; session_recording of auth says whether sessions are recorded"
    kinds = [each.kind for each in chosen]
    return "" if len(set(kinds)) == len(kinds) else "each recorder once"


def _node_name_problem(name: str) -> str:
    return "" if _NAME.fullmatch(name) else "a name is letters, digits and ._- between them"


def _names_of(known: Collection[bytes], what: str) -> Callable[[tuple[str, ...]], str]:
    def problem(names: tuple[str, ...]) -> str:
        for name in names:
            if name.encode("utf-8") not in known:
                return f"there is no {what} {quoted(name)}; there are {_listed(known)}"
        if not names:
            return f"at least one {what}"
        return "" if len(set(names)) == len(names) else f"each {what} once"

    return problem


def _listed(names: Collection[bytes]) -> str:
    return ", ".join(name.decode("ascii") for name in names)


def _tunnels_problem(value: int) -> str:
    return "" if 1 <= value <= 64 else "1 to 64"


_SERVICE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)


def _service_problem(name: str) -> str:
    return "" if _SERVICE.fullmatch(name) else "the name of a file in /etc/pam.d, or off"


def _period_problem(value: timedelta) -> str:
    return "" if value >= timedelta(seconds=1) else "at least 1s"


def _within(least: int, most: int) -> Callable[[int], str]:
    return lambda value: "" if least <= value <= most else f"from {least} to {most}"


_RULES: Final = PenaltyRules()


def _seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


@frozen
class PenaltiesConfig:
    """How long an address is refused whose connections do not log in.

    As ``PerSourcePenalties`` of sshd_config(5). Penalties add up; ``0s`` is no penalty. The
    defaults are those of :class:`tele.admission.penalties.PenaltyRules`.
    """

    crash: timedelta = key("For a message that could not be handled.", _seconds(_RULES.crash))
    authfail: timedelta = key("For a login attempt that was denied.", _seconds(_RULES.authfail))
    noauth: timedelta = key(
        "For closing without a login attempt, or for a protocol error.", _seconds(_RULES.noauth)
    )
    refuseconnection: timedelta = key(
        "For a connection while refused.", _seconds(_RULES.refuseconnection)
    )
    grace_exceeded: timedelta = key("For not logging in in time.", _seconds(_RULES.grace_exceeded))
    max: timedelta = key("The maximum of an address's penalties.", _seconds(_RULES.max))
    min: timedelta = key("Penalties below this do not refuse yet.", _seconds(_RULES.min))
    max_sources: int = key(
        "How many addresses are tracked.", _RULES.max_sources, check=_within(1, 10_000_000)
    )
    overflow: Overflow = key(
        "With more than that: ``permissive`` forgets the penalties that expire first, ``deny-all``"
        " refuses all new addresses.",
        _RULES.overflow,
    )
    ipv4_bits: int = key(
        "The prefix length that counts as one address.", _RULES.ipv4_bits, check=_within(8, 32)
    )
    ipv6_bits: int = key("The same for IPv6.", _RULES.ipv6_bits, check=_within(16, 128))
    exempt: tuple[Network, ...] = key(
        "Addresses and networks (``10.0.0.0/8``) that are never shut out, such as proxies and"
        " NATs that many people share. This machine itself and the addresses that the cluster's"
        " proxies announce are exempt anyway.",
        (),
    )


_PENALTIES: Any = field(
    default=PenaltiesConfig(),
    metadata={"meaning": "How long addresses are refused after failures to authenticate."},
)


_SHUTDOWN_GRACE: Any = key(
    "How long sessions may continue after SIGTERM or SIGINT; new connections are refused "
    "meanwhile. A second signal ends them at once.",
    timedelta(seconds=30),
)


_KEEPALIVE: Any = key(
    "A tunnel that is silent for so long is sent a keepalive; one that is silent four times as "
    "long is closed. ``0s``: never. For clients of users see ``auth.client_keepalive``.",
    timedelta(seconds=15),
    check=keepalive_problem,
)


_KEY_EXCHANGES: Any = key(
    "The SSH key exchange methods that are offered. Default: all but ``ecdh-sha2-nistp256``, which "
    "is for clients in FIPS mode; all in a cluster of the suite ``ecdsa``.",
    None,
    check=_names_of(METHODS, "key exchange method"),
)


_CIPHERS: Any = key(
    "The SSH ciphers that are offered. The client chooses among them by its own order. "
    "``chacha20-poly1305@openssh.com``, which many OpenSSH clients would choose, is the only one "
    "that is not offered by default: it takes twice the processor time where there is AES in "
    "hardware.",
    tuple(name.decode("ascii") for name in SERVER_CIPHERS),
    check=_names_of(CIPHERS, "cipher"),
)


@frozen
class JoinConfig:
    """How a host becomes a member. Give ``auth`` or ``proxy``."""

    auth: tuple[Address, ...] = key(
        "Auth's address, or a list with those of all auths on one store.",
        (),
        port=3025,
        single=True,
    )
    proxy: Address | None = key(
        "The address of a proxy, where auth cannot be reached directly.", None, port=3080
    )
    token_file: Path | None = key(
        "A file (0600) with the token of ``tele tokens add``; used at the first start only.", None
    )
    ca_pin: Pins | None = key(
        "The pin that ``tele tokens add`` and ``tele ca status`` print; one or a list.", None
    )
    via: EgressProxy | None = key(
        "The egress proxy of this network: ``http://host:port`` (CONNECT), ``https://host:port`` or"
        " ``socks5://host:port``. Default: ``HTTPS_PROXY`` or ``ALL_PROXY``, and ``NO_PROXY``, of"
        " the environment.",
        None,
    )
    via_login_file: Path | None = key(
        "A file (0600) with ``user:password`` for ``via``, read for each connection.", None
    )


@frozen
class CommandConfig:
    """A label whose value is the output of a command."""

    command: tuple[str, ...] = key("The program and its arguments; there is no shell.")
    period: timedelta = key("How often it runs.", timedelta(minutes=1), check=_period_problem)


def _end_after_problem(value: timedelta) -> str:
    return "" if value >= timedelta(minutes=5) else "at least 5m"


@frozen
class AuthConfig:
    """Auth: the authorities, users, roles, the audit and the recordings of a cluster."""

    cluster_name: str = key(
        "The cluster's name, which cannot be changed; nodes are ``NODE.CLUSTER`` for OpenSSH.",
        check=cluster_name_problem,
    )
    listen: Address = key("Where the API is served.", Address("0.0.0.0", 3025), port=3025)  # noqa: S104
    store: Chosen = key(
        "Where the state is: ``sqlite[:PATH]``, ``postgresql://...`` (:doc:`/howto/postgresql`),"
        " ``etcd://...`` (:doc:`/howto/etcd`) or ``memory``.",
        Chosen("sqlite"),
    )
    recordings: Chosen = key(
        "Where recordings are kept: ``dir[:PATH]``, or a bucket:"
        " ``s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION``, with ``path_style=yes``"
        " for most stores but Amazon's, and ``ca_file=PATH`` for a CA of one's own.",
        Chosen("dir"),
    )
    signature_algorithm_suite: SignatureSuite | None = key(
        "The algorithm of the SSH keys of the CAs, hosts and users. ``ecdsa`` (NIST P-256) is for "
        "clients in FIPS mode, ``rsa`` (3072 bits) for those that know nothing else, and "
        "``mldsa44-ed25519`` for OpenSSH of 10.4 and later only: :doc:`/explanation/concepts`. "
        "A cluster that has another one gets it by ``tele ca rotate``. "
        "Default: ``ed25519`` for a new cluster, otherwise what it has.",
        None,
        check=suite_problem,
    )
    signing_keys: SigningKeysConfig = field(
        default=SigningKeysConfig(),
        metadata={"meaning": "By which key those of the CAs are sealed in the store."},
    )
    session_recording: RecordingSettings | None = field(
        default=None,
        metadata={
            "meaning": "How sessions are recorded in the whole cluster, until that is set with "
            "``tele apply`` or ``tele edit cluster``."
        },
    )
    client_keepalive: timedelta = key(
        "The SSH client of a user that is silent for so long is sent a keepalive; one that is "
        "silent four times as long is disconnected, also when it was only stopped. ``0s``, never, "
        "leaves it to TCP to notice a dead peer, as sshd does. Roles may override it (the option "
        "``client_keepalive``).",
        timedelta(0),
        check=keepalive_problem,
    )
    session_end_after: timedelta = key(
        "How long a node may be silent before auth records that its sessions have ended, and "
        "closes its recordings as incomplete. Those of a node that reconnects later are resumed.",
        timedelta(days=1),
        check=_end_after_problem,
    )
    recording_limits: RecordingLimitsConfig = field(
        default=RecordingLimitsConfig(),
        metadata={"meaning": "How much of the archive recordings may take."},
    )
    recordings_retention: RecordingsRetentionConfig = field(
        default=RecordingsRetentionConfig(),
        metadata={"meaning": "Which recordings auth removes itself."},
    )
    recording_encryption: RecordingEncryptionConfig = field(
        default=RecordingEncryptionConfig(),
        metadata={"meaning": "Whether recordings are sealed where they are made."},
    )
    audit: tuple[Chosen, ...] = key(
        "Where audit events are sent, too: ``file:PATH`` writes JSON lines.", ()
    )
    join_methods: tuple[Chosen, ...] = key(
        "Plugins by which hosts join beside tokens; no plugin of this kind ships with tele.", ()
    )
    metrics: MetricsAddress = AUTH_METRICS


@frozen
class HttpsCertConfig:
    """A certificate for the proxy's own pages, such as one of Let's Encrypt."""

    cert: Path = key("PEM, with the intermediate certificates: ``fullchain.pem``.")
    key: Path = key("Its private key, in PEM, unencrypted: ``privkey.pem``.")


@frozen
class ProxyConfig:
    """A proxy: the one port for users and tunnels."""

    listen: Address = key("The one port.", Address("0.0.0.0", 3080), port=3080)  # noqa: S104
    public_addr: Address | None = key(
        "Where clients reach it. Default: ``listen`` with the machine's own address.",
        None,
        port=3080,
    )
    peer_addr: Address | None = key(
        "Where other proxies reach it. Default: ``listen`` with the machine's own address.",
        None,
        port=3080,
    )
    proxy_protocol: ProxyProtocol = key(
        "``required`` behind a load balancer that sends the source address of each connection in"
        " the PROXY protocol (version 1 or 2); others are closed. Only the load balancer and other"
        " proxies may reach ``listen`` then.",
        ProxyProtocol.OFF,
    )
    https_cert: HttpsCertConfig | None = key(
        "The certificate for browsers. Read again when the files change. Default: the proxy's"
        " certificate of the cluster's CA. Tunnels, SSH and the API do not use it.",
        None,
    )
    web: Web = key(
        "Whether browsers get pages at ``listen``; ``off`` leaves HTTPS with what programs need.",
        Web.ON,
    )
    name: str | None = key(
        "Default: the host name with ``-proxy``.", None, check=_node_name_problem
    )
    join: JoinConfig | None = key("How it joins; needed without ``auth`` in the same file.", None)
    key_exchanges: tuple[str, ...] | None = _KEY_EXCHANGES
    ciphers: tuple[str, ...] = _CIPHERS
    penalties: PenaltiesConfig = _PENALTIES
    keepalive: timedelta = _KEEPALIVE
    shutdown_grace: timedelta = _SHUTDOWN_GRACE
    metrics: MetricsAddress = PROXY_METRICS


@frozen
class NodeConfig:
    """A node: the SSH server of a machine."""

    name: str | None = key("Default: the host name.", None, check=_node_name_problem)
    join: JoinConfig | None = key("How it joins; needed without ``auth`` in the same file.", None)
    listen: Address | None = key(
        "Where SSH is served. Default with ``join.auth``: 0.0.0.0:3022; with ``join.proxy``:"
        " nowhere, the node is reached through its tunnels.",
        None,
        port=3022,
    )
    public_addr: Address | None = key(
        "Where proxies reach it. Default: ``listen`` with the machine's own address.",
        None,
        port=3022,
    )
    tunnels: int = key(
        "With ``join.proxy``: to how many proxies to keep a tunnel.", 3, check=_tunnels_problem
    )
    pam: str = key(
        "``off``, or the PAM service (``tele`` is /etc/pam.d/tele) that takes part in every"
        " session. For a node that runs as root.",
        "off",
        check=_service_problem,
    )
    kill_leftovers: bool = key(
        "Whether processes that a session leaves running are killed at its end. Needs cgroup v2.",
        False,
    )
    host_users: HostUsersConfig = field(
        default=HostUsersConfig(),
        metadata={"meaning": "Whether roles have accounts made on this machine."},
    )
    gateway_ports: GatewayPorts = key(
        "Whether ports that are forwarded to clients (``ssh -R``) are open to other machines, as"
        " sshd's GatewayPorts: ``clientspecified`` leaves it to the client.",
        GatewayPorts.NO,
    )
    subsystems: tuple[Chosen, ...] = key(
        "Subsystems that clients may request (``ssh -s``), beside ``sftp``:"
        " ``command:NAME COMMAND``, or a plugin's kind.",
        (),
    )
    labels: Mapping[str, str] = key(
        "Labels, by which roles and ``tele ls`` select nodes.", Factory(dict)
    )
    commands: Mapping[str, CommandConfig] = key(
        "Labels that are the output of commands.", Factory(dict)
    )
    key_exchanges: tuple[str, ...] | None = _KEY_EXCHANGES
    ciphers: tuple[str, ...] = _CIPHERS
    keepalive: timedelta = _KEEPALIVE
    shutdown_grace: timedelta = _SHUTDOWN_GRACE
    recorder: tuple[Chosen, ...] = key(
        "Which recorder takes part in sessions; several as a list.",
        (Chosen("tape"),),
        check=_recorders_problem,
        single=True,
    )
    tracer: Chosen = key(
        "What traces programs for roles with ``enhanced_recording``: ``none``, or a plugin's kind."
        " Without one such programs do not start.",
        Chosen("none"),
    )
    state: Keep = key("``disk`` or ``memory``: a new host at each start.", Keep.DISK)
    penalties: PenaltiesConfig = _PENALTIES
    metrics: MetricsAddress | None = NODE_METRICS

    @property
    def listen_at(self) -> Address | None:
        """Where SSH is served, None for nowhere."""
        tunnelled = self.join is not None and self.join.proxy is not None
        if self.listen is None and not tunnelled:
            return Address("0.0.0.0", 3022)  # noqa: S104  (a server's default)
        return self.listen


@frozen
class LogConfig:
    """The diagnostic log, on standard error."""

    level: Level = key("debug, info, warn or error.", Level.INFO)
    format: LogForm = key("text or json.", LogForm.TEXT)


@frozen
class FileConfig:
    """The whole file. ``version`` is ``v1``."""

    version: str = key("``v1``.", check=lambda v: "" if v == "v1" else "the only version is v1")
    data_dir: Path = key(
        "The folder of all files that tele keeps on this machine, 0700.", Path("/var/lib/tele")
    )
    log: LogConfig = field(default=LogConfig(), metadata={"meaning": "The diagnostic log."})
    auth: AuthConfig | None = key("Makes this machine auth.", None)
    proxy: ProxyConfig | None = key("Makes this machine a proxy.", None)
    node: NodeConfig | None = key("Makes this machine a node.", None)
