"""Which server and which protocol does a TLS client ask for?

Parses as much of a ClientHello (RFC 8446, section 4.1.2) as routing needs: the server name
(RFC 6066) and the protocols offered by ALPN (RFC 7301).

Invariants:

* The stream is not changed; the result is a value, "not yet", or a ProtocolError.
* Every length is checked against the bytes that contain it; no byte is parsed twice.
* A ClientHello has at most :data:`LIMIT` bytes here. Real ones are below 2 KiB.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from tele.errors import ProtocolError

LIMIT: Final = 16 * 1024
HANDSHAKE: Final = 0x16

_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ALPN: Final = 16


@frozen
class ClientHello:
    """``server_name`` is empty when there is none; ``protocols`` are in the client's order."""

    server_name: str
    protocols: tuple[bytes, ...]


class _Reader:
    """A cursor over bytes that checks every length."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise ProtocolError("TLS ClientHello: a length points past the end")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """A length of ``size`` bytes, and as many bytes."""
        return self.take(self.number(size))


class ClientHelloReader:
    """Parses the start of a TLS stream as it arrives."""

    def __init__(self) -> None:
        self._read = 0
        self._head = b""
        self._left = 0
        self._message = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """Parse the next bytes; None: more are needed.

        Raises :class:`ProtocolError` when this cannot become a ClientHello.
        """
        at = 0
        while at < len(data):
            if self._left:
                taken = data[at : at + self._left]
                self._message += taken
                self._left -= len(taken)
            else:
                taken = data[at : at + 5 - len(self._head)]
                self._read_head(taken)
            at += len(taken)
            self._read += len(taken)
            size = self._size()
            if size is not None and len(self._message) >= 4 + size:
                return _read_body(bytes(self._message[4 : 4 + size]))
            if self._read > LIMIT:
                raise ProtocolError("TLS ClientHello is too long")
        return None

    def _read_head(self, data: bytes) -> None:
        self._head += data
        if len(self._head) < 5:
            return
        head, self._head = self._head, b""
        length = int.from_bytes(head[3:5], "big")
        # A record has at most 2**14 bytes, and an empty one only delays (RFC 8446, 5.1).
        if head[0] != HANDSHAKE or head[1] != 3 or not 0 < length <= 1 << 14:
            raise ProtocolError("not a TLS handshake record")
        self._left = length

    def _size(self) -> int | None:
        """Return the length of the message, or None while it is not known."""
        if self._message and self._message[0] != _CLIENT_HELLO:
            raise ProtocolError("the TLS stream does not begin with a ClientHello")
        if len(self._message) < 4:
            return None
        size = int.from_bytes(self._message[1:4], "big")
        if size > LIMIT:
            raise ProtocolError("TLS ClientHello is too long")
        return size


def parse_client_hello(data: bytes) -> ClientHello | None:
    """Parse the start of a TLS stream; None: more bytes are needed.

    Raises :class:`ProtocolError` when this cannot become a ClientHello.
    """
    return ClientHelloReader().feed(data)


def _read_body(body: bytes) -> ClientHello:
    reader = _Reader(body)
    reader.take(2 + 32)  # legacy_version, random
    reader.vector(1)  # legacy_session_id
    reader.vector(2)  # cipher_suites
    reader.vector(1)  # legacy_compression_methods
    name = ""
    protocols: tuple[bytes, ...] = ()
    if reader.left:
        extensions = _Reader(reader.vector(2))
        seen = set()
        while extensions.left:
            kind = extensions.number(2)
            content = extensions.vector(2)
            if kind in seen:
                raise ProtocolError("TLS ClientHello has an extension twice")
            seen.add(kind)
            if kind == _SERVER_NAME:
                name = _read_server_name(content)
            elif kind == _ALPN:
                protocols = _read_protocols(content)
    return ClientHello(name, protocols)


def _read_server_name(content: bytes) -> str:
    names = _Reader(_Reader(content).vector(2))
    while names.left:
        kind, value = names.number(1), names.vector(2)
        if kind == 0:
            try:
                return value.decode("ascii").lower().rstrip(".")
            except UnicodeDecodeError:
                raise ProtocolError("TLS server name is not ASCII") from None
    return ""


def _read_protocols(content: bytes) -> tuple[bytes, ...]:
    listed = _Reader(_Reader(content).vector(2))
    protocols = []
    while listed.left:
        protocols.append(listed.vector(1))
    return tuple(protocols)
