"""What do logins, sessions, keystrokes and idle connections cost?

CPU of sessions is of everything that the server started, their programs included.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers import Fleet, Server

CLIENT = Path(__file__).with_name("client.py")


def logins(server: Server, fleet: Fleet, count: int, parallel: int) -> dict[str, float]:
    """Log in ``count`` times, by a client that costs less than the server does, and by ssh.

    CPU is for each login; ssh's has that of the session in it.
    """
    with other(server, fleet) as client:
        answers: list[dict[str, Any]] = []
        spent = server.spend(lambda: answers.append(client.do(open=count)))
    return {
        "logins/s": count / answers[0]["seconds"],
        "cpu_ms": spent.cpu / count * 1000,
        **ssh_logins(server, count, parallel),
    }


def ssh_logins(server: Server, count: int, parallel: int) -> dict[str, float]:
    """Let ssh log in and run ``true``, ``parallel`` at a time.

    How often a second depends on the client, which costs more than the server; CPU of the server
    does not.
    """

    def login(_: int) -> int:
        return subprocess.run(
            server.command("true"), check=False, stdin=subprocess.DEVNULL
        ).returncode

    def log_in_all() -> None:
        with ThreadPoolExecutor(parallel) as pool:
            failed = sum(1 for status in pool.map(login, range(count)) if status)
        if failed:
            raise RuntimeError(f"{server.name}: {failed} of {count} logins failed")

    spent = server.spend(log_in_all, ended=True)
    return {"ssh_logins/s": count / spent.wall, "ssh_cpu_ms": spent.cpu / count * 1000}


class Other:
    """The process at the other end; see ``client.py``."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def do(self, **command: int) -> dict[str, Any]:
        """Run one command; return its answer."""
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        to.write(json.dumps(command).encode() + b"\n")
        to.flush()
        answer: dict[str, Any] = json.loads(back.readline() or b'{"error": "it ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


@contextmanager
def other(server: Server, fleet: Fleet, keys: Sequence[Path] = ()) -> Iterator[Other]:
    """Start the process at the other end. It logs in with each of ``keys`` in turn, if given."""
    words = ["--port", str(server.port), "--login", fleet.login, "--keys"]
    words += [str(key) for key in keys or [fleet.folder / "key"]]
    with subprocess.Popen(
        [sys.executable, str(CLIENT), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield Other(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def idle(server: Server, fleet: Fleet, connections: int, starts: int) -> dict[str, float]:
    """Keep connections open that do nothing; start sessions beside none and beside them."""
    with other(server, fleet) as ours:
        ours.do(open=1)
        ours.do(start=5)
        alone = started(server, ours, starts)
        before = server.memory()
        with other(server, fleet) as crowd:
            opened = crowd.do(open=connections)
            memory = (server.memory() - before) / connections
            beside = started(server, ours, starts)
    return {
        "server_KiB_each": memory / 1024,
        "client_KiB_each": opened["client_bytes_each"] / 1024,
        "start_ms": alone["ms"],
        "start_cpu_ms": alone["cpu_ms"],
        "start_ms_beside": beside["ms"],
        "start_cpu_ms_beside": beside["cpu_ms"],
    }


def start(server: Server, fleet: Fleet, starts: int) -> dict[str, float]:
    """Start sessions one after the other on one connection."""
    with other(server, fleet) as client:
        client.do(open=1)
        client.do(start=5)
        return started(server, client, starts)


def started(server: Server, client: Other, count: int) -> dict[str, float]:
    """Start sessions one after the other; the median of their times, and CPU of each."""
    took: list[float] = []
    spent = server.spend(lambda: took.extend(client.do(start=count)["took"]), ended=True)
    return {"ms": statistics.median(took) * 1000, "cpu_ms": spent.cpu / count * 1000}


def echo(server: Server, folder: Path, keys: int) -> dict[str, float]:
    """Type on a terminal, alone and beside a bulk download on the same connection."""
    control = folder / f"control.{server.name}"
    shared = ("-S", str(control))
    master = subprocess.Popen(
        server.command(options=(*shared, "-M", "-N")),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # it says that our pipe is no terminal
    )
    try:
        deadline = time.monotonic() + 20
        while not control.exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{server.name}: no master connection")
            time.sleep(0.02)
        with subprocess.Popen(
            server.command("stty raw -echo; echo; exec cat", options=(*shared, "-tt")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        ) as session:
            assert session.stdin is not None
            assert session.stdout is not None
            while session.stdout.read(1) != b"\n":
                pass
            alone = typed(session, keys)
            bulk = subprocess.Popen(
                server.command("cat /dev/zero", options=shared),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            time.sleep(0.3)
            beside = typed(session, keys)
            bulk.kill()
            bulk.wait()
            session.stdin.close()
            session.kill()
    finally:
        master.terminate()
        master.wait()
    return {f"{name}_ms": value * 1000 for name, value in {
        "median": statistics.median(alone),
        "p99": percentile(alone),
        "median_under_bulk": statistics.median(beside),
        "p99_under_bulk": percentile(beside),
    }.items()}  # fmt: skip


def typed(session: subprocess.Popen[bytes], keys: int) -> list[float]:
    """Type ``keys`` keys; return the seconds until each is echoed."""
    assert session.stdin is not None
    assert session.stdout is not None
    took = []
    for _ in range(keys):
        start = time.monotonic()
        session.stdin.write(b"x")
        if session.stdout.read(1) != b"x":
            raise RuntimeError("the echo is not what was typed")
        took.append(time.monotonic() - start)
        time.sleep(0.002)
    return took


def percentile(values: list[float]) -> float:
    """Return the 99th percentile."""
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]
