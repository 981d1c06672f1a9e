"""What a real node forwards for OpenSSH's client: ports, sockets, agents, displays."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from own_display import HAS_DISPLAYS, own_authority, x_server
from small_cluster import ME, NAME, SmallCluster, set_options, small_cluster
from tele.certs.issue import UserCertificateRequest, issue_user
from tele.interfaces import IRecorder, IRecording
from tele.loop import now
from tele.model.access import GatewayPorts
from tele.model.authority import AuthorityKind
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart
from tele.spawner.program import PREPARED
from tele.tape.details import details

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

#: Connects to a port or a path and prints what it receives.
VISIT = f"""{sys.executable} -c '
import socket, sys
where = sys.argv[1]
if where.startswith("/"):
    client = socket.socket(socket.AF_UNIX)
    client.connect(where)
else:
    host, _, port = where.rpartition(":")
    client = socket.create_connection((host, int(port)))
print(client.makefile().read())' """


@implementer(IRecording)
@define
class Recording:
    """Keeps frames."""

    frames: list[Frame] = field(factory=list)
    paused: bool = False

    def write(self, frame: Frame) -> None:
        self.frames.append(frame)

    def when_resumed(self, callback: Callable[[], None]) -> None:
        callback()

    def close(self, reason: str, sequence: int = 0) -> Deferred[None]:
        return succeed(None)

    def noted(self, kind: FrameKind) -> list[dict[str, object]]:
        """What frames of a kind say, with their channel."""
        return [{"channel": f.channel, **details(f)} for f in self.frames if f.kind is kind]


@implementer(IRecorder)
@define
class Recorder:
    """Keeps recordings."""

    made: list[Recording] = field(factory=list)

    def open(self, start: RecordingStart) -> Deferred[IRecording]:
        self.made.append(Recording())
        return succeed(self.made[-1])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="tele-test-", dir="/tmp") as made:
        yield Path(made)


@contextmanager
def greeter(
    address: str | tuple[str, int] = ("127.0.0.1", 0),
) -> Iterator[tuple[int, list[object]]]:
    """A server that greets each client; yields its port, and the clients' addresses."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    came: list[object] = []
    with socket.socket(family) as server:
        server.bind(address)
        server.listen()

        def serve() -> None:
            while True:
                try:
                    peer_socket, peer = server.accept()
                except OSError:
                    return
                came.append(peer)
                with peer_socket:
                    peer_socket.sendall(b"hello")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield (0 if isinstance(address, str) else server.getsockname()[1]), came
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def running(*words: str, stdin: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """An OpenSSH client in the background, which ends with the test."""
    client = subprocess.Popen(
        ["ssh", *words], stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        yield client
    finally:
        client.kill()
        client.communicate()


def free_port(host: str = "127.0.0.1") -> int:
    """Ask the kernel for a port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def agent_folders() -> set[Path]:
    return set(Path("/tmp").glob("tele-????????????????"))


# -- remote ports ---------------------------------------------------------------------
def test_remote_port(cluster: SmallCluster) -> None:
    """``ssh -R`` brings a port of the client's to the node, on loopback of both families."""
    recorder = Recorder()
    node = cluster.node(recorder=recorder)
    port = free_port()
    with greeter() as (target, _):
        command = f"{VISIT} 127.0.0.1:{port}; {VISIT} ::1:{port}; ss -Hltn sport = :{port}"
        done = cluster.ssh("alice", node, command, options=("-R", f"{port}:127.0.0.1:{target}"))
    assert done.stdout.count(b"hello") == 2, done
    assert b"0.0.0.0:%d" % port not in done.stdout
    assert f"127.0.0.1:{port}".encode() in done.stdout
    cluster.wait_event("session.end")
    started, *connections = cluster.wait_event("forward", 3)
    assert started.fields["kind"] == "tcpip-forward"
    assert started.fields["bound"] == f"127.0.0.1:{port}, [::1]:{port}"
    assert [e.fields["kind"] for e in connections] == ["forwarded-tcpip"] * 2
    assert connections[0].fields["originator"].startswith("127.0.0.1:")
    ends = cluster.wait_event("forward.end", 3)
    assert [e.fields.get("received") for e in ends if "sent" in e.fields] == [0, 0]
    assert {e.fields.get("sent") for e in ends} == {5, None}
    frames = recorder.made[0]
    assert [n["action"] for n in frames.noted(FrameKind.FORWARD)] == ["listen", "close"]
    opened = [n for n in frames.noted(FrameKind.OPEN) if n["kind"] == "forward"]
    assert {n["forward"] for n in opened} == {"forwarded-tcpip"}
    closed = {n["channel"]: n for n in frames.noted(FrameKind.CLOSE)}
    assert all(closed[n["channel"]]["sent"] == 5 for n in opened)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


