"""What are the handshakes with egress proxies?

HTTP CONNECT (RFC 9110, section 9.3.6) and SOCKS 5 (RFC 1928, login by RFC 1929). The proxy
resolves the destination's name.

Invariants:

* Bytes in, bytes out, no I/O: the same code serves with and without a reactor.
* A reply is at most :data:`REPLY_LIMIT` bytes. The bytes after it belong to the destination.
* An error quotes the proxy's refusal, cut to 256 bytes.
"""

from __future__ import annotations

import re
from base64 import b64encode
from ipaddress import ip_address
from typing import Final, Protocol

from tele.errors import InvalidInput, Unreachable, quoted
from tele.model.addresses import Address
from tele.outbound.egress import EgressProxy, ProxyKind, ProxyLogin

REPLY_LIMIT: Final = 16 * 1024

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9_.])?", re.ASCII)
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_HTTP: Final = b"HTTP/1."

_NO_LOGIN: Final = 0
_PASSWORD: Final = 2
_NONE_OF_THESE: Final = 0xFF
_IPV4: Final = 1
_NAME: Final = 3
_IPV6: Final = 4
#: RFC 1928, section 6.
_REPLIES: Final = {
    1: "general SOCKS server failure",
    2: "connection not allowed by ruleset",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}


class ProxyHandshake(Protocol):
    """One handshake. ``rest`` are the bytes after its end."""

    done: bool
    rest: bytes

    def begin(self) -> bytes:
        """Return the first bytes to send."""

    def receive(self, data: bytes) -> bytes:
        """Process received bytes and return bytes to send. Raises :class:`Unreachable`."""


def handshake_with(
    via: EgressProxy, host: str, port: int, login: ProxyLogin | None
) -> ProxyHandshake:
    """Return the conversation that asks ``via`` for a connection to ``host``.

    Raises :class:`InvalidInput` for a destination that cannot be named.
    """
    try:
        ip_address(host)
    except ValueError:
        if _HOST.fullmatch(host) is None:
            raise InvalidInput(f"{quoted(host)} is not a host name") from None
    if via.kind is ProxyKind.SOCKS5:
        return _Socks(via, host, port, login)
    return _Connect(via, host, port, login)


