"""How fast is a proxy, beside sshd as a jump host and ``ssh -R``, in the same run?

    python bench/tunnels.py [--only jump,tunnel,agents] [--rounds 3] [--agents 2000] ...

Prints JSON: for each measure the medians of both over interleaved rounds, and tele's over
OpenSSH's. CPU is that of the one in the middle: the proxy, or the sshd that is jumped through.

jump     through a proxy, and through an sshd (ssh -J), to the same node: bulk data, and logins by
         ssh; limit: MB/s and logins/s at least 1, cpu_s/GB and ssh_cpu_ms (of a login) at most 0.8
tunnel   the same through a proxy to a node that dialled it, and through an sshd to an sshd that is
         behind ``ssh -R``; limit: MB/s and logins/s at least 1
agents   so many nodes with a tunnel to one proxy: its memory and its CPU when idle, and how long it
         takes until all reconnect after it was killed and started again
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import evolve, frozen

import sessions
import transfers
from all import Figures, measure
from servers import BIN, Fleet, Server, account, auth, free_port, node, run, sshd, stop
from servers import wait_listening as wait

AGENTS = Path(__file__).with_name("agents.py")


@frozen
class Proxy:
    """A running proxy and how it is started again."""

    port: int
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes]


def twistd(fleet: Fleet, part: str, name: str, text: str) -> subprocess.Popen[bytes]:
    """Start a part of the cluster with a configuration of its own."""
    config = fleet.folder / f"{name}.yaml"
    config.write_text(f"version: v1\ndata_dir: {fleet.folder}/{name}\n{text}")
    with (fleet.folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [str(BIN / "twistd"), "-n", "--pidfile=", f"tele-{part}", "--config", str(config)],
            stdout=log, stderr=log, cwd=fleet.folder,
        )  # fmt: skip


def token_of(fleet: Fleet) -> Path:
    """Make a token that is good for proxies, and for many nodes."""
    args = ("tokens", "add", "--role", "proxy,node", "--ttl", "2h", "--format", "json")
    made = json.loads(run(str(BIN / "tele"), *args, "--config", f"{fleet.folder}/auth.yaml"))
    path = fleet.folder / "token2"
    path.touch(0o600)
    path.write_text(made["token"])
    return path


@contextmanager
def proxy(fleet: Fleet, token: Path) -> Iterator[Proxy]:
    """A tele proxy."""
    port = free_port()
    text = (
        f"proxy:\n  name: jump\n  listen: 127.0.0.1:{port}\n  public_addr: 127.0.0.1:{port}\n"
        f"  join: {{auth: '127.0.0.1:{fleet.auth_port}', token_file: {token},"
        f" ca_pin: '{fleet.pin}'}}\n"
    )

    def start() -> subprocess.Popen[bytes]:
        process = twistd(fleet, "proxy", "proxy", text)
        wait(port, process)
        return process

    running = Proxy(port, start, start())
    try:
        yield running
    finally:
        stop(running.process)


@contextmanager
def tunnelled(fleet: Fleet, token: Path, port: int) -> Iterator[str]:
    """A node behind the proxy's ``port``; gives its name."""
    name = "behind"
    text = (
        f"node:\n  name: {name}\n  join: {{proxy: '127.0.0.1:{port}', token_file: {token},"
        f" ca_pin: '{fleet.pin}'}}\n"
    )
    process = twistd(fleet, "node", name, text)
    try:
        yield name
    finally:
        stop(process)


@contextmanager
def reverse(server: Server, target: int) -> Iterator[int]:
    """``ssh -R`` from ``server`` to the local port ``target``; gives the port there."""
    port = free_port()
    forward = ("-N", "-o", "ExitOnForwardFailure=yes", "-R", f"127.0.0.1:{port}:127.0.0.1:{target}")
    process = subprocess.Popen(server.command(options=forward), stdin=subprocess.DEVNULL)
    try:
        wait(port, process)
        yield port
    finally:
        stop(process)


def through(name: str, middle: Server, target: str, pid: int) -> Server:
    """Return the server at ``target`` (``host:port``), reached through ``middle``."""
    args = shlex.join(middle.command(options=("-W", target)))
    return Server(name, 22, pid, (*middle.options, "-o", f"ProxyCommand={args}"))


