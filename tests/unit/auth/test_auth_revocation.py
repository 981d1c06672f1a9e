"""What auth revokes, which callers it refuses, and what it issues."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from auth_world import Tape, World, result
from tele.auth.guessing import FAILURES
from tele.auth.streams import CHECK_USER_SECONDS
from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.check import issue_time
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey, read_identity
from tele.errors import AccessDenied, Conflict, InvalidInput, NotFound
from tele.loop import now
from tele.model.access import Denied, Reason
from tele.model.api import audit, members, recordings, table, users
from tele.model.api.authorities import SignUser
from tele.model.api.locks import PutLock
from tele.model.api.operation import Nothing
from tele.model.api.paging import ByName, Paged
from tele.model.api.roles import PutRole
from tele.model.api.sessions import KillSession
from tele.model.api.tokens import NewToken
from tele.model.identity import Caller, HostRole, UserIdentity
from tele.model.resources import (
    Conditions,
    Lock,
    LockSpec,
    LockTarget,
    Metadata,
    Role,
    RoleOptions,
    RoleSpec,
    Rule,
    User,
    UserSpec,
)
from tele.model.revocation import UserRevocation
from tele.rbac.presets import EDITOR

HOUR = timedelta(hours=1)


def certificate(world: World, name: str = "alice") -> Certificate:
    return parse_certificate(parse_line(world.login(name).ssh))


def identity(world: World, name: str, *roles: str) -> UserIdentity:
    who = world.user(name, *roles).identity
    assert isinstance(who, UserIdentity)
    return who


def revocation(world: World, name: str = "alice") -> UserRevocation | None:
    return world.parts.state.revoked_users.get(name)


def change(world: World, name: str = "alice", **spec: Any) -> User:
    """Change a user's roles, traits or end."""
    user = world.do(table.GET_USER, ByName(name))
    metadata = evolve(user.metadata, expires=spec.pop("expires", user.metadata.expires))
    changed = evolve(user, metadata=metadata, spec=evolve(user.spec, **spec))
    made: User = world.do(table.PUT_USER, users.PutUser(name, changed, True))
    return made


def add_lock(world: World, name: str = "l", force: bool = False, **target: str) -> Lock:
    value = Lock(Metadata(name), LockSpec(LockTarget(**target), "call security"))
    made: Lock = world.do(table.PUT_LOCK, PutLock(name, value, force))
    return made


# -- what is revoked -------------------------------------------------------------------
def test_a_removed_users_certificate_is_void(world: World) -> None:
    """Nodes get the revocation, also after another user has the name; that user logs in."""
    world.add_user("alice", "access")
    old = identity(world, "alice", "access")
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    world.add_user("alice", "access")
    policy, moment = world.parts.state.policy, now(world.clock)
    denied = policy.refuses_user(old, moment)
    assert denied is not None
    assert denied.reason is Reason.REVOKED
    assert issue_time(certificate(world)) > old.issued
    assert policy.refuses_user(identity(world, "alice", "access"), moment) is None


def test_a_removed_users_certificate_opens_no_api(world: World) -> None:
    """The first call after the removal is refused, also when the name is in use again."""
    world.add_user("alice", "editor")
    world.add_user("dana", "editor")
    old = world.user("alice", "editor")
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    with pytest.raises(AccessDenied, match="does not exist"):
        world.do(table.LIST_USERS, Paged(), old)
    world.add_user("alice", "editor")
    with pytest.raises(AccessDenied, match="was removed"):
        world.do(table.LIST_USERS, Paged(), old)
    assert [e.fields["reason"] for e in world.events("auth.denied")] == ["no_role", "revoked"]


def test_lost_roles_and_logins_are_gone_from_certificates(world: World) -> None:
    """A certificate counts for what its user still holds, wherever it is shown."""
    world.add_user("alice", "access", "auditor")
    old = identity(world, "alice", "access", "auditor")
    change(world, roles=("auditor",))
    narrowed = world.parts.state.policy.narrowed(old, now(world.clock))
    assert not isinstance(narrowed, Denied)
    assert narrowed.roles == ("auditor",)
    change(world, roles=("access", "auditor"), traits={"logins": ("deploy",)})
    decided = world.parts.state.policy.decide(old, "root", {}, now(world.clock))
    assert isinstance(decided, Denied)


