"""The store in etcd: addresses, who may be asked, members that go, changes that are lost."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from etcd_server import EtcdCluster, running_etcd
from store_turns import Turns
from tele.audit.chain import event
from tele.audit.log import AuditLog
from tele.audit.reading import EVENTS
from tele.errors import Conflict, InvalidInput, StorageFull, Unavailable
from tele.interfaces import Change, Delete, Put
from tele.store.etcd import EtcdBackend
from tele.store.etcd_client import EtcdClient, Refused, read_url
from tele.store.etcd_session import MOST_CHANGES, PART
from tele.testing import SettableClock


@pytest.fixture
def turns() -> Turns:
    """The fake reactor."""
    return Turns()


@contextmanager
def opened(url: str, turns: Turns, patience: float = 15.0) -> Iterator[EtcdBackend]:
    store = EtcdBackend(url, turns, patience)
    try:
        yield store
    finally:
        turns.wait(store.close())


def until(turns: Turns, condition: Any, what: str) -> None:
    """Let threads work until a condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        turns.deliver()
        time.sleep(0.02)


def written(turns: Turns, store: EtcdBackend, key: str) -> None:
    """Write a key as soon as the store takes it."""

    def put() -> bool:
        try:
            turns.wait(store.commit(Put(key, b"")))
        except Unavailable:
            time.sleep(0.1)
            return False
        return True

    until(turns, put, f"to write {key}")


@pytest.mark.parametrize(
    ("url", "endpoints", "prefix"),
    [
        ("//127.0.0.1", (("127.0.0.1", 2379),), "/tele"),
        ("//localhost:1,[::1]:2/a/b/", (("localhost", 1), ("::1", 2)), "/a/b"),
    ],
)
def test_the_members_and_the_prefix(
    url: str, endpoints: tuple[tuple[str, int], ...], prefix: str
) -> None:
    """Ports and the prefix have defaults; members on this machine are asked without TLS."""
    place = read_url(url)
    assert (place.endpoints, place.prefix, place.tls) == (endpoints, prefix, None)


def test_members_elsewhere_are_checked() -> None:
    """Who answers as the store is the cluster's administrator, so that less is refused."""
    tls = read_url("//etcd.example.com,127.0.0.1").tls
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("//etcd.example.com?tls=off", "without TLS"),
        ("//127.0.0.1.example.com?tls=off", "without TLS"),
        ("//root:secret@127.0.0.1", "password"),
        ("//127.0.0.1?password=secret", "password"),
        ("//127.0.0.1?user=root", "together"),
        ("//127.0.0.1?sslmode=off", "unknown parameter sslmode"),
        ("//127.0.0.1?tls=maybe", "on or off"),
        ("//127.0.0.1:x", "not HOST:PORT"),
        ("//127.0.0.1,", "not HOST:PORT"),
        ("", "not the URL of etcd"),
        ("//127.0.0.1?ca=/nothing/here", "cannot use the files"),
    ],
)
def test_addresses_that_are_refused(url: str, said: str) -> None:
    """The error says what to write instead, and no password."""
    with pytest.raises(InvalidInput, match=said) as error:
        read_url(url)
    assert "secret" not in str(error.value)


def test_no_etcd_at_the_address(turns: Turns, unused_port: int) -> None:
    """It is said at the start."""
    with pytest.raises(Unavailable, match=rf"cannot reach etcd at 127.0.0.1:{unused_port}"):
        EtcdBackend(f"//127.0.0.1:{unused_port}", turns)


@pytest.fixture
def unused_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_commits_that_wait_share_a_transaction(etcd: EtcdCluster, turns: Turns) -> None:
    """Each succeeds or is a conflict by itself, in order, also when two name one key."""
    with opened(etcd.url("batch"), turns) as store:
        revision = turns.wait(store.commit(Put("/k/0", b"")))
        answers = [
            store.commit(Put(f"/k/{n % 40}", b"%d" % n, if_revision=revision if n % 2 else None))
            for n in range(100)
        ]
        conflicts = []
        for number, answer in enumerate(answers):
            try:
                turns.wait(answer)
            except Conflict:
                conflicts.append(number)
        assert conflicts == [n for n in range(100) if n % 2]
        items = turns.wait(store.range("/k/", "/k0"))
        assert {item.key: item.value for item in items} == {
            f"/k/{n % 40}": b"%d" % n for n in range(0, 100, 2)
        }


