"""Second factors: good once, asked for whenever there is one, and changed by their user alone."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from auth_world import FAST, Threads, World, result
from tele.auth.guessing import FAILURES, GUESSES
from tele.auth.local import LocalAuthority
from tele.auth.passwords import Passwords
from tele.auth.second_factors import FACTORS
from tele.auth.stored_factors import StoredFactors
from tele.auth.totp import code_of, step_of
from tele.certs.certificate import parse_certificate
from tele.certs.check import MFA
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey
from tele.errors import (
    AccessDenied,
    Conflict,
    InvalidInput,
    NotFound,
    SecondFactorNeeded,
    SecondFactorUnset,
)
from tele.loop import now
from tele.model.api import members, mfa, table, users
from tele.model.api.cluster import PutCluster
from tele.model.api.invitations import AcceptInvitation
from tele.model.api.roles import PutRole
from tele.model.identity import Caller
from tele.model.resources import (
    Cluster,
    ClusterSpec,
    Conditions,
    Metadata,
    Role,
    RoleSpec,
    Rule,
    User,
    UserSpec,
)
from tele.model.second_factors import (
    DEVICES_LIMIT,
    STEP_SECONDS,
    NewDevice,
    SecondFactor,
    SecondFactorMode,
    otpauth_uri,
)

PASSWORD = "correct horse"
SECRET = b"12345678901234567890"
OFF, OPTIONAL, REQUIRED = SecondFactorMode.OFF, SecondFactorMode.OPTIONAL, SecondFactorMode.REQUIRED


def code(world: World, secret: bytes = SECRET, ahead: int = 0) -> str:
    """The code that an app shows now, or ``ahead`` steps of 30 s later."""
    return code_of(secret, step_of(now(world.clock)) + ahead)


def device(world: World, name: str = "phone", secret: bytes = SECRET) -> NewDevice:
    return NewDevice(name, base64.b32encode(secret).decode(), code(world, secret))


def add(world: World, name: str = "alice", factor: str | None = None, **words: Any) -> Any:
    shown = None if factor is None else SecondFactor(factor)
    request = mfa.AddMfa(device(world, **words), PASSWORD, shown)
    return world.do(table.ADD_MFA, request, world.user(name, "access"))


def enrolled(world: World, name: str = "alice") -> Sequence[str]:
    """Make a user with an authenticator app, whose first code is of a step that is over."""
    world.add_user(name, "access")
    codes: Sequence[str] = add(world, name).recovery_codes
    world.clock.advance(STEP_SECONDS)
    return codes


def login(
    world: World, shown: str | None, name: str = "alice", address: str = "192.0.2.7",
    password: str = PASSWORD,
) -> Any:  # fmt: skip
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    request = users.LoginRequest(name, password, keys)
    if shown is not None:
        request = evolve(request, second_factor=SecondFactor(shown))
    return world.do(table.LOGIN, request, Caller(None, f"{address}:9"))


def set_mode(world: World, mode: SecondFactorMode, caller: Caller | None = None) -> Any:
    cluster = Cluster(Metadata("c"), ClusterSpec(second_factor=mode))
    return world.do(table.PUT_CLUSTER, PutCluster(cluster), caller)


def last_login(world: World) -> Any:
    return world.events("user.login")[-1]


# -- logging in ---------------------------------------------------------------------------
def test_a_login_needs_the_code_once_there_is_an_app(world: World) -> None:
    """Leaving it out is no way around it; the certificate says that it was shown."""
    world.add_user("alice", "access")
    assert MFA not in parse_certificate(parse_line(login(world, None).ssh)).extensions
    add(world)
    world.clock.advance(STEP_SECONDS)
    with pytest.raises(SecondFactorNeeded):
        login(world, None)
    (asked,) = world.events("mfa.challenge")
    assert (asked.user, asked.remote_addr) == ("alice", "192.0.2.7:9")
    certificate = parse_certificate(parse_line(login(world, code(world)).ssh))
    assert MFA in certificate.extensions
    event = last_login(world)
    assert (event.fields["second_factor"], event.fields["device"]) == ("totp", "phone")


def test_a_code_is_good_once(world: World) -> None:
    """One who looks over a shoulder, or reads the wire at a fake server, is too late."""
    enrolled(world)
    shown = code(world)
    login(world, shown)
    with pytest.raises(AccessDenied):
        login(world, shown)
    assert last_login(world).error == "wrong second factor"
    world.clock.advance(STEP_SECONDS)
    login(world, code(world))


def test_the_code_of_setting_up_is_used_up(world: World) -> None:
    """What was shown to set up the app does not log in."""
    world.add_user("alice", "access")
    shown = code(world)
    add(world)
    with pytest.raises(AccessDenied):
        login(world, shown)


def test_a_clock_that_differs_a_little(world: World) -> None:
    """One code before and one after the present one are accepted, others are not."""
    enrolled(world)
    world.clock.advance(10 * STEP_SECONDS)
    for ahead in (-2, 2):
        with pytest.raises(AccessDenied):
            login(world, code(world, ahead=ahead))
    for ahead in (-1, 0, 1):
        login(world, code(world, ahead=ahead))


def test_a_clock_that_is_set_back_makes_no_used_code_good(world: World) -> None:
    """Nor does it refuse codes that were not used yet."""
    enrolled(world)
    shown = code(world)
    login(world, shown)
    world.clock.advance(3 * STEP_SECONDS)
    login(world, code(world))
    world.clock.set_wall(-3 * STEP_SECONDS)
    with pytest.raises(AccessDenied):
        login(world, shown)
    login(world, code(world, ahead=1))


def test_two_show_one_code_at_the_same_time(world: World) -> None:
    """One of them is logged in."""
    enrolled(world)
    threads, answers = Threads(), list[Any]()
    passwords = Passwords(world.backend, lambda: now(world.clock), os.urandom, threads, FAST)
    auth = LocalAuthority(evolve(world.parts, passwords=passwords), world.clock)
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    request = users.LoginRequest(
        "alice", PASSWORD, keys, second_factor=SecondFactor(code(world))
    )  # fmt: skip
    for address in ("192.0.2.7:9", "192.0.2.8:9"):
        handled = auth.handle(table.LOGIN, request, Caller(None, address))
        Deferred.fromCoroutine(handled).addBoth(answers.append)
    threads.finish()
    assert sorted(hasattr(answer, "ssh") for answer in answers) == [False, True]


def test_a_recovery_code_stands_for_the_app_once(world: World) -> None:
    """Written with or without its hyphens; the event says how many are left."""
    first, second, *others = enrolled(world)
    login(world, first)
    event = last_login(world)
    assert event.fields["second_factor"] == "recovery"
    assert event.fields["recovery_codes_left"] == 1 + len(others)
    with pytest.raises(AccessDenied):
        login(world, first)
    login(world, second.replace("-", "").upper())


def test_a_wrong_password_has_the_same_answer_with_and_without_a_factor(world: World) -> None:
    """The second factor is not asked for, nor looked at: nothing is learned, nothing used up."""
    enrolled(world)
    world.add_user("bob", "access")
    shown = code(world)
    answers: set[tuple[str, str]] = set()
    for name in ("alice", "bob", "nobody"):
        for given in (None, shown, "000000"):
            with pytest.raises(AccessDenied) as caught:
                login(world, given, name, f"198.51.100.{len(answers)}", "wrong password")
            answers.add((str(caught.value), caught.value.reason))
            world.clock.advance(3600)
    assert len(answers) == 1
    login(world, code(world))


# -- guessing -----------------------------------------------------------------------------
def test_guessing_codes_delays_the_guesser(world: World) -> None:
    """One who has the password gets few tries; the user's own network does not wait with them."""
    enrolled(world)
    login(world, code(world), address="192.0.2.7")
    world.clock.advance(STEP_SECONDS)
    for _ in range(FAILURES + 2):
        with pytest.raises(AccessDenied):
            login(world, "000000", address="203.0.113.5")
    assert "too many wrong second factors" in last_login(world).error
    (locked,) = world.events("user.locked_out")
    assert (locked.fields["source"], locked.fields["second_factor"]) == ("203.0.113.5", True)
    with pytest.raises(AccessDenied):
        login(world, code(world), address="203.0.113.5")
    login(world, code(world), address="192.0.2.7")


