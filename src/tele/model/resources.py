"""What can an administrator configure? Resources: kind, version, metadata, spec."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from attrs import Factory, asdict, field, fields, frozen

from tele.model.actions import ANY_FILES, NO_RULES, ForwardRules, TransferRules
from tele.model.bounds import OMITTED, AtMost, Between, OneOf, Texts
from tele.model.cluster_settings import (
    TEXT_LIMIT,
    AllowedAlgorithms,
    HostCertificates,
    HostSettings,
    PasswordPolicy,
    RecordingsRetention,
    WebauthnSettings,
)
from tele.model.cluster_settings import keepalive_problem as keepalive_problem
from tele.model.host_user import HostUserMode
from tele.model.joining import JOIN_RULES_LIMIT, JoinRule, WatchRule
from tele.model.names import NAME
from tele.model.recording_modes import MODES, ProxyLogin
from tele.model.recording_modes import RecordingMode as RecordingMode
from tele.model.second_factors import SecondFactorMode
from tele.model.sizes import Size
from tele.model.time_windows import WINDOWS_LIMIT, TimeWindow
from tele.model.trace import SYSCALLS_LIMIT, Handovers, TraceKind

#: The default of ``max_forwards``.
MAX_FORWARDS = 1024
#: The longest part of a stream that is kept, in bytes: a session holds both parts in memory.
CAPTURE_LIMIT: Final = 8 << 20


@frozen
class Metadata:
    """``revision`` is the store's, 0 before it is stored; a change with an old one is refused."""

    name: str = field(validator=NAME)
    description: str = ""
    labels: Mapping[str, str] = Factory(dict)
    expires: datetime | None = None
    revision: int = field(default=0, validator=Between(0))


@frozen
class Rule:
    """Allows a role ``verbs`` (list, read, create, update, delete, or ``*``) on ``resources``.

    Resources are the kinds below and ``node``, ``token``, ``recording``, ``session``, ``event``,
    ``authority``; ``*`` is all of them. A rule with a part that has no effect is refused.

    ``where`` is a condition on the object and the caller (:mod:`tele.rbac.rules`); empty is none.
    """

    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    where: str = field(default="", metadata=OMITTED)


@frozen
class Conditions:
    """One side of a role. Logins and label values may hold templates, label values globs.

    ``host_groups`` and ``host_sudoers`` are of accounts that nodes make: groups, and what stands
    after the login in a line of sudoers(5). A denial of ``*`` denies all.

    ``node_labels_expression`` is a condition on the node's labels and the user
    (:mod:`tele.rbac.predicates`). Allowed are nodes that it and ``node_labels`` match, if both are
    given; denied are those that one of them matches.

    ``join_sessions`` are sessions of others that may be joined (:mod:`tele.rbac.joining`).
    """

    logins: tuple[str, ...] = ()
    node_labels: Mapping[str, Texts] = Factory(dict)
    rules: tuple[Rule, ...] = ()
    host_groups: tuple[str, ...] = field(default=(), metadata=OMITTED)
    host_sudoers: tuple[str, ...] = field(default=(), metadata=OMITTED)
    node_labels_expression: str = field(default="", metadata=OMITTED)
    forward: ForwardRules = field(default=NO_RULES, metadata=OMITTED)
    file_transfer: TransferRules = field(default=ANY_FILES, metadata=OMITTED)
    join_sessions: tuple[JoinRule, ...] = field(
        default=(), validator=AtMost(JOIN_RULES_LIMIT), metadata=OMITTED
    )


class SessionRecording(str, Enum):
    """Whether a session starts that cannot be recorded, as on a full disk.

    ``best_effort``: it starts, with an event, and is recorded as soon as there is space.
    ``strict``: it is refused.
    """

    BEST_EFFORT = "best_effort"
    STRICT = "strict"


class LockMode(str, Enum):
    """Whether a session starts on a host that does not know the locks of now.

    ``best_effort``: it starts, by the locks that are known. ``strict``: it is refused.
    """

    BEST_EFFORT = "best_effort"
    STRICT = "strict"


