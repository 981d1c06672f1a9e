"""How do several roles merge? The table of the documentation, and what holds for all roles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import evolve, fields
from hypothesis import given
from hypothesis import strategies as st

from tele.auth.issuing import Issuer
from tele.certs.issue import UserCertificateRequest
from tele.model.access import CertificateLimits, Denied, Grant, Reason
from tele.model.actions import ForwardRules, TransferRules
from tele.model.cluster_settings import HostSettings
from tele.model.host_user import HostUserMode
from tele.model.identity import UserIdentity
from tele.model.joining import WatchRule
from tele.model.resources import (
    Conditions,
    LockMode,
    Metadata,
    Role,
    RoleOptions,
    RoleSpec,
    SessionRecording,
    User,
    UserSpec,
)
from tele.model.time_windows import TimeWindow
from tele.model.trace import Handovers, TraceKind
from tele.rbac.decision import NO_LIMITS, decide, may_reach
from tele.rbac.destinations import may_lead
from tele.rbac.forwards import denied_by
from tele.rbac.policy import Policy
from tele.rbac.reach import includes, reach_of
from tele.rbac.transfers import denied_files

NOW: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)
LOGINS: Final = ("root", "bob")
NODES: Final[tuple[dict[str, str], ...]] = ({"env": "prod"}, {"env": "test"}, {})
PAGE: Final = Path(__file__).parents[3] / "docs" / "reference" / "roles.rst"

forwards = st.builds(
    ForwardRules,
    local=st.sampled_from((None, None, (), ("db:80",), ("*:*",), ("10.0.0.0/8:*", "web:*"))),
    agent=st.sampled_from((None, None, True)),
    x11=st.sampled_from((None, None, True)),
)
paths = st.sampled_from((None, None, None, (), ("/in/*",), ("/**",)))
files = st.builds(TransferRules, upload=paths, download=paths)
conditions = st.builds(
    Conditions,
    forward=forwards,
    file_transfer=files,
    logins=st.lists(st.sampled_from(("root", "bob", "{{internal.logins}}")), max_size=2).map(tuple),
    node_labels=st.sampled_from(({}, {"*": ("*",)}, {"env": ("prod",)}, {"env": ("^t.*$",)})),
)
denials = st.builds(
    Conditions,
    logins=st.sampled_from(((), (), (), ("bob",), ("*",))),
    node_labels=st.sampled_from(({}, {}, {}, {"env": ("prod",)})),
    forward=forwards,
    file_transfer=st.one_of(st.just(TransferRules()), files),
)
options = st.builds(
    RoleOptions,
    forward_agent=st.sampled_from((None, True, False)),
    port_forwarding=st.sampled_from((None, True, False)),
    x11_forwarding=st.booleans(),
    max_sessions=st.integers(0, 9),
    record_input=st.booleans(),
    permit_pty=st.booleans(),
    force_command=st.sampled_from(("", "", "backup", "internal-sftp")),
    record=st.sampled_from(SessionRecording),
    break_glass=st.booleans(),
    lock=st.sampled_from(LockMode),
)
limits = st.builds(
    CertificateLimits,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from((None, None, "backup", "other")),
)


def roles_with(denied: st.SearchStrategy[Conditions]) -> st.SearchStrategy[list[Role]]:
    specs = st.builds(RoleSpec, conditions, denied, options)
    return st.lists(specs, max_size=4).map(
        lambda made: [Role(Metadata(f"r{number}"), spec) for number, spec in enumerate(made)]
    )


def ask(
    roles: Iterable[Role],
    login: str = "root",
    node: dict[str, str] = NODES[0],
    certificate: CertificateLimits = NO_LIMITS,
) -> Grant | Denied:
    several = {each.metadata.name: each for each in roles}
    who = UserIdentity(
        "alice", "c", NOW + timedelta(hours=1), tuple(several), LOGINS, {"logins": ("bob",)}
    )
    return decide(who, login, node, several, (), NOW, certificate=certificate)


#: A program: whether it has a terminal, what is forced, and whether it has an agent and a display.
PROGRAMS: Final = [
    (kind, command, pty)
    for kind, command in (
        ("shell", b""),
        ("exec", b"backup"),
        ("exec", b"scp -t /in/x"),
        ("subsystem", b"sftp"),
    )
    for pty in (False, True)
]


def actions(roles: list[Role], certificate: CertificateLimits = NO_LIMITS) -> set[tuple[Any, ...]]:
    """Return all that a user with ``roles`` may do, each action with what belongs to it."""
    found: set[tuple[Any, ...]] = set()
    for login in LOGINS:
        for number, node in enumerate(NODES):
            grant = ask(roles, login, node, certificate)
            if isinstance(grant, Denied):
                continue
            at = (login, number)
            found.add((*at, "login"))
            for kind in ("port_forwarding", "agent_forwarding", "x11_forwarding"):
                found |= {(*at, kind)} if getattr(grant, kind) else set()
            denied = grant.denied_forwards.local or ()
            for host in ("db", "web", "10.0.0.1", "11.0.0.1"):
                may = may_lead(grant.local_forwards, denied, host, 80)
                found |= {(*at, "local", host)} if may else set()
            reach = reach_of(grant)
            for name, path in product(("upload", "download"), ("/in/x", "/in/x/y", "/etc/x")):
                found |= {(*at, name, path)} if includes(name, reach[name], path) else set()
            for kind, command, pty in PROGRAMS:
                giving = grant.program(kind, command, pty=pty)
                for each in giving:
                    found.add((*at, kind, command, pty, each.force_command))
    return found


def permitted(done: set[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """Return ``done`` without what is forced: that something runs, not what."""
    return {each[:5] for each in done}


def gained(before: set[tuple[Any, ...]], after: set[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """Return what ``after`` has beyond ``before``.

    A forced command is no gain where any request ran as it was: it could have been requested.
    """
    return {each for each in after - before if (*each[:5], None) not in before}


def test_a_denial_that_leaves_a_forced_command() -> None:
    """It takes the shell of another role, and what runs in its place was there before."""
    everywhere = Conditions(logins=("root",), node_labels={"*": ("*",)})
    roles = [
        Role(Metadata("r0"), RoleSpec(everywhere)),
        Role(Metadata("r1"), RoleSpec(everywhere, options=RoleOptions(force_command="backup"))),
    ]
    denial = Conditions(file_transfer=TransferRules(download=("/in/*",)))
    before = actions(roles)
    after = actions([*roles, Role(Metadata("zz"), RoleSpec(deny=denial))])
    assert ("root", 0, "shell", b"", True, None) in before - after
    assert ("root", 0, "shell", b"", True, "backup") in after - before
    assert not gained(before, after)


@given(roles_with(st.just(Conditions())), limits)
def test_adding_a_role_without_denials_never_denies(
    roles: list[Role], certificate: CertificateLimits
) -> None:
    """What a user may do, they may do with one more role, with any certificate."""
    for fewer in (roles[:number] for number in range(len(roles))):
        more = roles[: len(fewer) + 1]
        assert permitted(actions(fewer, certificate)) <= permitted(actions(more, certificate))


@given(roles_with(denials), denials, limits)
def test_adding_a_denial_never_allows(
    roles: list[Role], denial: Conditions, certificate: CertificateLimits
) -> None:
    """Neither a denial in a new role nor one in a role that there is."""
    before = actions(roles, certificate)
    denying = Role(Metadata("zz"), RoleSpec(deny=denial))
    assert not gained(before, actions([*roles, denying], certificate))
    for number, role in enumerate(roles):
        changed = evolve(role, spec=evolve(role.spec, deny=_both(role.spec.deny, denial)))
        after = actions([*roles[:number], changed, *roles[number + 1 :]], certificate)
        assert not gained(before, after)


def _both(one: Conditions, other: Conditions) -> Conditions:
    denying = [Role(Metadata("x"), RoleSpec(deny=each)) for each in (one, other)]
    labels = {**one.node_labels, **other.node_labels}
    return Conditions(
        (*one.logins, *other.logins),
        labels,
        forward=denied_by(denying),
        file_transfer=denied_files(denying),
    )


@given(roles_with(denials), st.randoms(use_true_random=False))
def test_the_order_of_roles_never_matters(roles: list[Role], random: Any) -> None:
    """Neither in a certificate nor in the cluster's list."""
    shuffled = list(roles)
    random.shuffle(shuffled)
    assert actions(roles) == actions(shuffled)
    for login in LOGINS:
        one, other = ask(roles, login), ask(shuffled, login)
        if isinstance(one, Grant) and isinstance(other, Grant):
            assert evolve(one, identity=other.identity) == other
        else:
            assert isinstance(one, Denied)
            assert isinstance(other, Denied)
            assert one.reason == other.reason


