"""The pages' own TLS and their reader of recordings, without a browser, against OpenSSL and tele.

One run of Node.js (``web_core/core.ts``) connects to all servers and reads all recordings; each
test looks at a part of what came of it.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import segno
from attrs import define, field, frozen
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pages_bundle import bundle as bundled
from tele.certs.x509 import TlsKey, issue_tls, make_authority
from tele.model.authority import AuthorityKind
from tele.model.frame import Frame, FrameKind
from tele.model.identity import HostIdentity, HostRole, UserIdentity
from tele.tape.index import (
    Channel,
    ChunkPlace,
    Index,
    Keyframe,
    Mark,
    MarkKind,
    pack_index,
    pack_state,
)
from tele.tape.layout import NO_CHUNK, digest, pack_chunk_2, pack_frames
from tele.tape.sealed_index import seal_index
from tele.tape.sealing import make_data_key

CLUSTER: Final = "example"
NAME: Final = f"auth.{CLUSTER}"
NOW: Final = datetime.now(UTC)
LATER: Final = NOW + timedelta(hours=1)
RECORDING: Final = "6f1f8f0e-2b8f-4c55-9a2e-0d5d0c3a7f11"


@frozen
class Authority:
    """A CA of hosts, or of users."""

    key: TlsKey
    certificate: str

    @classmethod
    def make(
        cls, kind: AuthorityKind = AuthorityKind.HOST, made: datetime = NOW, **life: Any
    ) -> Authority:
        key = TlsKey.generate()
        return cls(key, make_authority(CLUSTER, kind, key, made, os.urandom, **life))

    def issue(
        self, identity: HostIdentity | UserIdentity, key: TlsKey, issued: datetime = NOW
    ) -> str:
        return issue_tls(self.certificate, self.key, key.public_pem, identity, issued, os.urandom)


def auth(cluster: str = CLUSTER, expires: datetime = LATER) -> HostIdentity:
    return HostIdentity(
        "6f1f8f0e-0000-4c55-9a2e-0d5d0c3a7f11", "a", cluster, HostRole.AUTH, expires
    )


@define
class Server:
    """OpenSSL, or what is done to what it sends, on a port of its own, for one connection."""

    certificate: str
    key: TlsKey
    clients: str = ""
    trust: str = ""
    highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    #: Which byte of what the server sends is changed.
    changed: int = -1
    folder: Path = field(default=Path())
    shown: list[Any] = field(factory=list)
    _listening: socket.socket = field(init=False)
    _thread: threading.Thread = field(init=False)

    def start(self) -> int:
        """Listen; return the port."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(60)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        port: int = self._listening.getsockname()[1]
        return port

    def stop(self) -> None:
        """Wait for the connection's end."""
        self._thread.join()
        self._listening.close()

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = self.highest
        context.set_alpn_protocols(["tele-auth", "http/1.1"])
        files = self.folder / f"{id(self)}.crt", self.folder / f"{id(self)}.key"
        files[0].write_text(self.certificate)
        files[1].write_bytes(self.key.to_pem())
        context.load_cert_chain(*files)
        if self.clients:
            context.load_verify_locations(cadata=self.clients)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _serve(self) -> None:
        with suppress(OSError), ExitStack() as stack:
            raw, _ = self._listening.accept()
            raw = stack.enter_context(raw)
            raw.settimeout(30)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = self._context().wrap_bio(incoming, outgoing, server_side=True)
            sent = 0

            def flush() -> None:
                nonlocal sent
                data = bytearray(outgoing.read())
                if sent <= self.changed < sent + len(data):
                    data[self.changed - sent] ^= 1
                sent += len(data)
                raw.sendall(data)

            def wait(step: Callable[[], Any]) -> Any:
                while True:
                    try:
                        done = step()
                    except ssl.SSLWantReadError:
                        flush()
                        received = raw.recv(65536)
                        if not received:
                            raise ConnectionError from None
                        incoming.write(received)
                    except ssl.SSLError:
                        flush()
                        raise
                    else:
                        flush()
                        return done

            wait(tls.do_handshake)
            self.shown.append(tls.getpeercert())
            self.shown.append(tls.selected_alpn_protocol())
            for answer in (
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                # In parts, and longer than a record.
                b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"c350\r\n" + b"y" * 50000 + b"\r\n1\r\ny\r\n0\r\n\r\n",
            ):
                head = b""
                while b"\r\n\r\n" not in head:
                    head += wait(lambda: tls.read(65536))
                if b"100000" in head:
                    body = len(head.partition(b"\r\n\r\n")[2])
                    while body < 100_000:
                        body += len(wait(lambda: tls.read(65536)))
                tls.write(answer)
                flush()


HOSTS: Final = Authority.make()
USERS: Final = Authority.make(AuthorityKind.USER)
KEY: Final = TlsKey.generate()
GOOD: Final = HOSTS.issue(auth(), KEY)
USER: Final = UserIdentity("ann", CLUSTER, LATER, ("access",), ("root",))
MINE: Final = TlsKey.generate()
#: Bytes of the server that are changed: in its hello, and in what follows.
CHANGED: Final = (20, 90, 140, 200, 300, 400, 500, 600, 700, 800)