@frozen
class RoleOptions:
    """How a permitted connection may be used. Of several roles the strictest option holds.

    ``create_host_user`` is whether nodes that make accounts make one for the login if it is
    missing, with ``create_host_user_shell`` or the machine's default shell; with ``drop`` it is
    removed with its last session.

    ``force_command`` runs in place of any requested command, by the account's shell without that
    shell's start-up files; ``internal-sftp`` allows file transfer only. ``forward_agent`` and
    ``port_forwarding`` None is not set: allowed, but not beside a forced command, which they could
    get around.

    ``client_keepalive`` is the interval of keepalives to an SSH client without traffic; 0 is never,
    None the cluster's default. ``max_forwards`` is how many connections of a user a node forwards
    in parallel, over all SSH connections; more of them wait.

    ``lock`` is whether a session is refused where the cluster's state, with its locks, is older
    than five minutes.

    ``record`` is whether a session that cannot be recorded is refused. With ``break_glass`` the
    users of this role log in also then, whatever other roles have, and when a node cannot store its
    audit: for those who have to free space.

    ``enhanced_recording`` is what programs are traced for, by the kernel of their node: each kind
    that one of the roles has. A program that cannot be traced does not start. ``traced_syscalls``
    are system calls that are recorded one by one, with their arguments; ``syscalls`` counts them.
    ``handovers`` is whether a session ends when it has something done by processes of others, and
    ``count_repeated_opens`` whether the same open, again and again, is counted and not listed.

    ``client_idle_timeout`` ends a connection without activity, 0 is never; with
    ``disconnect_expired_cert`` one ends with the certificate of its login. None is the cluster's.
    ``require_mfa`` refuses sessions for which no second factor of their own was shown.
    ``max_connections`` is how many SSH connections a user has at once, on all hosts.

    ``require_session_join``: a terminal opens only while it is watched as one of these rules says,
    and nothing else is started or forwarded.

    Outside of its ``valid_times`` a role allows nothing, and denies what it denies.
    """

    max_session_ttl: timedelta = timedelta(hours=30)
    forward_agent: bool | None = field(default=None, metadata=OMITTED)
    port_forwarding: bool | None = field(default=None, metadata=OMITTED)
    x11_forwarding: bool = False
    max_sessions: int = field(default=10, validator=Between(0))
    pin_source_ip: bool = False
    record_input: bool = False
    permit_pty: bool = True
    force_command: str = ""
    create_host_user: HostUserMode = field(default=HostUserMode.OFF, metadata=OMITTED)
    create_host_user_shell: str = field(default="", metadata=OMITTED)
    client_keepalive: timedelta | None = field(default=None, metadata=OMITTED)
    max_forwards: int = field(default=MAX_FORWARDS, metadata=OMITTED)
    lock: LockMode = field(default=LockMode.BEST_EFFORT, metadata=OMITTED)
    record: SessionRecording = field(default=SessionRecording.BEST_EFFORT, metadata=OMITTED)
    break_glass: bool = field(default=False, metadata=OMITTED)
    enhanced_recording: tuple[TraceKind, ...] = field(
        default=(), validator=AtMost(len(TraceKind)), metadata=OMITTED
    )
    traced_syscalls: tuple[str, ...] = field(
        default=(), validator=AtMost(SYSCALLS_LIMIT), metadata=OMITTED
    )
    handovers: Handovers = field(default=Handovers.ALLOW, metadata=OMITTED)
    count_repeated_opens: bool = field(default=False, metadata=OMITTED)
    client_idle_timeout: timedelta | None = field(default=None, metadata=OMITTED)
    disconnect_expired_cert: bool | None = field(default=None, metadata=OMITTED)
    require_mfa: bool = field(default=False, metadata=OMITTED)
    max_connections: int | None = field(default=None, metadata=OMITTED)
    valid_times: tuple[TimeWindow, ...] = field(
        default=(), validator=AtMost(WINDOWS_LIMIT), metadata=OMITTED
    )
    require_session_join: tuple[WatchRule, ...] = field(
        default=(), validator=AtMost(JOIN_RULES_LIMIT), metadata=OMITTED
    )