def test_a_user_who_expires_is_out_at_that_moment(world: World) -> None:
    """Nodes get the end beforehand; auth refuses from it on, and the name is free again."""
    world.add_user("alice", "access")
    change(world, expires=now(world.clock) + HOUR)
    old = identity(world, "alice", "access")
    policy = world.parts.state.policy
    assert policy.next_end(now(world.clock)) == now(world.clock) + HOUR
    assert policy.refuses_user(old, now(world.clock)) is None
    world.clock.advance(HOUR.total_seconds())
    assert policy.refuses_user(old, now(world.clock)) is not None
    with pytest.raises(AccessDenied):
        world.do(table.WHOAMI, Nothing(), Caller(old))
    world.add_user("alice", "access")
    assert world.parts.state.policy.refuses_user(old, now(world.clock)) is not None
    world.login()


def test_revocations_are_forgotten_when_nothing_is_left_to_revoke(world: World) -> None:
    """The published state does not grow for ever."""
    world.add_user("alice", "access")
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    world.clock.advance(timedelta(hours=30).total_seconds())
    assert revocation(world) is not None
    world.clock.advance(timedelta(days=8).total_seconds())
    assert revocation(world) is None


def test_a_login_during_a_removal_gets_nothing_that_counts(world: World) -> None:
    """A certificate is issued as of the time when its user was read: what is taken meanwhile is
    gone from it.
    """
    world.add_user("alice", "access", "auditor")
    issued = result(world.parts.users.issue_time("alice"))
    change(world, roles=("access",))
    late = evolve(identity(world, "alice", "access", "auditor"), issued=issued)
    narrowed = world.parts.state.policy.narrowed(late, now(world.clock))
    assert not isinstance(narrowed, Denied)
    assert narrowed.roles == ("access",)


def test_a_clock_that_is_set_back_wakes_no_certificate(world: World) -> None:
    """What was issued while auth's clock was ahead is revoked like everything before it."""
    world.add_user("alice", "access", "auditor")
    ahead = evolve(
        identity(world, "alice", "access", "auditor"), issued=issue_time(certificate(world))
    )
    world.clock.rightNow -= 7200
    change(world, roles=("access",))
    world.clock.advance(7200)
    narrowed = world.parts.state.policy.narrowed(ahead, now(world.clock))
    assert not isinstance(narrowed, Denied)
    assert narrowed.roles == ("access",)
    world.clock.rightNow -= 7200
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    world.clock.advance(7200)
    denied = world.parts.state.policy.refuses_user(ahead, now(world.clock))
    assert denied is not None
    assert denied.reason is Reason.REVOKED


def test_a_user_with_fewer_roles_logs_in_after_the_clock_was_set_back(world: World) -> None:
    """A new certificate is of now: a narrowing takes nothing from it."""
    world.add_user("alice", "access", "auditor")
    world.login()
    world.clock.rightNow -= 7200
    change(world, roles=("access",))
    assert issue_time(certificate(world)) <= now(world.clock)


# -- what is issued --------------------------------------------------------------------
def test_no_certificate_outlives_its_user_or_a_role(world: World) -> None:
    """By password, signed by an administrator, or on auth's machine: it ends with the user, with
    the first of its roles, and when its roles say so.
    """
    end = now(world.clock) + timedelta(minutes=30)
    world.add_user("alice", "access")
    change(world, expires=end)
    world.add_user("bob", "access")
    short = RoleSpec(Conditions(logins=("bob",)), options=RoleOptions(max_session_ttl=HOUR / 2))
    for name, role in (
        ("brief", Role(Metadata("brief", expires=end), RoleSpec())),
        ("short", Role(Metadata("short"), short)),
    ):
        world.do(table.PUT_ROLE, PutRole(name, role))
        world.add_user(f"{name}-user", "access", name)
    key = PrivateKey.generate().public.line
    tls = TlsKey.generate().public_pem
    for name in ("alice", "brief-user", "short-user"):
        signed = world.do(table.SIGN_USER, SignUser(name, key, ("root",), HOUR * 24))
        by_owner = result(world.auth.issue_for(name, members.PublicKeys(key, tls), HOUR * 24))
        assert certificate(world, name).valid_before <= end.timestamp()
        assert parse_certificate(parse_line(signed.certificate)).valid_before <= end.timestamp()
        assert (signed.expires, by_owner.expires) == (end, end), name
    world.clock.advance(3600)
    with pytest.raises(AccessDenied):
        world.login("alice")
    world.login("brief-user")  # without the role that is gone