@given(roles_with(denials), limits)
def test_every_action_is_given_by_one_role_alone(
    roles: list[Role], certificate: CertificateLimits
) -> None:
    """Roles never give together what none of them gives alone (attack).

    What a program is, with a terminal or without, and what is forced, is one action.
    """
    alone: set[tuple[Any, ...]] = set()
    for role in roles:
        alone |= actions([role], certificate)
    assert actions(roles, certificate) <= alone


@given(roles_with(denials), limits)
def test_a_certificate_only_takes_away(roles: list[Role], certificate: CertificateLimits) -> None:
    """Nothing runs because of what a certificate forces or withholds, except what it forces."""
    forced = certificate.force_command
    free = evolve(certificate, force_command=None)
    assert actions(roles, free) <= actions(roles)
    assert permitted(actions(roles, certificate)) <= permitted(actions(roles))
    if forced is not None:
        programs = [each for each in actions(roles, certificate) if len(each) == 6]
        assert all(each[5] == forced for each in programs)


@given(roles_with(denials))
def test_who_may_log_in_may_reach(roles: list[Role]) -> None:
    """A proxy dials every node that a user may log in to."""
    several = {each.metadata.name: each for each in roles}
    who = UserIdentity(
        "alice", "c", NOW + timedelta(hours=1), tuple(several), LOGINS, {"logins": ("bob",)}
    )
    for login, number, *_ in actions(roles):
        assert may_reach(who, NODES[number], several, (), NOW, login=login) is None


