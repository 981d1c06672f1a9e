"""Which user may log in where, as which account: tables, and the invariants of all roles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import InvalidInput
from tele.model.access import Denied, Grant, Reason, RecordingPlan
from tele.model.api.operation import Permitted
from tele.model.api.table import OPERATIONS
from tele.model.host_user import HostUser, HostUserMode
from tele.model.identity import UserIdentity
from tele.model.patterns import matches
from tele.model.resources import (
    Conditions,
    Lock,
    LockSpec,
    LockTarget,
    Metadata,
    RecordingMode,
    RecordingSettings,
    Role,
    RoleOptions,
    RoleSpec,
    Rule,
    SessionRecording,
)
from tele.model.sizes import Size
from tele.rbac.decision import decide, may_reach, permits, refusal
from tele.rbac.logins import expand, logins_of
from tele.rbac.policy import Policy
from tele.rbac.presets import (
    ACCESS,
    AUDITOR,
    EDITOR,
    PERMISSIONS,
    PRESETS,
    RESOURCES,
    VERBS,
    check_role,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PROD = {"env": "prod", "role": "db"}


def role(name: str, allow: Conditions | None = None, deny: Conditions | None = None,
         options: RoleOptions | None = None) -> Role:  # fmt: skip
    return Role(
        Metadata(name),
        RoleSpec(allow or Conditions(), deny or Conditions(), options or RoleOptions()),
    )


def who(*roles: str, logins: tuple[str, ...] = ("root",)) -> UserIdentity:
    return UserIdentity(
        "alice", "c", NOW + timedelta(hours=1), roles, logins, {"logins": logins}, "s1"
    )


def ask(*roles: Role, login: str = "root", labels: dict[str, str] | None = None,
        locks: tuple[Lock, ...] = ()) -> Grant | Denied:  # fmt: skip
    names = tuple(r.metadata.name for r in roles)
    known = {r.metadata.name: r for r in roles}
    return decide(who(*names), login, PROD if labels is None else labels, known, locks, NOW, "h1")


def reason(answer: Grant | Denied) -> Reason:
    assert isinstance(answer, Denied), answer
    return answer.reason


EVERYWHERE = {"*": ("*",)}
ROOT = Conditions(logins=("root",), node_labels=EVERYWHERE)


def test_the_preset_permits_ones_own_logins() -> None:
    """``access`` with the trait ``logins: root`` is root everywhere, and no other login."""
    answer = ask(ACCESS)
    assert isinstance(answer, Grant)
    assert (answer.login, answer.roles) == ("root", ("access",))
    assert reason(ask(ACCESS, login="games")) is Reason.LOGIN


def test_nothing_is_allowed_by_default() -> None:
    """No role, an unknown role and an empty role all say no, each in its own way."""
    assert reason(decide(who(), "root", PROD, {}, (), NOW)) is Reason.NO_ROLE
    assert reason(decide(who("gone"), "root", PROD, {}, (), NOW)) is Reason.NO_ROLE
    assert reason(ask(role("empty"))) is Reason.NODE
    assert reason(ask(EDITOR)) is Reason.NODE


@pytest.mark.parametrize(
    ("condition", "labels", "good"),
    [
        ({"env": ("prod",)}, PROD, True),
        ({"env": ("dev", "prod")}, PROD, True),
        ({"env": ("pr*",)}, PROD, True),
        ({"env": ("^(prod|staging)$",)}, PROD, True),
        ({"env": ("^pro$",)}, PROD, False),
        ({"env": ("^(broken$",)}, PROD, False),
        ({"env": ("prod",), "role": ("web",)}, PROD, False),
        ({"env": ("prod",), "zone": ("*",)}, PROD, False),
        ({"*": ("*",)}, {}, True),
        ({}, PROD, False),
    ],
)
def test_allow_labels(
    condition: dict[str, tuple[str, ...]], labels: dict[str, str], good: bool
) -> None:
    """And across keys, or across values, globs, and nothing for an empty condition."""
    answer = ask(role("r", Conditions(("root",), condition)), labels=labels)
    assert isinstance(answer, Grant) is good


@pytest.mark.parametrize(
    ("deny", "expected"),
    [
        (Conditions(node_labels={"env": ("prod",), "zone": ("x",)}), Reason.DENIED),
        (Conditions(node_labels={"env": ("^p.*$",)}), Reason.DENIED),
        (Conditions(node_labels={"env": ("^(broken$",)}), Reason.DENIED),
        (Conditions(logins=("root",)), Reason.DENIED),
        (Conditions(logins=("*",)), Reason.DENIED),
        (Conditions(logins=("{{internal.logins}}",)), Reason.DENIED),
    ],
)
def test_deny_wins(deny: Conditions, expected: Reason) -> None:
    """One deny is stronger than any number of allows."""
    assert reason(ask(ACCESS, role("all", ROOT), role("no", deny=deny))) is expected


def test_login_and_labels_must_come_from_one_role() -> None:
    """A login of one role and a node of another do not add up."""
    here = role("here", Conditions(("alice",), {"env": ("prod",)}))
    there = role("there", Conditions(("root",), {"env": ("dev",)}))
    assert reason(ask(here, there)) is Reason.LOGIN


@pytest.mark.parametrize(
    "target",
    [
        LockTarget(user="alice"),
        LockTarget(role="access"),
        LockTarget(login="root"),
        LockTarget(host_id="h1"),
        LockTarget(login_session="s1"),
    ],
)
def test_locks_stop(target: LockTarget) -> None:
    """Each kind of lock stops what it names, until it expires."""
    lock = Lock(Metadata("l"), LockSpec(target, "come and see us"))
    answer = ask(ACCESS, locks=(lock,))
    assert reason(answer) is Reason.LOCKED
    assert isinstance(answer, Denied)
    assert "come and see us" in answer.message
    over = Lock(Metadata("l", expires=NOW), LockSpec(target))
    assert isinstance(ask(ACCESS, locks=(over,)), Grant)
    other = Lock(Metadata("l"), LockSpec(LockTarget(user="bob")))
    assert isinstance(ask(ACCESS, locks=(other,)), Grant)


def test_options_belong_to_the_role_that_grants() -> None:
    """What one role does not give another may; limits and what is recorded are the strictest."""
    loose = role("loose", ROOT, options=RoleOptions(x11_forwarding=True, max_sessions=50))
    strict = role("strict", ROOT, options=RoleOptions(port_forwarding=False, record_input=True))
    answer = ask(loose, strict)
    assert isinstance(answer, Grant)
    assert (answer.port_forwarding, answer.x11_forwarding) == (True, True)
    assert (answer.max_sessions, answer.recording.input) == (10, True)
    alone = ask(strict)
    assert isinstance(alone, Grant)
    assert (alone.port_forwarding, alone.x11_forwarding) == (False, False)


def test_a_role_for_other_nodes_gives_no_option_here() -> None:
    """Options come from roles that allow this login on this node, and from no others (attack)."""
    options = RoleOptions(x11_forwarding=True, max_sessions=1, record_input=True)
    here = role("here", ROOT, options=RoleOptions(port_forwarding=False))
    for allow in (Conditions(("root",), {"env": ("test",)}), Conditions(("bob",), EVERYWHERE)):
        answer = ask(here, role("elsewhere", allow, options=options))
        assert isinstance(answer, Grant)
        assert answer.roles == ("here",)
        assert (answer.x11_forwarding, answer.max_sessions, answer.recording.input) == (
            False, 10, False,
        )  # fmt: skip


def test_the_shortest_keepalive_holds() -> None:
    """Of the roles that say how long a client may be silent the shortest time counts; never counts
    where no role says more, and no role that says nothing changes it.
    """

    def said(*times: int | None) -> object:
        roles = [
            role(f"r{number}", ROOT, options=RoleOptions(
                client_keepalive=None if seconds is None else timedelta(seconds=seconds)))
            for number, seconds in enumerate(times)
        ]  # fmt: skip
        answer = ask(*roles)
        assert isinstance(answer, Grant)
        keepalive = answer.client_keepalive
        return None if keepalive is None else keepalive.total_seconds()

    assert said(None) is None
    assert said(None, 0) == 0
    assert said(0, 30, None, 10) == 10
    for wrong in (-1, 0.5):
        options = RoleOptions(client_keepalive=timedelta(seconds=wrong))
        with pytest.raises(InvalidInput, match="client_keepalive: at least 1s"):
            check_role(role("r", ROOT, options=options))


def test_a_forced_command() -> None:
    """A role may leave one command; two that force different ones leave both."""
    backup = role("backup", ROOT, options=RoleOptions(force_command="backup", permit_pty=False))
    files = role("files", ROOT, options=RoleOptions(force_command="internal-sftp"))
    answer = ask(backup, files)
    assert isinstance(answer, Grant)
    assert [(each.force_command, each.permit_pty) for each in answer.given] == [
        ("backup", False), ("internal-sftp", True),
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="force_command"):
        check_role(role("r", ROOT, options=RoleOptions(force_command="a\0b")))


def test_an_expired_certificate_decides_nothing() -> None:
    """The end of the certificate is the end of its rights."""
    late = NOW + timedelta(hours=1)
    assert (
        reason(decide(who("access"), "root", PROD, {"access": ACCESS}, (), late)) is Reason.EXPIRED
    )


def test_an_expired_role_is_no_role() -> None:
    """A role with an end gives nothing after it, neither logins nor rules."""
    over = Role(Metadata("over", expires=NOW), RoleSpec(ROOT))
    assert reason(ask(over)) is Reason.NO_ROLE
    still = Role(Metadata("still", expires=NOW + timedelta(seconds=1)), RoleSpec(ROOT))
    assert isinstance(ask(still), Grant)
    rules = Role(Metadata("r", expires=NOW), RoleSpec(Conditions(rules=(Rule(("*",), ("*",)),))))
    assert refusal(("r",), {"r": rules}, "user", "list", NOW) is not None


def test_reaching_needs_a_role_for_the_node() -> None:
    """A user who may not log in to a node at all cannot even dial it."""
    assert may_reach(who("access"), PROD, {"access": ACCESS}, (), NOW) is None
    denied = may_reach(who("editor"), PROD, {"editor": EDITOR}, (), NOW)
    assert denied is not None
    assert denied.reason is Reason.NODE


@pytest.mark.parametrize(
    ("held", "resource", "verb", "good"),
    [
        (("editor",), "user", "create", True),
        (("editor",), "event", "list", False),
        (("auditor",), "event", "list", True),
        (("auditor",), "user", "create", False),
        (("access",), "user", "list", False),
        ((), "user", "list", False),
        (("gone",), "user", "list", False),
        (("editor", "no"), "user", "create", False),
    ],
)
def test_rules_of_the_api(held: tuple[str, ...], resource: str, verb: str, good: bool) -> None:
    """Presets do what their names say, and deny wins here too."""
    no = role("no", deny=Conditions(rules=(Rule(("user",), ("create",)),)))
    known = {r.metadata.name: r for r in (*PRESETS, no)}
    assert permits(held, known, resource, verb) is good
    assert (refusal(held, known, resource, verb) is None) is good


@pytest.mark.parametrize(
    "bad",
    [
        "-rf",
        "a b",
        "../etc",
        "a;b",
        "",
        "{{internal.logins}}/x",
        "x\n",
        "$(id)",
        "*",
        "-{{internal.logins}}",
        "{{internal.a}}{{internal.b}}",
        "{{os.user}}",
        "a{{internal.logins}",
    ],
)
def test_logins_are_account_names(bad: str) -> None:
    """Neither a role nor a trait can bring in a path, an option or a shell word."""
    assert expand((bad,), {}) == ()
    assert expand(("{{internal.logins}}",), {"logins": (bad,)}) == ()
    with pytest.raises(InvalidInput):
        check_role(role("r", Conditions(logins=(bad,))))


def test_principals_are_the_logins_of_all_roles() -> None:
    """A certificate names every login that some role allows and none denies."""
    a = role("a", Conditions(("root", "{{internal.logins}}")))
    b = role("b", deny=Conditions(logins=("root",)))
    assert logins_of({"logins": ("alice", "bob")}, [a]) == ("root", "alice", "bob")
    assert logins_of({"logins": ("alice", "bob")}, [a, b]) == ("alice", "bob")


def test_presets_are_sound() -> None:
    """What every cluster begins with passes its own checks."""
    for preset in (ACCESS, EDITOR, AUDITOR):
        check_role(preset)


@pytest.mark.parametrize(
    "labels",
    [{"env": ()}, {"*": ("x",)}, {"env": ("^a(+$",)}, {"env": ("^a",)}, {"env": ("^(a)\\1$",)}],
    ids=["empty", "star", "broken", "open", "back"],
)
def test_conditions_that_mislead_are_refused(labels: dict[str, tuple[str, ...]]) -> None:
    """A condition that would not do what its author thinks is an error, not a surprise."""
    with pytest.raises(InvalidInput):
        check_role(role("r", Conditions(node_labels=labels)))


@pytest.mark.parametrize(
    "rule",
    [
        Rule(("users",), ("*",)),
        Rule(("user",), ("reed",)),
        Rule((), ("*",)),
        Rule(("user",), ()),
        Rule(("event",), ("delete",)),
        Rule(("role",), ("create",)),
        Rule(("event", "cluster"), ("list",)),
        Rule(("token", "session"), ("list", "update")),
        Rule(("*",), ("update", "sing")),
    ],
)
def test_rules_about_nothing_are_refused(rule: Rule) -> None:
    """A misspelt denial would deny nothing: it is an error when the role is written."""
    conditions = Conditions(rules=(rule,))
    for spec in (RoleSpec(allow=conditions), RoleSpec(deny=conditions)):
        with pytest.raises(InvalidInput):
            check_role(Role(Metadata("r"), spec))


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_rule_is_valid_exactly_if_an_operation_needs_it(resource: str, verb: str) -> None:
    """No pair of words is accepted that no operation checks, neither to allow nor to deny."""
    conditions = Conditions(rules=(Rule((resource,), (verb,)),))
    for spec in (RoleSpec(allow=conditions), RoleSpec(deny=conditions)):
        if (resource, verb) in PERMISSIONS:
            check_role(Role(Metadata("r"), spec))
        else:
            with pytest.raises(InvalidInput, match="does nothing"):
                check_role(Role(Metadata("r"), spec))


def test_a_wildcard_is_all_that_there_is() -> None:
    """``*`` names nothing in particular, so it is never about nothing."""
    for rule in (Rule(("*",), ("*",)), Rule(("*",), ("list",)), Rule(("event",), ("*",))):
        check_role(role("r", Conditions(rules=(rule,))))


def test_what_an_operation_needs_can_be_in_a_rule() -> None:
    """Every resource and verb of the table is one that a role can name."""
    for operation in OPERATIONS.values():
        for each in operation.who:
            if isinstance(each, Permitted):
                check_role(role("r", Conditions(rules=(Rule((each.resource,), (each.verb,)),))))


@given(st.text(alphabet="ab*?", max_size=12), st.text(alphabet="ab", max_size=12))
def test_patterns_agree_with_the_plain_definition(pattern: str, text: str) -> None:
    """The fast matcher says what the definition says."""

    def slow(p: str, t: str) -> bool:
        if not p:
            return not t
        if p[0] == "*":
            return slow(p[1:], t) or (bool(t) and slow(p, t[1:]))
        return bool(t) and p[0] in ("?", t[0]) and slow(p[1:], t[1:])

    assert matches(pattern, text) == slow(pattern, text)


@given(st.lists(st.sampled_from([ACCESS, EDITOR, AUDITOR, role("all", ROOT)])))
def test_more_roles_never_overrule_a_deny(roles: list[Role]) -> None:
    """Whatever other roles a user has, a deny of the node holds."""
    no = role("no", deny=Conditions(node_labels={"env": ("prod",)}))
    assert reason(ask(*roles, no)) is Reason.DENIED


def test_the_strictest_role_decides_whether_recording_is_needed() -> None:
    """Best effort is the default; one role that asks for recordings is enough."""
    allow = Conditions(logins=("root",), node_labels={"env": ("prod",)})
    plain = role("plain", allow)
    strict = role("strict", allow, options=RoleOptions(record=SessionRecording.STRICT))
    for roles, strictly in (((plain,), False), ((strict,), True), ((plain, strict), True)):
        grant = ask(*roles, labels=PROD)
        assert isinstance(grant, Grant)
        assert (grant.recording.strict, grant.break_glass) == (strictly, False)


def test_roles_that_permit_logins_without_audit() -> None:
    """``break_glass`` counts from a role that allows this login on this node, and from no other."""
    allow = Conditions(logins=("root",), node_labels={"env": ("prod",)})
    elsewhere = Conditions(logins=("root",), node_labels={"env": ("test",)})
    options = RoleOptions(break_glass=True)
    strict = role("strict", allow, options=RoleOptions(record=SessionRecording.STRICT))
    for other, expected in ((role("rescue", allow, options=options), True),
                            (role("rescue", elsewhere, options=options), False)):  # fmt: skip
        grant = ask(strict, other, labels=PROD)
        assert isinstance(grant, Grant)
        assert (grant.recording.strict, grant.break_glass) == (not expected, expected)


def test_break_glass_of_a_narrow_role_leaves_the_rest_to_be_recorded() -> None:
    """A command that runs without a recording brings no shell with it that has to have one
    (attack).
    """
    strict = role("strict", ROOT, options=RoleOptions(record=SessionRecording.STRICT))
    for options, whole in (
        (RoleOptions(break_glass=True, force_command="df"), False),
        (RoleOptions(break_glass=True, permit_pty=False), False),
        (RoleOptions(break_glass=True, port_forwarding=False), False),
        (RoleOptions(break_glass=True), True),
        (RoleOptions(break_glass=True, x11_forwarding=True), True),
    ):
        grant = ask(strict, role("rescue", ROOT, options=options))
        assert isinstance(grant, Grant)
        assert (grant.break_glass, grant.recording.strict) == (whole, not whole)
        emergency = grant.in_emergency()
        assert emergency is not None
        assert (emergency.roles, emergency.break_glass) == (("rescue",), True)
        assert not emergency.recording.strict
    alone = ask(strict)
    assert isinstance(alone, Grant)
    assert alone.in_emergency() is None


def test_without_a_recording_sudoers_are_those_of_roles_with_break_glass() -> None:
    """What another role's recorded sessions may run as root is not run unrecorded (attack)."""
    kept = RoleOptions(create_host_user=HostUserMode.KEEP)
    allow = evolve(ROOT, host_sudoers=("ALL=(ALL) NOPASSWD: ALL",), host_groups=("docker",))
    recorded = role("recorded", allow, options=evolve(kept, record=SessionRecording.STRICT))
    rescue = role("rescue", ROOT, options=evolve(kept, break_glass=True))
    grant = ask(recorded, rescue)
    assert isinstance(grant, Grant)
    assert grant.host_user == HostUser(groups=allow.host_groups, sudoers=allow.host_sudoers)
    assert (grant.break_glass, grant.recording.strict) == (False, True)
    emergency = grant.in_emergency()
    assert emergency is not None
    assert emergency.host_user == HostUser()


@pytest.mark.parametrize(
    ("mode", "sync"), [("node", False), ("node-sync", True), ("proxy", False), ("proxy-sync", True)]
)
def test_a_grant_says_how_its_connection_is_recorded(mode: str, sync: bool) -> None:
    """Mode, pause and lengths are the cluster's, input and strictness those of the roles."""
    allow = Conditions(logins=("root",), node_labels={"env": ("prod",)})
    options = RoleOptions(record=SessionRecording.STRICT, record_input=True)
    settings = RecordingSettings(
        RecordingMode(mode),
        sync_end_after=timedelta(minutes=2),
        capture_head=Size(4096),
        capture_tail=Size(0),
    )
    policy = Policy({"ops": role("ops", allow, options=options)}, recording=settings)
    grant = policy.decide(who("ops"), "root", PROD, NOW)
    assert isinstance(grant, Grant)
    assert grant.recording == RecordingPlan(
        RecordingMode(mode), sync, timedelta(minutes=2), 4096, 0, input=True, strict=True
    )
