"""Each session that started ends, whichever process dies: by its node, or by auth with a reason."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from attrs import evolve

from auth_world import HOST_ID, OTHER_ID, Tape, World, result
from tele.audit.chain import event
from tele.auth import quotas
from tele.auth.quotas import Quota
from tele.auth.session_ends import BATCH, CHECK_SECONDS, END_AFTER, OFFLINE_SECONDS
from tele.errors import InvalidInput, Unavailable
from tele.interfaces import Delete
from tele.loop import now
from tele.model.api import audit, recordings, sessions, table
from tele.model.api.paging import ById, Paged
from tele.model.event import Event
from tele.model.identity import HostIdentity, HostRole
from tele.model.presence import ANNOUNCE_PERIOD, OFFLINE_AFTER, Presence
from tele.model.session import RecordingState, SessionStatus
from tele.tape.verify import to_sign

A_DAY = END_AFTER.total_seconds()


class Sessions:
    """A node, and what it says of its sessions."""

    def __init__(self, world: World, host_id: str = HOST_ID) -> None:
        self.world = world
        self.host_id = host_id
        if host_id not in world.joined:
            world.join(world.token(), host_id)
        short = world.host(host_id)
        assert isinstance(short.identity, HostIdentity)
        later = now(world.clock) + timedelta(days=100)
        self.host = evolve(short, identity=evolve(short.identity, expires=later))
        self.began = now(world.clock)
        self.announce()

    def announce(self) -> None:
        self.world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), self.host)

    def said(self, name: str, session_id: str, **fields: Any) -> Event:
        return event(
            name, str(uuid.uuid4()), now(self.world.clock), "c", server_id=self.host_id,
            user="alice", login="root", roles=("access",), session_id=session_id,
            login_session="s1", remote_addr="192.0.2.7:1", **fields,
        )  # fmt: skip

    def emit(self, *events: Event) -> None:
        self.world.do(table.EMIT_EVENTS, audit.EmitEvents(events), self.host)

    def start(self, session_id: str = "") -> str:
        session_id = session_id or str(uuid.uuid4())
        self.emit(self.said("session.start", session_id))
        return session_id

    def report(self, *running: str, since: datetime | None = None) -> None:
        request = sessions.ReportSessions(since or self.began, running)
        self.world.do(table.REPORT_SESSIONS, request, self.host)

    def ends(self) -> list[tuple[str, Any, Any]]:
        """The ends in the audit: session, reason, whom it is of."""
        found = self.world.events("session.end")
        return [(e.session_id, e.fields.get("reason"), e.fields.get("by")) for e in found]


@pytest.fixture
def node(world: World) -> Sessions:
    return Sessions(world)


def pass_time(world: World, seconds: float, *alive: Sessions) -> None:
    """Let time pass, in which ``alive`` say that they are."""
    step = min(ANNOUNCE_PERIOD.total_seconds(), CHECK_SECONDS)
    while seconds > 0:
        world.clock.advance(min(step, seconds))
        seconds -= step
        for each in alive:
            each.announce()


def finish(tape: Tape) -> None:
    """Close a recording as of a time when its host's certificate was good."""
    ended = tape.start.started + timedelta(hours=1)
    unsigned = evolve(tape.manifest(), ended=ended, signature=b"")
    tape.finish(evolve(unsigned, signature=tape.key.sign(to_sign(unsigned))))


def left(world: World) -> list[str]:
    """What the register and the list of open recordings still hold."""
    keys = [item.key for item in result(world.backend.range("/", "0"))]
    starts = [k for k in keys if k.startswith("/session-starts/")]
    by_user = [k for k in keys if k.startswith("/session-starts-of/")]
    assert sorted(k.split("/", 3)[3] for k in by_user) == [k.split("/", 2)[2] for k in starts]
    return starts + [k for k in keys if k.startswith(("/recordings/open/", "/sessions"))]


def test_an_end_that_a_node_reports_is_the_end(world: World, node: Sessions) -> None:
    """A session that its node ended leaves the register, and auth says nothing more of it."""
    one = node.start()
    node.emit(node.said("session.end", one, seconds=1.0))
    assert left(world) == []
    node.report()
    pass_time(world, 2 * A_DAY)
    assert node.ends() == [(one, None, None)]


def test_start_and_end_may_come_together_and_again(world: World, node: Sessions) -> None:
    """A batch that is sent once more, its start included, opens nothing again."""
    one = str(uuid.uuid4())
    batch = node.said("session.start", one), node.said("session.end", one)
    node.emit(*batch)
    node.emit(*batch)
    node.emit(batch[0])
    node.report()
    assert left(world) == []
    assert node.ends() == [(one, None, None)]