# -- the table of the documentation ---------------------------------------------------
def table() -> dict[str, str]:
    """Return how each option merges, as the page says it."""
    text = PAGE.read_text()
    text = text[text.index(".. list-table:: How options of several roles merge") :]
    rows = re.findall(r"   \* - (.+)\n     - (.+)\n", text.split("\n\n")[1] + "\n")
    return {name: how for names, how in rows for name in re.findall("``(.+?)``", names)}


VALUES: Final[dict[str, tuple[Any, ...]]] = {
    "max_session_ttl": (timedelta(hours=1), timedelta(hours=2)),
    "forward_agent": (True, False, None),
    "port_forwarding": (True, False, None),
    "x11_forwarding": (True, False),
    "max_sessions": (1, 7),
    "pin_source_ip": (True, False),
    "record_input": (True, False),
    "permit_pty": (True, False),
    "create_host_user": (HostUserMode.OFF, HostUserMode.DROP, HostUserMode.KEEP),
    "create_host_user_shell": ("", "/bin/bash", "/bin/zsh"),
    "force_command": ("", "backup", "internal-sftp"),
    "client_keepalive": (timedelta(seconds=5), timedelta(seconds=60)),
    "max_forwards": (1, 7),
    "lock": (LockMode.BEST_EFFORT, LockMode.STRICT),
    "record": (SessionRecording.BEST_EFFORT, SessionRecording.STRICT),
    "break_glass": (True, False),
    "traced_syscalls": ((), ("mount",), ("bpf", "mount")),
    "enhanced_recording": ((), (TraceKind.DISK,), (TraceKind.COMMAND, TraceKind.NETWORK)),
    "handovers": (Handovers.ALLOW, Handovers.DENY),
    "count_repeated_opens": (True, False),
    "client_idle_timeout": (timedelta(minutes=5), timedelta(minutes=60)),
    "disconnect_expired_cert": (True, False),
    "require_mfa": (True, False),
    "max_connections": (2, 7),
    "valid_times": ((), (TimeWindow(),)),
    "require_session_join": ((), (WatchRule("a", ("x",)),), (WatchRule("b", ("y",), count=2),)),
}
RULES: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "the smallest": min,
    "the shortest": min,
    "the shortest of all roles of the user": min,
    "on if one has it on": any,
    "on if one of all roles of the user has it on": any,
    "``strict`` if one is": lambda values: SessionRecording.STRICT in values,
    "``keep`` if one is, otherwise ``drop`` if one is": lambda values: max(
        values, key=["off", "drop", "keep"].index
    ),
    "``deny`` if one is": lambda values: Handovers.DENY in values,
    "one rule of each role that has it": lambda values: tuple(dict.fromkeys(filter(None, values))),
    "those of all": lambda values: tuple(sorted({name for each in values for name in each})),
    "each kind that one of them has": lambda values: tuple(
        kind for kind in TraceKind if any(kind in each for each in values)
    ),
    "the first by the names of the roles": lambda values: next(filter(None, values), ""),
}
OWN: Final = "each role's own"


def role_with(name: str, **changed: Any) -> Role:
    allow = Conditions(("root",), {"*": ("*",)})
    return Role(Metadata(name), RoleSpec(allow, options=RoleOptions(**changed)))


def certified(roles: Iterable[Role]) -> UserCertificateRequest:
    unused: Any = None
    issuer = Issuer("c", unused, lambda: NOW, bytes)
    user = User(Metadata("alice"), UserSpec())
    return issuer.user_request(user, list(roles), timedelta(hours=9), NOW, "192.0.2.1")


