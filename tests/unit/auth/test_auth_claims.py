"""Attacks by a node that was taken over: what it says about itself, and how much of it."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from auth_world import HOST_ID, OTHER_ID, PROXY_ID, Tape, World, result
from tele.audit.chain import event
from tele.auth import quotas, running_sessions
from tele.auth.claims import NODE_EVENTS, PROXY_EVENTS
from tele.auth.journal import CLIENT_BURST
from tele.auth.quotas import Quota
from tele.auth.running_sessions import COUNT_SECONDS
from tele.certs.issue import HostCertificateRequest, issue_host
from tele.certs.keys import PrivateKey
from tele.errors import AccessDenied, Conflict, InvalidInput, TeleError, Unavailable
from tele.loop import now
from tele.model.api import audit, members, recordings, table
from tele.model.api.paging import ById, Paged
from tele.model.authority import AuthorityKind
from tele.model.event import Event
from tele.model.identity import HostRole
from tele.model.presence import OFFLINE_AFTER, Presence
from tele.model.session import Manifest, RecordingState
from tele.tape.verify import to_sign


def made(world: World, name: str = "exec", event_id: str = "", **words: Any) -> Event:
    words = {"server_id": HOST_ID, "user": "alice", **words}
    return event(name, event_id or str(uuid.uuid4()), now(world.clock), "c", **words)


def emit(world: World, *events: Event, host_id: str = HOST_ID) -> None:
    world.do(table.EMIT_EVENTS, audit.EmitEvents(events), world.host(host_id))


# -- events ---------------------------------------------------------------------------
def test_auth_sets_caller_and_time_of_an_event(world: World) -> None:
    """Another node's name and yesterday's date come out as this node's name and today."""
    world.join(world.token())
    yesterday = now(world.clock) - timedelta(days=1)
    emit(world, evolve(made(world, server_name="db-prod"), time=yesterday))
    (stored,) = world.events("exec")
    assert (stored.server_id, stored.server_name) == (HOST_ID, "web1")
    assert (stored.time, stored.claimed) == (now(world.clock), yesterday)
    since = audit.ListEvents(event="exec", since=now(world.clock))
    assert len(world.do(table.LIST_EVENTS, since).items) == 1
    until = audit.ListEvents(event="exec", until=now(world.clock))
    assert world.do(table.LIST_EVENTS, until).items == ()


def test_a_proxy_reports_no_sessions_of_its_own(world: World) -> None:
    """A proxy that was taken over makes up no sessions, commands or forwards of users (attack)."""
    proxy = world.proxy()
    for name in sorted(NODE_EVENTS - PROXY_EVENTS):
        received = audit.EmitEvents((made(world, name, server_id=PROXY_ID),))
        with pytest.raises(InvalidInput, match="is not reported by a proxy"):
            world.do(table.EMIT_EVENTS, received, proxy)
    for name in sorted(PROXY_EVENTS):
        received = audit.EmitEvents((made(world, name, server_id=PROXY_ID),))
        world.do(table.EMIT_EVENTS, received, proxy)
        assert "gate" in [stored.server_name for stored in world.events(name)]


def test_what_auth_did_has_no_claim(world: World) -> None:
    """Only what a host reported carries a claimed time; a host cannot set it itself."""
    world.join(world.token())
    assert [e.claimed for e in world.events("node.join")] == [None]
    with pytest.raises(InvalidInput, match="claimed"):
        emit(world, evolve(made(world), claimed=now(world.clock)))


def test_an_id_used_by_another_host_keeps_no_event_out(world: World) -> None:
    """A host that guesses the id of a later event, and uses it first, suppresses nothing."""
    world.join(world.token())
    world.join(world.token(), OTHER_ID, name="web2")
    emit(world, made(world, event_id="next", server_id=OTHER_ID), host_id=OTHER_ID)
    emit(world, made(world, event_id="next"))
    emit(world, made(world, event_id="next"))
    assert [e.server_name for e in world.events("exec")] == ["web2", "web1"]
    assert result(world.parts.audit.verify()).problem == ""


def test_an_event_is_of_a_session_of_the_host_and_its_user(world: World) -> None:
    """A host reports nothing about another host's session, and no other user of its own."""
    tape = Tape(world)
    world.join(world.token(), OTHER_ID, name="web2")
    emit(world, made(world, session_id=tape.id))
    for bad, host_id in (
        (made(world, session_id=tape.id, server_id=OTHER_ID), OTHER_ID),
        (made(world, session_id=tape.id, user="bob"), HOST_ID),
        (made(world, session_id="../../x"), HOST_ID),
    ):
        with pytest.raises(InvalidInput):
            emit(world, bad, host_id=host_id)
    emit(world, made(world, session_id=str(uuid.uuid4())))  # auth may receive it later
    assert len(world.events("exec")) == 2