def test_a_node_that_was_killed_ends_its_sessions_when_it_is_back(
    world: World, node: Sessions
) -> None:
    """What does not run on a node that was started again has ended, with that as its reason."""
    sessions = sorted(node.start() for _ in range(10))
    world.clock.advance(5)
    node.report(since=now(world.clock))
    assert sorted(node.ends()) == [(each, "node_restarted", "auth") for each in sessions]
    (first, *_) = world.events("session.end")
    assert (first.user, first.login, first.server_id, first.ok) == ("alice", "root", HOST_ID, False)
    assert "ended while the session ran" in first.error
    node.report(since=now(world.clock))
    assert len(node.ends()) == 10, "each ends once"


def test_an_end_that_was_lost_on_the_node_is_noticed(world: World, node: Sessions) -> None:
    """A node whose spool was full reports by what runs that the rest has ended."""
    one, two = node.start(), node.start()
    node.report(two)
    assert node.ends() == [(one, "unreported", "auth")]


def test_running_sessions_stay_listed(world: World, node: Sessions) -> None:
    """No session ends that its node reports, or whose node is online."""
    one = node.start()
    node.report(one)
    pass_time(world, 3 * A_DAY, node)
    assert node.ends() == []


def test_sessions_of_a_removed_node_end_at_once(world: World, node: Sessions) -> None:
    """A node that is removed cannot say how its sessions ended: auth does."""
    tape = Tape(world)
    node.start(tape.id)
    tape.upload(0)
    world.do(table.DELETE_HOST, ById(HOST_ID))
    world.clock.advance(0)
    assert node.ends() == [(tape.id, "node_removed", "auth")]
    assert left(world) == []
    details = world.do(table.GET_RECORDING, ById(tape.id))
    assert details.state is RecordingState.INCOMPLETE
    (said,) = world.events("recording.incomplete")
    assert (said.session_id, said.user, said.fields["by"]) == (tape.id, "alice", "auth")
    assert world.do(table.LIST_SESSIONS, Paged()).items == ()


def test_a_proxy_with_the_id_of_a_node_is_another_host(world: World, node: Sessions) -> None:
    """Sessions that it reports are registered as its own, and end with its membership."""
    one, other = node.start(), str(uuid.uuid4())
    proxy = HostIdentity(HOST_ID, "gate", "c", HostRole.PROXY, now(world.clock))
    result(world.parts.ends.append(proxy, [node.said("session.start", other)]))
    key = f"/session-starts/proxy:{HOST_ID}/{other}"
    assert left(world) == [f"/session-starts/{HOST_ID}/{one}", key]
    result(world.parts.ends.check())
    assert node.ends() == [(other, "proxy_removed", "auth")]
    assert left(world) == [f"/session-starts/{HOST_ID}/{one}"]


def test_sessions_of_a_replaced_node_end(world: World, node: Sessions) -> None:
    """A host that takes the name of another one ends what ran on that, under its id."""
    one = node.start()
    pass_time(world, 2 * OFFLINE_AFTER.total_seconds() + 300)
    world.join(world.token(replaces=("web1",)), OTHER_ID, name="web1")
    world.clock.advance(0)
    assert node.ends() == [(one, "node_removed", "auth")]
    (end,) = world.events("session.end")
    assert end.server_id == HOST_ID


def test_a_node_that_never_reconnects(world: World, node: Sessions) -> None:
    """After the limit its sessions end, at the time of its last announcement, and its recordings
    close.
    """
    tape = Tape(world)
    node.start(tape.id)
    tape.upload(0)
    unseen = Tape(world)  # one that began and of which not even the event came
    ended = Tape(world)  # one that ended, and whose rest never came
    update = recordings.UpdateRecording(ended.id, ended=now(world.clock))
    world.do(table.UPDATE_RECORDING, update, ended.host)
    seen = now(world.clock)
    pass_time(world, A_DAY - CHECK_SECONDS)
    assert node.ends() == []
    listed = world.do(table.LIST_SESSIONS, Paged()).items
    assert {s.id for s in listed} == {tape.id, unseen.id}
    assert {(s.status, s.node_seen) for s in listed} == {(SessionStatus.UNKNOWN, seen)}
    pass_time(world, 2 * CHECK_SECONDS)
    assert node.ends() == [(tape.id, "node_silent", "auth")]
    assert left(world) == []
    for each in (tape, unseen, ended):
        details = world.do(table.GET_RECORDING, ById(each.id))
        assert details.state is RecordingState.INCOMPLETE
        assert details.recording.ended == seen
    assert len(world.events("recording.incomplete")) == 3
    assert world.do(table.LIST_SESSIONS, Paged()).items == ()


def test_a_session_that_auth_ended_and_that_runs(world: World, node: Sessions) -> None:
    """After a partition it is listed again, its recording continues, and its real end ends it."""
    tape = Tape(world)
    node.start(tape.id)
    tape.upload(0)
    pass_time(world, A_DAY + 2 * CHECK_SECONDS)
    (first,) = world.events("session.end")
    node.announce()
    node.report(tape.id)
    (resumed,) = world.events("session.resume")
    assert resumed.fields["corrects"] == first.id
    (listed,) = world.do(table.LIST_SESSIONS, Paged()).items
    assert (listed.id, listed.status) == (tape.id, SessionStatus.RUNNING)
    node.report(tape.id)
    assert len(world.events("session.resume")) == 1
    tape.host = node.host
    tape.upload(1)
    node.emit(node.said("session.end", tape.id))
    finish(tape)
    assert left(world) == []
    assert node.ends() == [(tape.id, "node_silent", "auth"), (tape.id, None, None)]
    (row,) = world.do(table.LIST_RECORDINGS, recordings.ListRecordings()).items
    assert (row.complete, row.incomplete, row.chunks) == (True, "", 2)


