"""How fast is a tele node on long and lossy paths, beside sshd, in the same run?

    python bench/long_paths.py [--path 200:0 --path 40:5:100/20 ...] [--rounds 3] [--seconds 10] ...

Prints JSON: for each path the medians of both servers over interleaved rounds, and tele's over
sshd's; limit: MB/s at least 1 each. The client is OpenSSH's ssh.

login_s    from the start of ssh to the first byte that a program on the server wrote
down_MB/s  zeros that arrived in the seconds after that byte
up_MB/s    zeros that a program on the server has read and told of in as many seconds
link       packets that the link lost or dropped, and how late it delivered the others, in
           milliseconds: if that is not far below the round trip, the machine is too busy

A path is RTT_MS:LOSS_PERCENT[:MBIT_PER_SECOND]; loss and rate count for each direction, or as
DOWN/UP. The kernel's own emulator, netem, is a module that many kernels do not have. So the
servers run in a network namespace of their own and the clients in another, and ``link.c`` carries
packets between both; ``plain_MB/s`` is what a TCP connection without ssh moves through it when it
neither delays nor loses. Congestion control and buffers are those of the machine, unless
``--congestion`` names another.

Needs root, cc, util-linux and iproute2. Processes, namespaces, devices and files all belong to
one process namespace and end with it; it ends with this program, even when that is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from attrs import evolve, frozen

from all import Figures, measure
from servers import Server, auth, node, run, sshd, stop

SOURCE = Path(__file__).with_name("link.c")
PATHS = ("200:0", "100:1", "40:5", "20:0.1")
#: Of the block for documentation, RFC 5737: this is no address of the machine.
NETWORK, SERVERS, CLIENTS = "192.0.2.0/30", "192.0.2.1", "192.0.2.2"
LOGIN_SECONDS = 60.0
#: What waits for its turn on a link with a rate: a usual buffer of a router.
QUEUE_MS = 50.0
ALONE = ("unshare", "--net", "--mount", "--pid", "--mount-proc", "--kill-child")

#: Tells every 50 ms how much it has read.
READER = """\
import os, time
os.write(1, b"0\\n")
total, told = 0, time.monotonic()
while data := os.read(0, 1 << 20):
    total += len(data)
    if time.monotonic() - told > 0.05:
        told = time.monotonic()
        os.write(1, b"%d\\n" % total)
"""
#: Reads from an address for some seconds; prints how many bytes a second.
PLAIN = """\
import socket, sys, time
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
total, start = 0, time.monotonic()
while (took := time.monotonic() - start) < float(sys.argv[3]):
    total += len(peer.recv(1 << 20))
print(total / took)
"""


@frozen
class NetworkPath:
    """A round trip, and loss and rate of the way down (to the client) and of the way up."""

    rtt_ms: float
    loss_percent: tuple[float, float]
    megabits: tuple[float, float]

    @classmethod
    def parse(cls, text: str) -> NetworkPath:
        """Read ``RTT:LOSS[:RATE]``."""
        rtt, loss, *rate = text.split(":")
        return cls(float(rtt), pair(loss), pair(*rate) if rate else (0.0, 0.0))

    def line(self) -> str:
        """Return what the link is told."""
        numbers = []
        for loss, rate in zip(self.loss_percent, self.megabits, strict=True):
            numbers += [self.rtt_ms * 500, loss * 1e4, rate * 125e3, QUEUE_MS * 1000]
        return " ".join(str(round(number)) for number in numbers)


def pair(text: str) -> tuple[float, float]:
    """Read ``DOWN/UP``, or one number for both."""
    down, _, up = text.partition("/")
    return float(down), float(up or down)


class Link:
    """The link between servers and clients, which is running."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.within = ("nsenter", f"--net=/proc/{process.pid}/ns/net")
        #: Address and device of each end, and what runs a command there.
        self.ends: tuple[tuple[str, str, tuple[str, ...]], ...] = (
            (SERVERS, "servers", ()),
            (CLIENTS, "clients", self.within),
        )

    def become(self, path: NetworkPath) -> Figures:
        """Take over the properties of ``path``; what was carried before."""
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        to.write(f"{path.line()}\n".encode())
        to.flush()
        packets, lost, dropped, late, latest = map(int, back.readline().split())
        return {
            "packets": packets,
            "lost": lost,
            "dropped": dropped,
            "late_ms": late / 1000,
            "late_ms_max": latest / 1000,
        }