class _Connect:
    """HTTP CONNECT. A 2xx reply has no body, whatever its headers say."""

    def __init__(self, via: EgressProxy, host: str, port: int, login: ProxyLogin | None) -> None:
        self.done = False
        self.rest = b""
        self._via = via
        self._target = str(Address(host, port))
        self._login = login
        self._seen = b""
        self._skipped = 0

    def begin(self) -> bytes:
        """See :class:`ProxyHandshake`."""
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if self._login is not None:
            pair = f"{self._login.user}:{self._login.password}"
            coded = b64encode(pair.encode("utf-8", "surrogateescape")).decode("ascii")
            lines.append(f"Proxy-Authorization: Basic {coded}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def receive(self, data: bytes) -> bytes:
        """See :class:`ProxyHandshake`."""
        self._seen += data
        while not self.done:
            if self._seen[: len(_HTTP)] != _HTTP[: len(self._seen)]:
                raise Unreachable(f"{self._via} is not an HTTP proxy: it sent {_cut(self._seen)}")
            head, end, rest = self._seen.partition(b"\r\n\r\n")
            if len(head) + self._skipped > REPLY_LIMIT:
                raise Unreachable(f"{self._via} sent a reply of more than {REPLY_LIMIT} bytes")
            if not end:
                break
            self._take(head, rest)
        return b""

    def _take(self, head: bytes, rest: bytes) -> None:
        line = head.partition(b"\r\n")[0]
        status = _STATUS.fullmatch(line)
        if status is None:
            raise Unreachable(f"{self._via} is not an HTTP proxy: it sent {_cut(line)}")
        if status[1].startswith(b"1"):  # RFC 9110, section 15.2: an interim response
            self._skipped += len(head)
            self._seen = rest
            return
        if not status[1].startswith(b"2"):
            refusal = line.partition(b" ")[2]
            raise Unreachable(f"{self._via} refused {self._target}: {_cut(refusal)}")
        self.done, self.rest, self._seen = True, rest, b""


class _Socks:
    """SOCKS 5: method selection, a login if the proxy wants one, one request."""

    def __init__(self, via: EgressProxy, host: str, port: int, login: ProxyLogin | None) -> None:
        self.done = False
        self.rest = b""
        self._via = via
        self._host = host
        self._port = port
        self._login = login
        self._seen = b""
        self._next = self._method

    def begin(self) -> bytes:
        """See :class:`ProxyHandshake`."""
        methods = (_NO_LOGIN,) if self._login is None else (_NO_LOGIN, _PASSWORD)
        return bytes((5, len(methods), *methods))

    def receive(self, data: bytes) -> bytes:
        """See :class:`ProxyHandshake`. Every reply is a few bytes long."""
        self._seen += data
        output = b""
        while not self.done:
            request = self._next()
            if request is None:
                return output
            output += request
        self.rest, self._seen = self._seen, b""
        return output

    def _take(self, count: int) -> bytes | None:
        if len(self._seen) < count:
            return None
        taken, self._seen = self._seen[:count], self._seen[count:]
        return taken

    def _method(self) -> bytes | None:
        if self._seen and self._seen[0] != 5:
            raise Unreachable(f"{self._via} is not a SOCKS 5 proxy: it sent {_cut(self._seen)}")
        reply = self._take(2)
        if reply is None:
            return None
        if reply[1] == _NO_LOGIN:
            return self._request()
        if reply[1] == _PASSWORD and self._login is not None:
            user = self._login.user.encode("utf-8", "surrogateescape")
            password = self._login.password.encode("utf-8", "surrogateescape")
            self._next = self._logged_in
            return bytes((1, len(user))) + user + bytes((len(password),)) + password
        if reply[1] == _NONE_OF_THESE:
            wants = "another user or password" if self._login else "a user and a password"
            raise Unreachable(f"{self._via} refused the login: it wants {wants}")
        raise Unreachable(f"{self._via} chose a login method that was not offered: {reply[1]}")

    def _logged_in(self) -> bytes | None:
        reply = self._take(2)
        if reply is None:
            return None
        if reply[1] != 0:
            raise Unreachable(f"{self._via} refused the user and password")
        return self._request()

    def _request(self) -> bytes:
        self._next = self._reply
        try:
            address = ip_address(self._host)
        except ValueError:
            name = self._host.encode("ascii")
            destination = bytes((_NAME, len(name))) + name
        else:
            destination = bytes((_IPV4 if address.version == 4 else _IPV6,)) + address.packed
        return bytes((5, 1, 0)) + destination + self._port.to_bytes(2, "big")

    def _reply(self) -> bytes | None:
        seen = self._seen
        if len(seen) >= 2 and (seen[0] != 5 or seen[1] != 0):
            if seen[0] != 5:
                raise Unreachable(f"{self._via} is not a SOCKS 5 proxy: it sent {_cut(seen)}")
            refusal = _REPLIES.get(seen[1], f"reply {seen[1]}")
            raise Unreachable(f"{self._via} refused {Address(self._host, self._port)!s}: {refusal}")
        if len(seen) < 5:
            return None
        sizes = {_IPV4: 4, _NAME: 1 + seen[4], _IPV6: 16}
        if seen[3] not in sizes:
            raise Unreachable(f"{self._via} is not a SOCKS 5 proxy: it sent {_cut(seen)}")
        if self._take(4 + sizes[seen[3]] + 2) is None:
            return None
        self.done = True
        return b""


def _cut(text: bytes) -> str:
    return quoted(text[:256].decode("utf-8", "replace"))
