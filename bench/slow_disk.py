"""How late are the reactors of a node and of auth while the disk is slow?

    python bench/slow_disk.py [--delay 500] [--logins 20]

Starts an auth and a node whose calls of fsync, fdatasync and the like take so many milliseconds
longer, by a small library that is compiled with gcc and loaded before theirs, and logs in to the
node so often, one after the other. Prints JSON: for each of both, with a quick and with the slow
disk, how long the reactor took to call back when it was asked, in milliseconds (``p50``, ``p99``,
``max``), and how long a log-in took (``login``). What is late is every session on that node.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from servers import account, auth, node

PROBE = Path(__file__).parent / "loop_probe"
SETTLE_SECONDS = 3.0
#: Between two log-ins: what they cause comes later, when auth has answered.
PAUSE_SECONDS = 0.5
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static void wait_for_disk(void) {
    const char *ms = getenv("SLOW_DISK");
    if (ms != NULL) usleep(1000 * (useconds_t) atoi(ms));
}
#define SLOW(name, parameters, words) \\
    int name parameters { \\
        int (*real) parameters = (int (*) parameters) dlsym(RTLD_NEXT, #name); \\
        wait_for_disk(); \\
        return real words; \\
    }
SLOW(fsync, (int file), (file))
SLOW(fdatasync, (int file), (file))
SLOW(syncfs, (int file), (file))
SLOW(sync_file_range, (int file, off64_t at, off64_t size, unsigned flags),
     (file, at, size, flags))
"""


def compile_shim(folder: Path) -> Path:
    """Make the library that is loaded before the C library."""
    source, made = folder / "slow_disk.c", folder / "slow_disk.so"
    source.write_text(SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


@contextmanager
def environment(more: Mapping[str, str]) -> Iterator[None]:
    """Have what is started inside of the block have ``more`` in its environment."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def late(file: Path, begin: float, end: float) -> dict[str, float]:
    """Return how late a reactor was in a span of time, in milliseconds."""
    delays = []
    for line in file.read_text().splitlines():
        asked, _, took = line.partition(" ")
        if took and begin <= float(asked) <= end:
            delays.append(1000 * float(took))
    delays.sort()
    parts = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    last = len(delays) - 1
    return {name: round(delays[int(part * last)], 1) for name, part in parts.items()}


def measure(shim: Path, delay: int, logins: int, login: str) -> dict[str, object]:
    """Log in so often on a disk of this delay."""
    with tempfile.TemporaryDirectory() as folder:
        probes = Path(folder) / "probes"
        probes.mkdir()
        slow = {
            "LD_PRELOAD": str(shim),
            "SLOW_DISK": str(delay),
            "PYTHONPATH": str(PROBE),
            "LOOP_PROBE": str(probes),
        }
        with ExitStack() as stack:
            with environment(slow):
                fleet = stack.enter_context(auth(Path(folder), "node", login))
                server = stack.enter_context(node(fleet))
            time.sleep(SETTLE_SECONDS)
            begin = time.monotonic()
            took = 0.0
            for number in range(logins):
                came = time.monotonic()
                subprocess.run(server.command("echo", str(number)), check=True, capture_output=True)
                took += time.monotonic() - came
                time.sleep(PAUSE_SECONDS)
            end = time.monotonic()
            time.sleep(2 * delay / 1000 + 0.1)
            return {
                "node": late(probes / str(server.pid), begin, end),
                "auth": late(probes / str(fleet.auth_pid), begin, end),
                "login": round(1000 * took / logins, 1),
            }


def main() -> None:
    """Print the figures."""
    said = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    said.add_argument("--delay", type=int, default=500, help="milliseconds of each sync")
    said.add_argument("--logins", type=int, default=20)
    words = said.parse_args()
    with tempfile.TemporaryDirectory() as folder, account() as login:
        shim = compile_shim(Path(folder))
        figures = {
            f"{delay} ms": measure(shim, delay, words.logins, login) for delay in (0, words.delay)
        }
    json.dump(figures, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