def test_remote_port_of_the_kernels_choice(cluster: SmallCluster) -> None:
    """The reply to a request for port 0 has the port."""
    node = cluster.node()
    done = cluster.ssh("alice", node, "sleep 0.2", options=("-R", "0:127.0.0.1:9"))
    found = re.search(rb"Allocated port (\d+) for remote forward", done.stderr)
    assert found
    (event, *_) = cluster.wait_event("forward")
    assert event.fields["bound"].startswith(f"127.0.0.1:{int(found[1])}, ")


def test_remote_socks(cluster: SmallCluster) -> None:
    """``ssh -R PORT``, with the client as a SOCKS proxy, works too."""
    node = cluster.node()
    port = free_port()
    with greeter() as (target, _):
        asked = b"\5\1\0" + b"\5\1\0\1\x7f\0\0\1" + target.to_bytes(2, "big")
        script = cluster.folder / "socks.py"
        script.write_text(
            "import socket\n"
            f"s = socket.create_connection(('127.0.0.1', {port}))\n"
            f"s.sendall({asked!r})\n"
            "print(s.makefile('rb').read())\n"
        )
        done = cluster.ssh("alice", node, f"{sys.executable} {script}", options=("-R", str(port)))
    assert b"hello" in done.stdout, done


@pytest.mark.parametrize("asked", ["*", "0.0.0.0", "", "10.11.12.13"])
def test_the_client_does_not_choose_the_address(cluster: SmallCluster, asked: str) -> None:
    """Whatever address a client requests, others cannot reach it by default (attack)."""
    node = cluster.node()
    port = free_port()
    done = cluster.ssh(
        "alice",
        node,
        f"ss -Hltn sport = :{port}",
        options=("-o", "ExitOnForwardFailure=yes", "-R", f"{asked}:{port}:127.0.0.1:9"),
    )
    bound = {line.split()[3] for line in done.stdout.decode().splitlines()}
    assert bound == {f"127.0.0.1:{port}", f"[::1]:{port}"}


def test_gateway_ports(cluster: SmallCluster) -> None:
    """Where the configuration leaves it to the client, it may choose; names are refused."""
    node = cluster.node(gateway_ports=GatewayPorts.CLIENT)
    port = free_port()
    listed = f"ss -Hltn sport = :{port}"
    for asked, expected in (
        ("*", {f"0.0.0.0:{port}", f"[::]:{port}"}),
        ("127.0.0.1", {f"127.0.0.1:{port}"}),
        ("127.0.0.9", {f"127.0.0.9:{port}"}),
        ("localhost", {f"127.0.0.1:{port}", f"[::1]:{port}"}),
    ):
        words = ("-R", f"{asked}:{port}:127.0.0.1:9")
        done = cluster.ssh("alice", node, listed, options=words)
        assert {line.split()[3] for line in done.stdout.decode().splitlines()} == expected
    done = cluster.ssh("alice", node, "true", options=("-R", f"db.example:{port}:127.0.0.1:9"))
    assert b"forwarding failed" in done.stderr
    assert "no address" in cluster.wait_event("forward", 5)[-1].error


