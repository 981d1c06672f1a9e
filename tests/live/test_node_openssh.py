"""OpenSSH's client in sessions of a node, and the same in those of OpenSSH's server."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from private_machine import account, wait_until
from screen import Screen
from tele.spawner.program import PREPARED

pytestmark = pytest.mark.root
SERVER = Path(__file__).parents[1] / "interop" / "node_server.py"
SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ["PATH"])
SECONDS = 60.0


@frozen
class Server:
    """A running server, ours or OpenSSH's, and how its clients log in."""

    process: subprocess.Popen[str]
    folder: Path
    port: int
    login: str

    def command(self, *words: str, key: str = "plain") -> list[str]:
        """OpenSSH's client with our credentials and nothing else."""
        settings = {
            "UserKnownHostsFile": f"{self.folder}/known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "Port": str(self.port),
            "User": self.login,
            "IdentityFile": f"{self.folder}/{key}",
        }
        given = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        options = [word for word in words if word.startswith("-")]
        rest = [word for word in words if not word.startswith("-")]
        return ["ssh", "-F", "none", *given, *options, "127.0.0.1", *rest]

    def ssh(
        self, *words: str, key: str = "plain", data: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*words, key=key),
            input=data,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )

    def spawner(self) -> int:
        """The process id of the node's spawner."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        wait_until(lambda: children.read_text().split())
        return int(children.read_text().split()[0])


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture(scope="module")
def user() -> Iterator[pwd.struct_passwd]:
    """An account."""
    with account("/bin/sh") as made:
        subprocess.run(["usermod", "-p", "*", made.pw_name], check=True)  # not locked, for sshd
        yield made


@pytest.fixture
def node(tmp_path: Path, user: pwd.struct_passwd) -> Iterator[Server]:
    """Ours."""
    yield from run_node(tmp_path, user.pw_name)


def run_node(folder: Path, login: str) -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, str(SERVER), str(folder), login], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            port = json.loads(process.stdout.readline())["port"]
            yield Server(process, folder, port, login)
        finally:
            process.terminate()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every account may enter: pytest's are root's alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def sshd(place: Path, user: pwd.struct_passwd) -> Iterator[Server]:
    """OpenSSH's, as Debian configures it."""
    if SSHD is None:
        pytest.skip("OpenSSH's server is not installed")
    folder = place / "sshd"
    folder.mkdir()
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "plain"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    public = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    (folder / "plain.pub").rename(folder / "authorized")
    (folder / "authorized").chmod(0o644)
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM yes\nPrintMotd no\n"
        "AcceptEnv LANG LC_*\nSubsystem sftp internal-sftp\n"
    )
    with subprocess.Popen(
        [SSHD, "-D", "-q", "-f", folder / "config"], text=True, stdin=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(lambda: answers(port))
            yield Server(process, folder, port, user.pw_name)
        finally:
            process.terminate()


def answers(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


# -- beside sshd ----------------------------------------------------------------------
#: Ours alone, sshd's with PAM alone, and what differs with every connection.
OWN = {"TELE_USER", "TELE_SESSION_ID", "MAIL"}
PAMS = {"MOTD_SHOWN", "XDG_SESSION_ID", "XDG_RUNTIME_DIR", "XDG_SESSION_TYPE"} | {
    "XDG_SESSION_CLASS", "DBUS_SESSION_BUS_ADDRESS",
}  # fmt: skip
CHANGING = {"SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY"}


@pytest.mark.parametrize("options", [(), ("-tt",)], ids=["pipes", "terminal"])
def test_the_environment_is_sshds(node: Server, sshd: Server, options: tuple[str, ...]) -> None:
    """The same variables with the same values."""

    def variables(server: Server) -> dict[str, str]:
        text = server.ssh("-oSetEnv=LC_TIME=C", *options, "env").stdout.decode()
        pairs = (line.partition("=") for line in text.splitlines())
        return {name: value for name, _, value in pairs}

    ours, theirs = variables(node), variables(sshd)
    assert set(ours) - set(theirs) == OWN
    assert set(theirs) - set(ours) <= PAMS
    same = set(ours) - OWN - CHANGING
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert len(ours["SSH_CONNECTION"].split()) == len(theirs["SSH_CONNECTION"].split()) == 4


@pytest.mark.parametrize(
    "command",
    [
        "pwd; umask; id; ulimit -c; ulimit -Sn; ulimit -Hn; echo $0 $-",
        "exit 300",
        "kill -SEGV $$",
        "kill -BUS $$",
        "trap '' INT; echo $$ | wc -w; exec true",
        "cat /proc/self/oom_score_adj; grep -E 'Sig(Blk|Ign|Cgt)|NoNewPrivs|Cap' /proc/self/status",
        "ls -l /proc/self/fd | wc -l",
        "no-such-command",
        "cat; exec >&-; echo err >&2",
    ],
)
def test_a_command_runs_as_under_sshd(node: Server, sshd: Server, command: str) -> None:
    """Output, errors and status are the same."""
    ours, theirs = node.ssh(command, data=b"in\n"), sshd.ssh(command, data=b"in\n")
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout), theirs.stderr
    assert ours.stderr == theirs.stderr


@pytest.mark.parametrize("command", ["stty -a", "exit 9", "tty | wc -l"])
def test_a_terminal_is_as_under_sshd(node: Server, sshd: Server, command: str) -> None:
    """The modes of a client's terminal arrive as they do under sshd."""
    with Screen(node.command("-tt", command), 33, 99) as ours:
        our_status = ours.ends()
    with Screen(sshd.command("-tt", command), 33, 99) as theirs:
        assert our_status == theirs.ends()
    assert ours.shown == theirs.shown


@pytest.mark.parametrize("kind", ["node", "sshd"])
def test_a_session_lasts_while_its_output_is_open(
    kind: str, request: pytest.FixtureRequest, place: Path
) -> None:
    """Without a terminal a session lasts while a process holds its output; with one it does not."""
    server: Server = request.getfixturevalue(kind)
    held = place / "held"
    os.mkfifo(held, 0o666)
    held.chmod(0o666)
    command = f"trap '' HUP; (read line < {held}; echo late) & echo started"
    with subprocess.Popen(server.command(command), stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"started\n"
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(1)
        release(held)
        assert client.stdout.readline() == b"late\n"
        assert client.wait(SECONDS) == 0
    done = server.ssh(f"(read line < {held}) >/dev/null 2>&1 & echo started")
    assert (done.returncode, done.stdout) == (0, b"started\n"), done.stderr
    release(held)
    with Screen(server.command("-tt", command)) as screen:
        screen.until(b"started")
        assert screen.ends() == 0
    release(held)


def release(held: Path) -> None:
    """Let the reader of the pipe go on."""

    def written() -> bool:
        try:
            pipe = os.open(held, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # it has no reader yet
            return False
        with open(pipe, "wb") as file:
            file.write(b"go on\n")
        return True

    wait_until(written)


# -- a user at a terminal -----------------------------------------------------------
@pytest.fixture
def screen(node: Server) -> Iterator[Screen]:
    """A shell in a session."""
    with Screen(node.command("-tt")) as screen:
        screen.type(b"PS1='> '; echo be''gin\n")
        screen.until(b"begin")
        screen.until(b"> ")
        yield screen


def test_control_characters(screen: Screen) -> None:
    """Ctrl-C, Ctrl-Z, fg, Ctrl-D and Ctrl-backslash do what they do at home."""
    wait = b"sh -c 'echo u\"\"p; exec sleep 1000'\n"
    screen.type(wait)
    screen.until(b"up\r\n")
    screen.type(b"\x03")
    screen.until(b"> ")
    screen.type(b"echo status $?; cat\n")
    screen.until(b"status 130\r\n")
    screen.type(b"line\n")
    screen.until(b"line\r\nline\r\n")
    screen.type(b"\x1a")
    screen.until(b"Stopped")
    screen.until(b"> ")
    screen.type(b"fg\n")
    screen.until(b"cat\r\n")
    screen.type(b"typed\n")
    screen.until(b"typed\r\ntyped\r\n")
    screen.type(b"\x04")
    screen.until(b"> ")
    screen.type(wait)
    screen.until(b"up\r\n")
    screen.type(b"\x1c")
    screen.until(b"Quit")
    screen.until(b"> ")
    screen.type(b"\x04")
    assert screen.ends() == 131


def test_resizing(screen: Screen) -> None:
    """The size follows the user's window, and programs get SIGWINCH."""
    screen.type(b"stty size\n")
    screen.until(b"24 80")
    # The terminal's foreground group gets SIGWINCH: in an interactive shell that is one command.
    script = b"trap 'echo changed $(stty size)' WINCH; echo se''t; while :; do sleep 0.1; done"
    screen.type(b'sh -c "' + script.replace(b"$", b"\\$") + b'"\n')
    screen.until(b"set")
    screen.resize(50, 132)
    screen.until(b"changed 50 132")
    screen.type(b"\x03")


def test_pasting_a_megabyte(screen: Screen) -> None:
    """All of a paste arrives, in order, however slowly it is read."""
    data = hashlib.shake_128(b"paste").hexdigest(500_000).encode()
    screen.type(
        b"stty raw -echo; echo rea''dy; sleep 0.3; head -c 1000000 | sha256sum; stty sane\n"
    )
    screen.until(b"ready")
    screen.type(data)
    screen.until(hashlib.sha256(data).hexdigest().encode())


def test_tmux_outlives_the_connection(node: Server) -> None:
    """A full-screen program works; what runs in it is there after the client has gone."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    tmux = "tmux -L test -f /dev/null"
    # A user does not type as fast as a test: what comes at once is no paste here.
    started = f"exec {tmux} new -s work ';' set -g assume-paste-time 0"
    try:
        with Screen(node.command("-tt", started)) as screen:
            screen.until(b"[work]")  # it forgets what was typed before
            screen.type(b"echo $$ > pid; echo in $((6 * 7))side\n")
            screen.until(b"in 42side")
            screen.type(b"\r~.")
            screen.ends()
        pid = int(node.ssh("cat pid").stdout)
        assert is_running(pid)
        with Screen(node.command("-tt", f"exec {tmux} attach -t work")) as screen:
            screen.until(b"in 42side")
            screen.type(b"\x02d")
            screen.until(b"detached")
            assert screen.ends() == 0
    finally:
        node.ssh(f"{tmux} kill-server")
    wait_until(lambda: not is_running(pid))


def test_hanging_up(screen: Screen, node: Server) -> None:
    """A client that goes away ends what is on the terminal; nohup lives on."""
    screen.type(b"nohup sleep 1000 >/dev/null 2>&1 & echo li''ves $!\n")
    screen.until(b"lives ")
    lives = int(screen.until(b"\r\n"))
    screen.type(b"sh -c 'echo di\"\"es $$; exec sleep 1000'\n")
    screen.until(b"dies ")
    dies = int(screen.until(b"\r\n"))
    wait_until(lambda: Path(f"/proc/{lives}/comm").read_text() == "sleep\n")
    screen.client.kill()
    wait_until(lambda: not is_running(dies))
    assert is_running(lives)
    assert node.ssh(f"kill {lives}").returncode == 0
    wait_until(lambda: not is_running(lives))


def test_a_client_that_dies_hangs_its_command_up(node: Server) -> None:
    """Unlike under sshd a command without a terminal does not run on unseen."""
    with subprocess.Popen(
        node.command("echo $$; exec sleep 1000"), stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        assert is_running(pid)
        client.kill()
    wait_until(lambda: not is_running(pid))


# -- what a certificate forces and withholds ------------------------------------------
@pytest.mark.parametrize(
    ("words", "asked"),
    [(("rm -rf /",), b"rm -rf /"), ((), b""), (("-s", "sftp"), b"sftp")],
    ids=["command", "shell", "subsystem"],
)
def test_a_forced_command(node: Server, words: tuple[str, ...], asked: bytes) -> None:
    """It runs in place of the requested command, which is in its environment, and its status is
    returned.
    """
    done = node.ssh(*words, key="forced")
    assert done.stdout == b"forced [" + asked + b"]\nnot a tty\n"
    assert done.returncode == 7


def test_a_forced_command_on_a_terminal(node: Server) -> None:
    """A forced command may have a terminal."""
    with Screen(node.command("-tt", "asked", key="forced")) as screen:
        screen.until(b"forced [asked]\r\n/dev/pts/")
        assert screen.ends() == 7


def test_forced_sftp(node: Server) -> None:
    """internal-sftp is the file server, whatever is requested, and nothing else."""
    for words in (("-s", "sftp"), ("id",), ()):
        with subprocess.Popen(
            node.command(*words, key="forced-sftp"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"\0\0\0\5\1\0\0\0\3")
            client.stdin.flush()
            assert client.stdout.read(9)[4:] == b"\2\0\0\0\3"
            client.stdin.close()
            client.stdout.read()
            assert client.wait(SECONDS) == 0


def test_no_terminal_without_permission(node: Server) -> None:
    """A terminal that is not permitted is refused; commands run without."""
    done = node.ssh("-tt", "tty", key="no-pty")
    assert (done.stdout, done.returncode) == (b"", 255)
    assert b"PTY allocation request failed" in done.stderr
    done = node.ssh("tty; exit 3", key="no-pty")
    assert (done.stdout, done.returncode) == (b"not a tty\n", 3)


# -- the spawner's death --------------------------------------------------------------
def test_sessions_outlive_the_spawner(node: Server) -> None:
    """It is killed: terminals and pipes go on, new sessions start, statuses are lost."""
    with (
        Screen(node.command("-tt")) as screen,
        subprocess.Popen(
            node.command("cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        screen.type(b"echo be''gin\n")
        screen.until(b"begin")
        client.stdin.write(b"one\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"one\n"
        first = node.spawner()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: node.spawner() != first)
        assert node.ssh("echo new; exit 5").returncode == 5
        screen.type(b"echo still $((6 * 7)); stty size\n")
        screen.until(b"still 42\r\n24 80")
        screen.resize(30, 90)
        screen.type(b"sleep 0.5; stty size\n")
        screen.until(b"30 90")
        client.stdin.write(b"two\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"two\n"
        client.stdin.close()
        assert client.wait(SECONDS) == 254
        screen.type(b"exit 3\n")
        assert screen.ends() == 254


def test_no_zombies(node: Server) -> None:
    """Ended processes are reaped by the spawner, and by no other process."""
    for _ in range(5):
        node.ssh("true & true & exit 1")
    spawner = node.spawner()
    children = Path(f"/proc/{spawner}/task/{spawner}/children")
    wait_until(lambda: len(children.read_text().split()) == PREPARED)