def test_a_user_who_joins_is_not_the_user_of_the_session(world: World) -> None:
    """The event names both; a host makes up no other session's user, and a proxy no such event."""
    tape = Tape(world)
    joined = made(world, "session.join", session_id=tape.id, user="bob", of_user="alice")
    emit(world, joined)
    for words in ({"of_user": "carol"}, {}, {"of_user": 7}):
        bad = made(world, "session.leave", session_id=tape.id, user="bob", **words)
        with pytest.raises(InvalidInput, match="its session is of alice"):
            emit(world, bad)
    assert [e.user for e in world.events("session.join")] == ["bob"]
    proxy = world.proxy()
    of_proxy = made(world, "session.join", session_id=tape.id, server_id=PROXY_ID, of_user="alice")
    with pytest.raises(InvalidInput, match="is not reported by a proxy"):
        world.do(table.EMIT_EVENTS, audit.EmitEvents((of_proxy,)), proxy)


def test_good_events_get_no_bad_one_of_the_same_request_accepted(world: World) -> None:
    """Events of the host's own session and user come with one of another user: none is kept."""
    tape = Tape(world)
    good = made(world, session_id=tape.id)
    with pytest.raises(InvalidInput, match="its session is of alice"):
        emit(world, good, made(world, session_id=tape.id, user="bob"))
    emit(world, good, made(world, session_id=tape.id))
    assert len(world.events("exec")) == 2


def test_a_proxy_reports_nothing_of_a_node_s_session(world: World) -> None:
    """A session that a node records is not the proxy's that it came through."""
    tape = Tape(world)
    proxy = world.proxy()
    bad = made(world, session_id=tape.id, server_id=PROXY_ID)
    with pytest.raises(InvalidInput):
        world.do(table.EMIT_EVENTS, audit.EmitEvents((bad,)), proxy)


@pytest.mark.parametrize(
    "words",
    [
        {"user": "alice\n"},
        {"user": ""},
        {"roles": ("a b",)},
        {"roles": tuple(f"r{n}" for n in range(200))},
        {"login_session": "x" * 129},
        {"login_session": "a b"},
        {"event_id": "x" * 65},
        {"event_id": "*"},
        {"event_id": "../../head"},
        {"event_id": "-rf"},
        {"deep": [[[[1]]]]},
        {"deep": {"a": {"b": {"c": {"d": 1}}}}},
        {"long": [0] * 1001},
        {"a\x1b[2J": 1},
        {f"k{n}": n for n in range(65)},
    ],
    ids=str,
)
def test_what_an_event_may_not_be(world: World, words: dict[str, Any]) -> None:
    """Only a host that lies sends such things: nothing of it is stored."""
    world.join(world.token())
    with pytest.raises(InvalidInput):
        emit(world, made(world), made(world, **words))
    assert world.events("exec") == []


def test_a_long_name_of_a_client_does_not_keep_a_denial_out(world: World) -> None:
    """What a host only passes on is cut: an attacker's key id decides nothing about the event."""
    world.join(world.token())
    long = "x" * 33_000
    emit(world, made(world, "auth.denied", user=long, login=long, remote_addr=long, error=long))
    stored = world.events("auth.denied")[0]
    assert len(stored.user) < 300
    assert len(stored.login) < 300
    assert len(stored.remote_addr) < 300
    assert stored.error == long


# -- recordings ---------------------------------------------------------------------------
def start(world: World, tape: Tape, **words: Any) -> str:
    """Start another recording of the tape's host."""
    name = str(uuid.uuid4())
    begin = evolve(tape.start, id=name, started=now(world.clock), **words)
    world.do(table.START_RECORDING, recordings.StartRecording(name, begin), tape.host)
    return name


def signed(tape: Tape, manifest: Manifest, key: PrivateKey | None = None) -> Manifest:
    return evolve(manifest, signature=(key or tape.key).sign(to_sign(manifest)))


def test_a_row_has_the_name_and_the_time_that_auth_knows(world: World) -> None:
    """A recording that claims another node and yesterday is listed as what and when it is."""
    tape = Tape(world)
    world.clock.advance(60)
    name = str(uuid.uuid4())
    day_before = now(world.clock) - timedelta(days=1)
    forged = evolve(tape.start, id=name, node="db-prod", started=day_before)
    world.do(table.START_RECORDING, recordings.StartRecording(name, forged), tape.host)
    first, second = world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items
    assert (first.id, second.id) == (name, tape.id), "newest first, by the time of receipt"
    assert (first.node, first.node_id, first.received) == ("web1", HOST_ID, now(world.clock))
    assert first.started == day_before
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), tape.host)
    sessions = world.do(table.LIST_SESSIONS, Paged()).items
    assert {session.node for session in sessions} == {"web1"}


