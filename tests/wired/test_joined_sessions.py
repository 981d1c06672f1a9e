"""Users join sessions of others with OpenSSH's client: what they see and may do, and what the
session's user, the recording and the audit show of it.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from joiners import ANSWERS, Joining, rule
from recording_proxy import set_mode
from small_cluster import ME, small_cluster
from sync_recorder import SyncRecorder
from tele.model.api.locks import DELETE_LOCK, PUT_LOCK, PutLock
from tele.model.api.paging import ByName
from tele.model.frame import FrameKind
from tele.model.joining import JoinMode, join_login
from tele.model.resources import Lock, LockSpec, LockTarget, Metadata, RecordingMode
from tele.testing.recorder import MemoryRecorder

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

MODERATOR, OBSERVER, PEER = JoinMode.MODERATOR, JoinMode.OBSERVER, JoinMode.PEER
NOT_HERE = b"no such session runs on this node, or no role of yours (join_sessions)"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joining]:
    """One cluster for all of these tests."""
    with small_cluster(tmp_path_factory.mktemp("joined")) as cluster:
        recorder = MemoryRecorder()
        node = cluster.node(recorder=recorder)
        cluster.person("alice", ME)
        cluster.person("bob")
        yield Joining(cluster, node, recorder)


@pytest.fixture
def joining(shared: Joining) -> Iterator[Joining]:
    """That cluster, without sessions, and where nothing may be joined."""
    shared.recorder.recordings.clear()
    shared.allow()
    yield shared
    shared.end()


def test_an_observer_sees_and_is_seen(joining: Joining) -> None:
    """A user without any login here watches: what was shown before, and what is shown; nothing that
    they type arrives. The session's user sees them come and go, and so do recording and audit.
    """
    joining.allow(rule())
    alice, session = joining.session()
    bob = joining.join(session)
    bob.see(b"session of alice as " + ME.encode() + b", observer: Ctrl-C leaves")
    bob.see(b"READY")
    alice.see(b"tele: bob has joined this session (observer)")
    alice.type(b"one\n")
    bob.see(b"got-one")
    bob.type(b"intruder\nend\n")
    alice.type(b"two\n")
    bob.see(b"got-two")
    assert b"intruder" not in alice.read()
    bob.type(b"\x03")
    assert bob.end()[0] == 0
    alice.see(b"tele: bob has left this session")
    alice.type(b"end\n")
    assert alice.end()[0] == 7
    assert b"intruder" not in joining.output()
    joined, left = joining.facts(FrameKind.JOIN, FrameKind.LEAVE)
    assert (joined["user"], joined["mode"], joined["join"]) == ("bob", "observer", 1)
    assert (left["user"], left["join"], left["reason"]) == ("bob", 1, "left")
    assert joining.facts(FrameKind.TYPED) == []
    event = joining.cluster.wait_event("session.join")[-1]
    assert (event.user, event.login, event.session_id, event.ok) == ("bob", ME, session, True)
    assert (event.fields["of_user"], event.fields["mode"]) == ("alice", "observer")
    assert joining.cluster.wait_event("session.leave")[-1].fields["why"] == "left"


def test_it_ends_with_the_session(joining: Joining) -> None:
    """Observers are told, and their clients end with status 0; then there is nothing to join."""
    joining.allow(rule())
    alice, session = joining.session()
    bob = joining.join(session)
    bob.see(b"READY")
    alice.type(b"end\n")
    status, shown = bob.end()
    assert (status, b"the session has ended" in shown) == (0, True)
    status, shown = joining.join(session).end()
    assert (status, NOT_HERE in shown) == (255, True)


def test_without_a_right_nothing_is_told(joining: Joining) -> None:
    """A session that may not be joined and one that does not exist are the same refusal, an event
    (attack: joining without a right, finding out which sessions run).
    """
    _, session = joining.session()
    none = "00000000-0000-4000-8000-000000000000"
    texts = []
    for rules, denied, wanted in (
        ((), (), session),
        ((rule(roles=("other",)),), (), session),
        ((rule(PEER),), (rule(),), session),
        ((rule(),), (), none),
    ):
        joining.allow(*rules, deny=denied)
        status, shown = joining.join(wanted).end()
        assert (status, NOT_HERE in shown) == (255, True)
        texts.append(shown.replace(wanted.encode(), b"ID"))
    assert len(set(texts)) == 1
    joining.cluster.reactor.until(
        lambda: (
            sum(e.fields.get("reason") == "join" for e in joining.cluster.events("auth.denied"))
            >= len(texts)
        )
    )


def test_modes_are_those_of_the_roles(joining: Joining) -> None:
    """An observer may not become a peer, nor run anything, forward, or transfer files."""
    joining.allow(rule())
    alice, session = joining.session()
    for command, said in (
        ("peer", b"your roles let you join this session as observer, not as peer"),
        ("moderator", b"not as moderator"),
        ("id; peer", b"is not a mode to join a session in: observer, moderator, peer"),
    ):
        status, shown = joining.join(session, command).end()
        assert (status, said in shown) == (254, True), shown
    login = join_login(session)
    sftp = joining.start("bob", "-s", "127.0.0.1", "sftp", login=login).end()
    assert (sftp[0], b"is not a mode" in sftp[1]) == (254, True)
    forward = joining.start("bob", "-W", "127.0.0.1:1", "127.0.0.1", login=login).end()
    assert (forward[0], b"forwarding failed" in forward[1]) == (255, True)
    listen = ("-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "127.0.0.1")
    assert joining.start("bob", *listen, login=login).end()[0] == 255
    refused = [e for e in joining.cluster.wait_event("session.join") if not e.ok]
    assert any("not as peer" in e.error for e in refused)
    alice.type(b"one\n")
    alice.see(b"got-one")


def test_what_a_peer_types_has_their_name(joining: Joining) -> None:
    """It reaches the session, and the recording says that they typed it; what the terminal does not
    show is not recorded, but that there was something is.
    """
    joining.allow(rule(PEER))
    alice, session = joining.session(ANSWERS.replace("-echo", "echo"))
    bob = joining.join(session, "peer")
    bob.see(b"what you type is recorded with your name")
    bob.type(b"from-bob\n")
    for each in (alice, bob):
        each.see(b"got-from-bob")
    joining.cluster.reactor.until(lambda: bool(joining.facts(FrameKind.TYPED)))
    typed = joining.facts(FrameKind.TYPED)
    assert {(each["user"], each["join"]) for each in typed} == {("bob", 1)}
    assert "".join(each["text"] for each in typed) == "from-bob\n"
    alice.type(b"end\n")
    bob.end()
    hidden, session = joining.session()
    joining.recorder.recordings[0].frames.clear()
    bob = joining.join(session, "peer")
    bob.see(b"READY")
    bob.type(b"secret\n")
    hidden.see(b"got-secret")
    joining.cluster.reactor.until(lambda: bool(joining.facts(FrameKind.TYPED)))
    assert joining.facts(FrameKind.TYPED) == [{"hidden": True, "join": 1, "user": "bob"}]


def test_a_moderator_ends_the_session(joining: Joining) -> None:
    """By a key; the session's user reads who it was, and the audit has the reason. A moderator
    types nothing else into it.
    """
    joining.allow(rule(MODERATOR))
    alice, session = joining.session()
    bob = joining.join(session, "moderator")
    bob.see(b"READY")
    bob.type(b"end\n")
    alice.type(b"one\n")
    bob.see(b"got-one")
    bob.type(b"\x14")
    status, shown = alice.end()
    assert (status, b"this session was ended by bob, a moderator" in shown) == (255, True)
    assert bob.end()[0] == 0
    cluster = joining.cluster
    cluster.reactor.until(
        lambda: any(e.fields.get("reason") == "moderated" for e in cluster.events("session.end"))
    )


def test_it_ends_with_the_right(joining: Joining) -> None:
    """A changed role, a lock and the end of the certificate end it while the session goes on, with
    the reason (attack: staying after revocation).
    """
    joining.allow(rule())
    alice, session = joining.session()
    bob = joining.join(session)
    bob.see(b"READY")
    joining.allow(rule(roles=("other",)))
    status, shown = bob.end()
    assert (status, NOT_HERE in shown) == (255, True)
    joining.allow(rule())
    bob = joining.join(session)
    bob.see(b"READY")
    lock = Lock(Metadata("lock"), LockSpec(LockTarget(user="bob"), "away"))
    admin, wait = joining.cluster.admin, joining.cluster.reactor.wait
    wait(admin.perform(PUT_LOCK, PutLock("lock", lock)))
    status, shown = bob.end()
    assert (status, b"bob is locked by lock: away" in shown) == (255, True)
    assert b"is locked" in joining.join(session).end()[1]
    wait(admin.perform(DELETE_LOCK, ByName("lock")))
    joining.cluster.person("carol", ttl=timedelta(seconds=8))
    joining.allow(rule())
    carol = joining.join(session, user="carol")
    carol.see(b"READY")
    status, shown = carol.end()
    assert (status, b"the certificate has expired" in shown) == (255, True)
    alice.type(b"one\n")
    alice.see(b"got-one")


def test_an_observer_who_does_not_read_delays_nothing(joining: Joining) -> None:
    """16 MB of output of a session pass while an observer is stopped, who is told later what was
    left out (attack: a slow observer).
    """
    joining.allow(rule())
    command = "echo READY; read x; yes 0123456789abcdef | head -c 16000000; echo DONE; cat"
    alice, session = joining.session(command)
    bob = joining.join(session)
    bob.see(b"READY")
    bob.process.send_signal(signal.SIGSTOP)
    alice.type(b"go\n")
    alice.see(b"DONE")
    bob.process.send_signal(signal.SIGCONT)
    bob.see(b"bytes were not shown: this connection is too slow")
    alice.type(b"still\n")
    bob.see(b"still")


def test_a_session_has_no_power_over_terminals_of_observers(joining: Joining) -> None:
    """Nothing arrives that a terminal answers, or that sets its clipboard (attack: a session's user
    types with the hands of those who watch).
    """
    joining.allow(rule())
    sent = r"printf 'a\033[6nb\033]52;c;aGk=\007c\033P$q\033\\d\033[1mBOLD'; echo READY; cat"
    _, session = joining.session(sent)
    bob = joining.join(session)
    bob.see(b"READY")
    assert b"abcd\x1b[1mBOLD" in bob.read()


def test_later_terminals_of_a_session_are_shown(joining: Joining) -> None:
    """Those who joined move to the latest one, and back at its end; its user is told of them."""
    joining.allow(rule())
    control = joining.cluster.folder / "control"
    master = ("-M", "-S", str(control))
    first = joining.start("alice", *master, "-tt", "127.0.0.1", "echo FIRST; cat")
    first.see(b"FIRST")
    session = joining.cluster.wait_event("session.start")[-1].session_id
    bob = joining.join(session)
    bob.see(b"FIRST")
    second = joining.start("alice", "-S", str(control), "-tt", "127.0.0.1", "echo SECOND; read x")
    bob.see(b"SECOND")
    second.see(b"in this session: bob (observer)")
    second.type(b"\n")
    second.end()
    first.type(b"again\n")
    bob.see(b"again")


def test_a_session_that_is_not_recorded_takes_no_peers(joining: Joining) -> None:
    """What a peer types has to be recorded; observers are welcome. In proxy modes it is said that
    nothing can be joined.
    """
    cluster, member = joining.cluster, joining.node.member
    joining.allow(rule(PEER))
    set_mode(cluster, RecordingMode.OFF, member)
    try:
        _, session = joining.session()
        status, shown = joining.join(session, "peer").end()
        assert (status, b"this session is not recorded" in shown) == (254, True)
        bob = joining.join(session)
        bob.see(b"READY")
        set_mode(cluster, RecordingMode.PROXY, member)
        assert b"cannot be joined there" in joining.join(session).end()[1]
    finally:
        set_mode(cluster, RecordingMode.NODE, member)


def test_nothing_is_shown_before_auth_has_it(tmp_path: Path) -> None:
    """In a sync mode those who joined see what the session's user sees, and no sooner (attack:
    seeing what is not recorded yet).
    """
    with small_cluster(tmp_path) as cluster:
        recorder = SyncRecorder()
        node = cluster.node(recorder=recorder)
        cluster.person("alice", ME)
        cluster.person("bob")
        kept: Any = recorder
        joining = Joining(cluster, node, kept)
        set_mode(cluster, RecordingMode.NODE_SYNC, node.member)
        joining.allow(rule())
        alice, session = joining.session()
        bob = joining.join(session)
        bob.see(b"READY")
        recorder.away = True
        alice.type(b"one\n")
        cluster.reactor.until(lambda: b"got-one" in joining.output())
        alice.see(b"recording: waiting for auth")
        assert b"got-one" not in alice.read() + bob.read()
        recorder.come_back()
        for each in (alice, bob):
            each.see(b"got-one")
        joining.end()