@contextmanager
def link(folder: Path) -> Iterator[Link]:
    """Compile the link, start it, and give both ends an address."""
    program = folder / "link"
    run("cc", "-O2", "-o", str(program), str(SOURCE))
    process = subprocess.Popen(
        [program, "servers", "clients"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("no link: is there a /dev/net/tun?")
        made = Link(process)
        for address, device, within in made.ends:
            run(*within, "ip", "link", "set", "lo", "up")
            run(*within, "ip", "address", "add", f"{address}/30", "dev", device)
            # The kernel's own queue must not drop what the link has no time for at once.
            run(*within, "ip", "link", "set", device, "txqueuelen", "20000", "up")
        yield made
    finally:
        stop(process)


def arriving(source: IO[bytes], until: float) -> Iterator[bytes]:
    """Give what arrives up to a time of the monotonic clock."""
    while (left := until - time.monotonic()) > 0:
        if select.select([source], [], [], left)[0]:
            data = os.read(source.fileno(), 1 << 20)
            if not data:
                raise RuntimeError("ssh ended")
            yield data


@contextmanager
def session(server: Server, words: str) -> Iterator[tuple[IO[bytes], float]]:
    """Run ``words``; their output after its first byte, and how long that one took.

    The input is zeros without end.
    """
    start = time.monotonic()
    with (
        Path("/dev/zero").open("rb") as zeros,
        subprocess.Popen(server.command(words), stdin=zeros, stdout=subprocess.PIPE) as ssh,
    ):
        try:
            assert ssh.stdout is not None
            if not select.select([ssh.stdout], [], [], LOGIN_SECONDS)[0]:
                raise RuntimeError(f"{server.name}: no login in {LOGIN_SECONDS} seconds")
            os.read(ssh.stdout.fileno(), 1)
            yield ssh.stdout, time.monotonic() - start
        finally:
            ssh.kill()


def transfer(server: Server, path: NetworkPath, seconds: float) -> Figures:
    """Log in and download, log in and upload."""
    with session(server, "exec cat /dev/zero </dev/null") as (source, login):
        start = time.monotonic()
        down = sum(map(len, arriving(source, start + seconds))) / (time.monotonic() - start)
    time.sleep(2 * path.rtt_ms / 1000)  # what is still under way
    with session(server, shlex.join(["exec", sys.executable, "-c", READER])) as (source, again):
        start = time.monotonic()
        text, last = b"", start + seconds
        for data in arriving(source, start + seconds):
            text, last = text + data, time.monotonic()
        lines = text.split(b"\n")[:-1]  # the last may be a part of one
        up = int(lines[-1] or 0) / (last - start) if lines else 0.0
    time.sleep(2 * path.rtt_ms / 1000)
    return {"login_s": (login + again) / 2, "down_MB/s": down / 1e6, "up_MB/s": up / 1e6}


def plain(made: Link, seconds: float) -> float:
    """Return the MB/s of a TCP connection without ssh."""
    with socket.create_server((SERVERS, 0)) as listener:

        def send() -> None:
            peer, _ = listener.accept()
            with peer:
                try:
                    while True:
                        peer.sendall(bytes(1 << 18))
                except OSError:
                    return

        sender = threading.Thread(target=send)
        sender.start()
        where = (SERVERS, str(listener.getsockname()[1]), str(seconds))
        rate = float(run(*made.within, sys.executable, "-c", PLAIN, *where))
        sender.join()
    return rate / 1e6


def choose_congestion(made: Link, name: str) -> str:
    """Set the congestion control of both ends, if it has a name; the one in force.

    Routes have it: a namespace may only choose what the machine allows to all its users.
    """
    if not name:
        return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    for address, device, within in made.ends:
        words = ("ip", "route", "replace", NETWORK, "dev", device, "src", address, "congctl", name)
        run(*within, *words)
    return name


def inside(options: argparse.Namespace) -> None:
    """Measure; this is the first process of a process namespace."""
    # A disk in memory that is gone with the namespace, and where sshd wants a folder of its own.
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    paths = {text: NetworkPath.parse(text) for text in options.path or PATHS}
    with tempfile.TemporaryDirectory(prefix="tele-bench-", dir="/run") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            link(folder) as made,
            auth(folder, "node", "root") as fleet,
            node(fleet, host=SERVERS) as ours,
            sshd(folder, fleet.options, fleet.user_authority, host=SERVERS) as theirs,
        ):
            servers = (evolve(ours, within=made.within), evolve(theirs, within=made.within))
            report: dict[str, object] = {
                "cpus": os.cpu_count(),
                "python": sys.version.split()[0],
                "congestion": choose_congestion(made, options.congestion),
                "rounds": options.rounds,
                "seconds": options.seconds,
                "plain_MB/s": round(plain(made, min(options.seconds, 3)), 1),
            }
            for text, path in paths.items():
                print(f"{text} ...", file=sys.stderr)
                made.become(path)
                one = partial(transfer, path=path, seconds=options.seconds)
                figures = measure(servers, options.rounds, one)
                report[text] = {**figures, "link": made.become(path)}
    json.dump(report, sys.stdout, indent=2)
    print()


def end_with(lifeline: int) -> None:
    """End when ``lifeline`` does: the program outside holds its other end."""

    def wait() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--path", action="append", help=f"may be repeated; without: {' '.join(PATHS)}"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each transfer")
    parser.add_argument("--congestion", default="", help="such as bbr, cubic or reno")
    parser.add_argument("--inside", type=int, default=-1, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Start the process namespace and wait for its end, or measure in it."""
    options = read_options()
    if options.inside >= 0:
        end_with(options.inside)
        inside(options)
        return 0
    if os.geteuid() != 0:
        sys.exit("bench/long_paths.py makes network namespaces: run it as root")
    lifeline, ours = os.pipe()
    words = [*ALONE, sys.executable, __file__, *sys.argv[1:], "--inside", str(lifeline)]
    with subprocess.Popen(words, pass_fds=(lifeline,)) as process:
        os.close(lifeline)
        try:
            return process.wait()
        finally:
            os.close(ours)


if __name__ == "__main__":
    sys.exit(main())