def test_a_manifest_does_not_bring_another_nodes_name(world: World) -> None:
    """The name in it is what auth noted, or what the signer's certificate says; no other."""
    tape = Tape(world)
    tape.chunks = []
    tape.start = evolve(tape.start, id=str(uuid.uuid4()), node="db-prod")
    tape.id = tape.start.id
    world.do(table.START_RECORDING, recordings.StartRecording(tape.id, tape.start), tape.host)
    with pytest.raises(InvalidInput, match="db-prod"):
        tape.finish()


def test_a_node_that_was_renamed_closes_what_it_began(world: World) -> None:
    """Auth was away, the node got another name since: its certificate says that it had the old."""
    tape = Tape(world)
    tape.id = str(uuid.uuid4())  # this one is unknown to auth
    tape.start = evolve(tape.start, id=tape.id)
    keys = members.PublicKeys(world.ssh.public.line, _tls())
    world.do(table.RENEW, members.RenewRequest("web9", keys), tape.host)
    world.do(table.START_RECORDING, recordings.StartRecording(tape.id, tape.start), tape.host)
    tape.upload(0, 1)
    tape.finish()
    rows = world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items
    assert [(row.node, row.complete) for row in rows if row.id == tape.id] == [("web9", True)]


def _tls() -> str:
    from tele.certs.x509 import TlsKey

    return TlsKey.generate().public_pem


def test_a_repeated_start_is_the_same_start(world: World) -> None:
    """A host cannot change later whose session it was."""
    tape = Tape(world)
    request = recordings.StartRecording(tape.id, tape.start)
    world.do(table.START_RECORDING, request, tape.host)
    later = now(world.clock) + timedelta(seconds=1)
    for words in ({"user": "bob"}, {"login": "games"}, {"started": later}):
        other = recordings.StartRecording(tape.id, evolve(tape.start, **words))
        with pytest.raises(Conflict):
            world.do(table.START_RECORDING, other, tape.host)


def test_an_end_is_neither_in_the_future_nor_before_the_start(world: World) -> None:
    """What a host says of the end is held between the start and now."""
    for days, expected in ((-3, 0), (3, 60)):
        tape = Tape(world)
        world.clock.advance(60)
        ended = now(world.clock) + timedelta(days=days)
        world.do(
            table.UPDATE_RECORDING, recordings.UpdateRecording(tape.id, ended=ended), tape.host
        )
        row = world.do(table.GET_RECORDING, ById(tape.id)).recording
        assert row.ended == tape.start.started + timedelta(seconds=expected)
        with pytest.raises(InvalidInput if days < 0 else Unavailable):
            tape.finish(signed(tape, evolve(tape.manifest(), ended=ended, signature=b"")))


@pytest.mark.parametrize("who", ["sshd", "proxy", "other cluster", "long after"])
def test_only_a_nodes_certificate_closes_a_recording(world: World, who: str) -> None:
    """A host certificate that merely has the node's id among its names signs nothing."""
    tape = Tape(world)
    tape.upload(0, 1)
    key, moment = PrivateKey.generate(), now(world.clock)
    if who == "long after":
        moment += timedelta(days=8)
    request = HostCertificateRequest(
        HOST_ID, "web1", "d" if who == "other cluster" else "c",
        HostRole.PROXY if who == "proxy" else HostRole.NODE,
    )  # fmt: skip
    ca = world.authorities[AuthorityKind.HOST].ssh
    if who == "sshd":
        forged = world.parts.issuer.sign_sshd(HOST_ID, key.public.line, (HOST_ID,), timedelta(1))
    else:
        forged = issue_host(ca, key.public.blob, request, moment, lambda n: bytes(n))
    manifest = evolve(tape.manifest(), host_certificate=forged.line, signature=b"")
    with pytest.raises(InvalidInput, match="not signed by its host"):
        tape.finish(signed(tape, manifest, key))
    tape.finish()


def test_a_proxy_records_nothing(world: World) -> None:
    """As long as proxies do not record, none may start a recording of a user's session."""
    tape = Tape(world)
    proxy = world.proxy()
    name = str(uuid.uuid4())
    with pytest.raises(AccessDenied):
        request = recordings.StartRecording(name, evolve(tape.start, id=name))
        world.do(table.START_RECORDING, request, proxy)


