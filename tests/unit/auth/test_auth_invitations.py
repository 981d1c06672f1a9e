"""Invitations: good once, for one user, and worth nothing to others."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from auth_world import FAST, Threads, World, result
from tele.auth.local import LocalAuthority
from tele.auth.passwords import Passwords
from tele.auth.users import Users
from tele.certs.certificate import parse_certificate
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey
from tele.errors import AccessDenied, InvalidInput
from tele.loop import now
from tele.model.api import members, table, users
from tele.model.api.invitations import LONGEST_INVITATION, AcceptInvitation
from tele.model.api.locks import PutLock
from tele.model.api.paging import ByName
from tele.model.identity import Caller
from tele.model.resources import Lock, LockSpec, LockTarget, Metadata, User, UserSpec

DAY = timedelta(days=1)
PASSWORD = "fresh battery staple"
FROM = Caller(None, "192.0.2.7:9")


def invite(world: World, name: str = "bob", ttl: timedelta = DAY) -> str:
    user = User(Metadata(name), UserSpec(("access",), {"logins": ("root",)}))
    code: str = world.do(table.ADD_USER, users.NewUser(user, invite=ttl)).invitation
    return code


def request(code: str, password: str = PASSWORD) -> AcceptInvitation:
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    return AcceptInvitation(code, password, keys)


def accept(world: World, code: str, password: str = PASSWORD) -> Any:
    return world.do(table.ACCEPT_INVITATION, request(code, password), FROM)


def refusal(world: World, code: str) -> tuple[str, object]:
    with pytest.raises(AccessDenied) as caught:
        accept(world, code)
    return str(caught.value), caught.value.reason


def test_an_invitation_sets_the_password_and_logs_in(world: World) -> None:
    """Until then there is no password; afterwards the one that the user chose is good."""
    code = invite(world)
    with pytest.raises(AccessDenied):
        world.login("bob", PASSWORD)
    certificate = parse_certificate(parse_line(accept(world, code).ssh))
    assert (certificate.key_id, certificate.principals) == ("bob", ("root",))
    world.login("bob", PASSWORD)
    (made,) = world.events("user.invite")
    assert made.fields["name"] == "bob"
    accepted = [e for e in world.events("user.login") if e.fields.get("by") == "invitation"]
    assert [(e.user, e.ok, e.remote_addr) for e in accepted] == [("bob", True, "192.0.2.7:9")]


def test_an_invitation_is_good_once(world: World) -> None:
    """A reader of the code in a history or a mail, later, can do nothing with it."""
    code = invite(world)
    accept(world, code)
    refusal(world, code)
    world.login("bob", PASSWORD)


def test_two_accept_one_invitation_at_the_same_time(world: World) -> None:
    """One of them gets certificates, and only that one's password is good."""
    code = invite(world)
    threads, answers = Threads(), list[Any]()
    passwords = Passwords(world.backend, lambda: now(world.clock), os.urandom, threads, FAST)
    users_of = Users(world.backend, passwords, lambda: now(world.clock))
    auth = LocalAuthority(evolve(world.parts, users=users_of), world.clock)
    for password in ("first password", "second password"):
        handled = auth.handle(table.ACCEPT_INVITATION, request(code, password), FROM)
        Deferred.fromCoroutine(handled).addBoth(answers.append)
    assert len(threads.waiting) == 2
    threads.finish()
    assert [hasattr(answer, "ssh") for answer in answers] == [True, False]
    assert answers[1].check(AccessDenied)
    world.login("bob", "first password")


def test_all_codes_that_are_not_good_have_one_answer(world: World) -> None:
    """Nothing is learned about users and invitations by trying codes."""
    code, other = invite(world), invite(world, "carol")
    name, _, secret = code.partition(":")
    answers = {
        refusal(world, wrong)
        for wrong in (
            f"{name}:{'a' * 32}", f"nobody:{secret}", f"carol:{secret}", f"{name}:{other[6:]}",
            secret, "", ":", f"../bob:{secret}", f"{name}:{secret}x",
        )
    }  # fmt: skip
    assert len(answers) == 1
    accept(world, code)


