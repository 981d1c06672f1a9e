"""The list of revoked certificates: what it has, and what it tells."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from auth_world import World
from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.keys import PrivateKey, parse_line
from tele.errors import AccessDenied, NotLoggedIn
from tele.loop import now
from tele.model.api import table, users
from tele.model.api.authorities import SignUser
from tele.model.api.locks import PutLock
from tele.model.api.operation import Nothing
from tele.model.api.paging import ByName
from tele.model.identity import Caller
from tele.model.resources import Lock, LockSpec, LockTarget, Metadata
from tele.wire.fields import Reader


def certificate(line: str) -> Certificate:
    return parse_certificate(parse_line(line))


def login(world: World, name: str = "alice") -> Certificate:
    return certificate(world.login(name).ssh)


def lock(world: World, **target: str) -> None:
    spec = LockSpec(LockTarget(**target))
    world.do(table.PUT_LOCK, PutLock("k", Lock(Metadata("k"), spec)))


def listed(world: World, caller: Caller | None = None) -> set[int]:
    """Return the serials in the list, as an sshd reads it."""
    world.clock.advance(1)
    reader = Reader(world.do(table.GET_KRL, Nothing(), caller).data[36:])
    reader.string()
    reader.string()
    rest = reader.rest()
    if not rest:
        return set()
    sections = Reader(rest[1:])
    section = Reader(sections.string())
    assert not sections.rest()
    section.string()
    section.string()
    serials = Reader(section.rest()[1:]).string()
    return {int.from_bytes(serials[at : at + 8], "big") for at in range(0, len(serials), 8)}


def test_locks_revoke_what_they_stop(world: World) -> None:
    """A user, a role, one login, one certificate: those certificates and no others; with the lock
    goes the revocation.
    """
    world.add_user("alice", "access")
    world.add_user("bob", "auditor")
    first, second, other = login(world), login(world), login(world, "bob")
    sessions = [e.login_session for e in world.events("cert.issue")]
    for target, stopped in (
        ({"user": "alice"}, (first, second)),
        ({"role": "auditor"}, (other,)),
        ({"login_session": sessions[1]}, (second,)),
        ({"certificate": str(first.serial)}, (first,)),
        ({"login": "root"}, ()),
    ):
        assert listed(world) == set()
        lock(world, **target)
        assert listed(world) == {each.serial for each in stopped}, target
        world.do(table.DELETE_LOCK, ByName("k"))


def test_the_removed_stay_listed(world: World) -> None:
    """A user who is there again under the name has certificates that are good; the old are not."""
    world.add_user("alice", "access")
    world.add_user("dana", "editor")
    old = login(world)
    signed = world.do(table.SIGN_USER, SignUser("alice", PrivateKey.generate().public.line))
    world.do(table.DELETE_USER, users.DeleteUser("alice"))
    world.clock.advance(2)
    gone = {old.serial, certificate(signed.certificate).serial}
    assert listed(world) == gone
    world.add_user("alice", "access")
    new = login(world)
    assert listed(world) == gone
    assert new.serial not in gone


def test_the_expired_are_listed_until_their_certificates_end(world: World) -> None:
    """An sshd accepts a certificate as long as it is valid, and no longer: then it is forgotten."""
    world.add_user("alice", "access")
    old = login(world)
    user = world.do(table.GET_USER, ByName("alice"))
    ends = Metadata("alice", expires=now(world.clock) + timedelta(hours=1))
    world.do(table.PUT_USER, users.PutUser("alice", evolve(user, metadata=ends)))
    assert listed(world) == set()
    world.clock.advance(3600)
    assert listed(world) == {old.serial}
    world.clock.advance(12 * 3600)
    assert listed(world) == set()


def test_many_certificates(world: World) -> None:
    """All pages are read."""
    world.add_user("alice", "access")
    key = PrivateKey.generate().public.line
    made = {
        certificate(world.do(table.SIGN_USER, SignUser("alice", key)).certificate).serial
        for _ in range(450)
    }
    lock(world, user="alice")
    assert listed(world) == made


def test_the_list_has_no_names(world: World) -> None:
    """Servers fetch it without a login: it tells serials, which are random, and no users."""
    world.add_user("alice", "access")
    login(world)
    lock(world, user="alice")
    world.clock.advance(1)
    data: Any = world.do(table.GET_KRL, Nothing()).data
    assert b"alice" not in data
    assert b"access" not in data


def test_who_may_read_it(world: World) -> None:
    """Users and proxies; neither nodes nor clients without a certificate."""
    world.add_user("alice", "access")
    assert listed(world, world.proxy()) == listed(world, world.user("alice", "access")) == set()
    world.join(world.token())
    for caller in (world.host(), Caller(None, "192.0.2.1:1")):
        with pytest.raises((AccessDenied, NotLoggedIn)):
            listed(world, caller)
