"""Attacks on auth, one in each test: what an attacker tries, and the result."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from auth_world import FAST, HOST_ID, OTHER_ID, Tape, Threads, World, result
from tele.audit.chain import event
from tele.auth.guessing import FAILURES, FIRST_WAIT, Outcome
from tele.auth.journal import CLIENT_BURST, CLIENT_PER_SECOND
from tele.auth.passwords import WAITING_PER_NAME, Passwords
from tele.auth.streams import CHECK_SECONDS
from tele.certs.certificate import parse_certificate
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey
from tele.errors import (
    AccessDenied,
    Conflict,
    InvalidInput,
    NotLoggedIn,
    TeleError,
)
from tele.interfaces import Put
from tele.loop import now
from tele.model.api import audit, members, recordings, table, users
from tele.model.api.authorities import SignUser
from tele.model.api.hosts import ListHosts
from tele.model.api.operation import Anyone, Hosts, Operation, Permitted, Users
from tele.model.api.paging import ById, Paged
from tele.model.api.roles import PutRole
from tele.model.codec import encode
from tele.model.identity import Caller, HostIdentity, HostRole, UserIdentity
from tele.model.presence import Presence
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
from tele.tape.verify import to_sign


def keys() -> members.PublicKeys:
    return members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)


def lock(world: World, **target: str) -> None:
    value = Lock(Metadata("l"), LockSpec(LockTarget(**target), "come and see us"))
    result(world.backend.commit(_put(f"/locks/{value.metadata.name}", value)))


def _put(key: str, value: Any) -> Put:
    return Put(key, encode(value))


# -- permitted callers -----------------------------------------------------------------
@pytest.mark.parametrize("operation", table.OPERATIONS.values(), ids=lambda o: o.name)
def test_authorization_is_auths_own(world: World, operation: Operation[Any, Any]) -> None:
    """A caller that the table does not name is refused by auth itself, not by its server alone."""
    if any(isinstance(who, Anyone) for who in operation.who):
        return
    world.add_user("alice", "access")
    world.join(world.token())
    allowed = {type(who) for who in operation.who}
    refused: list[Caller] = [Caller(None, "192.0.2.66:1")]
    if Hosts not in allowed:
        refused += [world.host(), world.proxy()]
    if not allowed & {Users, Permitted}:
        refused.append(world.user("alice", "access"))
        refused.append(world.admin)
    if allowed == {Permitted}:
        refused.append(world.user("alice", "access"))
    for caller in refused:
        with pytest.raises((AccessDenied, NotLoggedIn)):
            if operation.streams:
                result(world.auth.follow(operation, None, caller, [].append))
            else:
                world.do(operation, None, caller)
    assert len(world.events("auth.denied")) == len(refused), "each of them is an event"


def test_a_stream_is_no_call_and_a_call_no_stream(world: World) -> None:
    """The two ways to call cannot be mixed to slip past what one of them checks."""
    with pytest.raises(InvalidInput):
        world.do(table.FOLLOW_EVENTS, audit.FollowEvents())
    with pytest.raises(InvalidInput):
        result(world.auth.follow(table.LIST_USERS, Paged(), world.admin, [].append))


def test_certificates_that_are_over_or_of_others_are_worth_nothing(world: World) -> None:
    """An expired certificate and one of another cluster open nothing."""
    world.add_user("alice", "access")
    alice = world.user("alice", "access").identity
    assert isinstance(alice, UserIdentity)
    with pytest.raises(NotLoggedIn):
        world.do(table.WHOAMI, None, Caller(evolve(alice, expires=now(world.clock))))
    with pytest.raises(AccessDenied):
        world.do(table.WHOAMI, None, Caller(evolve(alice, cluster="other")))


def test_no_user_has_the_name_of_the_local_administrator(world: World) -> None:
    """No user can get the name that means everything is allowed."""
    for name in ("@local", "@LOCAL", "a/b", "a\nb", "-x", ""):
        with pytest.raises((InvalidInput, ValueError)):
            world.do(table.ADD_USER, users.NewUser(User(Metadata(name))))


def test_the_local_administrator_cannot_be_locked_out(world: World) -> None:
    """Changed preset roles do not lock the administrator of auth's own machine out."""
    ruined = Role(Metadata("editor"), RoleSpec(deny=Conditions(rules=(Rule(("*",), ("*",)),))))
    world.do(table.PUT_ROLE, PutRole("editor", ruined))
    lock(world, user="@local")
    assert world.do(table.LIST_USERS, Paged()).items == ()