def test_both_certificates_of_a_login_have_one_serial(world: World) -> None:
    """A lock on the serial that ssh-keygen prints stops the API, too, and is in the audit."""
    from cryptography import x509

    world.add_user("alice", "access")
    made = world.login()
    ssh = parse_certificate(parse_line(made.ssh))
    tls = read_identity(x509.load_pem_x509_certificate(made.tls.encode()))
    assert isinstance(tls, UserIdentity)
    assert ssh.serial == tls.serial
    (issued,) = world.events("cert.issue")
    assert issued.fields["serial"] == str(ssh.serial)
    world.do(table.WHOAMI, Nothing(), Caller(tls))
    add_lock(world, certificate=str(ssh.serial))
    with pytest.raises(AccessDenied, match="this certificate of alice is locked by l: call sec"):
        world.do(table.WHOAMI, Nothing(), Caller(tls))
    world.do(table.WHOAMI, Nothing(), world.user("alice", "access"))


# -- streams ---------------------------------------------------------------------------
def follow(world: World, caller: Caller) -> list[Any]:
    ended: list[Any] = []
    world.auth.follow(table.FOLLOW_EVENTS, audit.FollowEvents(), caller, lambda _: None).addBoth(
        ended.append
    )
    return ended


def test_a_stream_ends_at_the_change_that_forbids_it(world: World) -> None:
    """A removed, narrowed or locked user, and one whose role changed, receives nothing more."""
    world.add_user("root", "editor")
    watch = Role(Metadata("watch"), RoleSpec(Conditions(rules=(Rule(("event",), ("list",)),))))
    world.do(table.PUT_ROLE, PutRole("watch", watch))
    streams = {}
    for name, role in (("alice", "auditor"), ("bob", "auditor"), ("carol", "auditor"),
                       ("dana", "watch"), ("erin", "auditor")):  # fmt: skip
        world.add_user(name, role)
        streams[name] = follow(world, world.user(name, role))
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    assert streams["alice"]
    change(world, "bob", roles=())
    assert streams["bob"]
    add_lock(world, user="carol")
    assert streams["carol"]
    world.do(table.PUT_ROLE, PutRole("watch", evolve(watch, spec=RoleSpec())))
    assert streams["dana"]
    assert not streams["erin"], "a permitted reader still receives"
    change(world, "erin", expires=now(world.clock) + HOUR)
    world.clock.advance(HOUR.total_seconds() - 1)
    assert not streams["erin"]
    world.clock.pump([CHECK_USER_SECONDS] * 2)
    assert streams["erin"]


# -- locks -----------------------------------------------------------------------------
def test_locks_are_administered(world: World) -> None:
    """They are put, listed, read and removed, with events, by those who have the rules."""
    world.add_user("alice", "access")
    world.add_user("eve", "access")
    made = add_lock(world, user="alice")
    assert (made.spec.created_by, made.metadata.revision > 0) == ("@local", True)
    assert world.do(table.LIST_LOCKS, Paged()).items == (made,)
    assert world.do(table.GET_LOCK, ByName("l")) == made
    with pytest.raises(AccessDenied, match="alice is locked by l: call security"):
        world.do(table.WHOAMI, Nothing(), world.user("alice", "access"))
    eve = world.user("eve", "access")
    for operation, request in (
        (table.LIST_LOCKS, Paged()),
        (table.DELETE_LOCK, ByName("l")),
        (table.PUT_LOCK, PutLock("l", made)),
    ):
        with pytest.raises(AccessDenied, match="no role"):
            world.do(operation, request, eve)
    world.do(table.DELETE_LOCK, ByName("l"))
    world.do(table.WHOAMI, Nothing(), world.user("alice", "access"))
    with pytest.raises(NotFound):
        world.do(table.DELETE_LOCK, ByName("l"))
    assert [e.fields["target"] for e in world.events("lock.create")] == [{"user": "alice"}]
    assert [e.fields["name"] for e in world.events("lock.delete")] == ["l"]