def test_guesses_from_many_networks_are_slowed_together(world: World) -> None:
    """And change nothing for the network from which the user has logged in."""
    enrolled(world)
    login(world, code(world), address="192.0.2.7")
    world.clock.advance(STEP_SECONDS)
    for number in range(GUESSES + 5):
        with pytest.raises(AccessDenied):
            login(world, "000000", address=f"198.51.{number}.1")
    assert "unknown sources have to wait" in last_login(world).error
    login(world, code(world), address="192.0.2.7")


# -- the setting of the cluster -----------------------------------------------------------
def test_a_required_factor_cannot_be_left_out(world: World) -> None:
    """A user who has none cannot log in, and is told what to do; those who have one can."""
    enrolled(world)
    world.add_user("bob", "access")
    set_mode(world, REQUIRED)
    with pytest.raises(SecondFactorUnset, match="invitation"):
        login(world, None, "bob")
    assert last_login(world).error == "no second factor is set up"
    with pytest.raises(SecondFactorUnset):
        login(world, "000000", "bob")
    login(world, code(world))


def test_factors_that_are_off_are_kept(world: World) -> None:
    """None is asked for and none can be set up; later they are asked for again."""
    enrolled(world)
    assert any("no login asks" in each for each in set_mode(world, OFF).warnings)
    login(world, None)
    with pytest.raises(AccessDenied, match="off in this cluster"):
        add(world, name="alice", factor=code(world), secret=SECRET[::-1])
    set_mode(world, OPTIONAL)
    with pytest.raises(SecondFactorNeeded):
        login(world, None)