def test_giving_roles_is_administering(world: World) -> None:
    """A user who may only create users can create none with a role: it could be any role."""
    clerk = Conditions(rules=(Rule(("user",), ("create", "read", "list")),))
    world.do(table.PUT_ROLE, PutRole("clerk", Role(Metadata("clerk"), RoleSpec(clerk))))
    world.add_user("carl", "clerk")
    carl = world.user("carl", "clerk")
    with pytest.raises(AccessDenied):
        request = users.NewUser(User(Metadata("evil"), UserSpec(("editor",))))
        world.do(table.ADD_USER, request, carl)
    with pytest.raises(AccessDenied):
        mine = User(Metadata("carl"), UserSpec(("clerk", "editor")))
        world.do(table.PUT_USER, users.PutUser("carl", mine), carl)
    with pytest.raises(AccessDenied):
        power = Role(Metadata("clerk"), RoleSpec(Conditions(rules=(Rule(("*",), ("*",)),))))
        world.do(table.PUT_ROLE, PutRole("clerk", power), carl)
    world.do(table.ADD_USER, users.NewUser(User(Metadata("plain"))), carl)


# -- guessing ---------------------------------------------------------------------------
def test_guessing_tokens_is_bounded_noise(world: World) -> None:
    """A storm of guesses finds nothing, and leaves a few events that say how many there were."""
    storm = int(CLIENT_BURST) + 50
    for number in range(storm):
        with pytest.raises(AccessDenied):
            world.join(f"guess-{number}")
    assert len(world.events("auth.denied")) <= CLIENT_BURST
    world.clock.advance(2 / CLIENT_PER_SECOND)
    with pytest.raises(AccessDenied):
        world.join("one more")
    last = result(
        world.parts.audit.query(audit.ListEvents(event="auth.denied", newest=True, limit=1))
    ).items[0]
    assert last.fields["others_not_listed"] == 50


def test_without_a_token_nothing_is_learned(world: World) -> None:
    """Which names and ids are taken is not revealed to a client that guesses tokens."""
    world.join(world.token())
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    for words in ({"host_id": OTHER_ID}, {"host_id": HOST_ID}, {"name": "free"}):
        with pytest.raises(AccessDenied, match="unknown, expired or used up"):
            world.join("guess", **{"host_id": OTHER_ID, **words})


def test_many_at_once_do_not_stretch_a_token(world: World) -> None:
    """A token for three machines admits three, and a failed attempt costs nothing."""
    token = world.token(max_uses=3)
    with pytest.raises(InvalidInput):
        world.join(token, name="proxy")
    joined = 0
    for number in range(6):
        try:
            world.join(token, f"{HOST_ID[:-1]}{number}", name=f"web{number}")
            joined += 1
        except AccessDenied:
            continue
    assert joined == 3


def test_guesses_at_once_do_not_outrun_the_lock_out(world: World) -> None:
    """Guesses sent together count one by one: the right one among them comes too late."""
    threads = Threads()
    passwords = Passwords(
        world.backend, lambda: now(world.clock), lambda n: b"x" * n, threads, FAST
    )
    setting = Deferred.fromCoroutine(passwords.replacement("alice", "correct horse"))
    threads.finish()
    result(world.backend.commit(result(setting)))
    guesses = [f"wrong {number}" for number in range(WAITING_PER_NAME)]
    guesses[FAILURES] = "correct horse"
    checks = [Deferred.fromCoroutine(passwords.check("alice", guess)) for guess in guesses]
    threads.finish()
    outcomes = [result(check) for check in checks]
    assert outcomes.count(Outcome.WRONG) == FAILURES - 1
    assert outcomes.count(Outcome.LAST) == 1
    assert outcomes[FAILURES] is Outcome.LOCKED_OUT