def test_a_lock_is_not_removed_by_a_user_who_may_only_create(world: World) -> None:
    """Replacing a lock by a harmless one is removing it."""
    create = Role(Metadata("guard"), RoleSpec(Conditions(rules=(Rule(("lock",), ("create",)),))))
    world.do(table.PUT_ROLE, PutRole("guard", create))
    for name, role in (("eve", "guard"), ("bob", "access")):
        world.add_user(name, role)
    add_lock(world, user="eve")
    world.do(table.DELETE_LOCK, ByName("l"))
    eve = world.user("eve", "guard")
    stop = Lock(Metadata("l"), LockSpec(LockTarget(user="bob")))
    world.do(table.PUT_LOCK, PutLock("l", stop), eve)
    harmless = evolve(stop, spec=LockSpec(LockTarget(login="nobody")))
    with pytest.raises(AccessDenied, match="needs a rule for the verb delete"):
        world.do(table.PUT_LOCK, PutLock("l", harmless), eve)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ({"user": "bbo"}, NotFound),
        ({"role": "acess"}, NotFound),
        ({"host_id": "web1"}, NotFound),
        ({"login": "-x"}, InvalidInput),
        ({"session": "x"}, InvalidInput),
        ({"login_session": "x"}, InvalidInput),
        ({"certificate": "0x12"}, InvalidInput),
    ],
)
def test_a_mistyped_lock_is_refused(
    world: World, target: dict[str, str], error: type[Exception]
) -> None:
    """A lock without an effect is refused."""
    lock = Lock(Metadata("l"), LockSpec(LockTarget(**target)))
    with pytest.raises(error):
        world.do(table.PUT_LOCK, PutLock("l", lock))
    assert world.do(table.LIST_LOCKS, Paged()).items == ()


@pytest.mark.parametrize("target", [{}, {"user": "a", "role": "b"}, {"user": ""}])
def test_a_lock_has_one_target(target: dict[str, str]) -> None:
    """None, two and an empty one are no target."""
    with pytest.raises(ValueError, match="target"):
        LockTarget(**target)


def test_what_a_locked_user_reads_is_one_printable_line(world: World) -> None:
    """A lock's message moves no cursor and is no page."""
    world.add_user("alice", "access")
    for message in ("\x1b[2Jgone", "one\ntwo", "\u202etxt"):
        spec = LockSpec(LockTarget(user="alice"), message)
        with pytest.raises(InvalidInput):
            world.do(table.PUT_LOCK, PutLock("l", Lock(Metadata("l"), spec)))
    with pytest.raises(ValueError, match="message"):
        LockSpec(LockTarget(user="alice"), "x" * 1000)


def test_a_lock_ends(world: World) -> None:
    """With a time it is gone by itself, and one whose time is over is refused."""
    world.add_user("alice", "access")
    spec = LockSpec(LockTarget(user="alice"))
    until = Metadata("l", expires=now(world.clock) + HOUR)
    world.do(table.PUT_LOCK, PutLock("l", Lock(until, spec)))
    with pytest.raises(InvalidInput, match="in the past"):
        over = Metadata("m", expires=now(world.clock))
        world.do(table.PUT_LOCK, PutLock("m", Lock(over, spec)))
    with pytest.raises(AccessDenied):
        world.login()
    world.clock.advance(HOUR.total_seconds())
    world.login()
    assert world.do(table.LIST_LOCKS, Paged()).items == ()