def servers() -> dict[str, Server]:
    """All servers, by what is tried with them."""
    old = NOW - timedelta(days=3)
    node = HostIdentity("6f1f8f0e-1111-4c55-9a2e-0d5d0c3a7f11", NAME, CLUSTER, HostRole.NODE, LATER)
    long_ago = Authority.make(made=old, lifetime=timedelta(days=1))
    return {
        "good": Server(GOOD, KEY),
        "asks for a certificate": Server(GOOD, KEY, USERS.certificate),
        "gets a certificate": Server(GOOD, KEY, USERS.certificate),
        "other CA": Server(Authority.make().issue(auth(), KEY), KEY),
        "other cluster": Server(HOSTS.issue(auth("elsewhere"), KEY), KEY),
        "a node": Server(HOSTS.issue(node, KEY), KEY),
        "a user": Server(HOSTS.issue(USER, KEY), KEY),
        "the CA itself": Server(HOSTS.certificate, HOSTS.key),
        "expired": Server(
            HOSTS.issue(auth(expires=NOW - timedelta(hours=1)), KEY, old), KEY
        ),
        "not yet": Server(HOSTS.issue(auth(expires=NOW + timedelta(days=9)), KEY,
                                      NOW + timedelta(days=1)), KEY),
        "expired CA": Server(
            long_ago.issue(auth(), KEY, old), KEY, trust=long_ago.certificate
        ),
        "TLS 1.2": Server(GOOD, KEY, highest=ssl.TLSVersion.TLSv1_2),
        **{f"changed {at}": Server(GOOD, KEY, changed=at) for at in CHANGED},
    }  # fmt: skip


def chunk_frames() -> list[Frame]:
    """Frames of each form."""
    return [
        Frame(0, 0, FrameKind.START, b'{"id":"x"}'),
        Frame(5, 1, FrameKind.OPEN, b'{"kind":"shell"}', 1),
        Frame(1_500_000_000, 1, FrameKind.OUTPUT, "höllo\r\n".encode() * 500, 2),
        Frame(2**52, 1, FrameKind.RESIZE, b'{"columns":80,"rows":24}', 3),
    ]


def index() -> Index:
    """An index with an entry of each kind."""
    states = (b"\x1b[31mred", b"second")
    packed = [pack_state(each) for each in states]
    return Index(
        whole=True, length=9_000_000_000, raw=15, output=7, digest=bytes(range(32)),
        chunks=(
            ChunkPlace(0, 0, 10, 1, 2, 1, 2, 0),
            ChunkPlace(1, 10, 5, 3, 9_000_000_000, 3, 3, 7),
        ),
        channels=(Channel(1, 5, True, False, 80, 24), Channel(2, 6, False, True, 0, 0)),
        keyframes=(
            Keyframe(3, 1, 0, 4, 80, 24, False, False, 5, 0, len(packed[0]), len(states[0])),
            Keyframe(4, 1, 1, 0, 120, 50, True, True, 7, len(packed[0]), len(packed[1]),
                     len(states[1])),
        ),
        resizes=(), marks=(Mark(7, 1, MarkKind.EXEC, "löng <b>"), Mark(8, 1, MarkKind.PROMPT, "")),
    )  # fmt: skip


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def recording() -> dict[str, Any]:
    """Chunks of both versions, clear and sealed, the index, and damaged ones of all."""
    frames = chunk_frames()
    raw, facts = pack_frames(frames)
    key = make_data_key(1, os.urandom)
    keys = {"1": encoded(key.secret)}
    clear = pack_chunk_2(raw, facts, 0, NO_CHUNK, last=False)
    sealed = pack_chunk_2(raw, facts, 1, digest(clear), last=True, seal=key)
    blob = pack_index(index(), [pack_state(b"\x1b[31mred"), pack_state(b"second")])
    closed = seal_index(blob, 1, key.secret, RECORDING, os.urandom)
    other = {"1": encoded(bytes(32))}

    def changed(data: bytes, at: int) -> str:
        return encoded(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])

    wrong: list[dict[str, Any]] = [
        {"data": encoded(clear), "number": 1, "keys": {}},
        {"data": encoded(clear[:-3]), "number": 0, "keys": {}},
        {"data": encoded(clear[:30]), "number": 0, "keys": {}},
        {"data": changed(clear, 41), "number": 0, "keys": {}},
        {"data": encoded(sealed), "number": 1, "keys": {}},
        {"data": encoded(sealed), "number": 1, "keys": other},
        {"data": changed(sealed, 60), "number": 1, "keys": keys},
        {"data": changed(sealed, 100), "number": 1, "keys": keys},
        {"kind": "index", "data": changed(blob, 0), "keys": {}},
        {"kind": "index", "data": changed(blob, 11), "keys": {}},
        {"kind": "index", "data": encoded(blob[:110]), "keys": {}},
        {"kind": "index", "data": encoded(closed), "keys": other},
        {"kind": "index", "data": changed(closed, 60), "keys": keys},
    ]
    return {
        "id": RECORDING,
        "chunks": [{"data": encoded(clear), "keys": {}}, {"data": encoded(sealed), "keys": keys}],
        "index": [{"data": encoded(blob), "keys": {}}, {"data": encoded(closed), "keys": keys}],
        "wrong": wrong,
    }


