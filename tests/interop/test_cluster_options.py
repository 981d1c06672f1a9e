"""Options of roles through real OpenSSH: allowed, denied, and who reads which reason."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster_users import ClusterUser, add_user, events, local, log_in, running
from three_processes import Cluster, make_cluster, wait_for

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")

STAY = "echo ready; exec sleep 1000"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three processes, with one node that has the label env=test."""
    made = make_cluster(tmp_path_factory.mktemp("options"))
    try:
        apply(made)
        yield made
    finally:
        made.stop()


@pytest.fixture
def bob(cluster: Cluster) -> Iterator[ClusterUser]:
    """A user with the role that each test writes anew."""
    yield add_user(cluster, "bob", roles="tested")
    cluster.tele("users", "rm", "bob", *local(cluster), check=False)
    apply(cluster)


def apply(cluster: Cluster, allow: dict[str, Any] | None = None, **options: Any) -> None:
    """Write the role: access to all nodes, with these conditions and options."""
    conditions = {"logins": ["{{internal.logins}}"], "node_labels": {"*": ["*"]}, **(allow or {})}
    role = {
        "kind": "role", "version": "v1", "metadata": {"name": "tested"},
        "spec": {"allow": conditions, "options": options},
    }  # fmt: skip
    cluster.tele("apply", "-f", "-", *local(cluster), stdin=json.dumps(role).encode())


def works(user: ClusterUser, *words: str) -> bool:
    """Whether a command runs at the node."""
    return user.ssh(*words, user.cluster.host, "echo in").stdout == b"in\n"


def explained(cluster: Cluster) -> str:
    """What an administrator reads of why bob may log in, or not."""
    login = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    shown = cluster.tele("access", "explain", "bob", f"{login}@web1", *local(cluster), check=False)
    return shown.stdout.decode()


def denied(cluster: Cluster, reason: str) -> bool:
    """Whether the audit has a denial of bob with this reason."""
    return any(each["reason"] == reason for each in events(cluster, "auth.denied", "bob"))


def not_now() -> dict[str, Any]:
    """A window of a day that is neither today nor beside it."""
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    return {"days": [days[(datetime.now(UTC) + timedelta(days=3)).weekday()]]}


@pytest.mark.parametrize(
    ("allow", "options", "shown", "reason"),
    [
        ({}, {"require_mfa": True}, "require_mfa", "mfa"),
        ({}, {"valid_times": [not_now()]}, "valid_times", "time"),
        (
            {"node_labels": {}, "node_labels_expression": 'labels.env == "prod"'},
            {},
            "label",
            "node",
        ),
        ({"node_labels": {"env": ["prod"]}}, {}, "label", "node"),
        ({"logins": ["another"]}, {}, "login", "login"),
    ],
    ids=["second-factor", "times", "expression", "labels", "logins"],
)
def test_who_may_log_in(
    cluster: Cluster,
    bob: ClusterUser,
    allow: dict[str, Any],
    options: dict[str, Any],
    shown: str,
    reason: str,
) -> None:
    """What a role does not give is refused within 5 s of the change, and allowed again as fast. The
    administrator reads why.
    """
    assert works(bob)
    assert "bob may log in" in explained(cluster)
    apply(cluster, allow, **options)
    wait_for(lambda: not works(bob), "the role to have effect", 10)
    assert "bob may not log in" in explained(cluster)
    assert shown in explained(cluster)
    wait_for(lambda: denied(cluster, reason), f"a denial: {reason}")
    good = {"node_labels": {}, "node_labels_expression": 'labels.env == "test"'}
    apply(cluster, good if "node_labels_expression" in allow else None)
    wait_for(lambda: works(bob), "the role to give access again", 10)


def test_a_terminal_only_where_a_role_gives_one(cluster: Cluster, bob: ClusterUser) -> None:
    """Without permit_pty a command runs, and a terminal is refused."""
    terminal = ("-tt", cluster.host, "test -t 0 && echo terminal")
    assert b"terminal" in bob.ssh(*terminal).stdout
    apply(cluster, permit_pty=False)
    wait_for(lambda: b"terminal" not in bob.ssh(*terminal).stdout, "no more terminals", 10)
    assert works(bob)


def test_a_pinned_address(cluster: Cluster, bob: ClusterUser) -> None:
    """A certificate of a role that pins is worth nothing at the node from another address."""
    apply(cluster, pin_source_ip=True)
    pinned = log_in(cluster, "bob")
    at_node = ("-p", str(cluster.ports["node"]), "-o", "ProxyCommand=none")
    named = ("-o", "HostName=127.0.0.1", "-o", f"HostKeyAlias={cluster.host}")
    assert works(pinned, *at_node, *named, "-b", "127.0.0.1")
    assert not works(pinned, *at_node, *named, "-b", "127.0.0.2")


def test_certificates_end_as_the_role_says(cluster: Cluster, bob: ClusterUser) -> None:
    """max_session_ttl bounds what a login gives."""
    apply(cluster, max_session_ttl="1h")
    shorter = log_in(cluster, "bob")
    (path,) = shorter.home.rglob("*-cert.pub")
    shown = subprocess.run(["ssh-keygen", "-L", "-f", path], capture_output=True, text=True)
    (line,) = (each for each in shown.stdout.splitlines() if "Valid: from" in each)
    begin, end = (datetime.fromisoformat(each) for each in line.split()[2::2])
    assert end - begin <= timedelta(hours=1, minutes=1)