# -- sessions --------------------------------------------------------------------------
def test_a_session_is_ended_by_a_lock_on_it(world: World) -> None:
    """It names who ended it and why; one that does not run is not found."""
    tape = Tape(world)
    world.add_user("sam", "editor")
    world.add_user("eve", "access")
    world.add_user("alice", "access")
    kill = KillSession(tape.id, "maintenance")
    with pytest.raises(AccessDenied):
        world.do(table.KILL_SESSION, kill, world.user("eve", "access"))
    world.do(table.KILL_SESSION, kill, world.user("sam", "editor"))
    policy, moment = world.parts.state.policy, now(world.clock)
    alice = identity(world, "alice", "access")
    denied = policy.decide(alice, "root", {}, moment, session_id=tape.id)
    assert isinstance(denied, Denied)
    assert denied.message == "this session was ended by sam: maintenance"
    assert not isinstance(policy.decide(alice, "root", {}, moment), Denied), "only that session"
    (event,) = world.events("session.kill")
    assert (event.session_id, event.user) == (tape.id, "sam")
    ended = recordings.UpdateRecording(tape.id, ended=moment)
    world.do(table.UPDATE_RECORDING, ended, tape.host)
    for session in (tape.id, "x", "../x"):
        with pytest.raises(NotFound, match="no such session runs"):
            world.do(table.KILL_SESSION, KillSession(session))


def test_the_response_of_a_removal_has_what_it_ended(world: World) -> None:
    """Sessions that ran and tokens that the user made: those join no host any more."""
    tape = Tape(world)
    world.add_user("alice", "editor")
    world.add_user("dana", "editor")
    alice = world.user("alice", "editor")
    made = world.do(table.ADD_TOKEN, NewToken((HostRole.NODE,)), alice)
    others = world.token()
    gone = world.do(table.DELETE_USER, users.DeleteUser("alice"))
    assert [session.id for session in gone.sessions] == [tape.id]
    assert len(gone.tokens) == 1
    with pytest.raises(AccessDenied):
        world.join(made.token, name="web2")
    assert others


def test_a_token_does_not_outlive_its_creator(world: World) -> None:
    """A user who expires leaves no access behind."""
    world.add_user("dana", "editor")
    world.add_user("alice", "editor")
    end = now(world.clock) + timedelta(minutes=5)
    change(world, expires=end)
    made = world.do(
        table.ADD_TOKEN,
        NewToken((HostRole.NODE,), timedelta(days=300)),
        world.user("alice", "editor"),
    )
    assert made.expires == end


# -- the last administrator ------------------------------------------------------------
def test_the_last_administrator_stays(world: World) -> None:
    """Whatever would take away the last one is refused, and done with force."""
    world.add_user("alice", "editor")
    alice = world.do(table.GET_USER, ByName("alice"))
    harmless = evolve(EDITOR, spec=RoleSpec(Conditions(rules=(Rule(("user",), ("list",)),))))
    lock = Lock(Metadata("l"), LockSpec(LockTarget(role="editor")))
    expires = evolve(alice.metadata, expires=now(world.clock) + HOUR)
    attempts: list[tuple[Any, Any]] = [
        (table.DELETE_USER, users.DeleteUser("alice")),
        (table.PUT_USER, users.PutUser("alice", evolve(alice, spec=UserSpec(("access",))))),
        (table.PUT_USER, users.PutUser("alice", evolve(alice, metadata=expires))),
        (table.PUT_ROLE, PutRole("editor", harmless)),
        (table.PUT_LOCK, PutLock("l", lock)),
    ]
    for operation, request in attempts:
        with pytest.raises(Conflict, match="--force"):
            world.do(operation, request)
    with pytest.raises(Conflict, match="--force"):
        add_lock(world, user="alice")
    world.add_user("dana", "editor")
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    world.do(table.DELETE_USER, users.DeleteUser("dana", True))


def test_force_is_for_administrators(world: World) -> None:
    """A user who may create locks, or remove users, or change roles alone, cannot lock out all
    users.
    """
    world.add_user("alice", "editor")
    rules = (
        Rule(("lock",), ("create",)),
        Rule(("user",), ("delete",)),
        Rule(("role",), ("update",)),
    )
    allowed = RoleSpec(Conditions(rules=rules))
    world.do(table.PUT_ROLE, PutRole("support", Role(Metadata("support"), allowed)))
    world.add_user("bob", "support")
    bob = world.user("bob", "support")
    lock = Lock(Metadata("l"), LockSpec(LockTarget(user="alice")))
    harmless = evolve(EDITOR, spec=RoleSpec())
    attempts: list[tuple[Any, Any, Any]] = [
        (table.PUT_LOCK, PutLock("l", lock), PutLock("l", lock, True)),
        (table.DELETE_USER, users.DeleteUser("alice"), users.DeleteUser("alice", True)),
        (
            table.PUT_ROLE,
            PutRole("editor", harmless),
            PutRole("editor", harmless, True),
        ),
    ]
    for operation, mildly, by_force in attempts:
        with pytest.raises(Conflict):
            world.do(operation, mildly, bob)
        with pytest.raises(AccessDenied, match="forcing a change"):
            world.do(operation, by_force, bob)