#: Texts that fill QR codes of these versions, so that there is no padding; and the longest.
VERSIONS: Final = {14: 1, 26: 2, 62: 4, 84: 5, 106: 6, 122: 7, 180: 9, 213: 10, 251: 11, 2331: 40}
TEXTS: Final = [("otpauth://totp/" + "x" * size)[:size] for size in VERSIONS]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All of it, done once."""
    folder = tmp_path_factory.mktemp("core")
    bundle = bundled("core", folder)
    running, read = servers(), recording()
    asked: list[dict[str, Any]] = []
    for name, server in running.items():
        server.folder = folder
        asked.append({
            "name": name, "port": server.start(), "serverName": NAME,
            "trust": [server.trust or HOSTS.certificate],
            "certificate": USERS.issue(USER, MINE) if name == "gets a certificate" else "",
        })  # fmt: skip
    pkcs8 = MINE.signer().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    wanted = {"servers": asked, "key": encoded(pkcs8), "recording": read, "codes": TEXTS}
    try:
        done = subprocess.run(
            ["node", str(bundle)], input=json.dumps(wanted), capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
    finally:
        for server in running.values():
            server.stop()
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "servers": running}


def test_openssl_and_the_pages_understand_each_other(seen: dict[str, Any]) -> None:
    """TLS 1.3 with OpenSSL; requests and responses longer than a record."""
    assert seen["good"] == {"first": "hello", "second": 50_001, "status": 404}
    assert seen["servers"]["good"].shown == [None, "tele-auth"]


def test_a_certificate_is_shown_where_it_is_asked_for(seen: dict[str, Any]) -> None:
    """OpenSSL accepts the proof of the key; without a certificate the list is empty."""
    assert seen["gets a certificate"]["first"] == "hello"
    shown = seen["servers"]["gets a certificate"].shown[0]
    assert (("commonName", "ann"),) in shown["subject"]
    assert seen["asks for a certificate"]["first"] == "hello"
    assert not seen["servers"]["asks for a certificate"].shown[0]


@pytest.mark.parametrize(
    ("server", "why"),
    [
        ("other CA", "another CA"),
        ("other cluster", "not for auth.example"),
        ("a node", "not for auth.example"),
        ("a user", "not for auth.example"),
        ("the CA itself", "not for auth.example"),
        ("expired", "has expired"),
        ("not yet", "not valid yet"),
        ("expired CA", "has expired"),
        ("TLS 1.2", "the server refused"),
    ],
)
def test_another_server_gets_nothing(seen: dict[str, Any], server: str, why: str) -> None:
    """A proxy that answers in auth's place is refused before a request is sent (attack)."""
    assert why in seen[server]["refused"]


@pytest.mark.parametrize("at", CHANGED)
def test_a_changed_handshake_is_refused(seen: dict[str, Any], at: int) -> None:
    """Wherever the proxy changes what it passes on (attack)."""
    assert "refused" in seen[f"changed {at}"]


def test_chunks_are_read_as_tele_reads_them(seen: dict[str, Any]) -> None:
    """Clear and sealed chunks have the frames that were written."""
    clear, sealed = seen["chunks"]
    wanted = [[each.time, each.channel, each.kind, each.data.decode()] for each in chunk_frames()]
    assert [each[:4] for each in clear["frames"]] == wanted
    assert sealed["frames"] == clear["frames"]
    assert (clear["isLast"], sealed["isLast"]) == (False, True)


def test_indexes_are_read_as_tele_reads_them(seen: dict[str, Any]) -> None:
    """Clear and sealed: all tables, and the screens of keyframes."""
    clear, sealed = seen["indexes"]
    assert sealed == clear
    assert clear["places"] == [[0, 1, 2, 0], [1, 3, 9_000_000_000, 7]]
    assert clear["channels"] == [[1, 5, True, False, 80, 24], [2, 6, False, True, 0, 0]]
    assert clear["frames"] == [[3, 1, 0, 4, 80, 24, False, 5], [4, 1, 1, 0, 120, 50, True, 7]]
    assert clear["marks"] == [[7, 1, 1, "löng <b>"], [8, 1, 2, ""]]
    assert clear["shown"] == ["\x1b[31mred", "second"]
    assert clear["digest"] == bytes(range(32)).hex()


def test_damaged_recordings_are_refused(seen: dict[str, Any]) -> None:
    """What is cut, changed, of another number, or sealed with another key is not shown (attack)."""
    assert seen["wrong"] == ["refused"] * len(recording()["wrong"])


def test_qr_codes_are_those_of_another_program(seen: dict[str, Any]) -> None:
    """Each module, in versions with one block and with many, with and without alignment."""
    for text, version, rows in zip(TEXTS, VERSIONS.values(), seen["codes"], strict=True):
        wanted = segno.make(
            text, version=version, error="m", mask=2, mode="byte", boost_error=False, micro=False
        )
        assert rows == [list(row) for row in wanted.matrix], version
