"""How long do lists over many rows take, and does anybody else wait for them?

    python bench/lists.py [--rows 50000] [--only recordings,users]

Fills the store of an auth and prints JSON, for each list:

page_ms     one page of 200 rows from auth, on a connection that is open
first_ms    the command, until its first row is printed; the command's own start is in it
head_ms     the command into ``head -1``, until both have ended
whole_s     the command, until all rows are printed
rows        how many it printed
beside_ms   how long a small request takes at most (and in the 95th of 100) while eight clients
            read the list, page after page; ``quiet_ms`` is the same while no client does

and for ``recordings show PREFIX`` how long it takes, and for pages of recordings with ``filters``.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from servers import BIN, free_port, run, wait_listening
from tele.audit.chain import event, link
from tele.audit.reading import HEAD, event_key
from tele.auth.recording_search import INDEX, OF_USER
from tele.auth.recordings import ROWS
from tele.auth.running_sessions import SESSIONS, SESSIONS_OF
from tele.https.blocking import BlockingAuthority
from tele.https.pinning import server_name
from tele.interfaces import Put
from tele.membership.identity import HostKeyPair, MemberIdentity, assemble, tls_authorities
from tele.model.api import audit, members, recordings, table
from tele.model.api.operation import Nothing
from tele.model.api.paging import Paged
from tele.model.api.tokens import NewToken
from tele.model.codec import encode
from tele.model.identity import HostRole
from tele.model.presence import Presence
from tele.model.resources import Metadata, User, UserSpec
from tele.model.session import Recording, Session
from tele.store import sqlite_file

CLUSTER: Final = "bench"
NODE: Final = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11"
BATCH: Final = 1000
AT_ONCE: Final = 8
PROBES: Final = 40
#: What the command line asks for, after a first short page.
PAGE: Final = 500


def rows_of_recordings(rows: int) -> Iterator[Put]:
    """Rows of recordings, a minute apart, of 500 users."""
    begin = datetime.now(UTC) - timedelta(minutes=rows)
    for number in range(rows):
        user, name = f"user{number % 500}", str(uuid.uuid4())
        moment = begin + timedelta(minutes=number)
        row = Recording(
            name, "ssh", user, "root", f"web{number % 100}", moment,
            moment + timedelta(seconds=50), bool(number % 2), 10_000, NODE, 3, True, moment,
        )  # fmt: skip
        stamp = f"{int(moment.timestamp() * 1000):015d}-{name}"
        yield Put(ROWS + name, encode(row))
        yield Put(INDEX + stamp, b"")
        yield Put(f"{OF_USER}{user}/{stamp}", b"")


def sessions(rows: int, node: str) -> Iterator[Put]:
    """Sessions that run on a node."""
    moment = datetime.now(UTC)
    for number in range(rows):
        user, name = f"user{number % 500}", str(uuid.uuid4())
        session = Session(
            name, user, "root", "web1", node, "192.0.2.7:1", moment, "s1", received=moment
        )
        yield Put(SESSIONS + name, encode(session))
        yield Put(f"{SESSIONS_OF}{user}/{name}", b"")


def rows_of_users(rows: int) -> Iterator[Put]:
    """Users without a password."""
    for number in range(rows):
        name = f"user{number}"
        yield Put(f"/users/{name}", encode(User(Metadata(name), UserSpec(("access",)))))


def events(rows: int, connection: Any) -> Iterator[Put]:
    """Events that continue the audit."""
    item = sqlite_file.get(connection, HEAD, time.time())
    number, previous = json.loads(item.value) if item is not None else (0, "")
    moment = datetime.now(UTC)
    for _ in range(rows):
        number += 1
        value = link(
            event("user.login", secrets.token_hex(8), moment, CLUSTER, user=f"u{number % 500}"),
            previous,
        )
        previous = value.hash
        yield Put(event_key(number), encode(value))
    yield Put(HEAD, json.dumps([number, previous]).encode("ascii"))


def fill(path: Path, rows: int, node: str) -> None:
    """Put rows of each kind into a store that is not in use."""
    connection = sqlite_file.open_file(path)
    connection.execute("PRAGMA synchronous = OFF")
    for puts in (rows_of_recordings(rows), sessions(rows // 25, node), rows_of_users(rows // 5),
                 events(rows, connection)):  # fmt: skip
        batch: list[Put] = []
        for put in puts:
            batch.append(put)
            if len(batch) == BATCH:
                sqlite_file.commit(connection, [tuple(batch)], time.time())
                batch = []
        sqlite_file.commit(connection, [tuple(batch)], time.time())
    connection.close()


@define
class Node:
    """A node that says that it lives."""

    local: BlockingAuthority
    address: str
    member: MemberIdentity = field(init=False)
    trust: tuple[str, ...] = field(init=False)

    def join(self) -> None:
        """Become a member."""
        token = self.local.perform(table.ADD_TOKEN, NewToken((HostRole.NODE,))).token
        info = self.local.perform(table.CLUSTER, Nothing())
        self.trust, keys = tuple(tls_authorities(info.authorities)), HostKeyPair.generate()
        request = members.JoinRequest(token, "web1", HostRole.NODE, keys.public)
        with BlockingAuthority(self.address, None, self.trust, server_name(CLUSTER)) as client:
            self.member = assemble(keys, client.perform(table.JOIN, request), HostRole.NODE)

    def announce(self) -> None:
        """Be online for a while."""
        tls, name = self.member.tls, server_name(CLUSTER)
        with BlockingAuthority(self.address, tls, self.trust, name) as auth:
            auth.perform(table.ANNOUNCE, Presence("web1", HostRole.NODE))


@contextmanager
def auth(folder: Path, rows: int) -> Iterator[tuple[Path, Node]]:
    """Run auth with a store that is full; give its configuration, and its node."""
    config, port = folder / "auth.yaml", free_port()
    config.write_text(
        f"version: v1\ndata_dir: {folder}/data\n"
        f"auth: {{cluster_name: {CLUSTER}, listen: '127.0.0.1:{port}'}}\n"
    )

    def start() -> subprocess.Popen[bytes]:
        words = [str(BIN / "twistd"), "-n", "--pidfile=", "tele-auth", "--config", str(config)]
        with (folder / "auth.log").open("ab") as log:
            process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
        wait_listening(port, process)
        while not (folder / "data" / "auth.sock").exists():  # it is the second to be there
            time.sleep(0.01)
        return process

    def stop(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        process.wait()

    local = BlockingAuthority.local(str(folder / "data" / "auth.sock"))
    node = Node(local, f"127.0.0.1:{port}")
    process = start()
    try:
        node.join()
    finally:
        stop(process)
    local.close()
    fill(folder / "data" / "auth.sqlite", rows, node.member.host.host_id)
    process = start()
    try:
        yield config, node
    finally:
        stop(process)


def timed(function: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.monotonic()
    function()
    return time.monotonic() - began


def best(function: Callable[[], object], times: int = 3) -> float:
    """The shortest of a few, in milliseconds."""
    return round(min(timed(function) for _ in range(times)) * 1000, 1)


def first_line(words: Sequence[str]) -> float:
    """Seconds until a command prints its second line, which is the first row."""
    began = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        took = time.monotonic() - began
        process.kill()
    return took


def delays(local: BlockingAuthority, going_on: Callable[[], bool]) -> dict[str, float]:
    """How long a small request takes, again and again for as long as ``going_on()``."""
    found: list[float] = []
    while going_on() or len(found) < PROBES:
        found.append(timed(lambda: local.perform(table.CLUSTER, Nothing())) * 1000)
        time.sleep(0.02)
    found.sort()
    return {"most": round(found[-1], 1), "p95": round(found[int(len(found) * 0.95)], 1)}


#: Reads all pages of a list, over and over for some seconds, on so many connections at once.
#: It looks at none of the rows: what is measured is auth.
READER: Final = """
import http.client, re, socket, sys, threading, time
path, target, at_once, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
class Local(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
def read():
    connection, after = Local("local"), ""
    while time.monotonic() < deadline:
        connection.request("GET", target + (f"&after={after}" if after else ""))
        body = connection.getresponse().read()
        after = re.search(rb'"next":"([^"]*)"}?$', body)[1].decode()
        pages.append(len(body))
deadline, pages = time.monotonic() + seconds, []
threads = [threading.Thread(target=read) for _ in range(at_once)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(pages))
"""
SECONDS: Final = 5.0


def beside(local: BlockingAuthority, config: Path, operation: Any) -> dict[str, float]:
    """The same while eight clients read the list as fast as auth gives it to them."""
    words = [
        sys.executable, "-c", READER, str(config.parent / "data" / "auth.sock"),
        f"{operation.path}?limit={PAGE}", str(AT_ONCE), str(SECONDS),
    ]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = delays(local, lambda: process.poll() is None)
        found["pages_per_s"] = round(int(process.stdout.read()) / SECONDS, 1)
    return found


def one_list(
    config: Path, local: BlockingAuthority, name: str, operation: Any, request: Any
) -> dict[str, Any]:
    """Measure one of the lists, ``tele NAME ls``."""
    more = ("--limit", "0") if name == "audit" else ()
    words = [str(BIN / "tele"), name, "ls", *more, "--config", str(config)]
    printed = run(*words, "--format", "json")
    return {
        "page_ms": best(lambda: local.perform(operation, request)),
        "first_ms": round(min(first_line(words) for _ in range(3)) * 1000, 1),
        "head_ms": best(lambda: run("sh", "-c", '"$@" | head -1', "sh", *words)),
        "whole_s": round(timed(lambda: run(*words)), 2),
        "json_s": round(timed(lambda: run(*words, "--format", "json")), 2),
        "rows": len(json.loads(printed)),
        "beside_ms": beside(local, config, operation),
    }


def measure(config: Path, node: Node, rows: int, only: Sequence[str]) -> dict[str, Any]:
    """Measure all lists."""
    local = BlockingAuthority.local(str(config.parent / "data" / "auth.sock"))
    asked: dict[str, Any] = {
        "recordings": (table.LIST_RECORDINGS, recordings.ListRecordings()),
        "sessions": (table.LIST_SESSIONS, Paged()),
        "users": (table.LIST_USERS, Paged()),
        "audit": (table.LIST_EVENTS, audit.ListEvents(newest=True)),
    }
    found: dict[str, Any] = {"rows": rows, "cores": os.cpu_count()}
    found["quiet_ms"] = delays(local, lambda: False)
    for name, (operation, request) in asked.items():
        if only and name not in only:
            continue
        node.announce()
        found[name] = one_list(config, local, name, operation, request)
    if not only or "filters" in only:
        since = datetime.now(UTC) - timedelta(days=2)
        wanted = {
            "node": recordings.ListRecordings(node="web7*"),
            "no_node": recordings.ListRecordings(node="db*"),
            "user_node": recordings.ListRecordings(user="user7", node="web*"),
            "since": recordings.ListRecordings(since=since, node="web*"),
            "command": recordings.ListRecordings(command="rm -rf"),
        }
        found["filters"] = {
            name: best(partial(local.perform, table.LIST_RECORDINGS, request))
            for name, request in wanted.items()
        }
    if not only or "show" in only:
        page = local.perform(table.LIST_RECORDINGS, recordings.ListRecordings())
        prefix = page.items[-1].id[:13]
        words = [str(BIN / "tele"), "recordings", "show", prefix, "--config", str(config)]
        found["show"] = {"prefix_ms": best(lambda: run(*words))}
    return found


def main() -> None:
    """Print figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--only", default="")
    said = parser.parse_args()
    os.environ.pop("TELE_USER", None)
    with tempfile.TemporaryDirectory(prefix="tele-lists-") as name:
        folder = Path(name)
        with auth(folder, said.rows) as (config, node):
            only = [word for word in said.only.split(",") if word]
            json.dump(measure(config, node, said.rows, only), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
