"""Roles that demand that a session is watched: before it begins, and while it lasts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from joiners import Client, Joining, rule
from small_cluster import ME, set_role, small_cluster
from tele.model.frame import FrameKind
from tele.model.joining import JoinMode, OnLeave, WatchRule
from tele.testing.recorder import MemoryRecorder

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

MODERATOR, OBSERVER = JoinMode.MODERATOR, JoinMode.OBSERVER


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joining]:
    """One cluster for all of these tests."""
    with small_cluster(tmp_path_factory.mktemp("watched")) as cluster:
        recorder = MemoryRecorder()
        node = cluster.node(recorder=recorder)
        cluster.person("alice", ME)
        cluster.person("bob", ME)
        yield Joining(cluster, node, recorder)


@pytest.fixture
def joining(shared: Joining) -> Iterator[Joining]:
    """That cluster, without sessions."""
    shared.recorder.recordings.clear()
    yield shared
    shared.end()


def demand(joining: Joining, on_leave: OnLeave = OnLeave.TERMINATE, **options: Any) -> None:
    """Have all sessions watched by a moderator, as all users may."""
    watch = WatchRule("four-eyes", ("access",), on_leave=on_leave)
    rules = {"join_sessions": (rule(MODERATOR),)}
    set_role(joining.cluster, joining.node, rules, require_session_join=(watch,), **options)


def waiting(joining: Joining, command: str, *options: str) -> tuple[Client, str]:
    """Start a session of alice that waits; return its client and its id, which it says."""
    client = joining.start("alice", *options, "-tt", "127.0.0.1", command)
    client.see(b"waiting for others: a role demands that a user with a role of access watches")
    client.see(b"\r\n")
    found = re.search(rb"for them: tele join ([0-9a-f-]{36})", client.read())
    assert found is not None, client.read()
    return client, found[1].decode()


def test_it_begins_when_it_is_watched_and_ends_with_that(joining: Joining) -> None:
    """In the right mode, by another user; nothing runs before, and what runs ends when they leave
    (attack: doing something before anyone looks, watching oneself).
    """
    demand(joining)
    proof = joining.cluster.folder / "proof"
    alice, session = waiting(joining, f"touch {proof}; echo READY; cat")
    observer = joining.join(session)
    alice.see(b"bob has joined this session (observer)")
    own = joining.join(session, "moderator", user="alice")
    alice.see(b"alice has joined this session (moderator)")
    assert not proof.exists()
    bob = joining.join(session, "moderator")
    alice.see(b"READY")
    bob.see(b"READY")
    assert proof.exists()
    bob.type(b"\x03")
    status, shown = alice.end()
    assert (status, b"the session is not watched any more" in shown) == (255, True)
    for each in (observer, own, bob):
        each.end()
    cluster = joining.cluster
    cluster.reactor.until(
        lambda: any(e.fields.get("reason") == "moderated" for e in cluster.events("session.end"))
    )


def test_it_pauses(joining: Joining) -> None:
    """If the role says so: what is typed is dropped and nothing is shown, until it is watched again
    (attack: going on unobserved).
    """
    demand(joining, OnLeave.PAUSE)
    answers = "stty -echo; echo READY; while read -r l; do echo got-$l; done"
    alice, session = waiting(joining, answers)
    bob = joining.join(session, "moderator")
    alice.see(b"READY")
    alice.type(b"one\n")
    alice.see(b"got-one")
    bob.type(b"\x03")
    bob.end()
    alice.see(b"tele: paused: a role demands")
    alice.type(b"unseen\n")
    bob = joining.join(session, "moderator")
    alice.see(b"tele: the session goes on")
    alice.type(b"two\n")
    alice.see(b"got-two")
    bob.see(b"got-two")
    assert b"unseen" not in alice.read()
    output = b"".join(f.data for f in joining.recorder.frames if f.kind is FrameKind.OUTPUT)
    assert b"unseen" not in output


def test_there_is_no_way_around_it(joining: Joining) -> None:
    """No command without a terminal, no files, no forwards, no second terminal of the connection,
    whether it is watched or not (attack: another channel that is not seen).
    """
    demand(joining)
    control = joining.cluster.folder / "control"
    master, session = waiting(joining, "echo READY; read x", "-M", "-S", str(control))
    bob = joining.join(session, "moderator")
    master.see(b"READY")

    def beside(*words: str) -> tuple[int, bytes]:
        return joining.start("alice", "-S", str(control), *words).end()

    for words in (("127.0.0.1", "id"), ("-s", "127.0.0.1", "sftp"), ("-T", "127.0.0.1")):
        status, shown = beside(*words)
        assert (status, b"only a terminal can be: use ssh -t" in shown) == (254, True), shown
    status, shown = beside("-tt", "127.0.0.1", "id")
    assert (status, b"with one terminal at a time" in shown) == (254, True)
    assert b"uid=" not in shown
    status, shown = joining.start("alice", "-W", "127.0.0.1:1", "127.0.0.1").end()
    assert (status, b"administratively prohibited" in shown) == (255, True), shown
    assert master.runs
    assert bob.runs


def test_a_role_that_demands_it_later_holds(joining: Joining) -> None:
    """A session that runs unwatched ends when its role gets the rule, and so does a command without
    a terminal; without the rule nothing waits.
    """
    set_role(joining.cluster, joining.node)
    alice, _ = joining.session()
    command = joining.start("alice", "127.0.0.1", "echo RUNS; exec sleep 1000")
    command.see(b"RUNS")
    demand(joining)
    status, shown = alice.end()
    assert (status, b"the session is not watched any more" in shown) == (255, True)
    status, shown = command.end()
    assert b"only a terminal can be watched" in shown
    assert status != 0


def test_a_client_that_leaves_while_it_waits_starts_nothing(joining: Joining) -> None:
    """And one that waits sees why access ended."""
    demand(joining)
    alice, session = waiting(joining, "echo READY; cat")
    bob = joining.join(session, "moderator", user="alice")
    bob.see(b"no terminal is open in this session")
    alice.process.kill()
    assert bob.end()[0] == 0
    assert joining.facts(FrameKind.OPEN) == []
