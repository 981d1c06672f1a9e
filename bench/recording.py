"""What does the recording of sessions cost a node, beside sshd, which records nothing?

    python bench/recording.py [--only terminal,crowd,sync] [--rounds 3] [--sessions 1000] ...

Prints JSON. ``recorded`` is a node of a cluster with mode ``node``, ``off`` one of a cluster that
records nothing, ``sync`` one with mode ``node-sync``; they and sshd are measured in turns.

terminal   text on a terminal: MB/s, and CPU of the node for a GB. Limits: recorded MB/s at least
           those of sshd; ``recorder`` is CPU recorded over ``off``, at most 1.15
crowd      sessions at once that show a line every second, each recorded: memory and descriptors of
           the node's own process for each session, beside connections that run the same in a
           cluster that records nothing (``recorder_KiB_each``), CPU of node and auth while all of
           them write, calls to auth a second, and what the spool has. Limit: 256 KiB
sync       milliseconds from a key to its echo, in mode ``node``, in ``node-sync`` and with sshd
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import sessions
import transfers
from all import Figures, medians
from servers import Fleet, Server, account, add_user, auth, node, sshd

#: How long the crowd is watched.
WATCH_SECONDS = 20.0
#: Users of the crowd.
CROWD_USERS = 8
LIMITS = {"throughput": 1.0, "recorder": 1.15, "KiB_each": 256}


def own_memory(pid: int) -> int:
    """Bytes that would be free if this process ended."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = {line.split(":")[0]: line.split()[1] for line in rollup.splitlines()[1:]}
    return (int(fields["Private_Clean"]) + int(fields["Private_Dirty"])) * 1024


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def seconds_of(pid: int) -> float:
    """CPU seconds of one process so far."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def spooled(folder: Path) -> int:
    """How many chunks wait on the node."""
    return sum(1 for _ in folder.glob("node/spool/*/*.chunk"))


def archived(folder: Path) -> int:
    """How many chunks auth has."""
    return sum(1 for _ in folder.glob("auth/recordings/*/*/*.chunk"))


def crowd(server: Server, fleet: Fleet, count: int) -> Figures:
    """Run sessions at once, and watch the node while all of them write.

    They are of several users: one may hold a quarter of the node's descriptors.
    """
    keys = [
        add_user(fleet.folder, f"bench{number}", fleet.login, f"key{number}")
        for number in range(CROWD_USERS)
    ]
    with sessions.other(server, fleet, keys) as first:
        first.do(open=1)
        first.do(show=1)
        first.do(shown=1)
        time.sleep(2)
        memory, files = own_memory(server.pid), descriptors(server.pid)
        with sessions.other(server, fleet, keys) as many:
            many.do(open=count)
            many.do(show=count)
            many.do(shown=count)
            cpu, auth_cpu = seconds_of(server.pid), seconds_of(fleet.auth_pid)
            chunks, began = archived(fleet.folder), time.monotonic()
            most = 0
            while time.monotonic() < began + WATCH_SECONDS:
                time.sleep(1)
                most = max(most, own_memory(server.pid))
            wall = time.monotonic() - began
            shown = many.do(shown=count)
            if shown["problems"]:
                raise RuntimeError(f"{server.name}: {shown['problems']}")
            return {
                "sessions": count,
                "alive": shown["shown"],
                "node_KiB_each": (most - memory) / count / 1024,
                "descriptors": descriptors(server.pid),
                "descriptors_each": (descriptors(server.pid) - files) / count,
                "node_cpu": (seconds_of(server.pid) - cpu) / wall,
                "auth_cpu": (seconds_of(fleet.auth_pid) - auth_cpu) / wall,
                "chunks/s": (archived(fleet.folder) - chunks) / wall,
                "spooled": spooled(fleet.folder),
            }


def in_turns(
    servers: dict[str, Server], rounds: int, one: Callable[[Server], Figures]
) -> dict[str, Figures]:
    """Return the medians for each server, over interleaved rounds."""
    rows: dict[str, list[Figures]] = {name: [] for name in servers}
    for turn in range(rounds):
        for name in list(servers)[:: -1 if turn % 2 else 1]:
            rows[name].append(one(servers[name]))
    return {name: medians(many) for name, many in rows.items()}


def terminal(servers: dict[str, Server], options: argparse.Namespace, text: Path) -> object:
    """Show text on a terminal, recorded and not."""
    transfers.write_text(text, options.text_megabytes)
    found = in_turns(servers, options.rounds, lambda server: transfers.terminal(server, text))
    throughput = found["recorded"]["MB/s"] / found["sshd"]["MB/s"]
    recorder = found["recorded"]["cpu_s/GB"] / found["off"]["cpu_s/GB"]
    return {
        **found,
        "throughput": round(throughput, 2),
        "recorder": round(recorder, 2),
        "holds": throughput >= LIMITS["throughput"] and recorder <= LIMITS["recorder"],
    }


def crowds(fleets: dict[str, Fleet], servers: dict[str, Server], count: int) -> object:
    """Run many sessions on a node that records and on one that does not."""
    found = {name: crowd(servers[name], fleets[name], count) for name in ("off", "recorded")}
    recorder = found["recorded"]["node_KiB_each"] - found["off"]["node_KiB_each"]
    return {
        **{name: {k: round(v, 2) for k, v in figures.items()} for name, figures in found.items()},
        "recorder_KiB_each": round(recorder, 1),
        "holds": found["recorded"]["node_KiB_each"] <= LIMITS["KiB_each"],
    }


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="measures to take, with commas; all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=1000, help="at once")
    parser.add_argument("--text-megabytes", type=int, default=200, help="shown on a terminal")
    parser.add_argument("--keys", type=int, default=300, help="keys typed")
    return parser.parse_args()


def main() -> None:
    """Start the servers, measure, print JSON."""
    options = read_options()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wanted = options.only.split(",") if options.only else ["terminal", "crowd", "sync"]
    if unknown := set(wanted) - {"terminal", "crowd", "sync"}:
        sys.exit(f"no such measure: {', '.join(sorted(unknown))}")
    modes = {"recorded": "node"}
    if {"terminal", "crowd"} & set(wanted):
        modes["off"] = "off"
    if "sync" in wanted:
        modes["sync"] = "node-sync"
    report: dict[str, object] = {"cpus": os.cpu_count(), "limits": LIMITS}
    with ExitStack() as stack:
        login = stack.enter_context(account())
        fleets: dict[str, Fleet] = {}
        servers: dict[str, Server] = {}
        for name, mode in modes.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tele-bench-")))
            fleets[name] = stack.enter_context(auth(folder, mode, login))
            servers[name] = stack.enter_context(node(fleets[name], name))
        one = fleets["recorded"]
        shared = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tele-bench-")))
        shared.chmod(0o1777)
        theirs = stack.enter_context(sshd(one.folder, one.options, one.user_authority))
        beside = {**{name: servers[name] for name in servers if name != "sync"}, "sshd": theirs}
        for measure in wanted:
            print(f"{measure} ...", file=sys.stderr)
            if measure == "terminal":
                report[measure] = terminal(beside, options, shared / "text")
            elif measure == "crowd":
                report[measure] = crowds(fleets, servers, options.sessions)
            else:
                typed = {name: servers[name] for name in ("recorded", "sync")} | {"sshd": theirs}
                report[measure] = in_turns(
                    typed, options.rounds, lambda s: sessions.echo(s, shared, options.keys)
                )
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