def test_large_commits(etcd: EtcdCluster, turns: Turns) -> None:
    """A commit that etcd takes only in parts is still one; what is too large is refused whole."""
    with opened(etcd.url("large"), turns) as store:
        many = [Put(f"/k/{n:05}", b"") for n in range(PART * PART)]
        revision = turns.wait(store.commit(*many))
        page = turns.wait(store.range("/k/", "/k0"))
        assert {item.revision for item in page} == {revision}
        with pytest.raises(Conflict):
            turns.wait(store.commit(Put("/k/00000", b"x", if_revision=0), *many[1:]))
        with pytest.raises(Unavailable, match="4096 changes at once, not 4097"):
            turns.wait(store.commit(*many, Delete("/other")))
        for size in (1_700_000, 2 << 20):
            with pytest.raises(Unavailable, match=r"too large|larger than max") as error:
                turns.wait(store.commit(Put("/k/00000", bytes(size))))
            assert "unknown" not in str(error.value)
        first = turns.wait(store.get("/k/00000"))
        assert first is not None
        assert first.value == b""


def test_events_come_in_commits_that_etcd_takes(etcd: EtcdCluster, turns: Turns) -> None:
    """A flood of events, and large ones, are on record, each once."""
    with opened(etcd.url("audit"), turns) as store:
        audit = AuditLog(store, SettableClock())
        assert MOST_CHANGES < 2 * 300
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        events = [
            event("exec", f"e{n}", moment, "c", command="x" * (60_000 if n < 40 else 10))
            for n in range(300)
        ]
        answers = [audit.append(each) for each in events]
        for answer in answers:
            turns.wait(answer)
        assert len(turns.wait(store.range(EVENTS, EVENTS[:-1] + "0"))) == 300
        turns.wait(Deferred.fromCoroutine(audit.close()))


def test_the_user_of_the_store(turns: Turns, tmp_path: Path) -> None:
    """A user with a password gets in, goes on after his token has ended, and a wrong password is
    said without the password.
    """
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text("right\n")
    with running_etcd(1, "--auth-token-ttl", "1") as etcd:
        for path, body in (
            ("auth/user/add", {"name": "root", "password": "right"}),
            ("auth/user/grant", {"user": "root", "role": "root"}),
            ("auth/enable", {}),
        ):
            etcd.ask(path, body)
        url = f"{etcd.url()}?user=root&password_file={file}"
        with opened(url, turns) as store:
            turns.wait(store.commit(Put("/a", b"1")))
            time.sleep(2.5)  # the token's life
            turns.wait(store.commit(Put("/b", b"1")))
            assert len(turns.wait(store.range("/", "0"))) == 2
        file.chmod(0o644)
        with pytest.raises(Unavailable, match=r"password_file .*chmod"):
            EtcdBackend(url, turns)
        file.chmod(0o600)
        file.write_text("wrong-one")
        with pytest.raises(Unavailable, match="refuses the user root") as error:
            EtcdBackend(url, turns)
        assert "wrong-one" not in str(error.value)
        with pytest.raises(Unavailable, match="refuses"):
            EtcdBackend(etcd.url(), turns)


