"""A node that joined a real auth, and OpenSSH's client."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from small_cluster import (
    ME,
    SmallCluster,
    free_port,
    keep_announcements,
    set_options,
    small_cluster,
)
from tele.certs.keys import PrivateKey
from tele.errors import AccessDenied, Unavailable
from tele.membership.store import DirectoryStore
from tele.model.api.roles import PUT_ROLE, PutRole
from tele.model.frame import FrameKind
from tele.model.identity import HostRole
from tele.model.presence import Presence
from tele.model.resources import (
    Conditions,
    Metadata,
    Role,
    RoleOptions,
    RoleSpec,
    SessionRecording,
)
from tele.node.labels import LabelCommand
from tele.testing import MemoryRecorder

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def put_role(cluster: SmallCluster, name: str, spec: RoleSpec) -> None:
    """Create or replace a role."""
    role = Role(Metadata(name), spec)
    cluster.reactor.wait(cluster.admin.perform(PUT_ROLE, PutRole(name, role)))


def test_command(cluster: SmallCluster) -> None:
    """OpenSSH runs a command on a node that it never saw, and gets all that it said."""
    node = cluster.node()
    done = cluster.ssh("alice", node, "cat; echo bad >&2; exit 7", stdin=b"x" * 1_000_000)
    assert (len(done.stdout), done.stderr, done.returncode) == (1_000_000, b"bad\n", 7)


def test_death_by_signal(cluster: SmallCluster) -> None:
    """A command that dies of a signal ends OpenSSH's client with 255, as under sshd."""
    node = cluster.node()
    assert cluster.ssh("alice", node, "kill -KILL $$").returncode == 255


def test_interactive_shell(cluster: SmallCluster) -> None:
    """With a terminal there is a login shell that has it as its controlling terminal."""
    node = cluster.node()
    done = cluster.ssh(
        "alice", node, stdin=b"tty; echo [$0] [$SSH_TTY]; exit 4\n", options=("-tt",)
    )
    assert b"/dev/pts/" in done.stdout
    assert b"[-" in done.stdout
    assert done.returncode == 4


def test_files(cluster: SmallCluster) -> None:
    """Sftp and both kinds of scp carry a file there and back to the byte."""
    node = cluster.node()
    data = os.urandom(1_500_001)
    (cluster.folder / "here").write_bytes(data)
    folder = cluster.folder
    for number, kind in enumerate((("-s",), ("-O",))):
        words = cluster.ssh_words("alice", node, *kind)
        there = folder / f"there{number}"
        back = folder / f"back{number}"
        for source, target in ((folder / "here", f"x:{there}"), (f"x:{there}", back)):
            done = cluster.run(
                "scp", "-q", "-o", "HostName=127.0.0.1", *words, str(source), str(target)
            )
            assert done.returncode == 0, done.stderr
        assert there.read_bytes() == back.read_bytes() == data


def test_audit(cluster: SmallCluster) -> None:
    """A connection is in the audit from its start to its end, with who, what and where."""
    node = cluster.node()
    cluster.ssh("alice", node, "true 'a b'")
    (ended,) = cluster.wait_event("session.end")
    (started,) = cluster.events("session.start")
    (ran,) = cluster.events("exec")
    assert {e.session_id for e in (started, ran, ended)} == {started.session_id}
    assert (ran.user, ran.login, ran.server_name, ran.ok) == ("alice", ME, "web1", True)
    assert ran.fields["command"] == "true 'a b'"
    assert ran.remote_addr.startswith("127.0.0.1:")
    assert ran.server_id == node.member.host_id


def test_a_proxy_is_known_by_its_address(cluster: SmallCluster) -> None:
    """No client is shut out for another one of a proxy; nothing fails before it is known."""
    proxy = cluster.member(
        DirectoryStore(cluster.folder / "p", HostRole.PROXY),
        lambda: Presence("p1", HostRole.PROXY, ("192.0.2.7:3080",)),
    )
    failures: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if "log_failure" in event:
            failures.append(event)

    globalLogPublisher.addObserver(observe)
    proxy.startService()
    try:
        cluster.reactor.wait(proxy.ready())
        node = cluster.node()
        cluster.reactor.until(lambda: "192.0.2.7" in node.service._proxies)
        assert "192.0.2.8" not in node.service._proxies
        admission = node.service.factory.admission
        assert all(admission.enter("192.0.2.7") for _ in range(9))
        assert not failures
    finally:
        globalLogPublisher.removeObserver(observe)
        cluster.reactor.wait(proxy.stopService())


