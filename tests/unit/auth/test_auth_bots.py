"""Machine identities: their tokens log in one user, and do nothing else."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from auth_world import FAST, World, result
from tele.auth.passwords import Passwords
from tele.certs.certificate import parse_certificate
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey
from tele.errors import AccessDenied, InvalidInput, NotFound
from tele.loop import now
from tele.model.api import members, table, users
from tele.model.api.locks import PutLock
from tele.model.api.paging import ById, ByName, Paged
from tele.model.api.roles import PutRole
from tele.model.api.tokens import NewToken, TokenLogin
from tele.model.identity import Caller, HostRole
from tele.model.resources import (
    Conditions,
    Lock,
    LockSpec,
    LockTarget,
    Metadata,
    Role,
    RoleSpec,
    Rule,
    User,
    UserSpec,
)

DAY = timedelta(days=1)
FROM = Caller(None, "192.0.2.7:9")


def bot(world: World, name: str = "ci", **words: Any) -> str:
    """Make a machine identity, as the command does; return its token."""
    user = User(Metadata(name), UserSpec(("access",), {"logins": ("www",)}))
    world.do(table.PUT_USER, users.PutUser(name, user))
    return token(world, name, **words)


def token(world: World, name: str = "ci", caller: Caller | None = None, **words: Any) -> str:
    secret: str = world.do(table.ADD_TOKEN, NewToken((), DAY, bot=name, **words), caller).token
    return secret


def request(secret: str, ttl: timedelta = timedelta(hours=1)) -> TokenLogin:
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    return TokenLogin(secret, keys, ttl)


def login(world: World, secret: str) -> Any:
    return world.do(table.TOKEN_LOGIN, request(secret), FROM)


def refusal(world: World, secret: str) -> tuple[str, object]:
    with pytest.raises(AccessDenied) as caught:
        login(world, secret)
    return str(caught.value), caught.value.reason


def test_a_token_logs_its_user_in(world: World) -> None:
    """As often as the machine runs, for an hour each, with the token's id in the audit."""
    secret = bot(world)
    for _ in range(3):
        got = login(world, secret)
        certificate = parse_certificate(parse_line(got.ssh))
        assert (certificate.key_id, certificate.principals) == ("ci", ("www",))
        assert got.expires - now(world.clock) == timedelta(hours=1)
    (listed,) = world.do(table.LIST_TOKENS, Paged()).items
    assert (listed.bot, listed.uses, listed.roles) == ("ci", 3, ())
    assert [e.fields["token_id"] for e in world.events("user.login")] == [listed.id] * 3
    assert world.events("token.create")[-1].fields["bot"] == "ci"


def test_uses_are_counted(world: World) -> None:
    """A token for two logins is good for two, and a refused one uses nothing up."""
    secret = bot(world, max_uses=2)
    world.do(table.PUT_LOCK, PutLock("k", Lock(Metadata("k"), LockSpec(LockTarget(user="ci")))))
    assert "locked" in refusal(world, secret)[0]
    world.do(table.DELETE_LOCK, ByName("k"))
    login(world, secret)
    login(world, secret)
    refusal(world, secret)


def test_all_tokens_that_are_not_good_have_one_answer(world: World) -> None:
    """Unknown, expired, revoked, a host's, and one of another user's name; nothing is learned."""
    secret, late = bot(world), token(world)
    revoked, host = token(world), world.token()
    listed = world.do(table.LIST_TOKENS, Paged()).items
    by_use = {each.id for each in listed if each.bot}
    login(world, revoked)
    (used,) = {e.fields["token_id"] for e in world.events("user.login")}
    assert used in by_use
    world.do(table.DELETE_TOKEN, ById(used))
    wrong = [revoked, host, "", "ci/", f"dana/{secret.partition('/')[2]}", f"{secret}x"]
    answers = {refusal(world, each) for each in wrong}
    world.clock.advance(DAY.total_seconds())
    answers |= {refusal(world, late)}
    assert len(answers) == 1


def test_no_host_joins_with_it(world: World) -> None:
    """Who steals the token of a machine cannot add a host to the cluster."""
    secret = bot(world)
    for role in HostRole:
        with pytest.raises((AccessDenied, InvalidInput)):
            world.join(secret, role=role)


def test_the_token_ends_with_its_user(world: World) -> None:
    """Removed or expired; a later user of the name is another one, and not logged in by it."""
    secret = bot(world)
    removed = world.do(table.DELETE_USER, users.DeleteUser("ci"))
    assert len(removed.tokens) == 1
    refusal(world, secret)
    second = bot(world)
    user = world.do(table.GET_USER, ByName("ci"))
    ends = Metadata("ci", expires=now(world.clock) + timedelta(hours=1))
    world.do(table.PUT_USER, users.PutUser("ci", evolve(user, metadata=ends)))
    world.clock.advance(3601)
    refusal(world, second)
    world.do(table.PUT_USER, users.PutUser("ci", evolve(user, metadata=Metadata("ci"))))
    refusal(world, second)
    login(world, token(world))


def test_the_token_ends_with_its_maker(world: World) -> None:
    """An administrator who leaves does not keep a way in, under another name."""
    bot(world)
    world.add_user("dana", "editor")
    world.add_user("erin", "editor")
    secret = token(world, caller=world.user("dana", "editor"))
    world.do(table.DELETE_USER, users.DeleteUser("dana"))
    refusal(world, secret)


def test_making_tokens_does_not_make_one_a_user(world: World) -> None:
    """A rule for tokens is not enough to get one that logs in an administrator."""
    rules = (Rule(("token",), ("*",)),)
    role = Role(Metadata("joiner"), RoleSpec(Conditions(rules=rules)))
    world.do(table.PUT_ROLE, PutRole("joiner", role))
    world.add_user("mallory", "joiner")
    world.add_user("dana", "editor")
    with pytest.raises(AccessDenied, match="update on user"):
        token(world, "dana", world.user("mallory", "joiner"))
    assert [e for e in world.events("auth.denied") if "update on user" in e.error]


def test_what_cannot_be_asked_for(world: World) -> None:
    """A user that does not exist, what is about hosts, a token that the caller chose."""
    bot(world)
    with pytest.raises(NotFound):
        token(world, "nobody")
    for new in (
        NewToken((HostRole.NODE,), DAY, bot="ci"),
        NewToken((), DAY, bot="ci", labels={"env": "prod"}),
        NewToken((), DAY, bot="ci", token="x" * 40),
        NewToken((), timedelta(days=400), bot="ci"),
        NewToken((), DAY),
    ):
        with pytest.raises(InvalidInput):
            world.do(table.ADD_TOKEN, new)
    with pytest.raises(InvalidInput):
        world.do(table.TOKEN_LOGIN, request(token(world), timedelta(0)), FROM)


def test_a_machine_has_no_password(world: World) -> None:
    """Its name is a user's who cannot log in by a password, not even by an empty one."""
    secret = bot(world)
    for password in ("", secret):
        with pytest.raises(AccessDenied):
            world.login("ci", password)
    passwords = Passwords(world.backend, lambda: now(world.clock), os.urandom, None, FAST)  # type: ignore[arg-type]
    assert result(passwords.mark("ci")) == ""
    everything = repr(result(world.backend.range("/", "0")))
    assert secret.partition("/")[2] not in everything
    assert secret not in repr(request(secret))