def test_an_invitation_ends(world: World) -> None:
    """By its time, by another one, by a password, with its user; a new user has no part in it."""
    late = invite(world)
    world.clock.advance(DAY.total_seconds())
    refusal(world, late)
    again = [
        world.do(table.RESET_USER, users.ResetUser("bob", invite=DAY)).invitation for _ in range(2)
    ]
    refusal(world, again[0])
    world.do(table.RESET_USER, users.ResetUser("bob", "administrator's choice"))
    refusal(world, again[1])
    removed = world.do(table.RESET_USER, users.ResetUser("bob", invite=DAY)).invitation
    user = evolve(world.do(table.GET_USER, ByName("bob")), metadata=Metadata("bob"))
    world.do(table.DELETE_USER, users.DeleteUser("bob"))
    refusal(world, removed)
    world.do(table.PUT_USER, users.PutUser("bob", user))
    refusal(world, removed)


def test_an_expired_user_leaves_no_invitation(world: World) -> None:
    """A later user of the name is another one."""
    code = invite(world, ttl=3 * DAY)
    user = world.do(table.GET_USER, ByName("bob"))
    ends = evolve(user.metadata, expires=world.events("user.invite")[0].time + DAY)
    world.do(table.PUT_USER, users.PutUser("bob", evolve(user, metadata=ends)))
    world.clock.advance(DAY.total_seconds() + 1)
    refusal(world, code)
    world.do(table.PUT_USER, users.PutUser("bob", evolve(user, metadata=Metadata("bob"))))
    refusal(world, code)


def test_a_reset_by_invitation_voids_the_password(world: World) -> None:
    """A lost password is void when the invitation is made, not when it is accepted."""
    world.add_user("bob", "access")
    world.login("bob")
    code = world.do(table.RESET_USER, users.ResetUser("bob", invite=DAY)).invitation
    with pytest.raises(AccessDenied):
        world.login("bob")
    accept(world, code)


def test_the_invitation_of_a_locked_user_waits(world: World) -> None:
    """A lock stops it, and says so to the one who has the code; it does not use it up."""
    code = invite(world)
    lock = Lock(Metadata("k"), LockSpec(LockTarget(user="bob"), "call security"))
    world.do(table.PUT_LOCK, PutLock("k", lock))
    assert "call security" in refusal(world, code)[0]
    world.do(table.DELETE_LOCK, ByName("k"))
    accept(world, code)


def test_a_mistake_does_not_use_an_invitation_up(world: World) -> None:
    """A password that is too short, a lifetime of nothing: say so and try again."""
    code = invite(world)
    with pytest.raises(InvalidInput):
        accept(world, code, "short")
    with pytest.raises(InvalidInput):
        world.do(table.ACCEPT_INVITATION, evolve(request(code), ttl=timedelta(0)), FROM)
    accept(world, code)


def test_what_cannot_be_asked_for(world: World) -> None:
    """A password and an invitation; one for months; and one by a user without the rule."""
    user = User(Metadata("bob"), UserSpec(("access",)))
    for new in (
        users.NewUser(user, PASSWORD, DAY),
        users.NewUser(user, invite=LONGEST_INVITATION + DAY),
        users.NewUser(user, invite=timedelta(0)),
    ):
        with pytest.raises(InvalidInput):
            world.do(table.ADD_USER, new)
    world.add_user("alice", "access")
    invite(world)
    with pytest.raises(AccessDenied):
        world.do(
            table.RESET_USER, users.ResetUser("bob", invite=DAY), world.user("alice", "access")
        )


def test_a_code_is_shown_once(world: World) -> None:
    """The store, the audit and what is printed of a request have no code."""
    code = invite(world)
    secret = code.partition(":")[2]
    assert secret not in repr(result(world.backend.range("/", "0")))
    sent = request(code)
    accept(world, code)
    assert secret not in repr((sent, world.events("user.invite"), world.events("user.login")))
    assert PASSWORD not in repr(sent)