def reachable(server: Server, seconds: float = 30) -> Server:
    """Wait until a client can log in."""
    deadline = time.monotonic() + seconds
    while subprocess.run(server.command("true"), check=False, capture_output=True).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no login at {server}")
        time.sleep(0.3)
    return server


def both(options: argparse.Namespace, ours: Server, theirs: Server) -> dict[str, Figures]:
    """Bulk in both directions and logins, for two routes to a node."""
    size = options.megabytes

    def one(server: Server) -> Figures:
        down = transfers.bulk_down(server, size, options.block)
        up = transfers.bulk_up(server, size)
        return {
            **{f"down_{key}": value for key, value in down.items()},
            **{f"up_{key}": value for key, value in up.items()},
            **sessions.ssh_logins(server, options.logins, options.parallel),
        }

    return measure((reachable(ours), reachable(theirs)), options.rounds, one)


def agents(options: argparse.Namespace, fleet: Fleet, token: Path, running: Proxy) -> Figures:
    """Many nodes at one proxy."""
    args = ["--auth", str(fleet.auth_port), "--proxy", str(running.port)]
    args += ["--token", str(token), "--pin", fleet.pin]
    server = Server("tele", running.port, running.process.pid, ())
    with subprocess.Popen(
        [sys.executable, str(AGENTS), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        crowd = sessions.Other(process)
        before = server.memory()
        opened = crowd.do(open=options.agents)
        time.sleep(2)
        memory = (server.memory() - before) / options.agents
        rest = server.spend(lambda: time.sleep(options.rest))
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        crowd.do(lost=0)
        start = time.monotonic()
        again = evolve(running, process=running.start())
        try:
            back = crowd.do(wait=options.agents)
            storm = time.monotonic() - start
        finally:
            stop(again.process)
        assert process.stdin is not None
        process.stdin.close()
    return {
        "agents": options.agents,
        "proxy_KiB_each": round(memory / 1024, 2),
        "agent_KiB_each": round(opened["agent_bytes_each"] / 1024, 2),
        "first_all_up_s": round(opened["seconds"], 2),
        "cpu_idle": round(rest.cpu / rest.wall, 4),
        "back_after_kill_s": round(storm, 2),
        "back": back["up"],
    }


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="jump,tunnel,agents", help="measures to take")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument(
        "--block", type=int, default=0, help="bytes of each write of the source; 4 KiB"
    )
    parser.add_argument("--logins", type=int, default=60)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--agents", type=int, default=2000)
    parser.add_argument("--rest", type=float, default=30, help="seconds of rest to measure")
    return parser.parse_args()


def main() -> None:
    """Start everything, measure, print JSON."""
    options = read_options()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    report: dict[str, object] = {
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "rounds": options.rounds,
    }
    with tempfile.TemporaryDirectory(prefix="tele-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        login = stack.enter_context(account())
        fleet = stack.enter_context(auth(folder, "node", login))
        token = token_of(fleet)
        running = stack.enter_context(proxy(fleet, token))
        pid = running.process.pid
        middle = Server("proxy", running.port, pid, fleet.options)
        (folder / "hub").mkdir()
        hub = stack.enter_context(sshd(folder / "hub", fleet.options, fleet.user_authority))
        wanted = options.only.split(",")
        if "jump" in wanted:
            direct = stack.enter_context(node(fleet))
            ours = through("tele", middle, "bench:22", pid)
            theirs = through("sshd", hub, f"127.0.0.1:{direct.port}", hub.pid)
            report["jump"] = both(options, ours, theirs)
        if "tunnel" in wanted:
            behind = stack.enter_context(tunnelled(fleet, token, running.port))
            (folder / "far").mkdir()
            far = stack.enter_context(sshd(folder / "far", fleet.options, fleet.user_authority))
            port = stack.enter_context(reverse(hub, far.port))
            ours = through("tele", middle, f"{behind}:22", pid)
            theirs = through("sshd", hub, f"127.0.0.1:{port}", hub.pid)
            report["tunnel"] = both(options, ours, theirs)
        if "agents" in wanted:
            report["agents"] = agents(options, fleet, token, running)
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