@frozen
class RoleSpec:
    """Deny wins over allow; nothing is allowed by default."""

    allow: Conditions = Conditions()
    deny: Conditions = Conditions()
    options: RoleOptions = RoleOptions()


@frozen
class Role:
    """A named set of permissions."""

    metadata: Metadata
    spec: RoleSpec = RoleSpec()
    kind: str = field(default="role", validator=OneOf(("role",)))
    version: str = field(default="v1", validator=OneOf(("v1",)))


@frozen
class UserSpec:
    """``traits["logins"]`` are the OS accounts that ``{{internal.logins}}`` stands for."""

    roles: tuple[str, ...] = ()
    traits: Mapping[str, tuple[str, ...]] = Factory(dict)


@frozen
class User:
    """A user. The password is stored elsewhere."""

    metadata: Metadata
    spec: UserSpec = UserSpec()
    kind: str = field(default="user", validator=OneOf(("user",)))
    version: str = field(default="v1", validator=OneOf(("v1",)))


def mode_problem(mode: RecordingMode) -> str:
    """Return why ``mode`` is not supported, or nothing."""
    if mode in MODES:
        return ""
    return f"this version supports {', '.join(each.value for each in MODES)}"


def sync_end_problem(value: timedelta) -> str:
    """Return what is wrong with a value of ``sync_end_after``, or nothing."""
    return "" if timedelta(seconds=5) <= value <= timedelta(days=1) else "from 5s to 1d"


def capture_problem(value: Size) -> str:
    """Return what is wrong with the length of a part of a captured stream, or nothing."""
    return "" if value.bytes <= CAPTURE_LIMIT else f"at most {Size(CAPTURE_LIMIT)}"


@frozen
class RecordingSettings:
    """How sessions are recorded in the whole cluster; see :class:`Cluster`.

    ``sync_end_after``: in a sync mode a session that waits so long for auth is ended. Of what a
    command without a terminal writes and reads, each stream's first ``capture_head`` and last
    ``capture_tail`` bytes are kept.

    Of hosts that run OpenSSH's sshd: whether proxies accept only those with a host certificate of
    the cluster, and with what proxies log in there. ``proxy_plain_keys``: whether users log in
    through such proxies with clients that accept a plain host key.
    """

    mode: RecordingMode = field(
        default=RecordingMode.NODE, metadata={"check": mode_problem, "values": MODES}
    )
    proxy_checks_host_keys: bool = True
    # Hosts of an older version do not know these keys: defaults are left out.
    sync_end_after: timedelta = field(
        default=timedelta(minutes=5), metadata={**OMITTED, "check": sync_end_problem}
    )
    proxy_login: ProxyLogin = field(default=ProxyLogin.CERTIFICATE, metadata=OMITTED)
    proxy_plain_keys: bool = field(default=False, metadata=OMITTED)
    capture_head: Size = field(
        default=Size(1 << 20), metadata={**OMITTED, "check": capture_problem}
    )
    capture_tail: Size = field(
        default=Size(64 << 10), metadata={**OMITTED, "check": capture_problem}
    )

    @property
    def problem(self) -> str:
        """Why these settings are not supported, or nothing."""
        for name, wrong in (
            ("mode", mode_problem(self.mode)),
            ("sync_end_after", sync_end_problem(self.sync_end_after)),
            ("capture_head", capture_problem(self.capture_head)),
            ("capture_tail", capture_problem(self.capture_tail)),
        ):
            if wrong:
                return f"session_recording {name}: {wrong}"
        return ""