def test_an_administrator_does_not_lock_themselves_out(world: World) -> None:
    """Who requires a second factor has one; at auth's own machine it can always be undone."""
    world.add_user("alice", "access", "editor")
    caller = world.user("alice", "access", "editor")
    with pytest.raises(Conflict, match="tele mfa add"):
        set_mode(world, REQUIRED, caller)
    add(world)
    set_mode(world, REQUIRED, caller)
    set_mode(world, OPTIONAL)


# -- invitations --------------------------------------------------------------------------
def invite(world: World, name: str = "bob", *, new: bool = True) -> str:
    day = timedelta(days=1)
    user = User(Metadata(name), UserSpec(("access",), {"logins": ("root",)}))
    if new:
        made = world.do(table.ADD_USER, users.NewUser(user, invite=day))
    else:
        made = world.do(table.RESET_USER, users.ResetUser(name, invite=day))
    invitation: str = made.invitation
    return invitation


def accept(world: World, invitation: str, **words: Any) -> Any:
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    request = AcceptInvitation(invitation, PASSWORD, keys, **words)
    return world.do(table.ACCEPT_INVITATION, request, Caller(None, "192.0.2.7:9"))


def test_an_invitation_sets_up_the_second_factor(world: World) -> None:
    """Where it is required there is no account without it; a mistake uses nothing up."""
    set_mode(world, REQUIRED)
    invitation = invite(world)
    with pytest.raises(SecondFactorUnset):
        accept(world, invitation)
    with pytest.raises(InvalidInput, match="the code"):
        accept(world, invitation, device=evolve(device(world), code="000000"))
    made = accept(world, invitation, device=device(world))
    assert MFA in parse_certificate(parse_line(made.ssh)).extensions
    (added,) = world.events("mfa.add")
    assert (added.user, added.fields["device"]) == ("bob", "phone")
    login(world, made.recovery_codes[0], "bob")
    with pytest.raises(SecondFactorNeeded):
        login(world, None, "bob")


def test_an_invitation_does_not_replace_a_second_factor(world: World) -> None:
    """A new password by invitation needs the factor that there is: a code in a mail is one thing
    that an attacker has, not two.
    """
    enrolled(world, "bob")
    invitation = invite(world, new=False)
    with pytest.raises(SecondFactorNeeded):
        accept(world, invitation)
    with pytest.raises(SecondFactorNeeded):
        accept(world, invitation, device=device(world, secret=SECRET[::-1]))
    with pytest.raises(Conflict):
        accept(
            world, invitation, device=device(world, secret=SECRET[::-1]),
            second_factor=SecondFactor(code(world)),
        )  # fmt: skip
    world.clock.advance(STEP_SECONDS)
    accept(world, invitation, second_factor=SecondFactor(code(world)))


