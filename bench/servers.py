"""Which servers are compared? A tele node and OpenSSH's sshd, at one address, same keys.

Both accept user certificates of one authority and have a host certificate, so that a
login costs both the same kind of work.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

BIN = Path(sys.executable).parent
TICKS = os.sysconf("SC_CLK_TCK")
LOOPBACK = "127.0.0.1"
#: Processes of a connection end after the client does.
SETTLE_SECONDS = 1.0
#: Runs a program and waits for its orphans: a process of each of sshd's connections becomes one,
#: and its CPU would be counted nowhere.
REAPER = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
child = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
while os.wait()[0] != child:
    pass
"""


@frozen
class Process:
    """One process of a server, and CPU seconds of itself and of children that ended."""

    pid: int
    own: float
    ended: float


@frozen
class Spent:
    """What something took: seconds on the wall, and of the server's CPU."""

    wall: float
    cpu: float


@frozen
class Server:
    """A running server: its port, its process, and how ssh is told to log in.

    ``within`` is a command that runs clients elsewhere, in another network namespace.
    """

    name: str
    port: int
    pid: int
    options: tuple[str, ...]
    host: str = LOOPBACK
    within: tuple[str, ...] = ()

    def command(self, *words: str, options: tuple[str, ...] = ()) -> list[str]:
        """The ssh command that runs ``words`` there."""
        return [*self.within, "ssh", *self.where("-p"), *options, self.host, *words]

    def where(self, port: str) -> list[str]:
        """What ssh, sftp or scp has to be told; ``port`` is how it calls that option."""
        return ["-F", "none", port, str(self.port), *self.options]

    def processes(self) -> list[Process]:
        """What runs of it now, sessions included."""
        parents: dict[int, int] = {}
        found: dict[int, Process] = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            fields = text[text.rindex(")") + 2 :].split()
            parents[int(entry)] = int(fields[1])
            own, ended = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
            found[int(entry)] = Process(int(entry), own / TICKS, ended / TICKS)
        ours = {self.pid}
        while True:
            more = {p for p, parent in parents.items() if parent in ours} - ours
            if not more:
                return [process for process in found.values() if process.pid in ours]
            ours |= more

    def cpu(self, *, ended: bool = False) -> dict[int, float]:
        """CPU seconds so far of what lives, by pid; or also of what they waited for."""
        return {p.pid: p.own + (p.ended if ended else 0) for p in self.processes()}

    def spend(self, doing: Callable[[], None], *, ended: bool = False) -> Spent:
        """Measure what ``doing`` costs: CPU of processes that live when it returns, or with
        ``ended`` also of those that end with it.
        """
        before, began = self.cpu(ended=ended), time.monotonic()
        doing()
        wall = time.monotonic() - began
        if ended:
            time.sleep(SETTLE_SECONDS)
            return Spent(wall, sum(self.cpu(ended=True).values()) - sum(before.values()))
        after = self.cpu()
        return Spent(wall, sum(cpu - before.get(pid, 0.0) for pid, cpu in after.items()))

    def memory(self) -> int:
        """Bytes of memory that are there because of it: what is shared counts in part."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(OSError):
                rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                total += int(rollup.split("\nPss:")[1].split()[0]) * 1024
        return total


def free_port(host: str = LOOPBACK) -> int:
    """Ask the kernel for a port."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_listening(
    port: int, process: subprocess.Popen[bytes], host: str = LOOPBACK, seconds: float = 30
) -> None:
    """Wait until ``port`` answers; raises RuntimeError when the server has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen on {port}")


def run(*words: str, **environment: str) -> bytes:
    """Run a command to its end; its output."""
    done = subprocess.run(
        words, check=False, capture_output=True, env={**os.environ, **environment}
    )
    if done.returncode:
        raise RuntimeError(f"{words}: {done.returncode}\n{done.stderr.decode()}")
    return done.stdout


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server that we started."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def account() -> Iterator[str]:
    """An account to log in to, with a plain shell: what root's own shell reads at its start
    would be measured instead of the servers. An ordinary user can only use their own.
    """
    if os.geteuid() != 0:
        yield pwd.getpwuid(os.geteuid()).pw_name
        return
    name = f"telebench{os.getpid()}"
    # Without a password, but not locked: sshd refuses locked accounts.
    run("useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", name)
    try:
        yield name
    finally:
        # Their last processes may still be ending.
        deadline = time.monotonic() + 10
        while subprocess.run(["pgrep", "-u", name], check=False, capture_output=True).stdout:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        run("userdel", "--remove", name)


@contextmanager
def sshd(
    folder: Path,
    options: tuple[str, ...],
    user_authority: Path,
    host: str = LOOPBACK,
    sign: Callable[[Path], None] | None = None,
) -> Iterator[Server]:
    """OpenSSH's sshd with a host key and the cluster's user authority.

    ``sign`` makes ``host-cert.pub`` of ``host.pub`` in a folder; else an authority of its own does.
    """
    port = free_port(host)
    for name in ("host", "host-ca"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    authority, public = str(folder / "host-ca"), str(folder / "host.pub")
    if sign is None:
        run("ssh-keygen", "-q", "-s", authority, "-h", "-I", "bench", "-n", host, public)
    else:
        sign(folder)
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress {host}\nHostKey {folder}/host\n"
        f"HostCertificate {folder}/host-cert.pub\nPidFile none\n"
        f"TrustedUserCAKeys {user_authority}\nAuthorizedKeysFile none\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
        "PermitRootLogin yes\nMaxStartups 500:30:1000\nMaxSessions 100\nStrictModes no\n"
        "Subsystem sftp /usr/lib/openssh/sftp-server\n"
    )
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise RuntimeError("sshd is not installed: apt-get install openssh-server")
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-ISc", REAPER, program, "-D", "-e", "-f", str(config)],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_listening(port, process, host)
        yield Server("sshd", port, process.pid, options, host)
    finally:
        stop(process)


@frozen
class Fleet:
    """A cluster's auth and the credentials of one user, for nodes to join and be measured.

    ``programs`` is where tele's commands are.
    """

    folder: Path
    login: str
    options: tuple[str, ...]
    user_authority: Path
    token_file: Path
    pin: str
    auth_port: int
    auth_pid: int
    programs: Path = BIN


@contextmanager
def auth(folder: Path, mode: str, login: str, programs: Path = BIN) -> Iterator[Fleet]:
    """A tele auth whose cluster records in ``mode``; ``programs`` has the commands of a tele."""
    port = free_port()
    config = folder / "auth.yaml"
    config.write_text(
        f"version: v1\ndata_dir: {folder}/auth\nauth:\n  cluster_name: bench\n"
        f"  listen: 127.0.0.1:{port}\n  session_recording: {{mode: {mode}}}\n"
    )
    log = (folder / "auth.log").open("wb")
    process = subprocess.Popen(
        [str(programs / "twistd"), "-n", "--pidfile=", "tele-auth", "--config", str(config)],
        stdout=log, stderr=log, cwd=folder,
    )  # fmt: skip
    try:
        wait_listening(port, process)
        tele, local = str(programs / "tele"), ("--config", str(config))
        token = json.loads(run(tele, "tokens", "add", "--role", "node", "--format", "json", *local))
        (folder / "token").touch(0o600)
        (folder / "token").write_text(token["token"])
        add_user(folder, "bench", login, "key", programs)
        (folder / "user-ca").write_bytes(run(tele, "ca", "export", "--type", "user", *local))
        options = (
            "-o", f"User={login}",
            "-i", str(folder / "key"),
            "-o", f"CertificateFile={folder}/key-cert.pub",
            "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR", "-c", "aes128-gcm@openssh.com",
        )  # fmt: skip
        yield Fleet(
            folder, login, options, folder / "user-ca", folder / "token", token["ca_pin"], port,
            process.pid, programs,
        )  # fmt: skip
    finally:
        stop(process)
        log.close()


def add_user(folder: Path, name: str, login: str, key: str, programs: Path = BIN) -> Path:
    """Add a user to the cluster in ``folder``; returns the path of the new key ``key``.

    Its certificate is beside it.
    """
    tele, local = str(programs / "tele"), ("--config", f"{folder}/auth.yaml")
    path = folder / key
    run(tele, "users", "add", name, "--role", "access", "--login", login, *local)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
    signed = run(tele, "ca", "sign-user", f"{path}.pub", "--user", name, *local)
    path.with_name(f"{key}-cert.pub").write_bytes(signed)
    return path


@contextmanager
def node(fleet: Fleet, name: str = "tele", host: str = LOOPBACK) -> Iterator[Server]:
    """A tele node of the fleet."""
    port = free_port(host)
    config = fleet.folder / "node.yaml"
    config.write_text(
        f"version: v1\ndata_dir: {fleet.folder}/node\nnode:\n  name: bench\n"
        f"  listen: {host}:{port}\n"
        f"  join: {{auth: '127.0.0.1:{fleet.auth_port}', token_file: {fleet.token_file},"
        f" ca_pin: '{fleet.pin}'}}\n"
    )
    log = (fleet.folder / "node.log").open("wb")
    process = subprocess.Popen(
        [str(fleet.programs / "twistd"), "-n", "--pidfile=", "tele-node", "--config", str(config)],
        stdout=log, stderr=log, cwd=fleet.folder,
    )  # fmt: skip
    try:
        wait_listening(port, process, host)
        yield Server(name, port, process.pid, fleet.options, host)
    finally:
        stop(process)
        log.close()
