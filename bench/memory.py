"""How much memory do the processes of a cluster take that has nothing to do?

    python bench/memory.py [--seconds 15] [--imports]

Starts auth, a proxy and a node by ``twistd``, waits ``--seconds`` and prints JSON: for each process
MB (2**20 bytes) by ``/proc/PID/smaps_rollup``:

rss      what is resident, also what other processes share (the programs' and libraries' text)
pss      the same, with each shared page divided by the number of processes that share it
uss      what would be free if this process ended
heap     the part of it that is no file: Python's objects, malloc, stacks

The limit of a node is 40 MB. ``--imports`` starts nothing, and prints what processes take that have
imported Twisted's reactor, what ``twistd`` imports, and what it imports for each part of tele. The
reactor alone has 43 MB resident (CPython 3.11, Twisted 26.10), 18 MB of them libraries that
processes share: a node can come near the limit by ``uss`` and ``heap`` only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from servers import Server, account, auth, node, run
from tunnels import proxy, token_of

Megabytes = dict[str, float]

#: What a process has imported, step by step.
IMPORTS: Final[Mapping[str, tuple[str, ...]]] = {
    "python": (),
    "reactor": ("twisted.internet.reactor",),
    "twistd": ("twisted.scripts.twistd", "twisted.internet.reactor"),
    "tele-node": ("tele.tap.node", "tele.embed.node"),
    "tele-proxy": ("tele.tap.proxy", "tele.embed.proxy"),
    "tele-auth": ("tele.tap.auth", "tele.embed.auth"),
}


def figures(rollup: str) -> Megabytes:
    """Return what the text of a ``smaps_rollup`` says."""
    kilobytes = {
        fields[0].rstrip(":"): int(fields[1])
        for fields in map(str.split, rollup.splitlines())
        if fields[-1:] == ["kB"]
    }
    sums = {
        "rss": kilobytes["Rss"],
        "pss": kilobytes["Pss"],
        "uss": kilobytes["Private_Clean"] + kilobytes["Private_Dirty"],
        "heap": kilobytes["Anonymous"],
    }
    return {name: round(size / 1024, 1) for name, size in sums.items()}


def memory(pid: int) -> Megabytes:
    """Return what the process ``pid`` takes."""
    return figures(Path(f"/proc/{pid}/smaps_rollup").read_text())


def parts(name: str, pid: int) -> Mapping[str, Megabytes]:
    """Return what each process of a server takes, by its name."""
    started = [process.pid for process in Server(name, 0, pid, ()).processes()]
    children = [other for other in started if other != pid]
    return {name: memory(pid)} | {
        f"{name}: child {number}": memory(child) for number, child in enumerate(children, 1)
    }


def imported(modules: Iterable[str]) -> Megabytes:
    """Return what a process takes that has imported ``modules`` and done nothing else."""
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(open('/proc/self/smaps_rollup').read())"
    )
    return figures(run(sys.executable, "-c", program, *modules).decode())


def idle(seconds: float) -> dict[str, Megabytes]:
    """Return what auth, a proxy and a node take that serve no clients."""
    with (
        tempfile.TemporaryDirectory(prefix="tele-memory-") as folder,
        account() as login,
        auth(Path(folder), "off", login) as fleet,
        proxy(fleet, token_of(fleet)) as running,
        node(fleet) as server,
    ):
        time.sleep(seconds)
        return {
            **parts("node", server.pid),
            **parts("proxy", running.process.pid),
            **parts("auth", fleet.auth_pid),
        }


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=15)
    options.add_argument("--imports", action="store_true")
    given = options.parse_args()
    if given.imports:
        taken = {name: imported(modules) for name, modules in IMPORTS.items()}
    else:
        taken = idle(given.seconds)
    json.dump(taken, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
