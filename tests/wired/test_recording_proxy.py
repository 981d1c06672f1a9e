"""Sessions that end at a proxy, with real clients of OpenSSH and a node behind the proxy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recording_proxy import Proxied, bytes_of, end_programs, facts, read_error, set_mode, settled
from small_cluster import ME, SmallCluster, set_options, set_role, small_cluster
from tele.model.api.hosts import DELETE_HOST
from tele.model.api.locks import PUT_LOCK, PutLock
from tele.model.api.paging import ById
from tele.model.frame import FrameKind
from tele.model.identity import HostRole
from tele.model.joining import JoinMode, JoinRule, join_login
from tele.model.resources import Lock, LockSpec, LockTarget, Metadata, RecordingMode
from tele.testing import MemoryRecorder

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made
        end_programs(made)


@pytest.fixture
def proxied(cluster: SmallCluster) -> Proxied:
    """A node behind a recording proxy."""
    return Proxied(cluster)


def start(proxied: Proxied, *args: str) -> subprocess.Popen[bytes]:
    """Start OpenSSH's client through the proxy, and wait until its session is recorded."""
    before = len(proxied.recorder.recordings)
    words = proxied.cluster.jump_words("alice", proxied.proxy, "web1.small", *args)
    process = proxied.cluster.start("ssh", *words)
    made = proxied.recorder.recordings
    proxied.cluster.reactor.until(
        lambda: len(made) > before and FrameKind.OPEN in {f.kind for f in made[-1].frames}
    )
    return process


def finish(proxied: Proxied, process: subprocess.Popen[bytes], seconds: float = 5.0) -> bytes:
    """Wait for the end of a client; return its standard error."""
    proxied.cluster.reactor.until(lambda: process.poll() is not None, seconds)
    return read_error(proxied.cluster, process)


def until_there(marker: Path) -> str:
    """A command that ends when a file is there."""
    return f"while [ ! -e '{marker}' ]; do sleep 0.05; done"