def test_a_port_that_is_taken(cluster: SmallCluster) -> None:
    """A port that is in use is refused, and the reason is in the audit."""
    node = cluster.node()
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with socket.socket(socket.AF_INET6) as second:
            second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            second.bind(("::1", port))
            second.listen()
            done = cluster.ssh("alice", node, "true", options=("-R", f"{port}:127.0.0.1:9"))
    assert b"forwarding failed" in done.stderr
    assert "in use" in cluster.wait_event("forward")[0].error


def test_cancel(cluster: SmallCluster, short: Path) -> None:
    """``ssh -O forward`` and ``-O cancel`` work on a running connection, both ways."""
    node = cluster.node()
    control = short / "control"
    multiplexed = ("-o", f"ControlPath={control}")
    master = cluster.ssh_words("alice", node, "-o", f"ControlPath={control}", "-MNf", "127.0.0.1")
    assert cluster.run("ssh", *master).returncode == 0
    remote, local = free_port(), free_port()
    try:
        with greeter() as (target, _):
            for kind, port in (("-R", remote), ("-L", local)):
                words = (*multiplexed, "-O", "forward", kind, f"{port}:127.0.0.1:{target}")
                assert cluster.ssh("alice", node, options=words).returncode == 0
                visit = cluster.run("sh", "-c", f"{VISIT} 127.0.0.1:{port}")
                assert visit.stdout == b"hello\n"
            for kind, port in (("-R", remote), ("-L", local)):
                words = (*multiplexed, "-O", "cancel", kind, f"{port}:127.0.0.1:{target}")
                assert cluster.ssh("alice", node, options=words).returncode == 0
                visit = cluster.run("sh", "-c", f"{VISIT} 127.0.0.1:{port}")
                assert b"refused" in visit.stderr
        done = cluster.ssh("alice", node, "echo on", options=multiplexed)
        assert done.stdout == b"on\n"
    finally:
        cluster.ssh("alice", node, options=(*multiplexed, "-O", "exit"))


def test_dynamic(cluster: SmallCluster) -> None:
    """``ssh -D`` makes the node the egress of a SOCKS proxy, also for sockets over ``-W``."""
    node = cluster.node()
    port = free_port()
    words = cluster.ssh_words("alice", node, "-N", "-D", str(port), "127.0.0.1")
    with running(*words) as client, greeter() as (target, _):
        cluster.reactor.until(lambda: _answers(port))
        asked = b"\5\1\0" + b"\5\1\0\1\x7f\0\0\1" + target.to_bytes(2, "big")
        with socket.create_connection(("127.0.0.1", port)) as peer_socket:
            peer_socket.sendall(asked)
            received: list[bytes] = []
            cluster.reactor.getThreadPool().callInThread(
                lambda: received.append(peer_socket.makefile("rb").read())
            )
            cluster.reactor.until(lambda: bool(received))
        client.terminate()
    assert received[0].endswith(b"hello")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- sockets --------------------------------------------------------------------------
def test_local_socket(cluster: SmallCluster, short: Path) -> None:
    """A socket of the node's is reached through a port or a socket of the client's."""
    node = cluster.node()
    there, here = short / "there", short / "here"
    with greeter(str(there)):
        words = cluster.ssh_words("alice", node, "-N", "-L", f"{here}:{there}", "127.0.0.1")
        with running(*words) as client:
            cluster.reactor.until(here.exists)
            assert cluster.run("sh", "-c", f"{VISIT} {here}").stdout == b"hello\n"
            client.terminate()
    (event,) = cluster.wait_event("forward")
    assert (event.fields["kind"], event.fields["target"]) == ("direct-streamlocal", str(there))
    (end,) = cluster.wait_event("forward.end")
    assert (end.fields["sent"], end.fields["received"]) == (0, 5)


