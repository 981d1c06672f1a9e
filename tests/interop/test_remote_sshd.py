"""OpenSSH's clients through a server of ours, whose sessions run on a real sshd behind it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from attrs import define, field

from tele.certs.keys import PrivateKey
from test_client_sshd import LOGIN, SSHD, Sshd, sshd
from test_forwards_clients import echo, through
from three_processes import free_port, wait_for

HERE = Path(__file__).parent
SECONDS = 60
pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed"),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed"),
]


@define
class Front:
    """The server in front of ``behind``."""

    process: subprocess.Popen[str]
    folder: Path
    behind: Sshd
    port: int = 0
    reports: queue.Queue[dict[str, Any]] = field(factory=queue.Queue)
    #: Connections that there are.
    present: int = 0

    def command(self, *arguments: str, program: str = "ssh") -> list[str]:
        """A command of OpenSSH's to this server."""
        port = "-P" if program in ("scp", "sftp") else "-p"
        return [
            program, "-F", "none", port, str(self.port), "-i", str(self.folder / "me"),
            "-o", f"UserKnownHostsFile={self.folder}/known_hosts", "-o", "BatchMode=yes",
            "-o", "IdentitiesOnly=yes", *arguments,
        ]  # fmt: skip

    def run(
        self, *arguments: str, data: bytes = b"", program: str = "ssh", **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it until it ends."""
        return subprocess.run(
            self.command(*arguments, program=program),
            input=data,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            **options,
        )

    def ssh(self, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run ssh with options and a command."""
        return self.run(f"{LOGIN}@127.0.0.1", *arguments, data=data)

    def as_option(self) -> str:
        """As the value of an option or a variable that takes a command."""
        return " ".join(self.command())

    def reported(self, key: str) -> Any:
        """Return the next value that the server reports for ``key``."""
        while True:
            report = self.reports.get(timeout=SECONDS)
            if key in report:
                return report[key]

    def frames(self, kind: str) -> list[dict[str, Any]]:
        """Return the frames of a kind of the next connection that ends."""
        return [frame for frame in self.reported("tape") if frame["frame"] == kind]

    def forget(self) -> None:
        """Forget what was reported of connections that have ended."""
        wait_for(lambda: self.present == 0, "the connections to end")
        while not self.reports.empty():
            self.reports.get()


@contextmanager
def front(behind: Sshd, **environment: str) -> Iterator[Front]:
    """Run a server in front of an sshd."""
    folder = Path(tempfile.mkdtemp(prefix="tele-test-", dir="/tmp"))
    for name, key in (("users", behind.users), ("hosts", behind.hosts)):
        (folder / f"{name}_key").touch(0o600)
        (folder / f"{name}_key").write_bytes(key.to_openssh())
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "remote_server.py"), str(folder), str(behind.port)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | environment,
        )
    made = Front(process, folder, behind)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                break  # it was killed meanwhile
            report = json.loads(line)
            made.present += report.get("event") == "session.start"
            made.present -= "tape" in report
            made.reports.put(report)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        made.port = made.reported("port")
        yield made
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """The sshd."""
    sftp = "Subsystem sftp internal-sftp"
    with sshd(tmp_path_factory.mktemp("sshd"), sftp, "LogLevel INFO", "MaxSessions 200",
              "MaxStartups 200") as found:  # fmt: skip
        yield found


@pytest.fixture(scope="module")
def _server(behind: Sshd) -> Iterator[Front]:
    with front(behind) as made:
        yield made


@pytest.fixture
def server(_server: Front) -> Front:
    """A server for this file."""
    _server.forget()
    return _server


def test_commands(server: Front) -> None:
    """Input, output, errors and the status, one by one."""
    done = server.ssh("cat; echo wrong >&2; exit 7", data=b"typed")
    assert (done.stdout, done.stderr, done.returncode) == (b"typed", b"wrong\n", 7)
    frames = server.reported("tape")
    assert [frame["frame"] for frame in frames if frame["frame"] in ("OPEN", "EXIT")] == [
        "OPEN",
        "EXIT",
    ]
    shown = b"".join(
        base64.b64decode(frame["data"]) for frame in frames if frame["frame"] == "OUTPUT"
    )
    assert shown in (b"typed", b"")  # output without a terminal may be kept as a capture


