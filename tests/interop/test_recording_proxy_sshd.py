"""Stock OpenSSH clients through the recording proxy to a plain sshd, and what is recorded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from own_display import HAS_DISPLAYS, own_authority, x_server
from sshd_fleet import NAME, NEEDED, Clients, Fleet, answers_while_auth_is_killed, key_of, machine
from three_processes import BIN, Cluster, free_port, wait_for
from web_route import terminal

__all__ = ["machine"]

pytestmark = NEEDED


def of_kind(frames: list[Any], kind: str) -> list[Any]:
    return [frame for frame in frames if frame["frame"] == kind]


class Recorded:
    """What the recording holds that is made within the block: whole, and verified."""

    def __init__(self, machine: Fleet) -> None:
        self.machine = machine
        self.frames: list[Any] = []
        self.text = ""
        self.row: Any = None

    def __enter__(self) -> Recorded:
        self._before = len(self.machine.recordings())
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            return
        self.row = self.machine.recorded(self._before + 1)
        self.machine.verified(self.row["id"])
        self.frames = self.machine.frames(self.row["id"])
        self.text = self.machine.text(self.row["id"])


def test_a_command(machine: Fleet) -> None:
    """Both streams, the input and the exit status are those of the machine; its host is named."""
    with Recorded(machine) as kept:
        done = machine.ssh("cat; echo err >&2; exit 3", stdin=b"in\n", check=False)
        assert (done.returncode, done.stdout, done.stderr) == (3, b"in\n", b"err\n")
    assert (kept.row["target"], kept.row["recorder"]) == ("openssh", "proxy")
    assert "in\n" in kept.text
    (host,) = of_kind(kept.frames, "host")
    assert (host["target"], host["checked"]) == (NAME, True)
    key = (machine.folder / "host.pub").read_text()
    shown = subprocess.run(
        ["ssh-keygen", "-lf", "-"], input=key, capture_output=True, text=True, check=True
    )
    assert host["fingerprint"] in shown.stdout


def test_a_terminal(machine: Fleet) -> None:
    """It has the client's size, follows a change of it, and is recorded as it showed."""
    program = f"ssh -tt -F {machine.cluster.ssh_config} {machine.host}"
    inner = "stty size; trap 'stty size; exit 0' WINCH; echo ready; sleep 20 & wait"
    script = (
        "import os, pty, sys, time, struct, fcntl, termios\n"
        "pid, master = pty.fork()\n"
        "if pid == 0: os.execvp('sh', ['sh', '-c', sys.argv[1]])\n"
        "fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack('HHHH', 33, 99, 0, 0))\n"
        "seen = b''\n"
        "while b'ready' not in seen: seen += os.read(master, 4096)\n"
        "fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 100, 0, 0))\n"
        "try:\n"
        "    while data := os.read(master, 4096): seen += data\n"
        "except OSError: pass\n"
        "sys.stdout.buffer.write(seen)\n"
    )
    with Recorded(machine) as kept:
        done = subprocess.run(
            [sys.executable, "-c", script, f'sleep 0.5; {program} "{inner}"'],
            env=machine.cluster.environment, capture_output=True, timeout=60, check=True,
        )  # fmt: skip
        assert b"40 100" in done.stdout
    assert of_kind(kept.frames, "resize")[-1]["columns"] == 100
    assert "40 100" in kept.text


def test_a_signal(machine: Fleet) -> None:
    """A command that is killed is told from one that succeeded, in the recording, too."""
    with Recorded(machine) as kept:
        assert machine.ssh("kill -TERM $$", check=False).returncode == 255
    assert of_kind(kept.frames, "exit")[0]["signal"] == "TERM"


