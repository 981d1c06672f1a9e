"""How does a stream of bytes pass a WebSocket (RFC 6455)? The server's side, without extensions.

Invariants:

* A browser's frames are masked, whole control frames among them; anything else is a
  :class:`ProtocolError`, and so is a message of text.
* Data are passed on as they arrive: nothing of a frame is kept but its head, of 14 bytes at most,
  and a control frame, of 125.
* Boundaries of messages mean nothing: what is sent is one stream, and so is what is received.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from attrs import frozen

from tele.errors import ProtocolError

VERSION: Final = b"13"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_CONTROL: Final = 0x08
CONTROL_LIMIT: Final = 125
#: Bytes of one frame from a browser: more than any page sends at once.
FRAME_LIMIT: Final = 16 * 1024 * 1024


class Opcode(IntEnum):
    """What a frame is (section 5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class CloseCode(IntEnum):
    """Why a connection ends (section 7.4.1)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002


@frozen
class Control:
    """A control frame: CLOSE, PING or PONG."""

    opcode: Opcode
    data: bytes


def accept(key: bytes) -> bytes:
    """Return what answers ``Sec-WebSocket-Key``. Raises :class:`ProtocolError`."""
    try:
        raw = base64.b64decode(key, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 16:
        raise ProtocolError("Sec-WebSocket-Key is not 16 bytes in base64")
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def frame(data: bytes, opcode: Opcode = Opcode.BINARY) -> bytes:
    """Return a frame of the server with ``data``."""
    first = bytes((_FIN | opcode,))
    size = len(data)
    if size <= CONTROL_LIMIT:
        return first + bytes((size,)) + data
    if size <= 0xFFFF:
        return first + b"\x7e" + size.to_bytes(2, "big") + data
    return first + b"\x7f" + size.to_bytes(8, "big") + data


def close_frame(code: CloseCode) -> bytes:
    """Return the frame that ends a connection."""
    return frame(code.to_bytes(2, "big"), Opcode.CLOSE)


def unmask(data: bytes, mask: bytes) -> bytes:
    """Return ``data`` with its mask of four bytes removed, or added."""
    size = len(data)
    long = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(long, "big")).to_bytes(size, "big")


class FrameReader:
    """Reads what a browser sends."""

    def __init__(self) -> None:
        self._head = b""
        self._opcode: Opcode | None = None
        self._mask = b""
        self._left = 0
        self._control = b""
        #: Whether a message goes on in the next frame.
        self._unfinished = False

    def feed(self, data: bytes) -> Iterator[bytes | Control]:
        """Yield the bytes of the stream, and control frames. Raises :class:`ProtocolError`."""
        at = 0
        while at < len(data) or (self._opcode is not None and not self._left):
            if self._opcode is None:
                at = self._read_head(data, at)
                continue
            part = unmask(data[at : at + self._left], self._mask)
            at += len(part)
            self._left -= len(part)
            turn = len(part) % 4
            self._mask = self._mask[turn:] + self._mask[:turn]
            if self._opcode < _CONTROL:
                if part:
                    yield part
            else:
                self._control += part
            if not self._left:
                opcode, self._opcode = self._opcode, None
                if opcode >= _CONTROL:
                    control, self._control = self._control, b""
                    yield Control(opcode, control)

    def _read_head(self, data: bytes, at: int) -> int:
        """Take bytes of a head; return where what follows begins."""
        wanted = 2
        if len(self._head) >= 2:
            length = self._head[1] & 0x7F
            wanted = 6 + {126: 2, 127: 8}.get(length, 0)
        taken = data[at : at + wanted - len(self._head)]
        self._head += taken
        if len(self._head) == 2 and wanted == 2:
            self._check_head()
        elif len(self._head) == wanted:
            self._begin()
        return at + len(taken)

    def _check_head(self) -> None:
        first, second = self._head
        if first & _RESERVED:
            raise ProtocolError("a frame uses an extension")
        if not second & _MASKED:
            raise ProtocolError("a frame of a browser is not masked")
        opcode = first & 0x0F
        if opcode not in list(Opcode) or opcode == Opcode.TEXT:
            raise ProtocolError("a frame is neither binary nor a control frame")
        is_final = bool(first & _FIN)
        if opcode >= _CONTROL:
            if not is_final or second & 0x7F > CONTROL_LIMIT:
                raise ProtocolError("a control frame is in parts, or too long")
        elif (opcode == Opcode.CONTINUATION) != self._unfinished:
            raise ProtocolError("a message begins within another, or goes on without one")
        else:
            self._unfinished = not is_final

    def _begin(self) -> None:
        head, self._head = self._head, b""
        size = head[1] & 0x7F
        if size >= 126:
            size = int.from_bytes(head[2:-4], "big")
        if size > FRAME_LIMIT:
            raise ProtocolError("a frame is too long")
        self._opcode, self._mask, self._left = Opcode(head[0] & 0x0F), head[-4:], size