def test_a_command_that_is_killed(server: Front) -> None:
    """The client learns the signal."""

    async def run() -> Any:
        async with asyncssh.connect(
            "127.0.0.1", server.port, username=LOGIN, config=None, known_hosts=None,
            client_keys=[str(server.folder / "me")],
        ) as connection:  # fmt: skip
            return await connection.run("kill -KILL $$")

    assert asyncio.run(run()).exit_signal[0] == "KILL"


def test_a_terminal(server: Front) -> None:
    """It has the client's type and size, follows its changes, and takes what is typed."""

    async def run() -> None:
        async with asyncssh.connect(
            "127.0.0.1", server.port, username=LOGIN, config=None, known_hosts=None,
            client_keys=[str(server.folder / "me")],
        ) as connection:  # fmt: skip
            command = "echo $TERM; stty size; read x; stty size; echo got $x; sleep 60"
            process: Any = await connection.create_process(
                command, term_type="vt220", term_size=(90, 33)
            )
            for expected in ("vt220", "33 90"):
                assert (await process.stdout.readline()).strip() == expected
            process.change_terminal_size(120, 50)
            process.stdin.write("word\n")
            seen = [(await process.stdout.readline()).strip() for _ in range(3)]
            assert "50 120" in seen
            assert "got word" in seen
            process.stdin.write("\x03")
            await process.wait_closed()
            assert process.exit_signal is not None or process.returncode is not None

    asyncio.run(asyncio.wait_for(run(), SECONDS))
    frames = server.reported("tape")
    assert [(f["columns"], f["rows"]) for f in frames if f["frame"] == "RESIZE"] == [(120, 50)]
    output = b"".join(base64.b64decode(f["data"]) for f in frames if f["frame"] == "OUTPUT")
    assert b"got word" in output


def test_stdin_that_is_not_read(server: Front) -> None:
    """The client ends with the command."""
    done = server.ssh("true", data=bytes(8 << 20))
    assert done.returncode == 0