def merged(option: str, roles: list[Role]) -> Any:
    """Return what roles with this option come to."""
    if option in ("max_session_ttl", "pin_source_ip"):
        request = certified(roles)
        pinned = request.source_address is not None
        return request.lifetime if option == "max_session_ttl" else pinned
    grant = ask(roles)
    if option == "require_mfa":
        return isinstance(grant, Denied)
    assert isinstance(grant, Grant)
    if option == "record_input":
        return grant.recording.input
    if option == "create_host_user":
        account = grant.host_user
        made = (HostUserMode.KEEP, HostUserMode.DROP)
        return HostUserMode.OFF if account is None else made[account.drop]
    if option == "create_host_user_shell":
        making = ask([*roles, role_with("c", create_host_user=HostUserMode.KEEP)])
        assert isinstance(making, Grant)
        assert making.host_user is not None
        return making.host_user.shell
    if option == "record":
        return grant.recording.strict
    if option == "handovers":
        return grant.recording.no_handovers
    if option == "count_repeated_opens":
        return grant.recording.count_opens
    if option == "traced_syscalls":
        return grant.recording.syscalls
    if option == "enhanced_recording":
        return grant.recording.trace
    if option == "lock":
        return grant.strict_locks
    return getattr(grant, option)


def test_an_obligation_binds_whatever_role_has_it() -> None:
    """Also one that the user was given after the certificate was issued; the reason names it."""
    given, later = role_with("given"), role_with("later", require_mfa=True)
    several = {each.metadata.name: each for each in (given, later)}
    who = UserIdentity("alice", "c", NOW + timedelta(hours=1), ("given",), LOGINS)
    present = evolve(who, roles=("given", "later"))
    denied = decide(who, "root", NODES[0], several, (), NOW, present=present)
    assert isinstance(denied, Denied)
    assert (denied.reason, "role later" in denied.message) == (Reason.MFA, True)


def test_a_certificate_for_any_address_is_refused_where_a_role_pins_it() -> None:
    """One from before the role did so, too: no copy of it is of use elsewhere (attack)."""
    loose = evolve(NO_LIMITS, pinned=False)
    pinning = role_with("a", pin_source_ip=True)
    assert isinstance(ask([pinning, role_with("b")]), Grant)
    denied = ask([pinning, role_with("b")], certificate=loose)
    assert isinstance(denied, Denied)
    assert (denied.reason, "role a" in denied.message) == (Reason.ADDRESS, True)
    assert isinstance(ask([role_with("b")], certificate=loose), Grant)


def test_the_cluster_says_what_no_role_says() -> None:
    """A role may also say never, and a shorter time than the cluster's."""
    settings = HostSettings(client_idle_timeout=timedelta(minutes=9), disconnect_expired_cert=True)
    for options, expected in (
        ({}, (timedelta(minutes=9), True)),
        ({"client_idle_timeout": timedelta(0)}, (timedelta(0), True)),
        ({"disconnect_expired_cert": False}, (timedelta(minutes=9), False)),
        ({"client_idle_timeout": timedelta(minutes=5)}, (timedelta(minutes=5), True)),
    ):
        policy = Policy({"a": role_with("a", **options)}, settings=settings)
        who = UserIdentity("alice", "c", NOW + timedelta(hours=1), ("a",), LOGINS)
        grant = policy.decide(who, "root", NODES[0], NOW)
        assert isinstance(grant, Grant)
        assert (grant.client_idle_timeout, grant.disconnect_expired_cert) == expected


def test_the_table_has_every_option() -> None:
    """An option without a row would merge in a way that nobody is told."""
    assert {*table()} == {each.name for each in fields(RoleOptions)} == {*VALUES}
    assert {*table().values()} == {OWN, *RULES}


@pytest.mark.parametrize("option", sorted(VALUES))
def test_options_merge_as_the_table_says(option: str) -> None:
    """Of every pair of values, in either order."""
    values = VALUES[option]
    how = table()[option]
    for one, other in (*pairwise(values), *pairwise(values[::-1])):
        roles = [role_with("a", **{option: one}), role_with("b", **{option: other})]
        if how != OWN:
            assert merged(option, roles) == RULES[how]([one, other])
            continue
        grant = ask(roles)
        assert isinstance(grant, Grant)
        for role, gift in zip(roles, grant.given, strict=True):
            alone = ask([role])
            assert isinstance(alone, Grant)
            assert alone.given == (gift,)