def test_refused_logins_take_the_same_steps(world: World) -> None:
    """Unknown, wrong, locked out and locked out with the right password cost the same.

    What can be timed from outside is hashing, look-ups and commits: they are counted here.
    """
    steps: list[str] = []
    backend: Any = world.backend
    for name in ("get", "commit"):
        plain = getattr(backend, name)

        def counted(*words: Any, plain: Any = plain, name: str = name) -> Any:
            first = getattr(words[0], "key", words[0])
            steps.append(f"{name} {first.split('/')[1]}")
            return plain(*words)

        setattr(backend, name, counted)
    passwords: Any = world.parts.passwords
    hashed = passwords._verify

    def counted_hash(*words: Any) -> Any:
        steps.append("argon2")
        return hashed(*words)

    passwords._verify = counted_hash
    world.add_user("alice", "access")
    result(world.parts.passwords.warm_up())
    taken = {}
    for case, name, password in (
        ("wrong", "alice", "wrong password"),
        ("unknown", "nobody", "wrong password"),
        ("no name", "a/b", "wrong password"),
        ("empty", "alice", ""),
        *((f"wrong {n}", "alice", "wrong password") for n in range(FAILURES - 3)),
        ("last", "alice", "wrong password"),
        ("locked out", "alice", "wrong password"),
        ("locked out, right", "alice", "correct horse"),
    ):
        steps.clear()
        with pytest.raises(AccessDenied):
            world.login(name, password)
        taken[case] = [step for step in steps if step != "get audit"]
    assert len({tuple(way) for way in taken.values()}) == 1, taken
    assert "argon2" in taken["unknown"]


def test_a_wrong_key_does_not_reveal_whether_the_password_is_right(world: World) -> None:
    """Other errors of a request are reported before the password is checked."""
    world.add_user("alice", "access")
    good = keys()
    for bad in (evolve(good, tls="x"), evolve(good, ssh="x")):
        for password in ("correct horse", "wrong password"):
            with pytest.raises(InvalidInput):
                request = users.LoginRequest("alice", password, bad)
                world.do(table.LOGIN, request, Caller(None, "192.0.2.7:9"))
    with pytest.raises(InvalidInput):
        request = users.LoginRequest("alice", "correct horse", good, timedelta(0))
        world.do(table.LOGIN, request, Caller(None, ""))
    world.login()


def test_the_lock_out_ends_by_time_and_not_by_trying(world: World) -> None:
    """Trying on while locked out neither helps nor makes it longer."""
    world.add_user("alice", "access")
    for _ in range(FAILURES):
        with pytest.raises(AccessDenied):
            world.login(password="wrong password")
    for _ in range(20):
        world.clock.advance((FIRST_WAIT.total_seconds() - 1) / 20)
        with pytest.raises(AccessDenied):
            world.login()
    world.clock.advance(1)
    world.login()
    assert len(world.events("user.locked_out")) == 1


def test_a_name_used_again_does_not_bring_the_old_password(world: World) -> None:
    """A new user with the name of a removed one starts without a password."""
    world.add_user("alice", "access")
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    world.do(table.PUT_USER, users.PutUser("alice", User(Metadata("alice"))))
    with pytest.raises(AccessDenied):
        world.login()


def test_two_administrators_create_one_user_once(world: World) -> None:
    """The second one is refused, and does not change the first one's password."""
    world.add_user("alice", "access")
    with pytest.raises(Conflict):
        world.add_user("alice", "access", password="another password")
    world.login()


# -- locks, ends, addresses --------------------------------------------------------------
def test_a_locked_user_gets_no_certificate_by_any_way(world: World) -> None:
    """Neither by password, nor signed by an administrator, nor is an old one of use."""
    world.add_user("alice", "access")
    lock(world, user="alice")
    with pytest.raises(AccessDenied, match="wrong, or there were too many"):
        world.login()
    with pytest.raises(AccessDenied, match="come and see us"):
        world.do(table.SIGN_USER, SignUser("alice", keys().ssh, ("root",)))
    with pytest.raises(AccessDenied, match="come and see us"):
        world.do(table.WHOAMI, None, world.user("alice", "access"))