def test_two_administrators_cannot_remove_each_other_at_once(world: World) -> None:
    """Each of two changes at the same time counts on the other's administrator: one is refused."""
    world.add_user("alice", "editor")
    world.add_user("dana", "editor")
    keep_one = world.parts.users._keep_one
    puts = [result(keep_one(lambda directory: directory, False)) for _ in range(2)]
    result(world.backend.commit(*puts[0]))
    with pytest.raises(Conflict):
        result(world.backend.commit(*puts[1]))


def test_the_owner_of_auths_machine_can_always_make_an_administrator(world: World) -> None:
    """With all users locked, no administrator and the presets removed, one command makes one."""
    world.add_user("alice", "editor")
    add_lock(world, user="alice", force=True)
    world.do(table.DELETE_USER, users.DeleteUser("alice", True))
    for name in ("editor", "access", "auditor"):
        world.do(table.DELETE_ROLE, ByName(name))
    world.add_user("rescue", "editor")
    world.login("rescue")
    world.do(table.LIST_USERS, Paged(), world.user("rescue", "editor"))
    assert world.events("role.update")[-1].fields["name"] == "editor"
    with pytest.raises(InvalidInput):
        world.add_user("dana", "ops")


def test_the_owner_who_starts_the_cluster_is_not_locked_out_of_it(world: World) -> None:
    """``tele up`` logs its owner in, also after a lock; that is in the audit."""
    result(world.auth.ensure_admin("owner", ("root",)))
    add_lock(world, "one", force=True, user="owner")
    add_lock(world, "two", force=True, role="editor")
    add_lock(world, "other", login="nobody")
    result(world.auth.ensure_admin("owner", ("root",)))
    key, tls = PrivateKey.generate().public.line, TlsKey.generate().public_pem
    result(world.auth.issue_for("owner", members.PublicKeys(key, tls)))
    assert {e.fields["name"] for e in world.events("lock.delete")} == {"one", "two"}


# -- one's own password ----------------------------------------------------------------
def test_a_change_of_password_needs_the_old_one(world: World) -> None:
    """The present one is checked like a log-in, with its lock-out; both are in the audit."""
    world.add_user("alice", "access")
    alice = world.user("alice", "access")
    world.do(table.CHANGE_PASSWORD, users.ChangePassword("correct horse", "battery staple"), alice)
    world.login(password="battery staple")
    with pytest.raises(AccessDenied):
        world.login()
    wrong = users.ChangePassword("correct horse", "battery staple 2")
    for _ in range(FAILURES):
        with pytest.raises(AccessDenied, match="wrong, or there were too many"):
            world.do(table.CHANGE_PASSWORD, wrong, alice)
    right = users.ChangePassword("battery staple", "battery staple 2")
    with pytest.raises(AccessDenied, match="too many wrong"):
        world.do(table.CHANGE_PASSWORD, right, alice)
    world.login(password="battery staple")
    assert {e.ok for e in world.events("user.password")} == {True, False}
    assert "battery" not in repr(world.events("user.password"))


def test_a_change_under_way_does_not_reach_a_namesake(world: World) -> None:
    """A user who changes their password while they are removed does not set that of the next alice
    (attack).
    """
    world.add_user("alice", "access")
    passwords = world.parts.passwords
    mark = result(passwords.mark("alice"))
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    with pytest.raises(Conflict):
        result(passwords.change("alice", mark, "battery staple"))
    world.add_user("alice", "access", password="another one's")
    with pytest.raises(Conflict):
        result(passwords.change("alice", mark, "battery staple"))
    with pytest.raises(AccessDenied):
        world.login(password="battery staple")
    world.login(password="another one's")
