"""What does recording at a proxy cost, beside sshd as a jump host, in the same run?

    python bench/proxied.py [--only bulk,sessions] [--rounds 3] [--sessions 50] ...

Prints JSON: for each measure the medians of both over interleaved rounds, and tele's over
OpenSSH's. Both routes lead to the same sshd. ``tele`` is a proxy with mode ``proxy``: it ends the
client's SSH, logs in to the target with a certificate of auth for the session, and records.
``sshd`` is a jump host (``ssh -J``): it sees ciphertext and records nothing. CPU is that of the one
in the middle.

bulk      data in both directions (MB/s, cpu_s/GB), and logins by ssh (ssh_logins/s, ssh_cpu_ms)
sessions  sessions at once that do nothing: memory of the one in the middle for each (KiB_each), and
          how long it takes until all are there, in one round; limit: 256 KiB
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from all import Figures, measure
from servers import BIN, Fleet, Server, account, auth, run, sshd
from tunnels import both, proxy, reachable, through, token_of

#: What the target is called.
NAME = "db"
LIMITS = {"KiB_each": 256}


def sign_host(fleet: Fleet, folder: Path) -> None:
    """Sign the host key in ``folder`` for the target's name, as the proxy checks it."""
    words = ("ca", "sign-host", f"{folder}/host.pub", "--principal", NAME)
    out = ("--out", f"{folder}/host-cert.pub", "--config", f"{fleet.folder}/auth.yaml")
    run(str(BIN / "tele"), *words, *out)


def register(fleet: Fleet, target: Server) -> None:
    """Register the target with the cluster."""
    words = ("nodes", "add", NAME, "--address", f"127.0.0.1:{target.port}")
    run(str(BIN / "tele"), *words, "--config", f"{fleet.folder}/auth.yaml")


def held(server: Server, count: int, parallel: int) -> Figures:
    """Hold so many sessions, and weigh the one in the middle."""
    clients: list[subprocess.Popen[bytes]] = []

    def start(_: int) -> None:
        client = subprocess.Popen(
            server.command("echo there; exec cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        clients.append(client)
        assert client.stdout is not None
        if client.stdout.readline() != b"there\n":
            raise RuntimeError(f"{server.name}: no session")

    def start_all() -> None:
        with ThreadPoolExecutor(parallel) as pool:
            list(pool.map(start, range(count)))

    before = server.memory()
    try:
        spent = server.spend(start_all)
        memory = server.memory() - before
    finally:
        for client in clients:
            client.kill()
        for client in clients:
            client.communicate()
    return {"KiB_each": memory / count / 1024, "seconds": spent.wall}


def sessions(options: argparse.Namespace, ours: Server, theirs: Server) -> object:
    """Hold sessions on both routes."""
    found = measure(
        (reachable(ours), reachable(theirs)),
        1,  # a process that has served many has memory for the next ones
        lambda server: held(server, options.sessions, options.parallel),
    )
    holds = found["tele"]["KiB_each"] <= LIMITS["KiB_each"]
    return {"sessions": options.sessions, **found, "holds": holds}


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="bulk,sessions", help="measures to take")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--block", type=int, default=1 << 20, help="bytes of each write")
    parser.add_argument("--logins", type=int, default=60)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--sessions", type=int, default=50, help="at once")
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
        "limits": LIMITS,
    }
    with tempfile.TemporaryDirectory(prefix="tele-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        login = stack.enter_context(account())
        fleet = stack.enter_context(auth(folder, "proxy", login))
        running = stack.enter_context(proxy(fleet, token_of(fleet)))
        servers = []
        for each in ("hub", "far"):
            (folder / each).mkdir()
            made = sshd(
                folder / each, fleet.options, fleet.user_authority,
                sign=lambda where: sign_host(fleet, where),
            )  # fmt: skip
            servers.append(stack.enter_context(made))
        hub, far = servers
        register(fleet, far)
        middle = Server("proxy", running.port, running.process.pid, fleet.options)
        ours = through("tele", middle, f"{NAME}:22", running.process.pid)
        theirs = through("sshd", hub, f"127.0.0.1:{far.port}", hub.pid)
        wanted = options.only.split(",")
        if "sessions" in wanted:
            report["sessions"] = sessions(options, ours, theirs)
        if "bulk" in wanted:
            report["bulk"] = both(options, ours, theirs)
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
