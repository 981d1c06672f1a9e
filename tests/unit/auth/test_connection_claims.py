"""Auth counts the connections of a user over all hosts, before they begin."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from auth_world import HOST_ID, OTHER_ID, World, result
from tele.audit.chain import event
from tele.auth.connection_claims import CLAIMED_FOR, ConnectionClaims
from tele.certs.check import LATEST
from tele.errors import AccessDenied, InvalidInput, NotFound
from tele.loop import now
from tele.model.access import Reason
from tele.model.api import audit, table
from tele.model.api.sessions import ClaimConnection
from tele.model.identity import Caller, HostIdentity, HostRole, UserIdentity
from tele.model.presence import Presence
from tele.model.resources import Conditions, Metadata, Role, RoleSpec

ALICE = UserIdentity("alice", "c", LATEST, ("access",), issued=LATEST)
ONE, TWO, THREE = (str(uuid.UUID(int=number, version=4)) for number in (1, 2, 3))


@pytest.fixture
def hosts(world: World) -> tuple[Caller, Caller]:
    """Two nodes that are online, and a user."""
    world.add_user("alice", "access")
    return joined(world, HOST_ID, "web1"), joined(world, OTHER_ID, "web2")


def joined(world: World, host_id: str, name: str) -> Caller:
    world.join(world.token(), host_id)
    host = world.host(host_id)
    assert isinstance(host.identity, HostIdentity)
    later = now(world.clock) + timedelta(days=100)
    host = evolve(host, identity=evolve(host.identity, expires=later))
    alive(world, host, name)
    return host


def alive(world: World, host: Caller, name: str) -> None:
    world.do(table.ANNOUNCE, Presence(name, HostRole.NODE), host)


def claim(world: World, host: Caller, session_id: str, limit: int = 1) -> bool:
    """Return whether a connection may begin."""
    try:
        world.do(table.CLAIM_CONNECTION, ClaimConnection(session_id, "alice", limit), host)
    except AccessDenied:
        return False
    return True


def emit(world: World, host: Caller, name: str, session_id: str, **fields: Any) -> None:
    assert isinstance(host.identity, HostIdentity)
    said: dict[str, Any] = {"user": "alice", "login": "root", "login_session": "s1", **fields}
    made = event(
        name, str(uuid.uuid4()), now(world.clock), "c", session_id=session_id,
        server_id=host.identity.host_id, **said,
    )  # fmt: skip
    world.do(table.EMIT_EVENTS, audit.EmitEvents((made,)), host)


def test_connections_count_over_all_hosts(world: World, hosts: tuple[Caller, Caller]) -> None:
    """From the claim to the end, on whichever host; the end frees the place at once."""
    web1, web2 = hosts
    assert claim(world, web1, ONE, 2)
    emit(world, web1, "session.start", ONE)
    assert claim(world, web2, TWO, 2)
    assert not claim(world, web1, THREE, 2)
    emit(world, web1, "session.end", ONE)
    assert claim(world, web1, THREE, 2)
    world.clock.advance(1)
    assert not claim(world, web1, ONE, 2)


def test_the_denial_says_what_to_do(world: World, hosts: tuple[Caller, Caller]) -> None:
    """With the number, the limit and the option; the reason is for the audit."""
    web1, web2 = hosts
    assert claim(world, web1, ONE)
    with pytest.raises(
        AccessDenied, match=r"1 connection is open for alice.*max_connections"
    ) as no:
        world.do(table.CLAIM_CONNECTION, ClaimConnection(TWO, "alice", 1), web2)
    assert no.value.reason == Reason.CONNECTIONS.value


def test_a_claim_whose_session_never_begins_ends_by_itself(
    world: World, hosts: tuple[Caller, Caller]
) -> None:
    """A host that is killed in between, or refuses the login for another reason, blocks nobody
    for long.
    """
    web1, web2 = hosts
    assert claim(world, web1, ONE)
    assert claim(world, web1, ONE), "asked again"
    assert not claim(world, web2, TWO)
    world.clock.advance(CLAIMED_FOR.total_seconds() + 1)
    assert claim(world, web2, TWO)


def test_a_host_that_is_offline_holds_no_place(world: World, hosts: tuple[Caller, Caller]) -> None:
    """Its sessions may be over: their user is not refused elsewhere until they are known to be."""
    web1, web2 = hosts
    emit(world, web1, "session.start", ONE)
    assert not claim(world, web2, TWO)
    world.clock.advance(100)
    alive(world, web2, "web2")
    assert claim(world, web2, TWO)


def test_what_belongs_to_a_session_at_a_proxy_is_no_connection_beside_it(
    world: World, hosts: tuple[Caller, Caller]
) -> None:
    """Or a limit of one could never be met through a proxy that records."""
    web1, web2 = hosts
    emit(world, web1, "session.start", TWO, of_session=ONE)
    assert claim(world, web2, THREE)


def test_claims_at_the_same_time_count_one_by_one(
    world: World, hosts: tuple[Caller, Caller]
) -> None:
    """Also at two auths on one store: a user who begins many at once does not get past the limit
    (attack).
    """
    parts = world.parts
    auths = [
        ConnectionClaims(
            world.backend, parts.hosts, lambda: parts.state.policy, parts.recordings.proxied,
            lambda: now(world.clock),
        )
        for _ in range(2)
    ]  # fmt: skip
    begun = [
        Deferred.fromCoroutine(
            auths[number % 2].claim((HostRole.NODE, HOST_ID), ALICE, f"s{number}", 3)
        )
        for number in range(9)
    ]
    outcomes: list[bool] = []
    for each in begun:
        each.addCallbacks(
            lambda _: outcomes.append(True),
            lambda failure: outcomes.append(failure.check(AccessDenied) is None),
        )
    world.clock.advance(1)
    assert sorted(outcomes) == [False] * 6 + [True] * 3


def test_a_claim_is_of_a_user_and_of_a_session(world: World, hosts: tuple[Caller, Caller]) -> None:
    """What is stored is bounded by the users that there are; limits and ids are checked."""
    web1, _ = hosts
    with pytest.raises(NotFound):
        world.do(table.CLAIM_CONNECTION, ClaimConnection(ONE, "nobody", 1), web1)
    with pytest.raises(InvalidInput):
        world.do(table.CLAIM_CONNECTION, ClaimConnection("../x", "alice", 1), web1)
    with pytest.raises(InvalidInput):
        ClaimConnection(ONE, "alice", 0)
    with pytest.raises(AccessDenied):
        caller = world.user("alice", "access")
        world.do(table.CLAIM_CONNECTION, ClaimConnection(ONE, "alice", 1), caller)


def test_attack_a_host_frees_no_place_that_another_holds(
    world: World, hosts: tuple[Caller, Caller]
) -> None:
    """By the end of a session with the same id, or by claiming it."""
    web1, web2 = hosts
    assert claim(world, web1, ONE)
    emit(world, web2, "session.end", ONE)
    assert not claim(world, web2, TWO)
    assert not claim(world, web2, ONE)
    emit(world, web1, "session.start", ONE)
    emit(world, web2, "session.end", ONE)
    assert not claim(world, web2, ONE)
    assert result(world.parts.claims._running(ALICE))


def test_attack_a_node_uses_up_no_limit_of_a_user_who_may_not_reach_it(
    world: World, hosts: tuple[Caller, Caller]
) -> None:
    """Neither by claims nor by sessions that it makes up. The user's own logins are counted by the
    node itself then.
    """
    web1, web2 = hosts
    emit(world, web1, "session.start", ONE)
    assert not claim(world, web2, TWO)
    allow = Conditions(logins=("root",), node_labels={"env": ("prod",)})
    result(world.parts.users.put_role("access", Role(Metadata("access"), RoleSpec(allow))))
    world.do(table.ANNOUNCE, Presence("web2", HostRole.NODE, labels={"env": "prod"}), web2)
    with pytest.raises(InvalidInput, match="no such session"):
        claim(world, web1, THREE)
    assert claim(world, web2, TWO)


def test_attack_a_proxy_claims_for_registered_sessions_only(world: World) -> None:
    """It needs what the user has signed for one."""
    world.add_user("alice", "access")
    proxy = world.proxy()
    world.do(table.ANNOUNCE, Presence("gate", HostRole.PROXY), proxy)
    with pytest.raises(InvalidInput, match="no such session"):
        claim(world, proxy, ONE)