# -- changing them ------------------------------------------------------------------------
def test_a_stolen_certificate_sets_up_nothing(world: World) -> None:
    """The password is needed, and a factor that there is already."""
    enrolled(world)
    caller = world.user("alice", "access")
    other = device(world, "other", SECRET[::-1])
    with pytest.raises(AccessDenied):
        world.do(table.ADD_MFA, mfa.AddMfa(other, "wrong", SecondFactor(code(world))), caller)
    with pytest.raises(SecondFactorNeeded):
        world.do(table.ADD_MFA, mfa.AddMfa(other, PASSWORD), caller)
    with pytest.raises(SecondFactorNeeded):
        world.do(table.REMOVE_MFA, mfa.RemoveMfa("phone", PASSWORD), caller)
    with pytest.raises(SecondFactorNeeded):
        world.do(table.NEW_RECOVERY_CODES, mfa.NewRecoveryCodes(PASSWORD), caller)
    refused = [e for e in world.events("mfa.add") if not e.ok]
    assert [(e.user, e.error) for e in refused] == [("alice", "wrong password")]
    assert [each.name for each in world.do(table.GET_MFA, mfa.GetMfa(), caller).devices] == [
        "phone"
    ]


def test_a_user_changes_their_own(world: World) -> None:
    """A second app, new codes, the first app removed; each with a factor, each an event."""
    codes = enrolled(world)
    caller = world.user("alice", "access")
    made = world.do(
        table.ADD_MFA,
        mfa.AddMfa(device(world, "tablet", SECRET[::-1]), PASSWORD, SecondFactor(code(world))),
        caller,
    )
    assert (made.device.name, made.recovery_codes) == ("tablet", ())
    world.clock.advance(STEP_SECONDS)
    new = world.do(
        table.NEW_RECOVERY_CODES,
        mfa.NewRecoveryCodes(PASSWORD, SecondFactor(code(world))), caller,
    ).recovery_codes  # fmt: skip
    with pytest.raises(AccessDenied):
        login(world, codes[0])
    login(world, new[0])
    remove = mfa.RemoveMfa("phone", PASSWORD, SecondFactor(code(world, SECRET[::-1])))
    world.do(table.REMOVE_MFA, remove, caller)
    with pytest.raises(AccessDenied):
        login(world, code(world))
    world.clock.advance(STEP_SECONDS)
    login(world, code(world, SECRET[::-1]))
    assert [e.fields["device"] for e in world.events("mfa.delete")] == ["phone"]
    assert len(world.events("mfa.recovery_codes")) == 1


def test_the_last_device_where_one_is_required(world: World) -> None:
    """It stays; where it is optional the recovery codes go with it."""
    codes = enrolled(world)
    set_mode(world, REQUIRED)
    caller = world.user("alice", "access")
    with pytest.raises(Conflict, match="requires a second factor"):
        world.do(table.REMOVE_MFA, mfa.RemoveMfa("phone", PASSWORD, SecondFactor(codes[0])), caller)
    set_mode(world, OPTIONAL)
    world.do(table.REMOVE_MFA, mfa.RemoveMfa("phone", PASSWORD, SecondFactor(codes[1])), caller)
    shown = world.do(table.GET_MFA, mfa.GetMfa(), caller)
    assert (shown.devices, shown.recovery_codes) == ((), 0)
    login(world, None)