def test_auth_knows_the_state_of_a_recording(world: World) -> None:
    """Running only while its node lives and has not said that it ended; complete at the end."""
    tape = Tape(world)

    def state() -> RecordingState:
        found: RecordingState = world.do(table.GET_RECORDING, ById(tape.id)).state
        return found

    assert state() is RecordingState.UNFINISHED, "its node has never announced itself"
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), tape.host)
    assert state() is RecordingState.RUNNING
    world.clock.advance(OFFLINE_AFTER.total_seconds())
    assert state() is RecordingState.UNFINISHED
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), tape.host)
    ended = recordings.UpdateRecording(tape.id, ended=now(world.clock))
    world.do(table.UPDATE_RECORDING, ended, tape.host)
    assert state() is RecordingState.ENDED
    tape.upload(0, 1)
    tape.finish()
    assert state() is RecordingState.COMPLETE


# -- quotas ---------------------------------------------------------------------------
def tight(monkeypatch: pytest.MonkeyPatch, name: str, burst: float, per_second: float) -> None:
    monkeypatch.setattr(quotas, name, Quota(name.lower(), burst, per_second, "of them"))


def test_a_flood_of_events_stops_at_its_host(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host over its quota is refused, with one event; other hosts are not, nor this one later."""
    tight(monkeypatch, "EVENTS", 10, 1)
    world.join(world.token())
    world.join(world.token(), OTHER_ID, name="web2")
    emit(world, *(made(world) for _ in range(10)))
    for _ in range(5):
        with pytest.raises(Unavailable, match="quota of 10 of them"):
            emit(world, made(world))
    (said,) = world.events("node.quota")
    assert (said.server_name, said.fields["quota"]) == ("web1", "events")
    emit(world, made(world, server_id=OTHER_ID), host_id=OTHER_ID)
    world.clock.advance(2)
    emit(world, made(world), made(world))
    assert len(world.events("exec")) == 13


@pytest.mark.parametrize(
    ("name", "burst"),
    [("EVENT_BYTES", 1000), ("RECORDINGS", 1), ("CHUNKS", 1)],
)
def test_each_kind_has_its_quota(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, burst: int
) -> None:
    """Bytes of events, recordings and chunks are counted for each host."""
    tight(monkeypatch, name, burst, 0)
    tape = Tape(world)
    with pytest.raises(Unavailable, match="over its quota"):
        tape.upload(0, 1)
        start(world, tape)
        emit(world, made(world, command="x" * 2000))
    assert len(world.events("node.quota")) == 1
    world.join(world.token(), OTHER_ID, name="web2")
    Tape(world, host_id=OTHER_ID)


def test_sessions_that_run_are_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host cannot say that ever more sessions run on it; those that ended make room."""
    monkeypatch.setattr(quotas, "RUNNING_LIMIT", 3)
    tape = Tape(world)
    others = [start(world, tape), start(world, tape)]
    world.clock.advance(COUNT_SECONDS.total_seconds())
    with pytest.raises(Unavailable, match="running sessions"):
        start(world, tape)
    ended = recordings.UpdateRecording(others[0], ended=now(world.clock))
    world.do(table.UPDATE_RECORDING, ended, tape.host)
    start(world, tape)
    with pytest.raises(Unavailable):
        start(world, tape, user="bob")
    monkeypatch.setattr(running_sessions, "COUNTS_FOR", timedelta(minutes=10))
    world.clock.advance(600)
    start(world, tape)  # a node that lost its spool is not refused for ever


def test_another_auths_sessions_are_counted_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ended elsewhere on this store does not fill a host's quota here."""
    monkeypatch.setattr(quotas, "RUNNING_LIMIT", 1)
    tape = Tape(world)
    result(world.backend.commit(world.parts.recordings.sessions._sessions.delete(tape.id)))
    world.clock.advance(COUNT_SECONDS.total_seconds())
    start(world, tape)


def test_a_member_cannot_fill_the_audit_with_denials(world: World) -> None:
    """A denial is an event, but only so often for each host and user; the rest is counted."""
    tape = Tape(world)
    world.join(world.token(), OTHER_ID, name="web2")
    thief = world.host(OTHER_ID)
    for _ in range(int(CLIENT_BURST) * 2):
        with pytest.raises(TeleError):
            world.do(table.PUT_CHUNK, recordings.PutChunk(tape.id, 0, b"x"), thief)
    listed = audit.ListEvents(event="auth.denied", limit=1000)
    assert len(world.do(table.LIST_EVENTS, listed).items) == int(CLIENT_BURST)
    world.clock.advance(60)
    with pytest.raises(TeleError):
        world.do(table.PUT_CHUNK, recordings.PutChunk(tape.id, 0, b"x"), thief)
    last = world.do(table.LIST_EVENTS, listed).items[-1]
    assert last.fields["others_not_listed"] == int(CLIENT_BURST)