def test_a_lock_on_a_role_applies_to_users_who_have_it_now(world: World) -> None:
    """A certificate from before the role was given is no way around its lock."""
    world.add_user("alice", "access")
    lock(world, role="access")
    with pytest.raises(AccessDenied, match="locked"):
        world.do(table.WHOAMI, None, world.user("alice"))


def test_a_locked_machine_is_refused(world: World) -> None:
    """It can neither renew nor listen in any longer."""
    world.join(world.token())
    lock(world, host_id=HOST_ID)
    with pytest.raises(AccessDenied, match="locked"):
        world.do(table.RENEW, members.RenewRequest("web1", keys()), world.host())


def test_a_user_with_an_end_ends(world: World) -> None:
    """After ``metadata.expires`` there is no such user, and the password is of no use."""
    ends = now(world.clock) + timedelta(hours=1)
    user = User(Metadata("temp", expires=ends), UserSpec(("access",), {"logins": ("root",)}))
    world.do(table.ADD_USER, users.NewUser(user, "correct horse"))
    world.login("temp")
    world.clock.advance(3600)
    with pytest.raises(AccessDenied):
        world.login("temp")
    with pytest.raises(AccessDenied):
        world.do(table.WHOAMI, None, world.user("temp", "access"))
    with pytest.raises(InvalidInput, match="in the past"):
        world.do(table.PUT_USER, users.PutUser("temp", user))
    world.do(table.PUT_USER, users.PutUser("temp", User(Metadata("temp"))))
    with pytest.raises(AccessDenied):  # the next one of this name has no password yet
        world.login("temp")


def test_a_pinned_certificate_is_for_one_address(world: World) -> None:
    """Where a role pins addresses, a stolen certificate is of no use elsewhere."""
    options = RoleOptions(pin_source_ip=True)
    allow = Conditions(("root",), {"*": ("*",)})
    pinned = Role(Metadata("pinned"), RoleSpec(allow, options=options))
    world.do(table.PUT_ROLE, PutRole("pinned", pinned))
    world.add_user("alice", "pinned")
    certificate = parse_certificate(parse_line(world.login().ssh))
    assert certificate.critical["source-address"].endswith(b"192.0.2.7/32")
    with pytest.raises(AccessDenied, match="pins"):
        world.do(table.SIGN_USER, SignUser("alice", keys().ssh, ("root",)))


def test_a_certificate_gives_only_what_roles_with_its_logins_give(world: World) -> None:
    """A role without logins adds no forwarding to what the others refuse."""
    options = RoleOptions(port_forwarding=False, forward_agent=False)
    strict = Role(Metadata("strict"), RoleSpec(Conditions(("root",)), options=options))
    world.do(table.PUT_ROLE, PutRole("strict", strict))
    world.add_user("alice", "strict", "editor")
    certificate = parse_certificate(parse_line(world.login().ssh))
    assert "permit-port-forwarding" not in certificate.extensions
    assert "permit-agent-forwarding" not in certificate.extensions
    assert "permit-pty" in certificate.extensions


# -- machines ---------------------------------------------------------------------------
def test_a_removed_machine_may_do_nothing(world: World) -> None:
    """Removal counts for every operation at once, and ends what it listens to."""
    tape = Tape(world)
    received: list[Any] = []
    listening = world.auth.follow(
        table.WATCH_STATE, members.WatchState(), tape.host, received.append
    )
    failed: list[Any] = []
    listening.addErrback(failed.append)
    world.do(table.DELETE_HOST, ById(HOST_ID))
    put = recordings.PutChunk(tape.id, 0, b"x")
    for operation, request in (
        (table.PUT_CHUNK, put),
        (table.EMIT_EVENTS, audit.EmitEvents(())),
        (table.RECORDING_PROGRESS, ById(tape.id)),
    ):
        with pytest.raises(AccessDenied, match="removed"):
            world.do(operation, request, tape.host)
    with pytest.raises(AccessDenied):
        result(world.auth.follow(table.WATCH_STATE, members.WatchState(), tape.host, [].append))
    world.clock.advance(CHECK_SECONDS)
    assert failed[0].check(AccessDenied), "the stream that ran was ended"