def test_a_socket_that_is_not_there(cluster: SmallCluster, short: Path) -> None:
    """The client reads the true reason, and it is in the audit."""
    node = cluster.node()
    here = short / "here"
    words = cluster.ssh_words("alice", node, "-N", "-L", f"{here}:{short}/none", "127.0.0.1")
    with running(*words) as client:
        cluster.reactor.until(here.exists)
        assert cluster.run("sh", "-c", f"{VISIT} {here}").stdout == b"\n"
        assert client.stderr is not None
        client.terminate()
        assert b"No such file" in client.stderr.read()
    assert "No such file" in cluster.wait_event("forward")[0].error


def test_remote_socket(cluster: SmallCluster, short: Path) -> None:
    """``ssh -R PATH`` listens at a path, open to its owner alone, until the connection ends."""
    node = cluster.node()
    path = short / "remote"
    with greeter() as (target, _):
        command = f"stat -c %a {path}; {VISIT} {path}"
        done = cluster.ssh("alice", node, command, options=("-R", f"{path}:127.0.0.1:{target}"))
    assert done.stdout == b"600\nhello\n"
    cluster.reactor.until(lambda: not path.exists())


def test_what_exists_stays(cluster: SmallCluster, short: Path) -> None:
    """A path that is taken is refused, and not removed at the end (attack)."""
    node = cluster.node()
    path = short / "taken"
    path.write_text("mine")
    done = cluster.ssh("alice", node, "true", options=("-R", f"{path}:127.0.0.1:9"))
    assert b"forwarding failed" in done.stderr
    cluster.wait_event("session.end")
    assert path.read_text() == "mine"


def test_what_took_its_place_stays(cluster: SmallCluster, short: Path) -> None:
    """A file that replaced the socket is not removed with it."""
    node = cluster.node()
    path = short / "socket"
    command = f"rm {path}; echo other >{path}"
    assert not cluster.ssh("alice", node, command, options=("-R", f"{path}:127.0.0.1:9")).returncode
    cluster.wait_event("forward.end")
    cluster.stop_node(node)
    assert path.read_text() == "other\n"


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


# -- agents ---------------------------------------------------------------------------
@contextmanager
def agent(folder: Path) -> Iterator[tuple[Path, str]]:
    """An agent with one key; gives its socket and the key's fingerprint."""
    path = folder / "agent"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True
    )
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(folder / "key")], check=True, capture_output=True
    )
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as ours:
        try:
            while not _listens(path):
                os.sched_yield()
            subprocess.run(
                ["ssh-add", "-q", str(folder / "key")],
                env={**os.environ, "SSH_AUTH_SOCK": str(path)},
                check=True,
            )
            yield path, shown.stdout.split()[1].decode()
        finally:
            ours.terminate()


def test_agent(cluster: SmallCluster, short: Path) -> None:
    """``ssh -A``: the agent is there in a private folder, for one connection, and then gone."""
    before = agent_folders()
    node = cluster.node()
    with agent(short) as (path, fingerprint):
        command = 'ssh-add -l; dirname "$SSH_AUTH_SOCK"; stat -c "%a %U" $(dirname $SSH_AUTH_SOCK)'
        done = cluster.ssh("alice", node, command, options=("-A", "-o", f"IdentityAgent={path}"))
        without = cluster.ssh("alice", node, "echo [$SSH_AUTH_SOCK]")
    shown, folder, rights = done.stdout.decode().splitlines()
    assert fingerprint in shown
    assert rights == f"700 {ME}"
    assert without.stdout == b"[]\n"
    cluster.wait_event("session.end", 2)
    cluster.reactor.until(lambda: not Path(folder).exists())
    assert agent_folders() == before
    (event,) = cluster.wait_event("agent")
    assert event.ok
    assert cluster.wait_event("forward")[0].fields["kind"] == "auth-agent"
    cluster.wait_event("agent.end")