def test_plain_key(cluster: SmallCluster) -> None:
    """A key without a certificate is refused, and the refusal is in the audit (attack)."""
    node = cluster.node()
    keys = cluster.folder / "people"
    (keys / "mallory").write_bytes(PrivateKey.generate().to_openssh())
    (keys / "mallory").chmod(0o600)
    done = cluster.ssh("mallory", node, "echo in")
    assert (done.stdout, done.returncode) == (b"", 255)
    denied = cluster.wait_event("auth.denied")
    assert all(not event.ok for event in denied)
    assert {event.server_name for event in denied} == {"web1"}


def test_login_outside_the_certificate(cluster: SmallCluster) -> None:
    """A login that the certificate does not name is refused (attack)."""
    node = cluster.node()
    assert cluster.ssh("alice", node, "echo in", login="daemon").returncode == 255
    assert cluster.wait_event("auth.denied")[-1].login == "daemon"


def test_unknown_account(cluster: SmallCluster) -> None:
    """An account that this machine does not have is refused with its name, and in the audit."""
    cluster.person("bob", "no-such-account")
    node = cluster.node()
    done = cluster.ssh("bob", node, "echo in", login="no-such-account")
    assert done.returncode == 255
    assert b"no account" in done.stderr
    denied = cluster.wait_event("auth.denied", 2)
    assert "account" in {event.fields["reason"] for event in denied}


def test_role_that_denies_the_node(cluster: SmallCluster) -> None:
    """A role that denies by label shuts the node, also by a label that only the token bound."""
    deny = RoleSpec(deny=Conditions(node_labels={"zone": ("closed",)}))
    node = cluster.node(settings=cluster.settings({"zone": "closed"}), labels={"zone": "open"})
    assert cluster.ssh("alice", node, "true").returncode == 0
    put_role(cluster, "auditor", deny)
    cluster.reactor.until(
        lambda: (
            any(role.spec == deny for role in node.member.state.roles)
            and node.member.bound_labels == {"zone": "closed"}
        )
    )
    done = cluster.ssh("alice", node, "true")
    assert done.returncode == 255
    assert b"denies this node" in done.stderr


def test_command_labels_count(cluster: SmallCluster) -> None:
    """A label of a command is known before the first client is judged by it."""
    put_role(cluster, "auditor", RoleSpec(deny=Conditions(node_labels={"kind": ("secret",)})))
    node = cluster.node(commands=(LabelCommand("kind", ("echo", "secret")),))
    assert cluster.ssh("alice", node, "true").returncode == 255