def test_a_command(proxied: Proxied) -> None:
    """The client accepts the proxy for the node, and its command runs there as without it; the
    proxy records it, signs for the node's name, and reports it.
    """
    done = proxied.ssh("cat; echo err >&2; exit 3", stdin=b"in\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"in\n", b"err\n", 3)
    recording = proxied.ended()
    start_ = recording.start
    assert (start_.user, start_.login, start_.node) == ("alice", ME, "web1")
    assert start_.node_id == proxied.node.member.host_id
    assert (start_.recorder, start_.recorder_id) == (
        HostRole.PROXY,
        proxied.proxy.member.host_id,
    )
    assert start_.mode == "proxy"
    assert bytes_of(recording) == b"in\n"
    assert bytes_of(recording, FrameKind.ERROR) == b"err\n"
    (host,) = facts(recording, FrameKind.HOST)
    assert (host["target"], host["checked"]) == ("web1", True)
    own = proxied.node.member.identity.keys.ssh.public.fingerprint
    assert host["fingerprint"] == own
    starts = proxied.cluster.wait_event("session.start", 2)
    began = {event.server_id: event for event in starts}
    by_proxy = began[proxied.proxy.member.host_id]
    assert (by_proxy.session_id, by_proxy.fields["node"]) == (start_.id, "web1")
    assert began[proxied.node.member.host_id].fields["of_session"] == start_.id
    ends = proxied.cluster.wait_event("session.end", 2)
    assert {event.fields["recorded"] for event in ends} == {True, False}


def test_there_is_no_way_around_it(proxied: Proxied) -> None:
    """A user who connects to the node itself is refused, and told what to do (attack)."""
    direct = proxied.cluster.ssh("alice", proxied.node, "echo in")
    assert (direct.stdout, direct.returncode) == (b"", 255)
    assert b"recorded by its proxies: connect through one" in direct.stderr
    assert proxied.recorder.recordings == []


def test_the_other_route_of_the_jump_host(proxied: Proxied) -> None:
    """A client that names the node as a subsystem of the proxy is recorded, too."""
    words = proxied.cluster.jump_words("alice", proxied.proxy, "web1.small")
    config = words[1]
    command = f"ssh -F {config} -s jump proxy:web1.small:22"
    data = bytes(range(256)) * 4096
    done = proxied.cluster.run(
        "ssh", "-F", config, "-o", f"ProxyCommand={command}", "web1.small", "cat; exit 4",
        stdin=data,
    )  # fmt: skip
    assert (done.stdout == data, done.returncode) == (True, 4), done.stderr
    assert facts(proxied.ended(), FrameKind.EXIT) == [{"status": 4}]


def test_a_node_behind_a_tunnel(cluster: SmallCluster) -> None:
    """The proxy reaches its target as it reaches nodes: through the tunnel, too."""
    recorder = MemoryRecorder()
    proxy = cluster.proxy(recorder=recorder)
    node = cluster.tunnel_node(proxy)
    set_mode(cluster, RecordingMode.PROXY, proxy.member, node.host.member)
    settled(cluster, proxy, "nat1")
    done = cluster.jump("alice", proxy, "nat1.small", "echo through")
    assert done.stdout == b"through\n", done.stderr
    cluster.reactor.until(lambda: recorder.recordings[0].closed is not None)
    assert bytes_of(recorder.recordings[0]) == b"through\n"


def test_a_terminal(proxied: Proxied) -> None:
    """A session with a terminal has the client's size, and what it shows is recorded."""
    words = proxied.cluster.jump_words("alice", proxied.proxy, "web1.small")
    line = f"stty rows 33 cols 99; ssh -tt {' '.join(words)} 'stty size; tty'"
    done = proxied.cluster.run("script", "-qec", line, "/dev/null")
    assert b"33 99" in done.stdout
    recording = proxied.ended()
    (opened,) = facts(recording, FrameKind.OPEN)
    assert (opened["pty"]["columns"], opened["pty"]["rows"]) == (99, 33)
    assert b"33 99" in bytes_of(recording)


def test_many_commands_of_one_connection(proxied: Proxied, tmp_path: Path) -> None:
    """Sessions of a ControlMaster are channels of one recording and of one login to the target."""
    words = proxied.cluster.jump_words("alice", proxied.proxy, "web1.small")
    shared = ["-o", f"ControlPath={tmp_path}/control"]
    master = proxied.cluster.start("ssh", *shared, "-M", "-N", *words)
    proxied.cluster.reactor.until(lambda: (tmp_path / "control").exists())
    for number in range(5):
        done = proxied.cluster.run("ssh", *shared, *words, f"echo {number}")
        assert done.stdout == b"%d\n" % number, done.stderr
    master.terminate()
    recording = proxied.ended()
    assert len(facts(recording, FrameKind.OPEN)) == 5
    assert len(facts(recording, FrameKind.HOST)) == 1
    assert bytes_of(recording) == b"0\n1\n2\n3\n4\n"


def test_windows_count_for_the_user(proxied: Proxied) -> None:
    """Those of the client's connection, and of the connection to the target, together."""
    process = start(proxied, "sleep 60")
    terminating: Any = proxied.proxy.service._terminating
    (transport,) = terminating.present
    avatar: Any = transport.avatar
    proxied.cluster.reactor.until(lambda: avatar._target.current is not None)
    sides = (transport.service, avatar._target.current)
    windows = [each.localWindowSize for side in sides for each in side.channels.values()]
    assert len(windows) == 2
    used: Any = proxied.proxy.service._present()
    through = [each.service for each in used if each is not transport]
    windows += [each.localWindowSize for side in through for each in side.channels.values()]
    assert avatar.window_budget.taken == sum(windows)
    process.kill()
    finish(proxied, process)


def test_nothing_is_joined_at_a_proxy(proxied: Proxied) -> None:
    """By the name of a session, whether it runs or not, and whatever roles allow; of the proxy
    itself the client reads where to join.
    """
    rule = JoinRule("all", ("*",), (JoinMode.PEER,))
    set_role(proxied.cluster, proxied.node, {"join_sessions": (rule,)})
    login = join_login("0f1e2d3c-0000-4000-8000-000000000001")
    words = proxied.cluster.jump_words("alice", proxied.proxy, "web1.small")
    done = proxied.cluster.run("ssh", "-l", login, *words)
    assert done.returncode == 255
    assert b"are recorded by its proxies (session_recording), and cannot be joined" in done.stderr
    config, jump = words[:2], words[3]
    done = proxied.cluster.run("ssh", "-l", login, *config, jump)
    assert done.returncode == 255
    assert b"join one at its node, with tele join 0f1e2d3c-" in done.stderr


# -- the end of access ------------------------------------------------------------------
def lock(proxied: Proxied, target: LockTarget) -> None:
    lock = Lock(Metadata("lock"), LockSpec(target, "enough"))
    proxied.cluster.reactor.wait(
        proxied.cluster.admin.perform(PUT_LOCK, PutLock("lock", lock, force=True))
    )


@pytest.mark.parametrize("what", ["user", "role", "login", "host_id", "session", "login_session"])
def test_a_lock_ends_it(proxied: Proxied, what: str) -> None:
    """Each kind of lock ends the session at the proxy within seconds, and nothing new begins."""
    client = start(proxied, "sleep 60")
    begun = proxied.recorder.recordings[0].start
    values = {
        "user": "alice", "role": "access", "login": ME, "host_id": begun.node_id,
        "session": begun.id, "login_session": begun.login_session,
    }  # fmt: skip
    lock(proxied, LockTarget(**{what: values[what]}))
    said = finish(proxied, client)
    assert client.returncode == 255
    assert b"locked" in said or b"ended" in said or b"closed" in said
    assert "lock" in (proxied.ended().closed or "") or what == "session"
    if what != "session":
        assert proxied.ssh("echo in").stdout == b""


def test_a_role_that_is_taken_away_ends_it(proxied: Proxied) -> None:
    """A change of the user's role ends a session that would not be allowed any more."""
    client = start(proxied, "sleep 60")
    set_options(proxied.cluster, proxied.node, force_command="/bin/false")
    again = proxied.ssh("echo in")
    assert (again.stdout, again.returncode) == (b"", 1)
    client.terminate()
    finish(proxied, client)


def test_a_forced_command_learns_what_was_requested(proxied: Proxied) -> None:
    """On a node behind the proxy ``SSH_ORIGINAL_COMMAND`` is what the user requested, as without a
    proxy.
    """
    command = 'echo "forced [$SSH_ORIGINAL_COMMAND]"'
    set_options(proxied.cluster, proxied.node, force_command=command)
    proxied.cluster.reactor.until(lambda: b"forced" in proxied.ssh("true").stdout)
    done = proxied.ssh("rm -rf 'a b'")
    assert done.stdout == b"forced [rm -rf 'a b']\n", done.stderr
    shown = bytes_of(proxied.ended(len(proxied.recorder.recordings)))
    assert shown == done.stdout


def test_a_host_that_is_removed_has_no_sessions(proxied: Proxied) -> None:
    """They end within seconds, at the node or at the proxy, and so do their recordings."""
    client = start(proxied, "sleep 60")
    host_id = proxied.node.member.host_id
    proxied.cluster.reactor.wait(proxied.cluster.admin.perform(DELETE_HOST, ById(host_id)))
    finish(proxied, client)
    assert client.returncode in (254, 255)  # the node ends its part, too
    assert proxied.ended().closed


def test_a_mode_that_is_changed_holds_for_new_sessions(proxied: Proxied) -> None:
    """A session goes on as it began, whichever way the mode is changed."""
    cluster, members = proxied.cluster, (proxied.node.member, proxied.proxy.member)
    changed = cluster.folder / "changed"
    through = start(proxied, f"{until_there(changed)}; echo done")
    set_mode(cluster, RecordingMode.NODE, *members)
    command = f"{until_there(changed)}; exit 7"
    direct = cluster.start(
        "ssh", *cluster.jump_words("alice", proxied.proxy, "web1.small", command)
    )
    cluster.wait_event("session.start", 3)
    assert len(proxied.recorder.recordings) == 1
    set_mode(cluster, RecordingMode.PROXY, *members)
    changed.touch()
    for client, status in ((direct, 7), (through, 0)):
        finish(proxied, client, 20)
        assert client.returncode == status
    assert proxied.ssh("echo in").stdout == b"in\n"
    assert bytes_of(proxied.ended(2)) == b"in\n"
    assert bytes_of(proxied.recorder.recordings[0]) == b"done\n"


# -- refusals ---------------------------------------------------------------------------
def test_without_auth_nothing_begins(proxied: Proxied) -> None:
    """Auth has to register a session: without it the user is told so. What runs goes on."""
    refusal = proxied.cluster.folder / "refused"
    client = start(proxied, f"{until_there(refusal)}; exit 6")
    proxied.cluster.stop_auth()
    refused = proxied.ssh("echo in")
    assert (refused.stdout, refused.returncode) == (b"", 255)
    assert b"begins when auth has registered it" in refused.stderr
    refusal.touch()
    finish(proxied, client, 30)
    assert client.returncode == 6
    proxied.cluster.start_auth()
    proxied.cluster.reactor.until(lambda: proxied.ssh("echo in").stdout == b"in\n")


def test_another_host_at_its_address_is_refused(cluster: SmallCluster) -> None:
    """A node that has the address of another one, or an impostor, gets no login (attack)."""
    proxied = Proxied(cluster)
    other = cluster.node(name="web2")
    host = proxied.proxy.service.router.index.get(proxied.node.member.host_id)
    assert host is not None
    proxied.node.service._presence.addresses = (f"127.0.0.1:{other.port}",)
    proxied.node.member.announce_soon()

    def moved() -> bool:
        known = proxied.proxy.service.router.index.get(host.id)
        return known is not None and known.addresses == (f"127.0.0.1:{other.port}",)

    cluster.reactor.until(moved)
    done = proxied.ssh("echo in")
    assert (done.stdout, done.returncode != 0) == (b"", True)
    assert b"another node" in done.stderr, done.stderr
    assert proxied.ended().frames[-1].kind is FrameKind.CLOSE


def other_client(proxied: Proxied, program: str) -> bytes:
    """Run a client of another make, with alice's key and certificate, through the proxy."""
    folder = proxied.cluster.folder / "people"
    words = (str(folder / "alice"), str(proxied.proxy.port), ME, str(folder / "known_hosts"))
    output: bytes = proxied.cluster.run(sys.executable, "-c", program, *words).stdout
    return output


@pytest.mark.parametrize("known", ["names", "authority"])
def test_a_client_that_does_not_bind_its_login(proxied: Proxied, known: str) -> None:
    """A client without host-bound signatures gets in, and is recorded: that it has seen the proxy's
    certificate for this host is shown by the session identifier that it signs.
    """
    program = """
import asyncio, asyncssh, sys
async def main():
    key = asyncssh.load_keypairs([(sys.argv[1], sys.argv[1] + "-cert.pub")])
    words = {"username": sys.argv[3], "client_keys": key, "config": None}
    async with asyncssh.connect("127.0.0.1", int(sys.argv[2]), known_hosts=None, **words) as jump:
        known = KNOWN
        async with jump.connect_ssh("web1.small", 22, known_hosts=known, **words) as connection:
            done = await connection.run("echo in; exit 3")
            print(done.stdout.strip(), done.exit_status)
asyncio.run(main())
""".replace("KNOWN", "sys.argv[4]" if known == "authority" else "None")
    assert other_client(proxied, program) == b"in 3\n"
    recording = proxied.ended()
    assert bytes_of(recording) == b"in\n"
    assert recording.start.user == "alice"


PARAMIKO = """
import paramiko, sys
key = paramiko.PKey.from_path(sys.argv[1])
key.load_certificate(sys.argv[1] + "-cert.pub")
jump = paramiko.Transport(("127.0.0.1", int(sys.argv[2])))
jump.connect(username=sys.argv[3], pkey=key)
channel = jump.open_channel("direct-tcpip", ("web1.small", 22), ("127.0.0.1", 0))
target = paramiko.Transport(channel)
target.start_client()
try:
    target.auth_publickey(sys.argv[3], key)
    session = target.open_session()
    session.exec_command("echo in; exit 3")
    said = session.makefile().read().decode().strip()
    print(said, session.recv_exit_status(), target.get_remote_server_key().get_base64())
except paramiko.SSHException as error:
    print("refused", target.get_banner())
"""


def test_a_client_that_knows_no_host_certificates(proxied: Proxied) -> None:
    """Where the cluster takes plain keys it gets in, and is recorded; the host's key is the same
    each time, also after the proxy has made its keys anew, so that the client can check it.
    """
    members = (proxied.node.member, proxied.proxy.member)
    set_mode(proxied.cluster, RecordingMode.PROXY, *members, plain_keys=True)
    first = other_client(proxied, PARAMIKO).split()
    assert first[:2] == [b"in", b"3"]
    assert bytes_of(proxied.ended()) == b"in\n"
    terminating = proxied.proxy.service._terminating
    assert terminating is not None
    terminating._certificates.clear()
    assert other_client(proxied, PARAMIKO).split() == first
    assert proxied.ssh("echo with a certificate").stdout == b"with a certificate\n"


def test_a_client_that_accepts_a_plain_host_key(proxied: Proxied) -> None:
    """A client that knows no host certificates cannot show to which host it logs in: it is refused,
    and told what to use (attack).
    """
    said = other_client(proxied, PARAMIKO)
    assert said.startswith(b"refused")
    assert b"use one that supports host certificates" in said
    denied = proxied.cluster.wait_event("auth.denied", 2)
    own = [event for event in denied if event.fields.get("method") == "publickey"]
    about = {(event.fields["node"], event.fields["node_id"]) for event in own}
    assert about == {("web1", proxied.node.member.host_id)}
    assert proxied.recorder.recordings == []


# -- the proxy stops --------------------------------------------------------------------
def test_a_proxy_that_stops_lets_sessions_end(cluster: SmallCluster) -> None:
    """New ones are refused while it waits for those that run."""
    proxied = Proxied(cluster, shutdown_grace=30.0)
    stops = cluster.folder / "stops"
    client = start(proxied, f"{until_there(stops)}; echo done; exit 5")
    stopping: list[Any] = []
    from twisted.internet.defer import Deferred

    Deferred.fromCoroutine(proxied.proxy.service.stopService()).addBoth(stopping.append)
    cluster.reactor.sleep(0.2)
    assert stopping == []
    stops.touch()
    finish(proxied, client, 20)
    assert client.returncode == 5
    cluster.reactor.until(lambda: bool(stopping))
    assert bytes_of(proxied.ended()) == b"done\n"