def test_agent_onwards(cluster: SmallCluster, short: Path) -> None:
    """With ``-A`` a user logs in from one node to the next with the key that stayed at home."""
    first, second = cluster.node(), cluster.node(name="web2")
    home = cluster.folder / "people"
    with agent(short) as (path, _):
        subprocess.run(
            ["ssh-add", "-q", str(home / "alice")],
            env={**os.environ, "SSH_AUTH_SOCK": str(path)},
            check=True,
        )
        options = (
            f"-p {second.port} -F none -o BatchMode=yes -o HostKeyAlias=web2.small"
            f" -o UserKnownHostsFile={home}/known_hosts -o StrictHostKeyChecking=yes"
        )
        command = f"ssh {options} 127.0.0.1 echo arrived as \\$TELE_USER"
        done = cluster.ssh("alice", first, command, options=("-A", "-o", f"IdentityAgent={path}"))
    assert done.stdout == b"arrived as alice\n", done


def test_grant_without_forwarding(cluster: SmallCluster, short: Path) -> None:
    """What the role does not give is refused and in the audit, for every kind (attack)."""
    node = cluster.node()
    set_options(cluster, node, forward_agent=False, port_forwarding=False, x11_forwarding=False)
    with agent(short) as (path, _):
        done = cluster.ssh(
            "alice",
            node,
            "echo [$SSH_AUTH_SOCK] [$DISPLAY]",
            options=(
                "-A", "-o", f"IdentityAgent={path}", "-R", f"{free_port()}:127.0.0.1:9",
                "-R", f"{short}/socket:127.0.0.1:9",
            ),
        )  # fmt: skip
    assert done.stdout == b"[] []\n"
    assert done.stderr.count(b"forwarding failed") == 2
    assert all("not allowed" in e.error for e in cluster.wait_event("forward", 2))
    assert "not allowed" in cluster.wait_event("agent")[0].error
    assert not (short / "socket").exists()
    done = cluster.ssh("alice", node, options=("-W", "127.0.0.1:9"))
    assert b"prohibited" in done.stderr


