"""How fast is a tele node, beside sshd, in the same run?

    python bench/ssh.py [--megabytes 400] [--rounds 3] [--logins 200] [--mode node]

Measures bulk download and upload (aes128-gcm) and logins per second, interleaved, and
prints JSON: for each measure the medians of both servers and their ratio. CPU is the
server's own processes only, in seconds per GB. Absolute figures are this machine's;
the ratios are what the laws of performance speak of.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import frozen

from servers import Server, account, auth, node, sshd


@frozen
class Bulk:
    """One transfer."""

    megabytes_per_second: float
    cpu_seconds_per_gigabyte: float


def transfer(server: Server, megabytes: int, *, up: bool) -> Bulk:
    """Send or fetch ``megabytes`` and check that all of them arrived."""
    size = megabytes * 1_000_000
    before = server.cpu()
    latest: dict[int, float] = {}
    remote = "wc -c" if up else f"head -c {size} /dev/zero"
    start = time.monotonic()
    source = subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE)
    ssh = subprocess.Popen(
        server.command(remote),
        stdin=source.stdout if up else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    if source.stdout is not None:
        source.stdout.close()
    counter = None
    if not up:
        counter = subprocess.Popen(["wc", "-c"], stdin=ssh.stdout, stdout=subprocess.PIPE)
        if ssh.stdout is not None:
            ssh.stdout.close()
    while ssh.poll() is None:
        latest.update(server.cpu())
        time.sleep(0.02)
    wall = time.monotonic() - start
    latest.update(server.cpu())
    answer = (counter or ssh).communicate()[0]
    source.wait()
    if int(answer) != size:
        raise RuntimeError(f"{server.name}: {int(answer)} of {size} bytes arrived")
    spent = sum(latest.values()) - sum(before.values())
    return Bulk(megabytes / wall, spent / megabytes * 1000)


def logins(server: Server, count: int, parallel: int) -> float:
    """Logins per second, each running ``true``, ``parallel`` at a time."""

    def login(_: int) -> int:
        return subprocess.run(
            server.command("true"), check=False, stdin=subprocess.DEVNULL
        ).returncode

    start = time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        failed = sum(1 for status in pool.map(login, range(count)) if status)
    if failed:
        raise RuntimeError(f"{server.name}: {failed} of {count} logins failed")
    return count / (time.monotonic() - start)


def measure(
    servers: tuple[Server, ...], rounds: int, one: Callable[[Server], dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Medians over interleaved rounds, for each server."""
    rows: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            rows[server.name].append(one(server))
    return {
        name: {key: round(statistics.median(r[key] for r in many), 3) for key in many[0]}
        for name, many in rows.items()
    }


def ratio(result: dict[str, dict[str, float]]) -> dict[str, float]:
    """The tele node's figures over sshd's."""
    return {
        key: round(value / result["sshd"][key], 2) if result["sshd"][key] else 0.0
        for key, value in result["tele"].items()
    }


def main() -> None:
    """Start both servers, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--logins", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--mode", default="node", help="recording mode of the cluster")
    options = parser.parse_args()
    report: dict[str, object] = {
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "recording": options.mode,
        "rounds": options.rounds,
    }
    with tempfile.TemporaryDirectory(prefix="tele-bench-") as name:
        folder = Path(name)
        with (
            account() as login,
            auth(folder, options.mode, login) as fleet,
            node(fleet) as ours,
            sshd(folder, fleet.options, fleet.user_authority) as theirs,
        ):
            servers = (ours, theirs)
            for up in (False, True):

                def one(server: Server, up: bool = up) -> dict[str, float]:
                    bulk = transfer(server, options.megabytes, up=up)
                    return {
                        "MB/s": bulk.megabytes_per_second,
                        "cpu_s/GB": bulk.cpu_seconds_per_gigabyte,
                    }

                result = measure(servers, options.rounds, one)
                report["upload" if up else "download"] = {**result, "ratio": ratio(result)}
            result = measure(
                servers,
                options.rounds,
                lambda server: {"logins/s": logins(server, options.logins, options.parallel)},
            )
            report["logins"] = {**result, "ratio": ratio(result)}
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
