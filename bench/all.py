"""How fast is a tele node, beside sshd, in the same run?

    python bench/all.py [--only bulk,logins,...] [--rounds 3] [--big] ...
    python bench/all.py --undisturbed --against OTHER/bin/python ...

Prints JSON: for each measure the medians of both servers over interleaved rounds, and tele's
over sshd's. Absolute figures are of this machine; limits are for the ratios. Everything that
tele runs is recorded, if the mode of the cluster is to record; sshd records nothing.

Other work on the machine changes all figures, CPU, too. ``--undisturbed`` gives what is measured
real-time priority, and ``--against`` measures another tele, such as the one before a change, in
the same rounds: ``change`` is this one's over the other's.

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
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path

import sessions
import transfers
from priority import undisturbed
from servers import Fleet, Server, account, auth, node, sshd

Figures = dict[str, float]


def medians(rows: list[Figures]) -> Figures:
    """Return the median of each figure."""
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


def measure(
    servers: tuple[Server, ...],
    rounds: int,
    one: Callable[[Server], Figures],
    beside: Callable[[Server], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> dict[str, Figures]:
    """Return medians over interleaved rounds for each server, and tele's over sshd's.

    Each server is measured within ``beside(server)``.
    """
    rows: dict[str, list[Figures]] = {server.name: [] for server in servers}
    for turn in range(rounds):
        for server in servers[:: -1 if turn % 2 else 1]:
            with beside(server):
                rows[server.name].append(one(server))
    result = {name: medians(many) for name, many in rows.items()}
    report = {**result, "ratio": _over(result["tele"], result["sshd"])}
    if "other" in result:
        report["change"] = _over(result["tele"], result["other"])
    return report


def _over(figures: Figures, others: Figures) -> Figures:
    return {
        key: round(value / others[key], 2) if others[key] else 0.0 for key, value in figures.items()
    }


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
        count = options.sshd_connections if server.name == "sshd" else options.connections
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


def _one(
    known: dict[str, dict[str, Callable[[Server], Figures]]], name: str, server: Server
) -> Figures:
    return known[server.name][name](server)


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
    parser.add_argument(
        "--undisturbed", action="store_true", help="measure with real-time priority; needs root"
    )
    parser.add_argument(
        "--against", type=Path, metavar="PYTHON", help="of another tele, which is measured beside"
    )
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
        tempfile.TemporaryDirectory(prefix="tele-bench-") as folder_name,
        tempfile.TemporaryDirectory(prefix="tele-bench-", dir=memory) as shared_name,
    ):
        folder, shared = Path(folder_name), Path(shared_name)
        shared.chmod(0o1777)
        with ExitStack() as stack:
            login = stack.enter_context(account())
            fleet = stack.enter_context(auth(folder, options.mode, login))
            ours = stack.enter_context(node(fleet))
            theirs = stack.enter_context(sshd(folder, fleet.options, fleet.user_authority))
            servers: tuple[Server, ...] = (ours, theirs)
            known = dict.fromkeys(("tele", "sshd"), measures(options, fleet, shared))
            auths = dict.fromkeys(("tele", "sshd"), fleet.auth_pid)
            if options.against is not None:
                (folder / "other").mkdir()
                programs = options.against.parent
                other = stack.enter_context(auth(folder / "other", options.mode, login, programs))
                servers = (*servers, stack.enter_context(node(other, "other")))
                known["other"], auths["other"] = measures(options, other, shared), other.auth_pid

            def beside(server: Server) -> AbstractContextManager[None]:
                if not options.undisturbed:
                    return nullcontext()
                its_auth = Server("auth", 0, auths[server.name], ())
                return undisturbed((server, its_auth))

            wanted = options.only.split(",") if options.only else list(known["tele"])
            if unknown := set(wanted) - set(known["tele"]):
                sys.exit(f"no such measure: {', '.join(sorted(unknown))}")
            for name in wanted:
                print(f"{name} ...", file=sys.stderr)
                # Memory that idle connections took is there for the next ones: once.
                rounds = 1 if name == "idle" else options.rounds
                report[name] = measure(servers, rounds, partial(_one, known, name), beside)
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
