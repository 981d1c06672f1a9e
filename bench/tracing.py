"""What does tracing cost the programs of a session, and everybody else?

    python bench/tracing.py [--rounds 5] [--execs 2000] [--folder /usr/include]

As root, on a kernel that can trace. Runs the same work in turns: without tracing (``off``), in a
session that records programs, files and the network (``traced``), with all system calls counted
beside (``counted``), and outside of any session while another one is traced (``outside``). Work is
a shell that executes a program many times (``execs``), and a search through the files of a folder
(``opens``). Prints JSON, medians of the rounds:

off_s, off_cpu_s    time and CPU of the work without tracing, in seconds
traced, traced_cpu  the same in a session, as a ratio; the limit is 1.15
counted, counted_cpu
outside, outside_cpu  the same in none: what is beyond the noise of ``off`` is a fault
tracer_cpu          CPU of the tracer for the work in a session, as a ratio of the work's
records, lost       what one ``traced`` round recorded, and lost

and ``burst``: a program that does nothing but open a file, ``records`` and ``lost`` of it, and
``per_s`` (records that the reader of this program took in a second); ``memory``: KiB of the tracer
while nothing (``idle_kib``) and while a session (``loaded_kib``) is traced, without files and the
buffers that it shares with the kernel, and KiB of the kernel for all (``kernel_kib``) and for each
further session (``session_kib``).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tele.tracer import program as tracer
from tele.tracer.messages import MAX_MESSAGE
from tele.tracer.records import BATCH

KINDS: Final = ["command", "disk", "network"]
WAYS: Final = {"off": [], "traced": KINDS, "counted": [*KINDS, "syscalls"], "outside": []}
BURST: Final = """
import os, sys
for _ in range(int(sys.argv[1])): os.close(os.open("/etc/hostname", 0))
"""
TICKS: Final = os.sysconf("SC_CLK_TCK")


class Tracer:
    """A tracer, and a thread that takes what it records, as a node does."""

    def __init__(self) -> None:
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._joining, joining = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with control, joining:
            fds = (control.fileno(), joining.fileno())
            words = [sys.executable, "-I", "-S", tracer.__file__, *map(str, fds)]
            self.process = subprocess.Popen(words, pass_fds=fds)
        self._answers: list[dict[str, Any]] = []
        self._came = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        self.number = 0
        hello = self._answer()
        if hello["event"] != "ready":
            raise SystemExit(hello["message"])

    def _read(self) -> None:
        while data := self._control.recv(MAX_MESSAGE):
            if data[:1] != BATCH:
                with self._came:
                    self._answers.append(json.loads(data))
                    self._came.notify()

    def _answer(self) -> dict[str, Any]:
        with self._came:
            while not self._answers:
                self._came.wait()
            return self._answers.pop(0)

    def start(self, kinds: Sequence[str]) -> int:
        """Trace a session."""
        self.number += 1
        self._ask(op="start", id=self.number, kinds=kinds)
        return self.number

    def stop(self, number: int) -> dict[str, Any]:
        """End a session; return what is known of it."""
        return self._ask(op="stop", id=number)

    def _ask(self, **message: Any) -> dict[str, Any]:
        self._control.send(json.dumps(message).encode())
        answer = self._answer()
        if answer["event"] in ("failed", "refused"):
            raise SystemExit(answer["message"])
        return answer

    def join(self, number: int) -> None:
        """Have this process be of a session."""
        answer, theirs = os.pipe()
        me = os.pidfd_open(os.getpid())
        socket.send_fds(self._joining, [json.dumps({"id": number}).encode()], [me, theirs])
        if not select.select([answer], [], [], 20)[0]:
            raise OSError("the tracer does not answer")
        os.read(answer, 512)

    def cpu(self) -> float:
        """CPU of the tracer, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident(self) -> int:
        """Memory of the tracer's own, in KiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
        return 0

    def kernel(self) -> int:
        """Memory of its maps and programs, in KiB."""
        total = 0
        for path in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            for line in path.read_text().splitlines():
                if line.startswith("memlock:"):
                    total += int(line.split()[1])
        return total // 1024


def run(words: Sequence[str], tracing: Tracer | None, number: int) -> tuple[float, float]:
    """Run one piece of work; return its time and CPU in seconds."""
    join = None if tracing is None or not number else lambda: tracing.join(number)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=False, preexec_fn=join)
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def compare(tracing: Tracer, words: Sequence[str], rounds: int) -> dict[str, Any]:
    """Run one work in all ways, in turns."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    shares: list[float] = []
    known: dict[str, Any] = {}
    run(words, None, 0)
    for _ in range(rounds):
        for way, kinds in WAYS.items():
            number = tracing.start(kinds or KINDS) if way != "off" else 0
            cpu = tracing.cpu()
            measured = run(words, tracing, number if kinds else 0)
            found[way].append(measured)
            if number:
                stopped = tracing.stop(number)
            if way == "traced":
                known = stopped
                shares.append((tracing.cpu() - cpu) / measured[1])
    off_s, off_cpu = (statistics.median(column) for column in zip(*found["off"], strict=True))
    result: dict[str, Any] = {"off_s": round(off_s, 3), "off_cpu_s": round(off_cpu, 3)}
    for way in list(WAYS)[1:]:
        took, cpu = (statistics.median(column) for column in zip(*found[way], strict=True))
        result |= {way: round(took / off_s, 3), f"{way}_cpu": round(cpu / off_cpu, 3)}
    result["tracer_cpu"] = round(statistics.median(shares), 3)
    return result | {"records": known["records"], "lost": known["lost"]}


def burst(tracing: Tracer, opens: int) -> dict[str, Any]:
    """Open a file as often as a program can."""
    number = tracing.start(KINDS)
    began = time.monotonic()
    run([sys.executable, "-I", "-S", "-c", BURST, str(opens)], tracing, number)
    known = tracing.stop(number)
    took = time.monotonic() - began
    per_s = round(known["records"] / took)
    return {"records": known["records"], "lost": known["lost"], "per_s": per_s}


def memory(tracing: Tracer) -> dict[str, Any]:
    """Measure what a tracer and its sessions hold."""
    idle = tracing.resident()
    first = tracing.start(KINDS)
    loaded, kernel = tracing.resident(), tracing.kernel()
    more = [tracing.start(KINDS) for _ in range(200)]
    each = (tracing.kernel() - kernel) / len(more)
    for number in [first, *more]:
        tracing.stop(number)
    sizes = {"idle_kib": idle, "loaded_kib": loaded, "kernel_kib": kernel}
    return sizes | {"session_kib": round(each, 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--execs", type=int, default=2000)
    parser.add_argument("--opens", type=int, default=200_000)
    parser.add_argument("--folder", default="/usr/include")
    options = parser.parse_args()
    loop = "i=0; while [ $i -lt $1 ]; do /bin/true; i=$((i+1)); done"
    tracing = Tracer()
    print(
        json.dumps(
            {
                "memory": memory(tracing),
                "execs": compare(
                    tracing, ["/bin/sh", "-c", loop, "sh", str(options.execs)], options.rounds
                ),
                "opens": compare(
                    tracing, ["grep", "-rc", "no such text", options.folder], options.rounds
                ),
                "burst": burst(tracing, options.opens),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
