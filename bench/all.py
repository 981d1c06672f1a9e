"""How fast is a tele node, beside sshd, in the same run?

    python bench/all.py [--only bulk,logins,...] [--rounds 3] [--big] ...

Prints JSON: for each measure the medians of both servers over interleaved rounds, and tele's
over sshd's. Absolute figures are of this machine; limits are for the ratios. Everything that
tele runs is recorded, if the mode of the cluster is to record; sshd records nothing.

download, upload   zeros through a command, aes128-gcm; limit: cpu_s/GB at most 0.9, MB/s 1.1
download_blocks    the same as download, of a command that writes 1 MiB at a time instead of 4 KiB
start              sessions started one after the other; limit: ms and cpu_ms at most 1
logins             by a light client (limit: logins/s at least 5), and by ssh that runs ``true``,
                   at a rate that is the client's; cpu_ms and ssh_cpu_ms are the server's for each
idle               memory of connections that do nothing (limit: at most 16 KiB each for tele), and
                   sessions started beside none and beside them (limit: the same)
echo               a key on a terminal and back, alone and beside a bulk download on the connection
terminal           a text file on a terminal; limit: MB/s at least 1
get, put           one file by sftp; limit: MB/s at least 1
scp_get, scp_put   one file by scp, with the login; limit: MB/s at least 1
scp_down, scp_up, sftp_down, sftp_up
                   a tree of files of 1 to 10 KiB by scp or sftp, with the login; cpu_ms is for each
                   file; limit: files/s at least 1
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import sessions
import transfers
from servers import Fleet, Server, account, auth, node, sshd

Figures = dict[str, float]


def medians(rows: list[Figures]) -> Figures:
    """Return the median of each figure."""
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


def measure(
    servers: tuple[Server, ...], rounds: int, one: Callable[[Server], Figures]
) -> dict[str, Figures]:
    """Return medians over interleaved rounds for each server, and tele's over sshd's."""
    rows: dict[str, list[Figures]] = {server.name: [] for server in servers}
    for turn in range(rounds):
        for server in servers[:: -1 if turn % 2 else 1]:
            rows[server.name].append(one(server))
    result = {name: medians(many) for name, many in rows.items()}
    ratio = {
        key: round(value / result["sshd"][key], 2) if result["sshd"][key] else 0.0
        for key, value in result["tele"].items()
    }
    return {**result, "ratio": ratio}


def measures(
    options: argparse.Namespace, fleet: Fleet, shared: Path
) -> dict[str, Callable[[Server], Figures]]:
    """Return what can be measured, by name."""
    text = shared / "text"

    def terminal(server: Server) -> Figures:
        if not text.exists():
            transfers.write_text(text, options.text_megabytes)
        return transfers.terminal(server, text)

    def idle(server: Server) -> Figures:
        count = options.connections if server.name == "tele" else options.sshd_connections
        return sessions.idle(server, fleet, count, options.starts)

    def small_files(server: Server, copy: Callable[..., None], *, up: bool) -> Figures:
        return transfers.small_files(server, shared, options.files, copy, up=up)

    size = options.megabytes
    return {
        "idle": idle,
        "download": lambda server: transfers.bulk_down(server, size),
        "download_blocks": lambda server: transfers.bulk_down(server, size, 1 << 20),
        "upload": lambda server: transfers.bulk_up(server, size),
        "start": lambda server: sessions.start(server, fleet, options.starts),
        "logins": lambda server: sessions.logins(server, fleet, options.logins, options.parallel),
        "echo": lambda server: sessions.echo(server, shared, options.keys),
        "terminal": terminal,
        "get": lambda server: transfers.sftp(server, shared, size, up=False),
        "put": lambda server: transfers.sftp(server, shared, size, up=True),
        "scp_get": lambda server: transfers.scp(server, shared, size, up=False),
        "scp_put": lambda server: transfers.scp(server, shared, size, up=True),
        "scp_down": lambda server: small_files(server, transfers.run_scp, up=False),
        "scp_up": lambda server: small_files(server, transfers.run_scp, up=True),
        "sftp_down": lambda server: small_files(server, transfers.run_sftp, up=False),
        "sftp_up": lambda server: small_files(server, transfers.run_sftp, up=True),
    }


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="measures to take, with commas; all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=400, help="of bulk data and sftp files")
    parser.add_argument("--logins", type=int, default=100)
    parser.add_argument("--parallel", type=int, default=8, help="logins at once")
    parser.add_argument("--connections", type=int, default=1000, help="idle ones to tele")
    parser.add_argument("--sshd-connections", type=int, default=40, help="idle ones to sshd")
    parser.add_argument("--starts", type=int, default=100, help="sessions started")
    parser.add_argument("--keys", type=int, default=300, help="keys typed")
    parser.add_argument("--text-megabytes", type=int, default=40, help="shown on a terminal")
    parser.add_argument("--files", type=int, default=1000, help="small files for scp and sftp")
    parser.add_argument("--big", action="store_true", help="1000 MB, 10,000 files, 200 MB of text")
    parser.add_argument("--mode", default="node", help="recording mode of the cluster")
    options = parser.parse_args()
    if options.big:
        options.megabytes, options.files, options.text_megabytes = 1000, 10_000, 200
    return options


def main() -> None:
    """Start both servers, measure, print JSON."""
    options = read_options()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    report: dict[str, object] = {
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "recording": options.mode,
        "rounds": options.rounds,
    }
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="tele-bench-") as name,
        tempfile.TemporaryDirectory(prefix="tele-bench-", dir=memory) as shared_name,
    ):
        folder, shared = Path(name), Path(shared_name)
        shared.chmod(0o1777)
        with (
            account() as login,
            auth(folder, options.mode, login) as fleet,
            node(fleet) as ours,
            sshd(folder, fleet.options, fleet.user_authority) as theirs,
        ):
            known = measures(options, fleet, shared)
            wanted = options.only.split(",") if options.only else list(known)
            if unknown := set(wanted) - set(known):
                sys.exit(f"no such measure: {', '.join(sorted(unknown))}")
            for one in wanted:
                print(f"{one} ...", file=sys.stderr)
                # Memory that idle connections took is there for the next ones: once.
                rounds = 1 if one == "idle" else options.rounds
                report[one] = measure((ours, theirs), rounds, known[one])
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