@pytest.mark.parametrize("flags", [(), ("-O",)], ids=["sftp", "legacy"])
def test_scp(machine: Fleet, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A file is copied there and back unchanged, by both protocols."""
    clients = Clients(machine.cluster, machine.host, tmp_path)
    with Recorded(machine):
        data = clients.upload(*flags)
    with Recorded(machine) as kept:
        clients.download(data, *flags)
    opened = of_kind(kept.frames, "open")[0]
    assert opened["command"] == "sftp" if not flags else "scp -f" in opened["command"]


def test_sftp(machine: Fleet, tmp_path: Path) -> None:
    """Listing, making directories, upload, download, renaming and removal."""
    with Recorded(machine) as kept:
        Clients(machine.cluster, machine.host, tmp_path).sftp()
    assert of_kind(kept.frames, "open")[0]["command"] == "sftp"


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync(machine: Fleet, tmp_path: Path) -> None:
    """A folder is copied."""
    with Recorded(machine) as kept:
        Clients(machine.cluster, machine.host, tmp_path).rsync()
    assert of_kind(kept.frames, "open")[0]["command"].startswith("rsync --server")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git(machine: Fleet, tmp_path: Path) -> None:
    """A repository is cloned and pushed to."""
    shell = {"GIT_SSH_COMMAND": f"ssh -F {machine.cluster.ssh_config}"}
    environment = {**machine.cluster.environment, **shell}

    def git(*words: str) -> bytes:
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", *author, *words], env=environment, capture_output=True, check=True, timeout=60
        ).stdout

    git("init", "-q", "--bare", f"{tmp_path}/there.git")
    with Recorded(machine):
        git("clone", "-q", f"{machine.host}:{tmp_path}/there.git", f"{tmp_path}/here")
    git("-C", f"{tmp_path}/here", "commit", "-q", "--allow-empty", "-m", "first")
    with Recorded(machine) as kept:
        git("-C", f"{tmp_path}/here", "push", "-q", "origin", "HEAD:refs/heads/main")
    assert b"first" in git("-C", f"{tmp_path}/there.git", "log", "--oneline", "main")
    assert "git-receive-pack" in of_kind(kept.frames, "open")[0]["command"]


@pytest.mark.skipif(not (BIN / "ansible").exists(), reason="Ansible is not installed")
def test_ansible(machine: Fleet, tmp_path: Path) -> None:
    """Ansible runs a module there, over one connection that it keeps."""
    (tmp_path / "hosts").write_text(
        f"{machine.host} ansible_ssh_common_args='-F {machine.cluster.ssh_config}'"
        f" ansible_python_interpreter={sys.executable}\n"
    )
    environment = {
        **machine.cluster.environment, "HOME": str(tmp_path), "ANSIBLE_NOCOLOR": "1",
        # The path of a socket is short.
        "ANSIBLE_SSH_ARGS": f"-o ControlMaster=auto -o ControlPath={tmp_path}/%n"
        " -o ControlPersist=2s",
    }  # fmt: skip
    words = ["-i", str(tmp_path / "hosts"), "all", "-m", "command", "-a", "echo from-ansible"]
    with Recorded(machine) as kept:
        done = subprocess.run(
            [BIN / "ansible", *words], env=environment, capture_output=True, timeout=120,
            check=True,
        )  # fmt: skip
        assert b"from-ansible" in done.stdout
    assert len(of_kind(kept.frames, "open")) > 3
    assert len(of_kind(kept.frames, "host")) == 1


def test_many_commands_of_one_connection(machine: Fleet, tmp_path: Path) -> None:
    """Sessions of a ControlMaster are one recording, with each of their commands."""
    shared = ("-o", f"ControlPath={tmp_path}/c", "-o", "ControlMaster=auto")
    with Recorded(machine) as kept:
        for number in range(20):
            done = machine.cluster.ssh(
                *shared, "-o", "ControlPersist=60", machine.host, f"echo {number}"
            )
            assert done.stdout == b"%d\n" % number
        machine.cluster.ssh(*shared, "-O", "exit", machine.host, check=False)
    commands = [frame["command"] for frame in of_kind(kept.frames, "open")]
    assert commands == [f"echo {number}" for number in range(20)]


def test_forwards(machine: Fleet, tmp_path: Path) -> None:
    """Ports are forwarded in both directions and by SOCKS; who, where to and how much is kept."""
    (tmp_path / "file").write_text("served")
    web, local, remote, socks = (free_port() for _ in range(4))
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(web), "--bind", "127.0.0.1"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    words = [
        "-N", "-o", "ExitOnForwardFailure=yes", "-L", f"{local}:127.0.0.1:{web}",
        "-R", f"{remote}:127.0.0.1:{web}", "-D", f"127.0.0.1:{socks}",
    ]  # fmt: skip

    def fetched(*options: str) -> bytes:
        line = ["curl", "-s", "-m", "10", *options]
        return subprocess.run(line, capture_output=True, check=False).stdout

    try:
        with Recorded(machine) as kept:
            client = subprocess.Popen(
                ["ssh", "-F", str(machine.cluster.ssh_config), *words, machine.host],
                env=machine.cluster.environment,
            )
            try:
                here = f"http://127.0.0.1:{local}/file"
                wait_for(lambda: fetched(here) == b"served", "the forward")
                assert fetched(f"http://127.0.0.1:{remote}/file") == b"served"
                through = ("--socks5", f"127.0.0.1:{socks}")
                assert fetched(*through, f"http://127.0.0.1:{web}/file") == b"served"
            finally:
                client.terminate()
                client.wait()
    finally:
        server.terminate()
        server.wait()
    forwarded = {frame.get("forward") for frame in of_kind(kept.frames, "open")}
    assert {"direct-tcpip", "forwarded-tcpip"} <= forwarded
    assert any(frame.get("received") for frame in of_kind(kept.frames, "close"))


def test_the_agent_onward(machine: Fleet, tmp_path: Path) -> None:
    """The client's agent is there for programs on the machine."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{tmp_path}/key"], check=True
    )
    line = (
        f"eval $(ssh-agent) >/dev/null; ssh-add -q {tmp_path}/key;"
        f" ssh -A -F {machine.cluster.ssh_config} {machine.host} ssh-add -l;"
        " kill $SSH_AGENT_PID"
    )
    with Recorded(machine) as kept:
        done = subprocess.run(
            ["sh", "-c", line], env=machine.cluster.environment, capture_output=True, timeout=60,
            check=True,
        )  # fmt: skip
        assert b"ED25519" in done.stdout, done.stderr
    assert "auth-agent" in {frame.get("kind") for frame in of_kind(kept.frames, "forward")}


