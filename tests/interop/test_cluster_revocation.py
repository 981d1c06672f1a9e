"""Which sessions go on? Removal, locks, expiry and changed roles reach running sessions, through
real OpenSSH.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_users import ClusterUser, Running, add_user, events, local, log_in, running
from three_processes import BIN, Cluster, free_port, make_cluster, wait_for

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")

STAY = "echo ready; exec sleep 1000"


def role(name: str, **allow: object) -> str:
    """A role as YAML, for ``tele apply``."""
    spec = {"allow": {"logins": ["{{internal.logins}}"], "node_labels": {"*": ["*"]}}, **allow}
    return json.dumps({"kind": "role", "version": "v1", "metadata": {"name": name}, "spec": spec})


@pytest.fixture(scope="module", params=["direct", "tunnel"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster of three processes, whose node has a port or a tunnel."""
    made = make_cluster(tmp_path_factory.mktemp("in"), tunnel=request.param == "tunnel")
    try:
        made.tele("apply", "-f", "-", stdin=role("staff").encode())
        yield made
    finally:
        made.stop()


@pytest.fixture
def bob(cluster: Cluster) -> Iterator[ClusterUser]:
    """A user who is logged in, and is removed afterwards."""
    yield add_user(cluster, "bob", roles="staff")
    cluster.tele("users", "rm", "bob", *local(cluster), check=False)


def session_ids(cluster: Cluster, user: str) -> list[str]:
    """The ids of the sessions of a user that auth knows of."""
    shown = json.loads(cluster.tele("sessions", "ls", "--format", "json", *local(cluster)).stdout)
    return [each["id"] for each in shown if each["user"] == user]


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def pid_of(client: Running) -> int:
    """The process id that a command prints."""
    wait_for(lambda: b"\n" in client.out, "the number of a process")
    return int(client.out.split()[0])


def test_a_removed_user_is_disconnected(cluster: Cluster, bob: ClusterUser) -> None:
    """What they run ends, with the reason on the terminal; what they have opens nothing; node and
    proxy say so in the audit; the command that removed them says what ended.
    """
    with running(bob, "-tt", cluster.host, STAY) as one, running(bob, cluster.host, STAY) as two:
        for client in (one, two):
            client.wait_for(b"ready")
        wait_for(lambda: len(session_ids(cluster, "bob")) == 2, "two sessions")
        ids = session_ids(cluster, "bob")
        output = cluster.tele("users", "rm", "bob").stderr.decode()
        assert all(each in output for each in ids)
        for client in (one, two):
            assert b"\r\ntele: user bob was removed from the cluster\r\n" in client.ended()
    refused = bob.ssh(cluster.host, "true")
    assert (refused.returncode, b"removed from the cluster" in refused.stderr) == (255, True)
    assert bob.tele("ls", check=False).returncode == 4
    wait_for(lambda: session_ids(cluster, "bob") == [], "the list of sessions to be right")

    def reported() -> bool:
        ends = [e for e in events(cluster, "session.end", "bob") if e.get("reason") == "revoked"]
        return {bool(each["session_id"]) for each in ends} == {True, False}  # node and proxy

    wait_for(reported, "the events of node and proxy")


def test_the_same_name_is_another_user(cluster: Cluster, bob: ClusterUser) -> None:
    """A new user of a removed user's name logs in, and the old certificate does not."""
    old = bob.home.rename(bob.home.with_name("old"))
    cluster.tele("users", "rm", "bob")
    add_user(cluster, "bob", roles="staff")
    assert bob.ssh(cluster.host, "echo in").stdout == b"in\n"
    shutil.rmtree(bob.home)
    old.rename(bob.home)
    assert bob.ssh(cluster.host, "true").returncode == 255
    assert bob.tele("ls", check=False).returncode == 4
    shutil.rmtree(bob.home)


def test_a_client_that_does_not_read_is_disconnected(cluster: Cluster, bob: ClusterUser) -> None:
    """A client that is stopped, and a program that ignores the hang-up, keep nothing alive."""
    ignores = "trap '' HUP TERM; echo $$; while :; do sleep 1; done"
    with (
        running(bob, cluster.host, "echo $$; exec yes") as one,
        running(bob, "-tt", cluster.host, ignores) as two,
    ):
        pids = [pid_of(one), pid_of(two)]
        one.process.send_signal(signal.SIGSTOP)
        cluster.tele("users", "rm", "bob")
        for pid in pids:
            wait_for(lambda pid=pid: is_gone(pid), f"{pid} to be gone")