@frozen
class ClusterSpec:
    """Settings that hold in the whole cluster; see :mod:`tele.model.cluster_settings`.

    ``recordings_retention`` None: what the configuration of auth says. ``second_factor`` is whether
    users log in with one, ``webauthn`` for which pages security keys are made.
    """

    session_recording: RecordingSettings = RecordingSettings()
    banner: str = field(default="", validator=AtMost(TEXT_LIMIT), metadata=OMITTED)
    message_of_the_day: str = field(default="", validator=AtMost(TEXT_LIMIT), metadata=OMITTED)
    password_policy: PasswordPolicy = field(default=PasswordPolicy(), metadata=OMITTED)
    algorithms: AllowedAlgorithms = field(default=AllowedAlgorithms(), metadata=OMITTED)
    recordings_retention: RecordingsRetention | None = field(default=None, metadata=OMITTED)
    client_idle_timeout: timedelta = field(default=timedelta(0), metadata=OMITTED)
    disconnect_expired_cert: bool = field(default=False, metadata=OMITTED)
    host_certificates: HostCertificates = field(default=HostCertificates(), metadata=OMITTED)
    second_factor: SecondFactorMode = field(default=SecondFactorMode.OPTIONAL, metadata=OMITTED)
    webauthn: WebauthnSettings = field(default=WebauthnSettings(), metadata=OMITTED)

    @property
    def for_hosts(self) -> HostSettings:
        """What nodes and proxies get of it."""
        return HostSettings(
            self.banner, self.message_of_the_day, self.algorithms, self.client_idle_timeout,
            self.disconnect_expired_cert, self.host_certificates.lifetime,
        )  # fmt: skip

    @property
    def problem(self) -> str:
        """Why these settings are not supported, or nothing."""
        retention = self.recordings_retention
        return (
            self.session_recording.problem
            or self.for_hosts.problem
            or self.host_certificates.problem
            or self.webauthn.problem
            or ("" if retention is None else retention.problem)
        )


@frozen
class Cluster:
    """The settings of the cluster. There is one, with the cluster's name."""

    metadata: Metadata
    spec: ClusterSpec = ClusterSpec()
    kind: str = field(default="cluster", validator=OneOf(("cluster",)))
    version: str = field(default="v1", validator=OneOf(("v1",)))


#: The longest message to a user's terminal, which is one line.
MESSAGE_LIMIT = 160


@frozen
class LockTarget:
    """The target of a lock; exactly one field is given.

    ``login`` is an OS account on every node, ``login_session`` all certificates of one login,
    ``certificate`` the serial of one (decimal, as ``ssh-keygen -L`` prints it), and ``session`` one
    connection.
    """

    user: str | None = None
    role: str | None = None
    login: str | None = None
    host_id: str | None = None
    login_session: str | None = None
    certificate: str | None = None
    session: str | None = None

    def __attrs_post_init__(self) -> None:
        given = self._given()
        if len(given) != 1:
            names = ", ".join(each.name for each in fields(LockTarget))
            raise ValueError(f"a lock has exactly one target, not {len(given)}: one of {names}")
        name, value = given[0]
        if not value:
            raise ValueError(f"the target {name} is empty")

    @classmethod
    def schema(cls) -> Mapping[str, Any]:
        """The same in JSON Schema."""
        text = {"type": "string", "minLength": 1}
        return {
            "oneOf": [
                {"required": [each.name], "properties": {each.name: text}} for each in fields(cls)
            ]
        }

    def _given(self) -> list[tuple[str, str]]:
        return [(name, value) for name, value in asdict(self).items() if value is not None]

    @property
    def what(self) -> tuple[str, str]:
        """The one field that is given, and its value."""
        return self._given()[0]


@frozen
class LockSpec:
    """``message`` is shown to the locked user. Auth fills in ``created_by``."""

    target: LockTarget
    message: str = field(default="", validator=AtMost(MESSAGE_LIMIT))
    created_by: str = ""


@frozen
class Lock:
    """Stops a user, a host or a session, running connections included."""

    metadata: Metadata
    spec: LockSpec
    kind: str = field(default="lock", validator=OneOf(("lock",)))
    version: str = field(default="v1", validator=OneOf(("v1",)))