def test_a_restarted_node_keeps_its_labels(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is announced when the commands of its labels have run: no role is applied without them."""
    commands = (LabelCommand("kind", ("sh", "-c", "sleep 0.3; echo secret")),)
    port = free_port()
    cluster.stop_node(cluster.node(labels={"env": "test"}, commands=commands, port=port))
    announced = keep_announcements(monkeypatch)
    cluster.node(labels={"env": "test"}, commands=commands, port=port)
    cluster.reactor.until(lambda: bool(announced))
    assert announced[0].labels == {"env": "test", "kind": "secret"}
    assert announced[0].addresses == (f"127.0.0.1:{port}",)


def test_forwarding(cluster: SmallCluster) -> None:
    """``ssh -W`` reaches a port, is an event, and is refused when a role forbids it."""
    node = cluster.node()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=_greet, args=(server,))
        thread.start()
        done = cluster.ssh("alice", node, options=("-W", f"127.0.0.1:{port}"))
        thread.join()
    assert done.stdout == b"hello"
    (event,) = cluster.wait_event("forward")
    assert (event.fields["target"], event.ok) == (f"127.0.0.1:{port}", True)
    done = cluster.ssh("alice", node, options=("-W", f"127.0.0.1:{port}"))
    assert b"refused" in done.stderr
    assert not cluster.wait_event("forward", 2)[-1].ok

    options = RoleOptions(port_forwarding=False)
    allow = Conditions(logins=("{{internal.logins}}",), node_labels={"*": ("*",)})
    put_role(cluster, "access", RoleSpec(allow=allow, options=options))
    cluster.reactor.until(
        lambda: any(r.spec.options.port_forwarding is False for r in node.member.state.roles)
    )
    done = cluster.ssh("alice", node, options=("-W", f"127.0.0.1:{port}"))
    assert b"prohibited" in done.stderr


def test_a_command_that_a_role_forces(cluster: SmallCluster) -> None:
    """Whatever is requested, that command runs; and there is no terminal if the role forbids it."""
    node = cluster.node()
    options = RoleOptions(force_command="echo $SSH_ORIGINAL_COMMAND", permit_pty=False)
    allow = Conditions(logins=("{{internal.logins}}",), node_labels={"*": ("*",)})
    put_role(cluster, "access", RoleSpec(allow=allow, options=options))
    cluster.reactor.until(
        lambda: any(r.spec.options.force_command for r in node.member.state.roles)
    )
    assert cluster.ssh("alice", node, "id -un").stdout == b"id -un\n"
    done = cluster.ssh("alice", node, "id -un", options=("-tt",))
    assert b"/dev/pts" not in done.stdout


def _greet(server: socket.socket) -> None:
    client, _ = server.accept()
    with client:
        client.sendall(b"hello")


def test_auth_away(cluster: SmallCluster) -> None:
    """Without auth the node lets users in, also after a restart; the events arrive later."""
    node = cluster.node()
    port = node.port
    cluster.stop_auth()
    assert cluster.ssh("alice", node, "echo in").stdout == b"in\n"
    cluster.stop_node(node)
    again = cluster.node(settings=node.member._settings, port=port)
    assert cluster.ssh("alice", again, "echo again").stdout == b"again\n"
    cluster.start_auth()
    cluster.wait_event("session.end", 2)
    assert [e.fields["command"] for e in cluster.events("exec")] == ["echo in", "echo again"]


def test_expired_node(cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose own certificate has expired accepts no login."""
    node = cluster.node()
    identity = node.member.identity
    ended = cluster.reactor.seconds() + (identity.expires - identity.issued).total_seconds() + 60
    monkeypatch.setattr("tele.sessions.admission.now", lambda _: identity.expires)
    assert ended > cluster.reactor.seconds()
    done = cluster.ssh("alice", node, "echo in")
    assert (done.returncode, done.stdout) == (255, b"")


def test_certificates_follow_the_address(cluster: SmallCluster) -> None:
    """Soon after it listens the node's certificate names its address, without a restart."""
    node = cluster.node()
    cluster.reactor.until(lambda: "127.0.0.1" in node.member.identity.ssh_certificate.principals)
    first = node.member.identity.ssh_certificate.serial
    alias = ("-o", "HostKeyAlias=127.0.0.1")
    words = cluster.ssh_words("alice", node, "127.0.0.1", "true")
    assert cluster.run("ssh", *alias, *words).returncode == 0
    assert node.member.identity.ssh_certificate.serial == first


def test_recorder_takes_part(cluster: SmallCluster) -> None:
    """A recorder gets a session's start, its frames and its end; its id is the session's."""
    recorder = MemoryRecorder()
    node = cluster.node(recorder=recorder)
    cluster.ssh("alice", node, "echo out; echo err >&2; exit 3")
    (event,) = cluster.wait_event("session.end")
    assert event.fields["recorded"] is True
    assert [each.start.id for each in recorder.recordings] == [event.session_id]
    by_kind = {frame.kind: frame.data for frame in recorder.frames}
    assert by_kind[FrameKind.OUTPUT] == b"out\n"
    assert by_kind[FrameKind.ERROR] == b"err\n"
    assert b"3" in by_kind[FrameKind.EXIT]
    assert recorder.recordings[0].closed is not None


def test_a_recorder_that_refuses(cluster: SmallCluster) -> None:
    """What a recorder denies does not run, and the user reads why."""
    node = cluster.node(recorder=MemoryRecorder(AccessDenied("not without a ticket", "ticket")))
    done = cluster.ssh("alice", node, "echo in")
    assert done.stdout == b""
    assert b"not without a ticket" in done.stderr
    assert done.returncode != 0
    assert not cluster.wait_event("exec")[0].ok


def test_a_recorder_that_cannot_record_for_now(cluster: SmallCluster) -> None:
    """The session continues, with an event; where a role is strict it is refused."""
    node = cluster.node(recorder=MemoryRecorder(Unavailable("the recorder is full")))
    assert cluster.ssh("alice", node, "echo in").stdout == b"in\n"
    assert cluster.wait_event("session.end")[0].fields["unrecorded"] == "the recorder is full"
    set_options(cluster, node, record=SessionRecording.STRICT)
    done = cluster.ssh("alice", node, "echo in")
    assert (done.stdout, b"the recorder is full" in done.stderr) == (b"", True)
    assert done.returncode != 0


def test_sessions_end_with_the_node(cluster: SmallCluster) -> None:
    """When the node stops, its sessions are hung up and their clients get a reason."""
    node = cluster.node()
    marker, shown = cluster.folder / "hung-up", cluster.folder / "shown"
    shown.write_bytes(b"")
    # Bash reports the child that was hung up with it, on a pipe that is closed by then.
    runs = "while :; do sleep 0.1; done"
    command = f"exec 2>&-; trap ': > {marker}; exit' HUP; echo ready; {runs}"

    def stop() -> None:
        if shown.read_bytes():
            node.service.stopService()
        else:
            cluster.reactor.callLater(0.05, stop)

    stop()
    words = cluster.ssh_words("alice", node, "127.0.0.1", command)
    done = cluster.run("sh", "-c", f'exec ssh "$@" > {shown}', "sh", *words)
    assert shown.read_bytes() == b"ready\n"
    assert done.returncode != 0
    cluster.reactor.until(marker.exists)