@pytest.mark.skipif(not shutil.which("xauth"), reason="xauth is not installed")
@pytest.mark.parametrize("command", ["internal-sftp", "cat"])
@pytest.mark.parametrize("by", ["role", "certificate"])
@pytest.mark.parametrize("said", [None, True])
def test_a_forced_command_is_all_that_there_is(
    cluster: SmallCluster,
    short: Path,
    by: str,
    command: str,
    said: bool | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside a forced command no port, socket, agent or display is forwarded, unless the role
    says so (attack).
    """
    node = cluster.node()
    set_options(
        cluster, node, force_command=command if by == "role" else "", port_forwarding=said,
        forward_agent=said, x11_forwarding=bool(said),
    )  # fmt: skip
    if by == "certificate":
        force(cluster, "alice", command)
    elif said:  # else there is the certificate of before, which permits ports and an agent
        cluster.person("alice", ME)
    monkeypatch.setenv("DISPLAY", ":77")
    remote, local, there, here = free_port(), free_port(), short / "there", short / "here"
    with agent(short) as (held, _), greeter() as (target, _), greeter(str(there)), own_authority():
        words = cluster.ssh_words(
            "alice", node, "-s", "-A", "-Y", "-o", f"IdentityAgent={held}",
            "-L", f"{local}:127.0.0.1:{target}", "-L", f"{here}:{there}",
            "-R", f"{remote}:127.0.0.1:{target}", "-R", f"{short}/remote:127.0.0.1:{target}",
            "127.0.0.1", "sftp",
        )  # fmt: skip
        with running(*words, stdin=subprocess.PIPE):
            (event,) = cluster.wait_event("subsystem")
            at = (f"127.0.0.1:{local}", here, f"127.0.0.1:{remote}", short / "remote")
            received = [cluster.run("sh", "-c", f"{VISIT} {where}").stdout for where in at]
    assert (event.fields["forced"], event.ok) == (command, True)
    asked = cluster.wait_event("forward", 5)
    made = {event.fields["kind"]: event.error for event in asked} | {
        "auth-agent": cluster.wait_event("agent")[0].error
    }
    assert {*made} - {"forwarded-tcpip", "forwarded-streamlocal"} == {
        "x11", "tcpip-forward", "streamlocal-forward", "direct-tcpip", "direct-streamlocal",
        "auth-agent",
    }  # fmt: skip
    if said:
        assert received == [b"hello\n"] * 4
        assert not any(made.values()), made
    else:
        assert b"hello" not in b"".join(received)
        assert all("not allowed" in error for error in made.values()), made


def force(cluster: SmallCluster, person: str, command: str) -> None:
    """Give a user another certificate, which forwards everything and forces a command."""
    request = UserCertificateRequest(
        person, NAME, (ME,), ("access",), "s-1", timedelta(hours=1), {"logins": (ME,)},
        port_forwarding=True, agent_forwarding=True, x11_forwarding=True, force_command=command,
    )  # fmt: skip
    authority = cluster.local._certificates._authorities[AuthorityKind.USER].ssh
    key = cluster.ssh_keys[person].public.blob
    made = issue_user(authority, key, request, now(cluster.reactor), os.urandom)
    (cluster.folder / "people" / f"{person}-cert.pub").write_text(made.line + "\n")


# -- displays -------------------------------------------------------------------------
@pytest.mark.skipif(not HAS_DISPLAYS, reason="xauth, Xvfb or xdpyinfo is not installed")
@pytest.mark.parametrize("kind", ["-X", "-Y"])
def test_display(
    cluster: SmallCluster, short: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ssh -X`` and ``-Y``: a program on the node finds the client's display, with its cookie."""
    node = cluster.node()
    set_options(cluster, node, x11_forwarding=True)
    cluster.person("alice", ME)  # the certificate has to say it, too
    with own_authority(), x_server(short) as (display, authority):
        monkeypatch.setenv("DISPLAY", display)
        monkeypatch.setenv("XAUTHORITY", str(authority))
        command = "echo $DISPLAY; xauth list $DISPLAY | wc -l; xdpyinfo | head -n 2"
        done = cluster.ssh("alice", node, command, options=(kind,))
    shown, entries, *info = done.stdout.decode().splitlines()
    assert re.fullmatch(r"localhost:1\d\.0", shown), done
    assert entries == "1"
    assert info[0].startswith("name of display:"), done
    begun, *connections = cluster.wait_event("forward", 2)
    assert (begun.fields["kind"], connections[0].fields["kind"]) == ("x11", "x11")
    number = int(shown.partition(":")[2].partition(".")[0])
    assert not _answers(6000 + number)


def test_display_without_leave(cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the role's permission there is no display, and nothing listens (attack)."""
    node = cluster.node()
    monkeypatch.setenv("DISPLAY", ":77")
    done = cluster.ssh("alice", node, "echo [$DISPLAY]", options=("-Y",))
    assert done.stdout == b"[]\n"
    assert "not allowed" in cluster.wait_event("forward")[0].error


# -- the end --------------------------------------------------------------------------
def test_nothing_outlives_the_connection(cluster: SmallCluster, short: Path) -> None:
    """A client that is killed leaves no port, no socket, no folder and no process behind."""
    before = agent_folders()
    node = cluster.node()
    port, path = free_port(), short / "remote"
    with agent(short) as (held, _):
        words = cluster.ssh_words(
            "alice", node, "-o", f"IdentityAgent={held}", "-A", "-R", f"{port}:127.0.0.1:9",
            "-R", f"{path}:127.0.0.1:9", "127.0.0.1", "sleep 60",
        )  # fmt: skip
        with running(*words) as client:
            cluster.wait_event("exec")
            assert _answers(port)
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert len(agent_folders() - before) == 1
            client.kill()
        cluster.wait_event("session.end")
        assert not _answers(port)
        cluster.reactor.until(lambda: not path.exists() and agent_folders() == before)
    spawner = node.spawning.pid
    children = Path(f"/proc/{spawner}/task/{spawner}/children")
    cluster.reactor.until(lambda: len(children.read_text().split()) == PREPARED)
