"""Real clients in sessions of ours: OpenSSH, asyncssh and paramiko, to the byte."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest
from attrs import define

HERE = Path(__file__).parent
MEGABYTE = 1 << 20
SECONDS = 60


@define
class Server:
    """A running server, and the configuration of its clients."""

    process: subprocess.Popen[str]
    folder: Path
    port: int = 0

    def command(self, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """OpenSSH's client with our credentials and nothing else."""
        settings = [
            *(option for option in options if not option.startswith("-")),
            "User=root",
            f"UserKnownHostsFile={self.folder}/known_hosts",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
            "LogLevel=ERROR",
        ]
        command = ["ssh", "-F", "none", "-p", str(self.port), "-i", str(self.folder / "ed25519")]
        command += [option for option in options if option.startswith("-")]
        command += [part for setting in settings for part in ("-o", setting)]
        return [*command, "127.0.0.1", *arguments]

    def ssh(
        self, *arguments: str, options: tuple[str, ...] = (), data: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it until it exits."""
        return subprocess.run(
            self.command(*arguments, options=options),
            input=data,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )

    def reported(self, key: str) -> Any:
        """Return the next value that the server reports for ``key``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            report = json.loads(line)
            if key in report:
                return report[key]
        raise AssertionError(f"the server ended without saying {key}")

    def resident(self) -> int:
        """Return the server's resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def descriptors(self) -> int:
        """Return the number of the server's open files."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def asyncssh(self) -> Any:
        """Return a connection of asyncssh's to be awaited."""
        authority = (self.folder / "hosts_authority.pub").read_text()
        return asyncssh.connect(
            "127.0.0.1",
            self.port,
            username="root",
            client_keys=[str(self.folder / "ed25519")],
            known_hosts=asyncssh.import_known_hosts(f"@cert-authority * {authority}"),
            config=None,
        )

    @contextmanager
    def paramiko(self) -> Iterator[paramiko.Transport]:
        """A transport of paramiko's that is logged in."""
        key = paramiko.Ed25519Key.from_private_key_file(str(self.folder / "ed25519"))
        key.load_certificate(str(self.folder / "ed25519-cert.pub"))
        with closing(paramiko.Transport(("127.0.0.1", self.port))) as transport:
            transport.connect(username="root", pkey=key)
            yield transport


@contextmanager
def running(folder: Path, **environment: str) -> Iterator[Server]:
    """Run a server until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "sessions_server.py"), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    server = Server(process, folder)
    try:
        server.port = server.reported("port")
        yield server
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for this file."""
    with running(tmp_path_factory.mktemp("sessions")) as server:
        yield server


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until ``condition()`` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_stalled(pid: int) -> bool:
    """Whether a client has read a window of output, and reads no more for half a second."""

    def have_read() -> int:
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])

    before = have_read()
    time.sleep(0.5)
    return have_read() == before > MEGABYTE