def person(machine: Fleet, name: str, **options: object) -> Cluster:
    """The cluster as a user has it whose role has these options."""
    allow = {"logins": ["root"], "node_labels": {"*": ["*"]}}
    spec = {"allow": allow, "options": options}
    role = {"kind": "role", "version": "v1", "metadata": {"name": name}, "spec": spec}
    machine.cluster.tele("apply", "-f", "-", stdin=json.dumps(role).encode())
    return machine.cluster.person(name, name, login="root")


def test_a_forced_command(machine: Fleet) -> None:
    """A command that a role forces runs on the machine with what was requested in
    ``SSH_ORIGINAL_COMMAND``, as with sshd alone; the recording has both.
    """
    user = person(machine, "forced", force_command='echo "forced [$SSH_ORIGINAL_COMMAND]"')
    wait_for(lambda: user.ssh(machine.host, "true", check=False).returncode == 0, "the role")
    for words, asked in (
        (("rm -rf 'a b'",), "rm -rf 'a b'"),
        ((), ""),
        (("-s", "sftp"), "internal-sftp"),
    ):
        options = [each for each in words if each.startswith("-")]
        rest = [each for each in words if not each.startswith("-")]
        with Recorded(machine) as kept:
            done = user.ssh(*options, machine.host, *rest)
            assert done.stdout.decode() == f"forced [{asked}]\n"
        assert of_kind(kept.frames, "open")[0]["command"].startswith("echo")
        assert f"forced [{asked}]" in kept.text


@pytest.mark.skipif(not HAS_DISPLAYS, reason="xauth, Xvfb or xdpyinfo is not installed")
@pytest.mark.parametrize("kind", ["-X", "-Y"])
def test_a_display(machine: Fleet, kind: str) -> None:
    """A program on the machine finds the client's display, with a cookie of its own; who used it is
    on the recording.
    """
    user = person(machine, f"painter{kind.lower()}", x11_forwarding=True)
    command = "echo $DISPLAY; xauth list $DISPLAY | wc -l; xdpyinfo | head -n 2"
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as short,
        own_authority(),
        x_server(Path(short)) as (display, authority),
    ):
        drawn = {"DISPLAY": display, "XAUTHORITY": str(authority)}
        words = ["ssh", kind, "-F", str(user.ssh_config), machine.host]

        def run(*command: str) -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(
                [*words, *command], env={**user.environment, **drawn}, capture_output=True,
                timeout=60, check=False,
            )  # fmt: skip

        wait_for(lambda: run("true").returncode == 0, "the role")
        with Recorded(machine) as kept:
            done = run(command)
            shown, entries, *info = done.stdout.decode().splitlines()
            assert re.fullmatch(r"localhost:\d+\.0", shown), done
            assert entries == "1"
            assert info[0].startswith("name of display:"), done
    listens = [each for each in of_kind(kept.frames, "forward") if each["kind"] == "x11"]
    assert listens[0]["action"] == "listen"
    assert "x11" in {frame.get("forward") for frame in of_kind(kept.frames, "open")}
    assert any(frame.get("received") for frame in of_kind(kept.frames, "close"))