def test_it_can_be_lost_again(world: World, node: Sessions) -> None:
    """A session that came back and whose node falls silent once more ends once more."""
    one = node.start()
    for count in (1, 2):
        pass_time(world, A_DAY + 2 * CHECK_SECONDS)
        assert len(node.ends()) == count
        node.announce()
        node.report(one)
        assert len(world.events("session.resume")) == count


def test_a_later_end_corrects_auths(world: World, node: Sessions) -> None:
    """What a node says of the end after auth has said one names that; nothing contradicts."""
    tape = Tape(world)
    node.start(tape.id)
    pass_time(world, A_DAY + 2 * CHECK_SECONDS)
    node.announce()
    node.emit(node.said("session.end", tape.id, corrects="x", by="auth"))
    first, second = world.events("session.end")
    assert second.fields == {"corrects": first.id}
    tape.host = node.host
    tape.upload(0, 1)
    finish(tape)
    assert left(world) == []


def test_a_host_ends_no_sessions_of_others(world: World, node: Sessions) -> None:
    """Neither by a report nor by an event does a node touch another one's sessions (attack)."""
    one = node.start()
    thief = Sessions(world, OTHER_ID)
    thief.report()
    thief.report(one)
    thief.emit(thief.said("session.end", one))
    world.do(table.REPORT_SESSIONS, sessions.ReportSessions(now(world.clock)), world.proxy())
    assert [k for k in left(world) if one in k] == [f"/session-starts/{HOST_ID}/{one}"]


def test_a_report_has_a_limit(world: World, node: Sessions) -> None:
    """More sessions than any node has are refused, and nothing ends by it."""
    node.start()
    with pytest.raises(InvalidInput):
        node.report(*["x"] * (sessions.REPORT_LIMIT + 1))
    assert node.ends() == []


def test_a_report_costs_the_events_that_it_causes(
    world: World, node: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose sessions end and resume in turns fills the audit no faster (attack)."""
    monkeypatch.setattr(quotas, "EVENTS", Quota("events", 6, 0, "events"))
    one, two = node.start(), node.start()
    node.report()
    node.report(one, two)
    with pytest.raises(Unavailable, match="quota of 6 events"):
        node.report()
    assert len(world.events("session.end")) == len(world.events("session.resume")) == 2


def test_no_node_is_overdue_because_auth_was_away(world: World, node: Sessions) -> None:
    """After days without auth a node has time to reconnect before its sessions end."""
    one = node.start()
    world.parts.hosts._announced[HostRole.NODE][HOST_ID] = evolve(
        world.parts.hosts._announced[HostRole.NODE][HOST_ID],
        received=now(world.clock) - timedelta(days=3),
    )
    world.clock.advance(CHECK_SECONDS)
    assert node.ends() == []
    node.announce()
    pass_time(world, OFFLINE_SECONDS, node)
    assert node.ends() == []
    node.report(one)
    assert node.ends() == []


def test_recordings_of_an_older_store_are_owed_too(world: World) -> None:
    """What was open before auth kept a list of it is closed like the rest."""
    tape = Tape(world)
    keys = [k for k in left(world) if k.startswith("/recordings/open/")]
    assert len(keys) == 1
    result(world.backend.commit(Delete(keys[0]), Delete("/cluster/open-recordings")))
    result(world.parts.ends.stop())
    result(world.parts.ends.start())
    assert [k for k in left(world) if k.startswith("/recordings/open/")] == keys
    world.do(table.DELETE_HOST, ById(HOST_ID))
    world.clock.advance(0)
    details = world.do(table.GET_RECORDING, ById(tape.id))
    assert details.state is RecordingState.INCOMPLETE


def test_more_sessions_than_are_read_at_once(
    world: World, node: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many a node says to have started, all end, and auth reads some at a time (attack)."""
    count = 2 * BATCH + 1
    for _ in range(count):
        node.start()
    largest = 0
    read = world.backend.range

    def counted(start: str, end: str, limit: int = 0, reverse: bool = False) -> Any:
        nonlocal largest
        largest = max(largest, limit or 1 << 30)
        return read(start, end, limit, reverse)

    with monkeypatch.context() as patched:
        patched.setattr(world.backend, "range", counted)
        node.report()
    assert largest <= BATCH
    listed = world.do(table.LIST_EVENTS, audit.ListEvents(event="session.end", limit=1000))
    assert len(listed.items) == count
    assert left(world) == []