def test_output_that_is_not_read(server: Front) -> None:
    """``ssh host yes | head`` ends, and so does the command."""
    command = " ".join(server.command(f"{LOGIN}@127.0.0.1", "yes", "head-of-yes"))
    done = subprocess.run(
        ["sh", "-c", f"{command} | head -n 3"], capture_output=True, timeout=SECONDS, check=True
    )
    assert done.stdout == b"head-of-yes\n" * 3


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file to copy."""
    (tmp_path / "big").write_bytes(os.urandom(5_000_000))
    return tmp_path / "big"


def copied(server: Front) -> list[tuple[str, str, str, str]]:
    """What frames say of files whose content passed on the next connection that ends."""
    return [
        (f["direction"], Path(f["path"]).name, f["sha256"], f["result"])
        for f in server.frames("TRANSFER")
        if f.get("direction")
    ]


@pytest.mark.parametrize("options", [("-O",), ("-s",)], ids=["scp", "sftp"])
def test_scp(server: Front, big: Path, options: tuple[str, ...]) -> None:
    """Both ways, with both protocols; each file is on the recording, with what was in it."""
    there, back = big.with_name("there"), big.with_name("back")
    done = server.run(*options, str(big), f"{LOGIN}@127.0.0.1:{there}", program="scp")
    assert done.returncode == 0, done.stderr
    done = server.run(*options, f"{LOGIN}@127.0.0.1:{there}", str(back), program="scp")
    assert done.returncode == 0, done.stderr
    assert digest(big) == digest(there) == digest(back)
    name = "there" if options == ("-s",) else "big"
    assert copied(server) == [("upload", name, digest(big), "ok")]
    assert copied(server) == [("download", "there", digest(big), "ok")]


def test_sftp(server: Front, big: Path) -> None:
    """Put, get, rename, remove, list; each is on the recording."""
    there = big.with_name("there")
    batch = (
        f"put {big} {there}\nget {there} {big}.back\nrename {there} {there}.2\nls -l {there}.2\n"
    )
    batch += f"rm {there}.2\n"
    done = server.run("-b", "-", f"{LOGIN}@127.0.0.1", data=batch.encode(), program="sftp")
    assert done.returncode == 0, done.stderr
    assert digest(big) == digest(Path(f"{big}.back"))
    frames = server.reported("tape")
    (opened,) = (frame for frame in frames if frame["frame"] == "OPEN")
    assert opened["command"] == "sftp"
    done_there = [frame["op"] for frame in frames if frame["frame"] == "TRANSFER"]
    assert {"write", "read", "rename", "remove"} <= set(done_there)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync(server: Front, tmp_path: Path) -> None:
    """A tree, and again what changed."""
    tree = tmp_path / "tree"
    for number in range(50):
        (tree / str(number % 5)).mkdir(parents=True, exist_ok=True)
        (tree / str(number % 5) / str(number)).write_bytes(os.urandom(20_000))
    there = tmp_path / "there"
    for _ in range(2):
        subprocess.run(
            ["rsync", "-a", "-e", server.as_option(), f"{tree}/", f"{LOGIN}@127.0.0.1:{there}/"],
            check=True, capture_output=True, timeout=SECONDS,
        )  # fmt: skip
        (tree / "0" / "0").write_bytes(b"changed")
    assert (there / "0" / "0").read_bytes() == b"changed"
    assert sum(1 for path in there.rglob("*") if path.is_file()) == 50


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git(server: Front, tmp_path: Path) -> None:
    """Push and clone."""
    environment = os.environ | {
        "GIT_SSH_COMMAND": server.as_option(), "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }  # fmt: skip

    def git(*arguments: str, where: Path = tmp_path) -> None:
        subprocess.run(
            ["git", "-c", "safe.directory=*", *arguments], check=True, capture_output=True,
            timeout=SECONDS, env=environment, cwd=where,
        )  # fmt: skip

    git("init", "-q", "--bare", "origin")
    git("init", "-q", "-b", "main", "here")
    here = tmp_path / "here"
    (here / "file").write_bytes(os.urandom(1_000_000))
    git("add", ".", where=here)
    git("commit", "-qm", "x", where=here)
    url = f"ssh://{LOGIN}@127.0.0.1{tmp_path}/origin"
    git("push", "-q", url, "main", where=here)
    git("clone", "-q", "-b", "main", url, "clone")
    assert digest(here / "file") == digest(tmp_path / "clone" / "file")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="tele-test-", dir="/tmp") as made:
        yield Path(made)


@contextmanager
def background(server: Front, *arguments: str) -> Iterator[None]:
    """Run ssh until the end of the block."""
    running = subprocess.Popen(
        server.command(*arguments, f"{LOGIN}@127.0.0.1"), stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        running.terminate()
        running.communicate()


def accepts(port: int) -> bool:
    try:
        return through(("127.0.0.1", port), b"x") == b"x"
    except OSError:
        return False


def test_forwards(server: Front, short: Path) -> None:
    """Ports and sockets, both ways, carry ten megabytes to the byte; each is recorded."""
    data = os.urandom(10_000_000)
    ports = free_port(), free_port()
    paths = f"{short}/l", f"{short}/r"
    with echo() as target:
        forwards = [
            "-N", "-o", "ExitOnForwardFailure=yes", "-o", "StreamLocalBindUnlink=yes",
            "-L", f"127.0.0.1:{ports[0]}:127.0.0.1:{target}",
            "-R", f"127.0.0.1:{ports[1]}:127.0.0.1:{target}",
            "-L", f"{paths[0]}:127.0.0.1:{target}",
            "-R", f"{paths[1]}:127.0.0.1:{target}",
        ]  # fmt: skip
        with background(server, *forwards):
            for port in ports:
                wait_for(lambda port=port: accepts(port), f"port {port}")
                assert through(("127.0.0.1", port), data) == data
            for path in paths:
                assert through(path, data) == data
    frames = server.frames("CLOSE")
    carried = [(f["sent"], f["received"]) for f in frames]
    assert carried.count((len(data), len(data))) == 4


def test_dynamic_forwarding(server: Front) -> None:
    """``-W``: standard input and output are a connection on the target."""
    with echo() as target:
        done = server.run("-W", f"127.0.0.1:{target}", f"{LOGIN}@127.0.0.1", data=b"question")
    assert done.stdout == b"question"


def test_a_forward_that_is_refused(server: Front) -> None:
    """The client shows the target's reason."""
    done = server.run("-W", "127.0.0.1:1", f"{LOGIN}@127.0.0.1")
    assert done.returncode != 0
    assert b"Connection refused" in done.stderr


