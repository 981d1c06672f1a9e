"""Real members of etcd for tests, each in a process with a folder of its own."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from store_turns import Turns


def program() -> str | None:
    """Return the path of the server, None without one."""
    return shutil.which("etcd")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class EtcdCluster:
    """Members that can be stopped, killed and started again. ``options`` go to each of them."""

    def __init__(self, folder: Path, members: int = 1, options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self._options = options
        ports = _free_ports(2 * members)
        self.ports, self._peers = ports[:members], ports[members:]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def url(self, prefix: str = "tele") -> str:
        """The URL of a store, without its kind."""
        return f"//{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{prefix}"

    def start(self, member: int) -> None:
        """Start a member."""
        here, peer = (f"http://127.0.0.1:{p[member]}" for p in (self.ports, self._peers))
        members = ",".join(f"m{n}=http://127.0.0.1:{port}" for n, port in enumerate(self._peers))
        command = [
            str(program()), "--name", f"m{member}", "--data-dir", f"m{member}",
            "--listen-client-urls", here, "--advertise-client-urls", here,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", members, "--log-level", "error", *self._options,
        ]  # fmt: skip
        with (self.folder / f"log{member}").open("ab") as log:
            self._processes[member] = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log
            )

    def wait(self, member: int) -> None:
        """Wait until a member serves."""
        for _ in range(1200):
            with suppress(OSError):
                self.ask("kv/range", {"key": "AA=="}, member)
                return
            assert self._processes[member].poll() is None, self.log(member)
            time.sleep(0.05)
        raise AssertionError(self.log(member))

    def log(self, member: int) -> str:
        """What a member has logged."""
        return (self.folder / f"log{member}").read_text()

    def signal(self, member: int, which: signal.Signals) -> None:
        """Send a signal to a member; after SIGKILL it has ended."""
        process = self._processes[member]
        process.send_signal(which)
        if which is signal.SIGKILL:
            process.wait(30)
            del self._processes[member]

    def ask(self, path: str, body: dict[str, Any], member: int = 0) -> dict[str, Any]:
        """Return a member's answer to a request."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[member]}/v3/{path}", json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def end(self) -> None:
        """End all members."""
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._processes.values():
            process.wait(30)
        self._processes.clear()


@contextmanager
def running_etcd(members: int = 1, *options: str) -> Iterator[EtcdCluster]:
    """Running members with nothing in them; nothing is left of them."""
    folder = Path(tempfile.mkdtemp(prefix="tele-etcd-"))
    try:
        cluster = EtcdCluster(folder, members, options)
        try:
            for member in range(members):
                cluster.start(member)
            for member in range(members):
                cluster.wait(member)
            yield cluster
        finally:
            cluster.end()
    finally:
        shutil.rmtree(folder)


@contextmanager
def etcd_clock(cluster: EtcdCluster, turns: Turns) -> Iterator[str]:
    """The URL of an empty store, whose leases end by the fake clock: they are revoked when it gets
    to their date.
    """
    prefix = f"s{uuid.uuid4().hex}"
    start = f"/{prefix}".encode()
    words = {"key": _text(start), "range_end": _text(start + b"\xff")}

    def moved(moment: float) -> None:
        for kv in cluster.ask("kv/range", words).get("kvs", ()):
            value = b64decode(kv.get("value", ""))
            if "lease" in kv and int.from_bytes(value[:8], "big") <= moment * 1000:
                with suppress(OSError):  # it had two keys
                    cluster.ask("lease/revoke", {"ID": kv["lease"]})

    turns.before_move.append(moved)
    yield cluster.url(prefix)
    turns.before_move.remove(moved)
    cluster.ask("kv/deleterange", words)


def _text(data: bytes) -> str:
    return b64encode(data).decode()