def test_sessions_and_connections_are_counted(
    cluster: Cluster, bob: ClusterUser, tmp_path: Path
) -> None:
    """One more than max_sessions of a connection, or max_connections of a user, is refused with the
    reason; it works once another has ended.
    """
    apply(cluster, max_connections=1, max_sessions=1)
    control = ("-S", str(tmp_path / "c"))
    with running(bob, "-M", *control, cluster.host, STAY) as first:
        first.wait_for(b"ready")
        wait_for(lambda: not works(bob, "-S", "none"), "the limit of connections", 10)
        assert b"max_connections" in bob.ssh("-S", "none", cluster.host, "true").stderr
        assert not works(bob, *control)
    wait_for(lambda: works(bob), "a connection after the first one's end", 20)


def test_who_does_nothing_is_disconnected(cluster: Cluster, bob: ClusterUser) -> None:
    """client_idle_timeout ends a connection, with the reason on the terminal; the connection of
    someone who types goes on.
    """
    apply(cluster, client_idle_timeout="3s")
    wait_for(lambda: "client_idle_timeout" in explained(cluster), "the role", 10)
    with running(bob, cluster.host, "cat") as one, running(bob, "-tt", cluster.host) as two:
        assert one.process.stdin is not None
        while two.runs:
            one.process.stdin.write(b"x")
            one.process.stdin.flush()
            time.sleep(0.2)
        assert b"idle" in two.ended()
        assert one.runs


def test_a_certificate_that_ends_ends_its_connections(cluster: Cluster, bob: ClusterUser) -> None:
    """With disconnect_expired_cert; without it a connection outlives its certificate."""
    apply(cluster, disconnect_expired_cert=True, max_session_ttl="40s")
    ending = log_in(cluster, "bob")
    with running(ending, "-tt", cluster.host, STAY) as client:
        client.wait_for(b"ready")
        wait_for(lambda: not client.runs, "the end of the certificate", 90)
        assert b"certificate" in client.ended()


@pytest.mark.parametrize("recorded", [True, False])
def test_what_is_typed(cluster: Cluster, bob: ClusterUser, recorded: bool) -> None:
    """It is in the recording only where a role asks for it."""
    apply(cluster, record_input=recorded)
    before = {each["session_id"] for each in events(cluster, "session.end", "bob")}
    with running(bob, "-tt", cluster.host, "cat") as client:
        assert client.process.stdin is not None
        client.process.stdin.write(b"typed by bob\n\x04")
        client.process.stdin.flush()
        client.ended()

    def new() -> set[str]:
        found = {each["session_id"] for each in events(cluster, "session.end", "bob")} - before
        return found - {""}

    wait_for(lambda: bool(new()), "the end of the session")
    (session,) = new()

    def frames() -> list[dict[str, Any]]:
        done = cluster.tele("play", session, "--format", "json", check=False)
        return [json.loads(line) for line in done.stdout.splitlines()]

    wait_for(lambda: bool(frames()), "the recording")
    assert any("input" in each.values() for each in frames()) is recorded


def test_sessions_of_others_are_joined(cluster: Cluster, bob: ClusterUser) -> None:
    """Through the proxy, by a user without a login on the node: with ``tele join``, which says what
    is denied, and with a stock client as a peer, whose keys have their name on the recording.
    """
    role = {
        "kind": "role", "version": "v1", "metadata": {"name": "watch"},
        "spec": {"allow": {
            "join_sessions": [{"name": "all", "roles": ["tested"], "modes": ["peer"]}],
            "rules": [{"resources": ["session"], "verbs": ["list"]}],
        }},
    }  # fmt: skip
    cluster.tele("apply", "-f", "-", *local(cluster), stdin=json.dumps(role).encode())
    carol = add_user(cluster, "carol", roles="watch")
    assert not works(carol)
    with running(bob, "-tt", cluster.host, "echo ready; read x; echo got-$x") as session:
        session.wait_for(b"ready")
        listed: list[dict[str, Any]] = []

        def known() -> bool:
            listed[:] = json.loads(carol.tele("sessions", "ls", "--format", "json").stdout)
            return bool(listed)

        wait_for(known, "the session in a list")
        (running_session,) = listed
        name = running_session["id"]
        home = ("--home", str(carol.home))
        watched = cluster.tele(*home, "join", name, stdin=b"\x03")
        assert b"ready" in watched.stdout
        session.wait_for(b"carol has joined this session (observer)")
        session.wait_for(b"carol has left this session")
        refused = cluster.tele(*home, "join", name, "--mode", "moderator", stdin=b"", check=False)
        assert refused.returncode == 254
        assert b"as observer, peer, not as moderator" in refused.stderr
        unknown = cluster.tele(*home, "join", "x", stdin=b"", check=False)
        assert (unknown.returncode, b"no such session runs" in unknown.stderr) == (5, True)
        none = bob.ssh(f"join+{name}@{cluster.host}")
        assert (none.returncode, b"no role of yours (join_sessions)" in none.stderr) == (255, True)
        words = carol.ssh_words(f"join+{name}@{cluster.host}", "peer")
        peer = subprocess.run(words, input=b"help\n", capture_output=True, timeout=60, check=True)
        assert b"got-help" in peer.stdout
        assert b"got-help" in session.ended()
    wait_for(lambda: len(events(cluster, "session.leave", "carol")) == 2, "both ends of joining")
    wait_for(
        lambda: any(e["session_id"] == name for e in events(cluster, "session.end", "bob")),
        "the end of the session",
    )
    cluster.tele("users", "rm", "carol", *local(cluster))
    shown = cluster.tele("play", name, "--format", "json", *local(cluster)).stdout.decode()
    assert '"user":"carol"' in shown.replace(" ", "")
    assert "help" in shown
