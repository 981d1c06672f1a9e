"""Sessions that end at a proxy: what auth accepts of them, and from whom."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from attrs import evolve

from auth_world import HOST_ID, OTHER_ID, PROXY_ID, World, result
from tele.audit.chain import event
from tele.auth.claims import PROXIED_EVENTS
from tele.auth.proxied_sessions import ProxiedSession
from tele.errors import AccessDenied, Conflict, InvalidInput
from tele.loop import now
from tele.model.api import audit, recordings, sessions, table
from tele.model.api.paging import ById, Paged
from tele.model.event import Event
from tele.model.identity import Caller, HostRole
from tele.model.session import RecordingStart

SESSION = "11111111-2222-4333-8444-555555555555"
ALICE = ProxiedSession("alice", "root", "s1", HOST_ID, "db-legacy", "192.0.2.7:1", "a" * 64)


@pytest.fixture
def proxy(world: World) -> Caller:
    """A proxy for which a session of alice is registered."""
    caller = world.proxy()
    register(world, SESSION, ALICE)
    return caller


def register(
    world: World, session_id: str, session: ProxiedSession, proxy_id: str = PROXY_ID
) -> None:
    async def runs() -> bool:
        return await world.parts.ends.has_started((HostRole.PROXY, proxy_id), session_id)

    moment, sessions = now(world.clock), world.parts.recordings.proxied
    result(sessions.register(proxy_id, session_id, session, moment, runs))


def made(world: World, name: str, **words: Any) -> Event:
    words = {"server_id": PROXY_ID, "user": "alice", "login": "root", **words}
    return event(name, str(uuid.uuid4()), now(world.clock), "c", **words)


def emit(world: World, proxy: Caller, *events: Event) -> None:
    world.do(table.EMIT_EVENTS, audit.EmitEvents(events), proxy)


def start(world: World, **words: Any) -> RecordingStart:
    return evolve(
        RecordingStart(
            SESSION, "ssh", "c", "alice", "root", ("access",), "s1", "db-legacy", HOST_ID,
            "192.0.2.7:1", now(world.clock), HostRole.PROXY, PROXY_ID, "proxy", "openssh",
        ),
        **words,
    )  # fmt: skip


def test_it_is_reported_as_a_session_on_its_host(world: World, proxy: Caller) -> None:
    """Every event of it has the host as auth knows it, whatever the proxy calls it."""
    for name in sorted(PROXIED_EVENTS - {"session.end"}):
        emit(world, proxy, made(world, name, session_id=SESSION, node="prod", node_id=OTHER_ID))
        (stored,) = world.events(name)
        assert (stored.server_id, stored.server_name) == (PROXY_ID, "gate")
        assert (stored.fields["node"], stored.fields["node_id"]) == ("db-legacy", HOST_ID)
        assert (stored.login_session, stored.remote_addr) == ("s1", "192.0.2.7:1")


def test_sessions_that_are_not_registered_are_not_believed(world: World, proxy: Caller) -> None:
    """A proxy that was taken over invents no session of a user, and no deed in one (attack)."""
    others = str(uuid.uuid4())
    theirs = evolve(ALICE, proof="b" * 64)
    register(world, others, theirs, OTHER_ID)
    for words in (
        {"session_id": str(uuid.uuid4())},
        {"session_id": others},
        {"session_id": SESSION, "user": "bob"},
        {"session_id": SESSION, "login": "admin"},
        {"session_id": f"{SESSION}/x"},
    ):
        for name in ("session.start", "exec", "session.end"):
            with pytest.raises(InvalidInput):
                emit(world, proxy, made(world, name, **words))
    assert not world.events("exec")


def test_its_recording_is_that_of_the_proxy(world: World, proxy: Caller) -> None:
    """It is listed with the name of the host that auth knows, and stored by the proxy alone."""
    request = recordings.StartRecording(SESSION, start(world, node="prod"))
    world.do(table.START_RECORDING, request, proxy)
    put = recordings.PutChunk(SESSION, 0, b"chunk")
    world.do(table.PUT_CHUNK, put, proxy)
    (row,) = world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items
    assert (row.node, row.node_id, row.recorder) == ("db-legacy", HOST_ID, HostRole.PROXY)
    assert row.target == "openssh"
    progress = world.do(table.RECORDING_PROGRESS, ById(SESSION), proxy)
    assert progress.chunks == (0,)
    world.join(world.token(), OTHER_ID, name="web2")
    with pytest.raises(AccessDenied, match="another host's"):
        world.do(table.PUT_CHUNK, put, world.host(OTHER_ID))


@pytest.mark.parametrize(
    "words",
    [
        {"id": str(uuid.uuid4())},
        {"user": "bob"},
        {"login": "admin"},
        {"login_session": "s2"},
        {"node_id": OTHER_ID},
        {"recorder_id": OTHER_ID},
    ],
)
def test_no_other_recording_is_taken(world: World, proxy: Caller, words: dict[str, Any]) -> None:
    """No user gets a forged recording of a session that they never had (attack)."""
    forged = start(world, **words)
    with pytest.raises(AccessDenied):
        world.do(table.START_RECORDING, recordings.StartRecording(forged.id, forged), proxy)
    assert world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items == ()


def test_a_host_does_not_take_the_proxys_session(world: World, proxy: Caller) -> None:
    """A node that was taken over knows the id by the certificate that the proxy logs in with. It
    does not begin its recording before the proxy does, which could store nothing then, nor report
    in its name; neither does another proxy (attack).
    """
    world.join(world.token())
    own = start(
        world, recorder=HostRole.NODE, recorder_id=HOST_ID, mode="node", target="", node="web1"
    )
    with pytest.raises(AccessDenied, match="is a proxy's"):
        world.do(table.START_RECORDING, recordings.StartRecording(SESSION, own), world.host())
    with pytest.raises(InvalidInput, match="another host's"):
        words = {"session_id": SESSION, "command": "rm -rf /"}
        emit(world, world.host(), made(world, "exec", server_id=HOST_ID, **words))
    assert world.events("exec") == []
    with pytest.raises(Conflict, match="another session"):
        theirs = evolve(ALICE, proof="c" * 64)
        register(world, SESSION, theirs, OTHER_ID)
    world.do(table.START_RECORDING, recordings.StartRecording(SESSION, start(world)), proxy)
    emit(world, proxy, made(world, "exec", session_id=SESSION))


def test_a_proxy_that_restarted_has_no_sessions(world: World, proxy: Caller) -> None:
    """Its report ends those that it had, as a node's does; they are listed until then."""
    emit(world, proxy, made(world, "session.start", session_id=SESSION))
    world.do(table.START_RECORDING, recordings.StartRecording(SESSION, start(world)), proxy)
    (listed,) = world.do(table.LIST_SESSIONS, Paged()).items
    assert (listed.node, listed.recorder_id) == ("db-legacy", PROXY_ID)
    world.clock.advance(1)
    world.do(table.REPORT_SESSIONS, sessions.ReportSessions(now(world.clock)), proxy)
    (ended,) = world.events("session.end")
    assert ended.fields["reason"] == "proxy_restarted"
    assert (ended.server_id, ended.server_name) == (HOST_ID, "db-legacy")


def test_an_id_is_registered_once(world: World, proxy: Caller) -> None:
    """It may be registered again as the same session, and never becomes another one."""
    register(world, SESSION, ALICE)
    register(world, SESSION, evolve(ALICE, node="db-renamed"))
    for other in (evolve(ALICE, user="bob"), evolve(ALICE, node_id=OTHER_ID)):
        with pytest.raises(Conflict):
            register(world, SESSION, other)
    with pytest.raises(Conflict):
        register(world, "../x", ALICE)