def noise(size: int) -> bytes:
    """Return bytes in which a missing, doubled or moved piece shows."""
    return hashlib.shake_128(b"noise").digest(min(size, MEGABYTE)) * max(1, size // MEGABYTE)


# -- OpenSSH --------------------------------------------------------------------------
@pytest.mark.parametrize("status", [0, 1, 42, 254])
def test_openssh_gets_the_exit_status(server: Server, status: int) -> None:
    """Both outputs and the status of a command."""
    done = server.ssh(f"echo out; echo err >&2; exit {status}")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", status)


def test_openssh_reports_a_signal(server: Server) -> None:
    """A killed command ends the client as under sshd."""
    assert server.ssh("echo before; kill -TERM $$").returncode == 255


@pytest.mark.parametrize("size", [0, 1, 50 * MEGABYTE])
def test_openssh_moves_every_byte(server: Server, size: int) -> None:
    """Input, output and both at once: nothing, a byte, fifty megabytes."""
    data = noise(size)[:size]
    up = server.ssh("sha256sum", data=data)
    assert up.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    through = server.ssh("cat", data=data)
    assert through.stdout == data
    assert (up.returncode, through.returncode) == (0, 0)


def test_openssh_gets_both_outputs_whole(server: Server) -> None:
    """Megabytes on standard error and standard output at once."""
    done = server.ssh(
        "head -c 9000000 /dev/zero >&2 & head -c 9000000 /dev/zero | tr '\\0' x; wait"
    )
    assert (len(done.stdout), len(done.stderr)) == (9_000_000, 9_000_000)
    assert set(done.stdout) == {ord("x")}


@pytest.mark.parametrize("size", [8_000_000, 5_000_000])
def test_openssh_reading_slowly_loses_nothing(server: Server, size: int) -> None:
    """The whole output arrives though the program exited long before: Conch's server cut it off."""
    command = server.command(f"head -c {size} /dev/zero")
    done = subprocess.run(
        ["sh", "-c", '"$@" | (sleep 1.5; wc -c)', "sh", *command],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert int(done.stdout) == size


def test_openssh_that_does_not_read_costs_little(server: Server) -> None:
    """A client that is stopped: memory stays, and others are served meanwhile."""
    with subprocess.Popen(server.command("yes"), stdout=subprocess.PIPE) as client:
        until(lambda: has_stalled(client.pid), SECONDS)
        before = server.resident()
        for _ in range(3):
            assert server.ssh("echo other").stdout == b"other\n"
        assert client.poll() is None
        assert has_stalled(client.pid)
        assert server.resident() - before < 8 * MEGABYTE
        client.kill()
        assert client.stdout is not None
        client.stdout.close()
    server.reported("hung_up")


def test_a_program_that_does_not_read_costs_little(server: Server) -> None:
    """Four hundred megabytes for a program that sleeps: one window is queued."""
    before = server.resident()
    feed = "head -c 400000000 /dev/zero"
    command = server.command("sleep 1")
    done = subprocess.run(
        ["sh", "-c", f'{feed} | "$@"', "sh", *command],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0
    assert server.resident() - before < 12 * MEGABYTE


def test_openssh_learns_that_the_reader_is_gone(server: Server) -> None:
    """A program that closes its input continues; the client stops sending, and exits with it."""
    done = server.ssh("exec <&-; sleep 0.3; echo done; exit 3", data=bytes(20 * MEGABYTE))
    assert (done.stdout, done.returncode) == (b"done\n", 3)


def test_openssh_shell_without_a_terminal(server: Server) -> None:
    """A shell that reads its commands from standard input."""
    done = server.ssh(data=b"echo hello\ntest -t 0 || echo no terminal\nexit 5\n")
    assert (done.stdout, done.returncode) == (b"hello\nno terminal\n", 5)


def test_openssh_with_a_terminal(server: Server) -> None:
    """A terminal of the size, kind and modes of the client's; one stream; the status."""
    primary, secondary = pty.openpty()
    with closing(os.fdopen(primary, "rb", 0)) as screen:
        set_size(secondary, 33, 101)
        client = subprocess.Popen(
            server.command("stty size; echo $TERM; tty; echo err >&2; exit 6", options=("-tt",)),
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            env=os.environ | {"TERM": "vt100"},
            start_new_session=True,
        )
        os.close(secondary)
        shown = read_all(screen.fileno())
        assert client.wait(SECONDS) == 6
    lines = shown.split(b"\r\n")
    assert lines[:2] == [b"33 101", b"vt100"]
    assert lines[2].startswith(b"/dev/pts/")
    assert lines[3] == b"err"


def test_openssh_sends_a_new_size(server: Server) -> None:
    """A new size of the client's terminal reaches the program."""
    primary, secondary = pty.openpty()
    with closing(os.fdopen(primary, "rb", 0)) as screen:
        set_size(secondary, 20, 60)
        program = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.1; done"
        client = subprocess.Popen(
            server.command(program, options=("-tt",)),
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            start_new_session=True,
        )
        shown = b""
        while b"ready" not in shown:
            shown += os.read(screen.fileno(), 1000)
        set_size(secondary, 41, 141)
        client.send_signal(signal.SIGWINCH)
        os.close(secondary)
        shown += read_all(screen.fileno())
        assert b"41 141" in shown
        assert client.wait(SECONDS) == 0


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Give a terminal a size."""
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_all(terminal: int) -> bytes:
    """Return what a terminal shows until it is closed."""
    shown = b""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 1)
        if ready:
            try:
                piece = os.read(terminal, 4096)
            except OSError:
                return shown
            if not piece:
                return shown
            shown += piece
    raise AssertionError("the terminal is still held")


def test_openssh_with_a_terminal_moves_every_byte(server: Server) -> None:
    """Ten megabytes of output through a terminal in raw mode, and the shell's last output."""
    done = server.ssh("stty raw; head -c 10000000 /dev/zero; echo end", options=("-tt",))
    assert len(done.stdout) == 10_000_004
    assert done.stdout.endswith(b"end\n")


def test_openssh_ends_with_its_shell(server: Server) -> None:
    """With a terminal a process in the background does not hold the session."""
    stays = "(trap '' HUP; exec sleep 1000)"
    done = server.ssh(f"trap '' HUP; {stays} & echo started $!", options=("-tt",))
    started, pid = done.stdout.split()
    os.kill(int(pid), signal.SIGKILL)  # it is there still
    assert started == b"started"


def test_openssh_sets_what_it_may(server: Server) -> None:
    """SetEnv, as far as the server allows."""
    done = server.ssh("echo $LC_TEST-$FORBIDDEN", options=("SetEnv=LC_TEST=yes FORBIDDEN=no",))
    assert done.stdout == b"yes-\n"


def test_openssh_shows_that_there_is_no_subsystem(server: Server) -> None:
    """The reason is on standard error, and the status is a failure."""
    done = server.ssh("nosuch", options=("-s",))
    assert b"there is no subsystem 'nosuch'" in done.stderr
    assert done.returncode not in (0, 255)


def test_openssh_that_is_killed_hangs_up(server: Server) -> None:
    """Its program gets SIGHUP, and all its descriptors are closed."""
    assert server.ssh("true").returncode == 0
    before = server.descriptors()
    client = subprocess.Popen(server.command("echo $$; sleep 300"), stdout=subprocess.PIPE)
    assert client.stdout is not None
    pid = int(client.stdout.readline())
    client.kill()
    client.wait()
    client.stdout.close()
    assert server.reported("hung_up") == pid
    until(lambda: not Path(f"/proc/{pid}").exists())
    until(lambda: server.descriptors() <= before)


def test_openssh_shares_a_connection(server: Server, tmp_path: Path) -> None:
    """Many sessions at once over one connection, with bulk among them."""
    control = tmp_path / "mux"
    options = (f"ControlPath={control}", "ControlMaster=auto", "ControlPersist=yes")
    assert server.ssh("true", options=options).returncode == 0
    try:
        commands = [f"head -c {n}000000 /dev/zero; exit {n}" for n in range(1, 9)]
        clients = [
            subprocess.Popen(
                server.command(command, options=options),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            for command in commands
        ]
        for number, client in enumerate(clients, 1):
            output, _ = client.communicate(timeout=SECONDS)
            assert (len(output), client.returncode) == (number * 1_000_000, number)
    finally:
        server.ssh(options=(*options, "-Oexit"))


def test_openssh_with_its_keys_renewed(tmp_path: Path) -> None:
    """Sessions lose nothing while keys are exchanged every few megabytes, by either side."""
    with running(tmp_path, REKEY_OCTETS=str(3 * MEGABYTE)) as server:
        data = noise(30 * MEGABYTE)
        assert server.ssh("cat", data=data).stdout == data
        assert server.ssh("cat", data=data, options=("RekeyLimit=2M",)).stdout == data


# -- forwarding -----------------------------------------------------------------------
@contextmanager
def echo_server() -> Iterator[int]:
    """A port that sends back what it gets, and ends when its client does."""

    def serve(connected: socket.socket) -> None:
        with connected:
            while data := connected.recv(65536):
                connected.sendall(data)

    def accept() -> None:
        while True:
            try:
                connected, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connected,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("size", [0, 1, 20 * MEGABYTE])
def test_openssh_jumps(server: Server, size: int) -> None:
    """``-W`` carries every byte both ways, and ends when both sides have."""
    data = noise(size)[:size]
    with echo_server() as port:
        done = server.ssh(options=(f"-W127.0.0.1:{port}",), data=data)
    assert done.stdout == data
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("127.0.0.1:1", b"refused"),
        ("forbidden.example:22", b"administratively prohibited: you may not go there"),
        ("offline.example:22", b"node offline.example is offline since yesterday"),
    ],
)
def test_openssh_shows_why_it_cannot_jump(server: Server, target: str, reason: bytes) -> None:
    """The true reason reaches the user."""
    done = server.ssh(options=(f"-W{target}", "LogLevel=INFO"))
    assert reason in done.stderr
    assert done.returncode == 255


def test_openssh_logs_in_through_us(server: Server) -> None:
    """SSH within SSH: a jump through the server to itself, with bulk."""
    jump = " ".join(server.command(options=(f"-W127.0.0.1:{server.port}",)))
    data = noise(20 * MEGABYTE)
    done = server.ssh("cat", options=(f"ProxyCommand={jump}",), data=data)
    assert done.stdout == data


def test_a_forward_that_is_not_read_costs_little(server: Server) -> None:
    """A target that does not read: the client stops, and so does our memory."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        before = server.resident()
        with subprocess.Popen(
            server.command(options=(f"-W127.0.0.1:{port}",)), stdin=subprocess.PIPE
        ) as client:
            connected, _ = listening.accept()
            assert client.stdin is not None
            os.set_blocking(client.stdin.fileno(), False)
            for _ in range(100):
                try:
                    os.write(client.stdin.fileno(), bytes(MEGABYTE))
                except BlockingIOError:
                    time.sleep(0.01)
            assert server.resident() - before < 12 * MEGABYTE
            client.kill()
            client.stdin.close()
            connected.close()


# -- asyncssh -------------------------------------------------------------------------
def test_asyncssh_in_sessions(server: Server) -> None:
    """Bulk both ways, signals, a break, sizes, exits, many at once."""

    async def work() -> None:
        async with server.asyncssh() as connection:
            data = noise(10 * MEGABYTE)
            done = await connection.run("cat", input=data, encoding=None)
            assert done.stdout == data
            many = await asyncio.gather(
                *(connection.run(f"echo {n}; echo e{n} >&2; exit {n}") for n in range(8))
            )
            assert [(r.stdout, r.stderr, r.exit_status) for r in many] == [
                (f"{n}\n", f"e{n}\n", n) for n in range(8)
            ]
            process = await connection.create_process("echo ready; exec sleep 60")
            assert await process.stdout.readline() == "ready\n"
            process.send_signal("USR1")
            await process.wait()
            assert process.exit_signal[0] == "USR1"
            process = await connection.create_process(
                "trap 'stty size; exit 9' WINCH; echo ready; while :; do sleep 0.1; done",
                term_type="xterm",
                term_size=(70, 30),
            )
            assert await process.stdout.readline() == "ready\r\n"
            process.send_break(100)
            process.change_terminal_size(90, 40)
            assert await process.stdout.readline() == "40 90\r\n"
            await process.wait()
            assert process.exit_status == 9

    asyncio.run(asyncio.wait_for(work(), SECONDS))


def test_asyncssh_may_not_open_more(server: Server) -> None:
    """The eleventh session is refused with the reason; the ten continue."""

    async def work() -> None:
        async with server.asyncssh() as connection:
            cats = [await connection.create_process("cat") for _ in range(10)]
            with pytest.raises(asyncssh.ChannelOpenError, match="no more than 10 sessions"):
                await connection.create_process("cat")
            for number, cat in enumerate(cats):
                cat.stdin.write(f"{number}\n")
                assert await cat.stdout.readline() == f"{number}\n"
                cat.stdin.write_eof()
                await cat.wait()
            assert (await connection.run("echo again")).stdout == "again\n"

    asyncio.run(asyncio.wait_for(work(), SECONDS))


def test_asyncssh_forwards(server: Server) -> None:
    """A direct connection through the server, with an end of each direction of its own."""

    async def work() -> None:
        with echo_server() as port:
            async with server.asyncssh() as connection:
                reader, writer = await connection.open_connection("127.0.0.1", port, encoding=None)
                data = noise(5 * MEGABYTE)
                writer.write(data)
                writer.write_eof()
                assert await reader.read() == data
                writer.close()

    asyncio.run(asyncio.wait_for(work(), SECONDS))


# -- paramiko -------------------------------------------------------------------------
def test_paramiko_in_sessions(server: Server) -> None:
    """Bulk both ways, standard error, a terminal with a new size, statuses."""
    with server.paramiko() as transport:
        channel = transport.open_session()
        channel.exec_command("cat; echo err >&2; exit 4")
        data, got = noise(5 * MEGABYTE), bytearray()

        def send() -> None:
            channel.sendall(data)
            channel.shutdown_write()

        sender = threading.Thread(target=send)
        sender.start()
        while piece := channel.recv(65536):
            got += piece
        sender.join()
        assert got == data
        assert channel.recv_stderr(100) == b"err\n"
        assert channel.recv_exit_status() == 4

        channel = transport.open_session()
        channel.get_pty("xterm", 77, 22)
        channel.invoke_shell()
        channel.sendall(b"stty size\n")
        shown = b""
        while b"22 77" not in shown:
            shown += channel.recv(1000)
        channel.resize_pty(99, 44)
        channel.sendall(b"stty size\nexit 7\n")
        while piece := channel.recv(1000):
            shown += piece
        assert b"44 99" in shown
        assert channel.recv_exit_status() == 7


def test_paramiko_forwards(server: Server) -> None:
    """A direct channel, and one that is refused."""
    with echo_server() as port, server.paramiko() as transport:
        channel = transport.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 1))
        channel.sendall(b"hello")
        channel.shutdown_write()
        assert channel.recv(100) == b"hello"
        assert channel.recv(100) == b""
        channel.close()
        with pytest.raises(paramiko.ChannelException):
            transport.open_channel("direct-tcpip", ("forbidden.example", 22), ("127.0.0.1", 1))
        transport.send_ignore(100)
        assert transport.global_request("keepalive@openssh.com", wait=True) is None
        assert transport.is_active()