def test_a_right_that_is_taken_away_ends_the_stream(world: World) -> None:
    """A stream of the audit ends when its reader may not read it any more."""
    world.add_user("otto", "auditor")
    received: list[Any] = []
    watching = world.auth.follow(
        table.FOLLOW_EVENTS, audit.FollowEvents(), world.user("otto", "auditor"), received.append
    )
    failed: list[Any] = []
    watching.addErrback(failed.append)
    world.clock.advance(CHECK_SECONDS)
    assert not failed
    world.do(table.PUT_USER, users.PutUser("otto", User(Metadata("otto"))))
    world.clock.advance(CHECK_SECONDS)
    assert failed[0].check(AccessDenied)
    seen = len(received)
    world.add_user("bob", "access")
    assert len(received) == seen


@pytest.mark.parametrize(
    "bad",
    [
        {"addresses": ("a b:22",)},
        {"addresses": ("*:22",)},
        {"addresses": ("web1",)},
        {"addresses": ("web1:0",)},
        {"addresses": ("web1:022",)},
        {"addresses": ("web1:²",)},
        {"addresses": ("web1:" + "9" * 5000,)},
        {"addresses": ("::1:22",)},
        {"labels": {"": "x"}},
        {"labels": {"k": "v" * 2000}},
        {"labels": {f"k{n}": "v" for n in range(200)}},
    ],
)
def test_what_a_host_may_not_announce(world: World, bad: dict[str, Any]) -> None:
    """What others will dial, match and show has a form and a size."""
    world.join(world.token())
    with pytest.raises(InvalidInput):
        world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE, **bad), world.host())


def test_an_announcement_does_not_set_the_identity(world: World) -> None:
    """Name and role come from the membership, whatever a host announces."""
    world.join(world.token())
    world.do(table.ANNOUNCE, Presence("other", HostRole.PROXY), world.host())
    (shown,) = world.do(table.LIST_HOSTS, ListHosts()).items
    assert (shown.name, shown.role, shown.id) == ("web1", HostRole.NODE, HOST_ID)


# -- what happened ------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["user.login", "cert.issue", "lock.delete", "recording.delete"])
def test_a_host_cannot_report_what_only_auth_does(world: World, name: str) -> None:
    """A stolen node cannot make the audit say that a user logged in or a lock was removed."""
    world.join(world.token())
    forged = event(name, "e1", now(world.clock), "c", server_id=HOST_ID, user="alice")
    with pytest.raises(InvalidInput):
        world.do(table.EMIT_EVENTS, audit.EmitEvents((forged,)), world.host())
    mislabelled = evolve(forged, event="exec")
    with pytest.raises(InvalidInput):
        world.do(table.EMIT_EVENTS, audit.EmitEvents((mislabelled,)), world.host())
    assert [e for e in world.events(name) if e.user == "alice"] == []
    assert len(world.events("auth.denied")) == 2


def test_a_manifest_cannot_leave_out_what_was_uploaded(world: World) -> None:
    """An attacker who takes over the node later cannot shorten the recording of the attack."""
    tape = Tape(world)
    tape.upload(0, 1)
    full = tape.manifest()
    short = evolve(full, chunks=full.chunks[:1], signature=b"")
    with pytest.raises(InvalidInput, match="is not named by the manifest"):
        tape.finish(evolve(short, signature=tape.key.sign(to_sign(short))))
    empty = evolve(full, chunks=(), signature=b"")
    with pytest.raises(InvalidInput, match="is not named by the manifest"):
        tape.finish(evolve(empty, signature=tape.key.sign(to_sign(empty))))
    tape.finish(full)


def test_a_manifest_cannot_change_whose_session_it_was(world: World) -> None:
    """User, login, node and time are those that were said when the session began."""
    tape = Tape(world)
    tape.upload(0, 1)
    full = tape.manifest()
    for words in (
        {"user": "mallory"},
        {"login": "games"},
        {"node": "web2"},
        {"started": full.start.started + timedelta(hours=1)},
    ):
        other = evolve(full, start=evolve(full.start, **words), signature=b"")
        with pytest.raises(InvalidInput):
            tape.finish(evolve(other, signature=tape.key.sign(to_sign(other))))


