"""A cluster of three processes on loopback, as an operator would run it."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import define, evolve, field

BIN = Path(sys.executable).parent
#: What notes calls that block; see there.
GUARD = Path(__file__).parent / "loop_guard"


def free_port() -> int:
    """Ask the kernel for a port on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: object, what: str, seconds: float = 30.0) -> None:
    """Wait until ``condition()`` is true; fail the test with ``what`` otherwise."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


@define
class Cluster:
    """Auth, proxy and node as separate processes, and one who is logged in."""

    folder: Path
    name: str = "interop"
    ports: dict[str, int] = field(factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(factory=dict)
    #: What stands before the command of a part, such as ``prlimit``.
    prefixes: Mapping[str, Sequence[str]] = field(factory=dict)
    #: The name of the folder in which ``tele`` keeps its logins.
    home: str = "home"
    pin: str = ""
    #: Whether each part notes what may block its reactor, in ``PART.blocking``.
    guarded: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What ``tele`` and ``ssh`` run with: nothing of the machine's own accounts."""
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("TELE_", "SSH_"))},
            "TELE_HOME": str(self.folder / self.home),
            "HOME": str(self.folder),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

    def tele(
        self, *args: str, check: bool = True, stdin: bytes | None = None, seconds: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``tele`` with these arguments."""
        done = subprocess.run(
            [str(BIN / "tele"), *args],
            env=self.environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"tele {' '.join(args)}: {done.returncode}\n{done.stderr.decode()}\n{self.logs()}"
        )
        return done

    def ssh(
        self, *args: str, check: bool = True, stdin: bytes | None = None, seconds: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run OpenSSH's client with the cluster's configuration."""
        return self.client("ssh", *args, check=check, stdin=stdin, seconds=seconds)

    def client(
        self,
        program: str,
        *args: str,
        check: bool = True,
        stdin: bytes | None = None,
        seconds: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ssh, scp or sftp with the cluster's configuration."""
        done = subprocess.run(
            [program, "-F", str(self.ssh_config), *args],
            env=self.environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{program} {args}: {done.returncode}\n{done.stderr.decode()}\n{self.logs()}"
        )
        return done

    @property
    def ssh_config(self) -> Path:
        """The file that ``tele config`` printed."""
        return self.folder / f"ssh_config.{self.home}"

    def person(self, name: str, *roles: str, login: str = "") -> Cluster:
        """Make one more user with these roles, and return the cluster as that user has it.

        The user's OS account is ``login``, or the one that runs the tests.
        """
        password = self.folder / f"{name}.password"
        password.touch(0o600)
        password.write_text(f"correct horse battery staple of {name}")
        login = login or pwd.getpwuid(os.geteuid()).pw_name
        local = ("--config", str(self.folder / "auth.yaml"))
        args = ["--role", ",".join(roles), "--login", login, "--password-file", str(password)]
        self.tele("users", "add", name, *args, *local)
        made = evolve(self, home=f"home.{name}")
        made.tele(
            "login", "--proxy", f"127.0.0.1:{self.ports['proxy']}", "--user", name,
            "--password-file", str(password), "--ca-pin", self.pin,
        )  # fmt: skip
        made.ssh_config.write_bytes(made.tele("config").stdout)
        return made

    @property
    def host(self) -> str:
        """The node's name for OpenSSH."""
        return f"web1.{self.name}"

    def start(self, part: str) -> None:
        """Start one part again, or for the first time; digits make another one of a kind."""
        log = (self.folder / f"{part}.log").open("ab")
        guard = {"PYTHONPATH": str(GUARD), "LOOP_GUARD": str(self.folder / f"{part}.blocking")}
        self.processes[part] = subprocess.Popen(
            [
                *self.prefixes.get(part, ()),
                str(BIN / "twistd"),
                "-n",
                "--pidfile=",
                f"tele-{part.rstrip('0123456789')}",
                "--config",
                str(self.folder / f"{part}.yaml"),
            ],
            env={**self.environment, **(guard if self.guarded else {})},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        if self.ports[part]:
            self.wait_listening(part)

    def wait_listening(self, part: str) -> None:
        """Wait until the part's port answers."""

        def listens() -> bool:
            process = self.processes[part]
            assert process.poll() is None, f"{part} ended: {process.returncode}\n{self.logs()}"
            with socket.socket() as probe:
                probe.settimeout(1)
                return probe.connect_ex(("127.0.0.1", self.ports[part])) == 0

        wait_for(listens, f"{part} to listen\n{self.logs()}", 90)

    def kill(self, part: str) -> None:
        """Kill one part without warning."""
        process = self.processes.pop(part)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """End all parts, politely first."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def logs(self) -> str:
        """The ends of all logs, for the message of a failed test."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    def write(self, name: str, lines: Sequence[str]) -> None:
        """Write a configuration file."""
        (self.folder / name).write_text("\n".join(lines) + "\n")

    def online(self) -> bool:
        """Whether the node is shown as online."""
        done = self.tele("ls", "--format", "json", check=False)
        return done.returncode == 0 and any(
            node["name"] == "web1"
            and node["status"] == "online"
            and (node["addresses"] or node["tunnels"])
            for node in json.loads(done.stdout)
        )


def make_cluster(
    folder: Path,
    *,
    tunnel: bool = False,
    prefixes: Mapping[str, Sequence[str]] | None = None,
    guarded: bool = False,
    suite: str = "ed25519",
    settings: Sequence[str] = (),
    auth_settings: str = "",
    metrics: str = "off",
) -> Cluster:
    """Start a whole cluster in ``folder`` and log its administrator in.

    With ``tunnel`` the node knows only the proxy, and binds no port. ``prefixes`` are commands
    that run parts. ``guarded``: see :class:`Cluster`. ``suite`` is the algorithm of the cluster's
    SSH keys; ``settings`` are lines for both the proxy and the node, ``auth_settings`` keys of
    auth, and ``metrics`` is where each part serves its numbers.
    """
    cluster = Cluster(folder, prefixes=prefixes or {}, guarded=guarded)
    cluster.ports = {part: free_port() for part in ("auth", "proxy", "node")}
    auth, proxy, node = (cluster.ports[p] for p in ("auth", "proxy", "node"))
    cluster.write(
        "auth.yaml",
        [
            "version: v1",
            f"data_dir: {folder}/auth",
            f"auth: {{cluster_name: {cluster.name}, listen: '127.0.0.1:{auth}',",
            f"  metrics: '{metrics}',",
            f"  signature_algorithm_suite: {suite}{auth_settings and ', '}{auth_settings}}}",
        ],
    )
    cluster.start("auth")
    local = ("--config", str(folder / "auth.yaml"))
    token = json.loads(
        cluster.tele("tokens", "add", "--role", "proxy,node", "--format", "json", *local).stdout
    )
    (folder / "token").touch(0o600)
    (folder / "token").write_text(token["token"])
    cluster.pin = token["ca_pin"]
    join = f"token_file: {folder}/token, ca_pin: '{token['ca_pin']}'"
    cluster.write(
        "proxy.yaml",
        [
            "version: v1",
            f"data_dir: {folder}/proxy",
            "proxy:",
            f"  listen: 127.0.0.1:{proxy}",
            f"  public_addr: 127.0.0.1:{proxy}",
            f"  metrics: '{metrics}'",
            f"  join: {{auth: '127.0.0.1:{auth}', {join}}}",
            *(f"  {line}" for line in settings),
        ],
    )
    if tunnel:
        cluster.ports["node"] = 0
        listens = [f"  join: {{proxy: '127.0.0.1:{proxy}', {join}}}"]
    else:
        listens = [f"  listen: 127.0.0.1:{node}", f"  join: {{auth: '127.0.0.1:{auth}', {join}}}"]
    cluster.write(
        "node.yaml",
        [
            "version: v1",
            f"data_dir: {folder}/node",
            "node:",
            "  name: web1",
            "  labels: {env: test}",
            f"  metrics: '{metrics}'",
            *listens,
            *(f"  {line}" for line in settings),
        ],
    )
    cluster.start("proxy")
    cluster.start("node")
    alice = cluster.person("alice", "access", "editor", "auditor")
    wait_for(alice.online, "the node to be online")
    return alice
