"""Sessions that run are listed and can be ended, recorded or not, and each once."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from auth_world import HOST_ID, OTHER_ID, World
from tele.audit.chain import event
from tele.errors import NotFound
from tele.loop import now
from tele.model.api import audit, table, users
from tele.model.api.paging import ById, Paged
from tele.model.api.sessions import KillSession
from tele.model.identity import Caller, HostIdentity, HostRole
from tele.model.presence import Presence
from tele.model.session import SessionStatus

ONE, TWO = (str(uuid.UUID(int=number, version=4)) for number in (1, 2))


@pytest.fixture
def node(world: World) -> Caller:
    """A node that is online."""
    return joined(world, HOST_ID, "web1")


def person(world: World, name: str) -> Caller:
    """One who may see their own sessions only."""
    world.add_user(name, "access")
    return world.user(name, "access")


def joined(world: World, host_id: str, name: str) -> Caller:
    world.join(world.token(), host_id)
    host = world.host(host_id)
    assert isinstance(host.identity, HostIdentity)
    later = now(world.clock) + timedelta(days=100)
    host = evolve(host, identity=evolve(host.identity, expires=later))
    world.do(table.ANNOUNCE, Presence(name, HostRole.NODE), host)
    return host


def emit(world: World, host: Caller, name: str, session_id: str, **fields: Any) -> None:
    assert isinstance(host.identity, HostIdentity)
    said: dict[str, Any] = {"user": "alice", "login": "root", "login_session": "s1", **fields}
    made = event(
        name, str(uuid.uuid4()), now(world.clock), "c", session_id=session_id,
        server_id=host.identity.host_id, **said,
    )  # fmt: skip
    world.do(table.EMIT_EVENTS, audit.EmitEvents((made,)), host)


def listed(world: World, caller: Caller | None = None) -> list[str]:
    callers = () if caller is None else (caller,)
    return [each.id for each in world.do(table.LIST_SESSIONS, Paged(), *callers).items]


def test_a_session_that_is_not_recorded_is_listed_until_it_ends(world: World, node: Caller) -> None:
    """To those who may see all sessions, and to its user, but not to another user."""
    alice, eve = person(world, "alice"), person(world, "eve")
    emit(world, node, "session.start", ONE)
    assert listed(world) == listed(world, alice) == [ONE]
    assert listed(world, eve) == []
    emit(world, node, "session.end", ONE)
    assert listed(world) == listed(world, alice) == []


def test_one_session_is_shown_to_those_who_see_it_in_the_list(world: World, node: Caller) -> None:
    """With the roles of its login; what another user runs is not found, as if it were not there."""
    alice, eve = person(world, "alice"), person(world, "eve")
    emit(world, node, "session.start", ONE, roles=("access",), remote_addr="192.0.2.7:4711")
    details = world.do(table.GET_SESSION, ById(ONE), alice)
    assert details == world.do(table.GET_SESSION, ById(ONE))
    assert (details.session.id, details.kind, details.roles) == (ONE, "ssh", ("access",))
    assert not details.recorded
    (taking_part,) = details.participants
    assert (taking_part.user, taking_part.remote_addr) == ("alice", "192.0.2.7:4711")
    for caller in (eve, alice):
        with pytest.raises(NotFound, match="no such session runs"):
            world.do(table.GET_SESSION, ById(ONE if caller is eve else TWO), caller)
    world.clock.advance(100)  # its node is silent: it is not known whether it runs
    assert world.do(table.GET_SESSION, ById(ONE)).session.status is SessionStatus.UNKNOWN
    emit(world, node, "session.end", ONE)
    with pytest.raises(NotFound):
        world.do(table.GET_SESSION, ById(ONE), alice)


def test_it_can_be_ended(world: World, node: Caller) -> None:
    """Its lock reaches the nodes; a session that is over cannot be ended."""
    emit(world, node, "session.start", ONE)
    lock = world.do(table.KILL_SESSION, KillSession(ONE))
    assert lock.spec.target.session == ONE
    emit(world, node, "session.end", ONE)
    with pytest.raises(NotFound):
        world.do(table.KILL_SESSION, KillSession(ONE))


def test_a_session_at_a_proxy_is_listed_once(world: World, node: Caller) -> None:
    """What the node behind the proxy reports belongs to it."""
    emit(world, node, "session.start", TWO, of_session=ONE)
    assert listed(world) == []
    emit(world, node, "session.end", TWO, of_session=ONE)


def test_the_sessions_of_a_user_that_is_removed_are_named(world: World, node: Caller) -> None:
    """Also one that is not recorded, so that an operator sees what ends."""
    person(world, "alice")
    emit(world, node, "session.start", ONE)
    gone = world.do(table.DELETE_USER, users.DeleteUser("alice"))
    assert [each.id for each in gone.sessions] == [ONE]


def test_a_host_does_not_hide_sessions_of_another(world: World, node: Caller) -> None:
    """A start or an end that it reports with their id changes nothing of them (attack)."""
    other, alice = joined(world, OTHER_ID, "web2"), person(world, "alice")
    emit(world, node, "session.start", ONE)
    emit(world, other, "session.start", ONE, user="eve", of_session=TWO)
    emit(world, other, "session.end", ONE, user="alice")
    assert listed(world) == [ONE]
    assert listed(world, alice) == [ONE]