def test_each_kind_of_use_ends(cluster: Cluster, bob: ClusterUser, tmp_path: Path) -> None:
    """Ports that listen, multiplexed sessions, files under way: all of it ends with its user."""
    port, control = free_port(), tmp_path / "control"
    master = ["-M", "-S", str(control), "-N", "-R", f"127.0.0.1:{port}:127.0.0.1:9", cluster.host]

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with running(bob, *master) as forward, running(bob, cluster.host, program="sftp") as files:
        wait_for(listens, "the port that is forwarded")
        wait_for(control.exists, "the control socket")
        assert files.process.stdin is not None
        files.process.stdin.write(b"pwd\n")
        files.process.stdin.flush()
        files.wait_for(b"working directory")
        with running(bob, "-S", str(control), cluster.host, STAY) as shared:
            shared.wait_for(b"ready")
            cluster.tele("users", "rm", "bob")
            assert b"tele: user bob was removed" in shared.ended()
        forward.ended()
        files.wait_for(b"Connection closed")
        wait_for(lambda: not listens(), "the port to be closed")


TARGETS = ["user", "role", "login", "node", "login-session", "certificate", "session"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_lock_ends_and_refuses_what_it_names(
    cluster: Cluster, bob: ClusterUser, target: str
) -> None:
    """By each target: the session ends with the message, no other begins, and with the lock
    removed the same certificate is good again.
    """
    account = Path(f"/proc/{os.getpid()}").owner()
    value = {
        "user": "bob", "role": "staff", "login": account, "node": "web1",
        "login-session": bob.login_session, "certificate": bob.serial,
    }  # fmt: skip
    with running(bob, "-tt", cluster.host, STAY) as client:
        client.wait_for(b"ready")
        if target == "session":
            wait_for(lambda: len(session_ids(cluster, "bob")) == 1, "the session")
            (value[target],) = session_ids(cluster, "bob")
        words = (f"--{target}", value[target], "--message", "call security", "--ttl", "8h")
        name = cluster.tele("locks", "add", *words, *local(cluster)).stdout.decode().strip()
        output = client.ended()
    try:
        assert b": call security\r\n" in output
        # A locked node is disconnected and reports nothing; the proxy does.
        assert target == "node" or b"\r\ntele: " in output
        if target != "session":
            refused = bob.ssh(cluster.host, "true")
            assert (refused.returncode, b"call security" in refused.stderr) == (255, True)
        shown = json.loads(cluster.tele("locks", "ls", "--format", "json", *local(cluster)).stdout)
        assert [each["metadata"]["name"] for each in shown] == [name]
    finally:
        cluster.tele("locks", "rm", name, *local(cluster))
        if target == "node":  # it asks again after two minutes, or at its start
            cluster.kill("node")
            cluster.start("node")
    wait_for(lambda: bob.ssh(cluster.host, "echo in").stdout == b"in\n", "bob to be accepted", 90)
    assert events(cluster, "lock.create")[-1]["name"] == name
    assert events(cluster, "lock.delete")[-1]["name"] == name


def test_a_session_is_killed(cluster: Cluster, bob: ClusterUser) -> None:
    """That session ends and no other; its client reads the administrator's name and the reason; the
    verb needs a role.
    """
    with running(bob, "-tt", cluster.host, STAY) as one:
        one.wait_for(b"ready")
        wait_for(lambda: len(session_ids(cluster, "bob")) == 1, "the session")
        (session,) = session_ids(cluster, "bob")
        with running(bob, cluster.host, STAY) as two:
            two.wait_for(b"ready")
            assert bob.tele("sessions", "kill", session, check=False).returncode == 4
            cluster.tele("sessions", "kill", session, "--message", "maintenance")
            assert b"tele: this session was ended by alice: maintenance\r\n" in one.ended()
            assert two.runs
    wait_for(lambda: session not in session_ids(cluster, "bob"), "the list to be right")
    done = cluster.tele("sessions", "kill", session, check=False)
    assert (done.returncode, b"no such session runs" in done.stderr) == (5, True)
    assert events(cluster, "session.kill")[-1]["session_id"] == session


def test_an_expired_user_is_disconnected_without_a_change(
    cluster: Cluster, bob: ClusterUser
) -> None:
    """A user who expires is disconnected at that time, without any operation."""
    with running(bob, "-tt", cluster.host, STAY) as client:
        client.wait_for(b"ready")
        cluster.tele("users", "update", "bob", "--ttl", "4s")
        assert b"tele: user bob has expired\r\n" in client.ended()
    assert bob.ssh(cluster.host, "true").returncode == 255


def test_a_role_that_forbids_ends_what_runs(cluster: Cluster) -> None:
    """A role that denies now, and one that is taken away, end the sessions that they carried; what
    other roles still allow continues.
    """
    cluster.tele("apply", "-f", "-", stdin=role("ops").encode())
    cluster.tele("apply", "-f", "-", stdin=role("dev").encode())
    for change in ("deny", "take"):
        eve = add_user(cluster, "eve", roles="ops,dev")
        with running(eve, "-tt", cluster.host, STAY) as client:
            client.wait_for(b"ready")
            cluster.tele("users", "update", "eve", "--remove-role", "dev")
            assert eve.ssh(cluster.host, "true").returncode == 0
            assert client.runs
            if change == "deny":
                denies = role("ops", deny={"node_labels": {"env": ["test"]}})
                cluster.tele("apply", "-f", "-", stdin=denies.encode())
            else:
                cluster.tele("users", "update", "eve", "--role", "auditor")
            assert b"\r\ntele: " in client.ended()
        assert eve.ssh(cluster.host, "true").returncode == 255
        cluster.tele("users", "rm", "eve")
        cluster.tele("apply", "-f", "-", stdin=role("ops").encode())


def test_a_given_role_that_denies_ends_sessions(cluster: Cluster, bob: ClusterUser) -> None:
    """A role that a user is given denies at once: the session ends, and the old certificate
    opens nothing, until the role is taken away.
    """
    denies = role("suspended", allow={}, deny={"node_labels": {"*": ["*"]}})
    cluster.tele("apply", "-f", "-", stdin=denies.encode())
    with running(bob, "-tt", cluster.host, STAY) as client:
        client.wait_for(b"ready")
        cluster.tele("users", "update", "bob", "--add-role", "suspended")
        assert b"role suspended denies this node to bob" in client.ended()
    refused = bob.ssh(cluster.host, "true")
    assert (refused.returncode, b"role suspended denies" in refused.stderr) == (255, True)
    cluster.tele("users", "update", "bob", "--remove-role", "suspended")
    wait_for(lambda: bob.ssh(cluster.host, "true").returncode == 0, "bob to be accepted")


def test_what_a_role_gives_no_more_begins_no_more(cluster: Cluster) -> None:
    """With forwarding taken away the port that listens is closed, and the session continues."""
    cluster.tele("apply", "-f", "-", stdin=role("ops").encode())
    erin = add_user(cluster, "erin", roles="ops")
    port = free_port()

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with running(erin, "-R", f"127.0.0.1:{port}:127.0.0.1:9", cluster.host, STAY) as client:
        client.wait_for(b"ready")
        assert listens()
        without = role("ops", options={"port_forwarding": False})
        cluster.tele("apply", "-f", "-", stdin=without.encode())
        wait_for(lambda: not listens(), "the port to be closed")
        assert client.runs
    cluster.tele("users", "rm", "erin")


def test_the_proxy_ends_what_a_node_does_not(cluster: Cluster, bob: ClusterUser) -> None:
    """The proxy ends connections to a node that receives no updates."""
    with running(bob, "-tt", cluster.host, STAY) as client:
        client.wait_for(b"ready")
        cluster.processes["node"].send_signal(signal.SIGSTOP)
        try:
            cluster.tele("users", "rm", "bob")
            assert b"user bob was removed from the cluster" in client.ended()
        finally:
            cluster.processes["node"].send_signal(signal.SIGCONT)
    wait_for(cluster.online, f"the node to be online\n{cluster.logs()}", 120)


def test_cached_locks_hold_without_auth(cluster: Cluster, bob: ClusterUser) -> None:
    """Without auth a received lock still refuses, also after node and proxy restarted."""
    name = (
        cluster.tele("locks", "add", "--user", "bob", "--message", "gone").stdout.decode().strip()
    )
    assert b"gone" in bob.ssh(cluster.host, "true").stderr
    cluster.kill("auth")
    try:
        assert b"gone" in bob.ssh(cluster.host, "true").stderr
        for part in ("proxy", "node"):
            cluster.kill(part)
            cluster.start(part)
            assert bob.ssh(cluster.host, "true").returncode == 255
    finally:
        cluster.start("auth")
    wait_for(cluster.online, "the node to be online", 90)
    cluster.tele("locks", "rm", name, *local(cluster))
    wait_for(lambda: bob.ssh(cluster.host, "true").returncode == 0, "bob to be accepted", 90)


def test_locks_are_resources_too(cluster: Cluster, bob: ClusterUser) -> None:
    """``tele get``, ``apply`` and ``rm`` know them, and say what is wrong with one."""
    cluster.tele("locks", "add", "--user", "bob", "--name", "no-bob")
    text = cluster.tele("get", "lock/no-bob").stdout
    cluster.tele("rm", "lock/no-bob")
    assert cluster.tele("get", "lock/no-bob", check=False).returncode == 5
    assert bob.ssh(cluster.host, "true").returncode == 0
    again = text.replace(b"revision: ", b"# revision: ")
    cluster.tele("apply", "-f", "-", stdin=again)
    assert bob.ssh(cluster.host, "true").returncode == 255
    cluster.tele("locks", "rm", "no-bob")
    for words in (("--user", "bbo"), ("--node", "wbe1"), ("--role", "acess")):
        assert cluster.tele("locks", "add", *words, check=False).returncode == 5
    for wrong in ((), ("--user", "bob", "--role", "access"), ("--user", "bob", "--ttl", "0s")):
        assert cluster.tele("locks", "add", *wrong, check=False).returncode == 2


def test_a_follower_of_the_audit_that_loses_access_gets_no_more(cluster: Cluster) -> None:
    """A stream of the API ends with the reader's removal, and says why."""
    eve = add_user(cluster, "eve", roles="auditor")
    words = [str(BIN / "tele"), "--home", str(eve.home), "audit", "ls", "--follow"]
    with subprocess.Popen(
        words, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        client = Running(process)

        def has_event() -> bool:
            cluster.tele("locks", "add", "--login", "nobody", "--name", "any")
            cluster.tele("locks", "rm", "any")
            return b"lock.create" in client.out

        try:
            wait_for(has_event, "an event")
            cluster.tele("users", "rm", "eve")
            assert b"eve does not exist any more" in client.ended()
        finally:
            process.kill()
            client.join()
    assert process.returncode == 4


def test_the_last_administrator_and_a_way_back(cluster: Cluster) -> None:
    """A lock of the last administrator takes ``--force``, and the owner of auth's machine
    makes a new administrator.
    """
    for words in (
        ("users", "rm", "alice"),
        ("users", "update", "alice", "--remove-role", "editor"),
        ("users", "update", "alice", "--ttl", "1h"),
        ("locks", "add", "--user", "alice"),
        ("locks", "add", "--role", "editor"),
    ):
        done = cluster.tele(*words, check=False)
        assert (done.returncode, b"--force" in done.stderr) == (1, True), words
    lock = cluster.tele("locks", "add", "--role", "editor", "--force").stdout.decode().strip()
    assert cluster.tele("users", "ls", check=False).returncode == 4
    cluster.tele("locks", "rm", lock, *local(cluster))
    made = add_user(cluster, "rescue", roles="editor")
    assert made.tele("users", "ls").returncode == 0
    made.tele("users", "rm", "rescue")


def test_ones_own_password(cluster: Cluster, bob: ClusterUser, tmp_path: Path) -> None:
    """``tele passwd`` takes the present one and the new one, and only with the present one."""
    old, new = cluster.folder / "password-bob", tmp_path / "new"
    for path, text in ((new, "correct new battery"), (tmp_path / "newer", "")):
        path.touch(0o600)
        path.write_text(text)
    files = ("--old-password-file", str(old), "--password-file", str(new))
    bob.tele("passwd", *files)
    assert bob.tele("passwd", *files[:2], "--password-file", str(old), check=False).returncode == 2
    done = bob.tele("passwd", *files[:3], str(tmp_path / "newer"), check=False)
    assert (done.returncode, b"is empty" in done.stderr) == (2, True)
    (tmp_path / "newer").write_text("correct newer battery")
    done = bob.tele("passwd", *files[:3], str(tmp_path / "newer"), check=False)
    assert (done.returncode, b"wrong" in done.stderr) == (4, True)
    old.write_bytes(new.read_bytes())
    log_in(cluster, "bob")