def test_a_member_that_accepts_no_token() -> None:
    """A member whose users have no token for long is asked again once, with a new one."""
    asked: list[str] = []

    class Member(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            is_login = self.path.endswith("authenticate")
            body = b'{"token": "t"}' if is_login else b'{"code": 16, "error": "invalid auth token"}'
            self.send_response(200 if is_login else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            """Not on standard error."""

    with HTTPServer(("127.0.0.1", 0), Member) as server, NamedTemporaryFile("w") as file:
        file.write("secret")
        file.flush()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        words = f"?user=u&password_file={file.name}"
        client = EtcdClient(read_url(f"//127.0.0.1:{server.server_port}{words}"), 5.0)
        try:
            with pytest.raises(Refused, match="invalid auth token"):
                client.read("kv/range", {"key": ""})
        finally:
            client.close()
            server.shutdown()
            thread.join()
    assert asked == ["/v3/auth/authenticate", "/v3/kv/range"] * 2


def test_a_full_etcd(turns: Turns) -> None:
    """Its quota is a full disk: it is said what to do, and what was acknowledged is there."""
    with (
        running_etcd(1, "--quota-backend-bytes", str(4 << 20)) as etcd,
        opened(etcd.url(), turns) as store,
    ):
        done = 0
        with pytest.raises(StorageFull, match=r"disarm the alarm.*unknown"):
            while done < 100:
                turns.wait(store.commit(Put(f"/k/{done:03}", bytes(200_000))))
                done += 1
        # etcd may have done the one that it refused.
        assert len(turns.wait(store.range("/k/", "/k0"))) - done in (0, 1)


def test_changes_that_were_forgotten(turns: Turns) -> None:
    """Who missed changes that are not in etcd any more does not go on with what he knew."""
    with running_etcd() as etcd, opened(etcd.url(), turns) as store:
        received: list[Change] = []
        turns.wait(store.watch("/", received.append))
        etcd.signal(0, signal.SIGKILL)
        etcd.start(0)
        etcd.wait(0)
        for _ in range(3):
            put = {"key": "L3RlbGUvYQ==", "value": ""}  # /tele/a
            revision = etcd.ask("kv/put", put)["header"]["revision"]
        etcd.ask("kv/compaction", {"revision": revision})

        def lost() -> bool:
            try:
                turns.wait(store.get("/a"))
            except Unavailable as error:
                return "restart it" in str(error)
            return False

        # It may have been quick enough to see them before they were forgotten.
        until(turns, lambda: received or lost(), "the store to say so")


def test_another_cluster_at_the_address(turns: Turns) -> None:
    """An etcd that has lost what it had acknowledged is not taken for the one of before."""
    with running_etcd() as etcd, opened(etcd.url(), turns) as store:
        turns.wait(store.commit(Put("/a", b"")))
        etcd.signal(0, signal.SIGKILL)
        for each in sorted((etcd.folder / "m0").rglob("*"), reverse=True):
            each.unlink() if each.is_file() else each.rmdir()
        etcd.start(0)
        etcd.wait(0)

        def lost() -> bool:
            try:
                turns.wait(store.get("/a"))
            except Unavailable as error:
                return "restart this auth" in str(error)
            return False

        until(turns, lost, "the store to notice")


def test_members_that_end(turns: Turns) -> None:
    """With three members, one may be killed or be stopped at any moment: nothing that was
    acknowledged is lost, watches see each change once and in order, and calls go on.
    """
    with running_etcd(3) as etcd, opened(etcd.url(), turns, 8.0) as store:
        received: list[str] = []
        turns.wait(store.watch("/k/", lambda change: received.append(change.key)))
        keys = []
        for number, (member, how) in enumerate(
            [(0, signal.SIGKILL), (1, signal.SIGSTOP), (2, signal.SIGKILL)]
        ):
            etcd.signal(member, how)
            for step in range(5):
                keys.append(f"/k/{number}-{step}")
                written(turns, store, keys[-1])
            if how is signal.SIGKILL:
                etcd.start(member)
            else:
                etcd.signal(member, signal.SIGCONT)
            etcd.wait(member)
        until(turns, lambda: set(received) >= set(keys), "all changes")
        assert list(dict.fromkeys(received)) == keys
        found = turns.wait(store.range("/k/", "/k0"))
        assert [item.key for item in found] == keys


def test_real_leases_end(etcd: EtcdCluster, turns: Turns) -> None:
    """By etcd's own clock, also when no auth runs; a renewed one goes on."""
    with opened(etcd.url("leases"), turns) as store:
        received: list[Change] = []
        turns.wait(store.watch("/", received.append))
        turns.wait(store.commit(Put("/short", b"", ttl=timedelta(seconds=1))))
        turns.wait(store.commit(Put("/long", b"", ttl=timedelta(minutes=5))))
        until(turns, lambda: any(c.item is None for c in received), "the end of the short one")
        assert [item.key for item in turns.wait(store.range("/", "0"))] == ["/long"]
