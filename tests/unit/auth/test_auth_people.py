"""People: logging in, administering, and what is refused to whom."""

from __future__ import annotations

import pytest
from attrs import evolve

from auth_world import HOST_ID, World, result
from tele.auth.passwords import FAILURES, LOCKED_FOR
from tele.certs.certificate import parse_certificate
from tele.certs.check import check_user
from tele.certs.keys import PrivateKey, parse_line
from tele.errors import AccessDenied, Conflict, InvalidInput
from tele.loop import now
from tele.model.api import members, people, records, table
from tele.model.api.operation import Nothing
from tele.model.authority import AuthorityKind
from tele.model.identity import HostRole
from tele.model.resources import (
    Conditions,
    Metadata,
    Role,
    RoleSpec,
    User,
    UserSpec,
)


def test_login(world: World) -> None:
    """The right password gets a certificate with the user's logins and roles."""
    world.add_user("alice", "access")
    certificates = world.login()
    certificate = parse_certificate(parse_line(certificates.ssh))
    trusted = {parse_line(k) for k in world.authorities[AuthorityKind.USER].trusted.ssh_public_keys}
    checked = check_user(
        certificate, certificate.type, trusted, "root", "192.0.2.7", now(world.clock), "c"
    )
    assert (checked.identity.user, checked.identity.roles) == ("alice", ("access",))
    assert [e.ok for e in world.events("user.login")] == [True]


def test_bad_logins_look_alike(world: World) -> None:
    """Unknown user and wrong password give one answer; the audit knows better."""
    world.add_user("alice", "access")
    answers = set()
    for name, password in (("alice", "wrong"), ("nobody", "wrong"), ("alice", "")):
        with pytest.raises(AccessDenied) as caught:
            world.login(name, password)
        answers.add((str(caught.value), caught.value.reason))
    assert len(answers) == 1
    assert {e.error for e in world.events("user.login")} == {"wrong password", "unknown user"}
    assert "correct horse" not in repr(world.events("user.login"))


def test_lock_out(world: World) -> None:
    """After five failures even the right password does not do, for half an hour."""
    world.add_user("alice", "access")
    for _ in range(FAILURES):
        with pytest.raises(AccessDenied):
            world.login(password="wrong password")
    with pytest.raises(AccessDenied):
        world.login()
    assert world.events("user.locked_out")
    world.clock.advance(LOCKED_FOR.total_seconds())
    world.login()
    for _ in range(FAILURES):
        with pytest.raises(AccessDenied):
            world.login(password="wrong password")
    world.do(table.RESET_USER, people.ResetUser("alice", "another horse"))
    world.login(password="another horse")


def test_failures_are_forgotten_in_time(world: World) -> None:
    """Four failures now and four an hour later do not add up."""
    world.add_user("alice", "access")
    for _ in range(2):
        for _ in range(FAILURES - 1):
            with pytest.raises(AccessDenied):
                world.login(password="wrong password")
        world.clock.advance(3600)
    world.login()


def test_passwords_are_not_in_the_clear(world: World) -> None:
    """Neither the store nor any event has a password; one that auth makes is shown once."""
    world.add_user("alice", "access")
    made = world.do(table.ADD_USER, people.NewUser(User(Metadata("bob"), UserSpec(("access",)))))
    assert len(made.password) >= 20
    everything = repr(result(world.backend.range("/", "0")))
    assert "correct horse" not in everything
    assert made.password not in everything
    world.login("bob", made.password)
    with pytest.raises(InvalidInput):
        world.add_user("carol", "access", password="short")


def test_permissions(world: World) -> None:
    """What needs a rule is refused without it, and the refusal is an event."""
    world.add_user("alice", "access")
    alice = world.user("alice", "access")
    for operation, request in (
        (table.LIST_USERS, people.Paged()),
        (table.ADD_TOKEN, people.NewToken((HostRole.NODE,))),
        (table.LIST_EVENTS, records.ListEvents()),
        (table.PUT_ROLE, people.PutRole("access", Role(Metadata("access")))),
        (table.SIGN_USER, people.SignUser("alice", PrivateKey.generate().public.line)),
        (table.DELETE_HOST, members.ById(HOST_ID)),
    ):
        with pytest.raises(AccessDenied):
            world.do(operation, request, alice)
    assert len(world.events("auth.denied")) == 6
    assert world.do(table.WHOAMI, Nothing(), alice).roles == ("access",)


def test_roles_count_as_they_are_now(world: World) -> None:
    """A certificate that still says editor is worth nothing once the role is taken away."""
    world.add_user("eve", "editor")
    eve = world.user("eve", "editor")
    world.do(table.LIST_USERS, people.Paged(), eve)
    user = world.do(table.GET_USER, members.ByName("eve"))
    world.do(table.PUT_USER, people.PutUser("eve", evolve(user, spec=UserSpec(("access",)))))
    with pytest.raises(AccessDenied):
        world.do(table.LIST_USERS, people.Paged(), eve)
    world.do(table.DELETE_USER, members.ByName("eve"))
    with pytest.raises(AccessDenied, match="does not exist"):
        world.do(table.WHOAMI, Nothing(), eve)


def test_changes_on_old_readings_are_refused(world: World) -> None:
    """Two administrators do not overwrite each other unknowingly."""
    world.add_user("alice", "access")
    old = world.do(table.GET_USER, members.ByName("alice"))
    world.do(table.PUT_USER, people.PutUser("alice", old))
    with pytest.raises(Conflict):
        world.do(table.PUT_USER, people.PutUser("alice", old))


def test_roles_in_use_stay(world: World) -> None:
    """A role that somebody holds is not removed, nor a role that misleads taken."""
    world.add_user("alice", "access")
    with pytest.raises(Conflict, match="alice"):
        world.do(table.DELETE_ROLE, members.ByName("access"))
    with pytest.raises(InvalidInput):
        world.add_user("bob", "no-such-role")
    bad = Role(Metadata("x"), RoleSpec(allow=Conditions(logins=("-oProxyCommand=x",))))
    with pytest.raises(InvalidInput):
        world.do(table.PUT_ROLE, people.PutRole("x", bad))


def test_sign_user_only_what_roles_allow(world: World) -> None:
    """A certificate for automation names no login that the user does not have."""
    world.add_user("alice", "access")
    line = PrivateKey.generate().public.line
    signed = world.do(table.SIGN_USER, people.SignUser("alice", line, ("root",)))
    assert parse_certificate(parse_line(signed.certificate)).principals == ("root",)
    with pytest.raises(AccessDenied):
        world.do(table.SIGN_USER, people.SignUser("alice", line, ("postgres",)))
    with pytest.raises(InvalidInput):
        world.do(table.SIGN_HOST, people.SignHost(line, ("*",)))