def test_a_manifest_is_signed_by_the_host_itself(world: World) -> None:
    """Another member's certificate and key do not close this one's recording."""
    tape = Tape(world)
    tape.upload(0, 1)
    world.clock.advance(1)
    other = world.join(world.token(), OTHER_ID, name="web2")
    forged = evolve(tape.manifest(), host_certificate=other.ssh, signature=b"")
    with pytest.raises(InvalidInput, match="not signed by its host"):
        tape.finish(evolve(forged, signature=world.ssh.sign(to_sign(forged))))


@pytest.mark.parametrize(
    "words",
    [
        {"user": "../alice"},
        {"user": ""},
        {"user": "a\nb"},
        {"cluster": "other"},
        {"node_id": OTHER_ID},
        {"login": "x" * 300},
        {"days": -367},
        {"days": 2},
    ],
)
def test_claims_of_a_start_that_are_refused(world: World, words: dict[str, Any]) -> None:
    """Texts that become keys, and times that become an order, are checked."""
    tape = Tape(world)
    words = dict(words)
    started = now(world.clock) + timedelta(days=words.pop("days", 0))
    name = "0" * 8 + tape.id[8:]
    start = evolve(tape.start, id=name, started=started, **words)
    with pytest.raises(TeleError):
        world.do(table.START_RECORDING, recordings.StartRecording(name, start), tape.host)


def test_reading_chunks_alone_is_audited(world: World) -> None:
    """A client that reads chunks without the recording's metadata is in the audit all the same,
    once.
    """
    tape = Tape(world)
    tape.upload(0, 1)
    world.add_user("otto", "auditor")
    otto = world.user("otto", "auditor")
    for number in (1, 0):
        world.do(table.GET_CHUNK, recordings.GetChunk(tape.id, number), otto)
    (access,) = world.events("recording.access")
    assert (access.user, access.session_id) == ("otto", tape.id)


def test_a_page_is_not_a_way_to_read_everything(world: World) -> None:
    """Lists have a limit, whatever the caller requests."""
    for limit in (0, -1, 1001, 10**12):
        with pytest.raises(InvalidInput):
            world.do(table.LIST_USERS, Paged(limit))
        with pytest.raises(InvalidInput):
            world.do(table.LIST_HOSTS, ListHosts(limit=limit))


def test_a_hosts_certificate_is_not_a_users(world: World) -> None:
    """A host identity of the right name is still no user, in whatever way it calls."""
    world.join(world.token())
    identity = world.host().identity
    assert isinstance(identity, HostIdentity)
    local = evolve(identity, name="@local")
    with pytest.raises(AccessDenied):
        world.do(table.LIST_USERS, Paged(), Caller(local))


@pytest.mark.parametrize("command", ["internal-sftp", "backup"])
@pytest.mark.parametrize("said", [None, True])
def test_a_forced_command_gets_no_forwarding_into_its_certificate(
    world: World, command: str, said: bool | None
) -> None:
    """A role that forces a command has to name what its certificates forward (attack)."""
    options = RoleOptions(force_command=command, port_forwarding=said)
    files = Role(Metadata("files"), RoleSpec(Conditions(("root",)), options=options))
    world.do(table.PUT_ROLE, PutRole("files", files))
    world.add_user("alice", "files")
    certificate = parse_certificate(parse_line(world.login().ssh))
    found = {name for name in certificate.extensions if "forwarding" in name}
    assert found == ({"permit-port-forwarding"} if said else set())


def test_a_refusal_before_the_body_is_one_event(world: World) -> None:
    """A call refused by the head of its request is in the audit once; nothing is decoded."""
    world.add_user("alice", "access")
    alice = world.user("alice", "access")

    def read() -> Any:
        raise AssertionError("decoded before permission")

    with pytest.raises(AccessDenied):
        result(world.auth.check(table.PUT_ROLE, alice))
    assert len(world.events("auth.denied")) == 1
    with pytest.raises(AccessDenied):
        result(world.auth.perform(table.PUT_ROLE, read, alice))
    assert len(world.events("auth.denied")) == 2