@contextmanager
def agent(server: Front, short: Path) -> Iterator[dict[str, str]]:
    """An agent with the user's key and certificate."""
    path = str(short / "agent")
    running = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    environment = os.environ | {"SSH_AUTH_SOCK": path}
    try:
        wait_for(lambda: Path(path).exists(), "ssh-agent")
        subprocess.run(
            ["ssh-add", "-q", str(server.folder / "me")], check=True, env=environment,
            timeout=SECONDS,
        )  # fmt: skip
        yield environment
    finally:
        running.terminate()
        running.wait()


def test_an_agent_on_the_target(server: Front, short: Path) -> None:
    """Programs on the target reach the client's agent, and only if the client forwards it."""
    with agent(server, short) as environment:
        done = server.run("-A", f"{LOGIN}@127.0.0.1", "ssh-add -L", env=environment)
        assert b"ssh-ed25519-cert-v01@openssh.com" in done.stdout, done.stderr
        done = server.run("-a", f"{LOGIN}@127.0.0.1", "ssh-add -L", env=environment)
        assert done.returncode != 0


def test_the_login_with_the_agent(behind: Sshd, short: Path) -> None:
    """The client's agent logs in to the target; without it the error says what is missing."""
    with front(behind, AGENT="1") as server, agent(server, short) as environment:
        done = server.run("-A", f"{LOGIN}@127.0.0.1", "echo here", env=environment)
        assert done.stdout == b"here\n", done.stderr
        done = server.run("-a", f"{LOGIN}@127.0.0.1", "echo here", env=environment)
        assert b"the client forwards no agent" in done.stderr


def test_many_commands_on_one_connection(server: Front, short: Path) -> None:
    """A ControlMaster with a hundred commands, twenty at a time, and one login to the target."""
    path = f"ControlPath={short}/control"
    before = server.behind.log().count("Accepted publickey")
    with background(server, "-N", "-M", "-o", path):
        wait_for(lambda: (short / "control").exists(), "the control socket")

        def run(number: int) -> None:
            done = server.run("-o", path, f"{LOGIN}@127.0.0.1", f"cat; exit {number}",
                              data=b"%d" % number * 5000)  # fmt: skip
            assert (done.stdout, done.returncode) == (b"%d" % number * 5000, number), done.stderr

        with ThreadPoolExecutor(20) as pool:
            list(pool.map(run, range(100)))
    assert server.behind.log().count("Accepted publickey") == before + 1
    assert len(server.frames("EXIT")) == 100


def test_keys_are_renewed_all_the_time(tmp_path: Path) -> None:
    """By us on both connections, and by sshd: bytes come back whole."""
    data = os.urandom(20_000_000)
    with (
        sshd(tmp_path, "RekeyLimit 700K", "LogLevel INFO") as behind,
        front(behind, REKEY_OCTETS="1000000") as server,
    ):
        done = server.ssh("cat", data=data)
        assert done.stdout == data


def test_a_target_that_does_not_accept(behind: Sshd, tmp_path: Path) -> None:
    """The user learns which step failed, and what to check."""
    with front(Sshd(tmp_path, free_port(), behind.users, behind.hosts)) as server:
        done = server.ssh("true")
        assert done.returncode == 254
        assert b"cannot connect to web1: " in done.stderr
    strange = Sshd(behind.folder, behind.port, behind.users, PrivateKey.generate())
    with front(strange) as server:
        done = server.ssh("true")
        assert b"the host key of web1 is refused: " in done.stderr
    unknown = Sshd(behind.folder, behind.port, PrivateKey.generate(), behind.hosts)
    with front(unknown) as server:
        done = server.ssh("true")
        assert b"web1 does not accept the certificate" in done.stderr
        assert b"is TrustedUserCAKeys set" in done.stderr


def test_a_forced_command(behind: Sshd) -> None:
    """It runs instead of what is requested, also for ``scp`` and ``sftp``."""
    with front(behind, FORCED="echo forced") as server:
        assert server.ssh("id").stdout == b"forced\n"
        done = server.run("-s", "x", f"{LOGIN}@127.0.0.1:/etc/passwd", program="scp")
        assert done.returncode != 0


def test_the_target_ends(tmp_path: Path) -> None:
    """Its sshd's process is gone: the user is told, and the next command connects again."""
    with sshd(tmp_path, "LogLevel INFO") as behind, front(behind) as server:
        done = server.ssh("kill -KILL $PPID; sleep 60")
        assert b"the connection to web1 was lost" in done.stderr
        assert server.ssh("echo again").stdout == b"again\n"