def test_a_proxy_that_is_killed(machine: Fleet) -> None:
    """After kill -9 of the proxy in the middle of a session, what the session showed until a second
    before is uploaded and verifies.
    """
    cluster, before = machine.cluster, len(machine.recordings())
    mark = f"killed-{time.time_ns()}"
    client = subprocess.Popen(
        ["ssh", "-tt", "-F", str(cluster.ssh_config), machine.host, f"echo {mark}; sleep 60"],
        env=cluster.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert client.stdout is not None
        assert mark.encode() in client.stdout.readline()
        time.sleep(2.0)
        cluster.kill("proxy")
        client.wait(30)
    finally:
        client.kill()
        client.communicate()
        cluster.start("proxy")
    row = machine.recorded(before + 1)
    machine.verified(row["id"])
    assert mark in machine.text(row["id"])
    wait_for(lambda: machine.ssh("true", check=False).returncode == 0, "ssh to work again", 60)


def test_auth_is_killed_in_the_middle(machine: Fleet) -> None:
    """The session goes on without it, and all of it is recorded when auth is there again."""
    answers_while_auth_is_killed(machine, waits=False)


def test_a_client_that_knows_no_host_certificates(machine: Fleet) -> None:
    """Paramiko logs in where the cluster takes plain host keys, knows the key again, and is
    recorded; before that it is refused. The key is the one that tele prints for known_hosts, also
    after it was replaced.
    """
    program = (
        "import paramiko, sys\n"
        "key = paramiko.PKey.from_path(sys.argv[1])\n"
        "key.load_certificate(sys.argv[1] + '-cert.pub')\n"
        "line = ['ssh', '-F', sys.argv[2], '-W', sys.argv[3] + ':22', sys.argv[4]]\n"
        "target = paramiko.Transport(paramiko.ProxyCommand(' '.join(line)))\n"
        "target.start_client()\n"
        "target.auth_publickey('root', key)\n"
        "session = target.open_session()\n"
        "session.exec_command('echo in')\n"
        "print(session.makefile().read(), target.get_remote_server_key().get_base64())\n"
    )
    cluster = machine.cluster
    jump = f"proxy.{cluster.name}"
    words = [sys.executable, "-c", program, key_of(machine), str(cluster.ssh_config)]

    def run() -> bytes:
        return subprocess.run(
            [*words, machine.host, jump], env=cluster.environment, capture_output=True, timeout=60,
            check=False,
        ).stdout  # fmt: skip

    assert run() == b""
    machine.record(mode="proxy", proxy_plain_keys=True)
    try:
        wait_for(lambda: run().startswith(b"b'in"), "the proxy to take plain keys", 60)
        with Recorded(machine) as kept:
            first = run()
        assert "in" in kept.text
        cluster.kill("proxy")
        cluster.start("proxy")
        wait_for(lambda: run() == first, "the same key after a restart", 90)
        assert _is_printed(machine, first)
        refused = cluster.tele("nodes", "keys", NAME, "--replace", "proxy", check=False)
        assert (refused.returncode, b"--reason" in refused.stderr) == (2, True)
        (key,) = json.loads(cluster.tele("nodes", "keys", NAME, "--format", "json").stdout)["keys"]
        cluster.tele("nodes", "keys", NAME, "--replace", key["proxy"], "--reason", "a test")
        assert not _is_printed(machine, first)
        wait_for(lambda: _is_printed(machine, run()), "the new key to be used", 60)
    finally:
        machine.record(mode="proxy")
    wait_for(lambda: run() == b"", "plain keys to be refused again", 60)
    refused = cluster.tele("nodes", "keys", NAME, check=False)
    assert b"proxy_plain_keys" in refused.stderr


def _is_printed(machine: Fleet, shown: bytes) -> bool:
    """Whether paramiko has logged in, with the host key that ``tele nodes keys`` prints."""
    printed = machine.cluster.tele("nodes", "keys", NAME).stdout
    assert printed.startswith(f"{NAME},{machine.host},".encode())
    key = shown.split()[-1:]
    return key == printed.split()[2:3] != []


def test_a_terminal_of_a_page(machine: Fleet, tmp_path: Path) -> None:
    """The recording proxy shows it a certificate for the machine, as it does to any client."""
    with Recorded(machine) as kept:
        found = terminal(machine.cluster, NAME, tmp_path, "echo page-$((40+2)); exit 5\n")
        assert "page-42" in found["shown"]
        assert found["exit"] == {"status": 5, "signal": ""}
    assert "page-42" in kept.text