def test_what_cannot_be_set_up(world: World) -> None:
    """A secret that is too short, a wrong code, a name twice or without letters, too many."""
    world.add_user("alice", "access")
    caller = world.user("alice", "access")
    good = device(world)
    for bad in (
        evolve(good, secret="MFRGG"), evolve(good, secret="not base 32!"),
        evolve(good, code="12345"), evolve(good, code="١٢٣٤٥٦"), evolve(good, name=" "),
        evolve(good, name="a\x1b[2J"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            world.do(table.ADD_MFA, mfa.AddMfa(bad, PASSWORD), caller)
    codes = add(world).recovery_codes
    with pytest.raises(Conflict):
        add(world, factor=codes[0])
    held = StoredFactors()
    for number in range(DEVICES_LIMIT):
        held = held.added(device(world, f"phone {number}"), str(number), now(world.clock))
    with pytest.raises(Conflict, match="at most"):
        held.added(device(world, "one more"), "more", now(world.clock))


# -- administrators -----------------------------------------------------------------------
def test_an_administrator_resets_second_factors(world: World) -> None:
    """Of a user who has lost the app; then the password alone logs in where that is allowed."""
    enrolled(world)
    listed = world.do(table.GET_MFA, mfa.GetMfa("alice"))
    assert [each.name for each in listed.devices] == ["phone"]
    with pytest.raises(NotFound):
        world.do(table.RESET_MFA, mfa.ResetMfa("alice", "tablet"))
    left = world.do(table.RESET_MFA, mfa.ResetMfa("alice"))
    assert (left.devices, left.recovery_codes) == ((), 0)
    login(world, None)
    assert [e.fields["name"] for e in world.events("mfa.delete")] == ["alice"]
    set_mode(world, REQUIRED)
    accept(world, invite(world, "alice", new=False), device=device(world))


def test_few_rights_reset_and_read_nothing(world: World) -> None:
    """Nor does a rule with a condition reset those who have more rights than its holder."""
    enrolled(world)
    world.add_user("bob", "access")
    for operation, request in (
        (table.RESET_MFA, mfa.ResetMfa("alice")),
        (table.GET_MFA, mfa.GetMfa("alice")),
        (table.GET_MFA, mfa.GetMfa("nobody")),
    ):
        with pytest.raises(AccessDenied):
            world.do(operation, request, world.user("bob", "access"))
    rule = Rule(("user",), ("read", "update"), where="user.name != resource.name")
    support = Role(Metadata("support"), RoleSpec(allow=Conditions(rules=(rule,))))
    world.do(table.PUT_ROLE, PutRole("support", support))
    world.add_user("carol", "support")
    world.add_user("root", "editor")
    add(world, "root")
    carol = world.user("carol", "support")
    with pytest.raises(AccessDenied):
        world.do(table.RESET_MFA, mfa.ResetMfa("root"), carol)
    world.do(table.RESET_MFA, mfa.ResetMfa("alice"), carol)


def test_a_new_user_of_the_name_has_no_factor(world: World) -> None:
    """A removed user's app is of no use, and no trouble, to the next one of the name."""
    enrolled(world)
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    assert result(world.backend.get(FACTORS + "alice")) is None
    world.add_user("alice", "access")
    login(world, None)


def test_no_secret_is_printed(world: World) -> None:
    """Requests, answers, events and the audit have neither secret nor code."""
    codes = enrolled(world)
    shown = code(world)
    made = device(world)
    request = mfa.AddMfa(made, PASSWORD, SecondFactor(shown))
    login(world, codes[0])
    written = repr((request, mfa.MfaAdded(made, codes), result(world.parts.factors.of("alice"))))  # type: ignore[arg-type]
    events = repr([world.events(n) for n in ("mfa.add", "mfa.challenge", "user.login")])
    stored = repr(result(world.backend.range(FACTORS, FACTORS + "~")))
    for secret in (shown, made.secret, codes[0], PASSWORD, SECRET.decode()):
        assert secret not in written
        assert secret not in events
    assert codes[0].replace("-", "") not in stored


# -- the format ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seconds", "eight"),
    [
        (59, "94287082"), (1111111109, "07081804"), (1111111111, "14050471"),
        (1234567890, "89005924"), (2000000000, "69279037"), (20000000000, "65353130"),
    ],
)  # fmt: skip
def test_codes_are_those_of_the_rfc(seconds: int, eight: str) -> None:
    """RFC 6238, appendix B, in the last six of its eight digits."""
    assert code_of(SECRET, seconds // STEP_SECONDS) == eight[2:]


def test_what_an_app_reads(world: World) -> None:
    """The names are escaped: a user's name cannot add parameters."""
    assert otpauth_uri("a b", "x?secret=y&", "MFRGG===") == (
        "otpauth://totp/a%20b:x%3Fsecret%3Dy%26?secret=MFRGG&issuer=a%20b"
    )
