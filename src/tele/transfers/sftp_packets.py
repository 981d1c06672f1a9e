"""Where in a stream of SFTP are the packets, and what is in their heads?

SFTP version 3, draft-ietf-secsh-filexfer-02. Of most packets the number is read, of some all of
it; content of files passes on without a copy.

Invariants:

* No more of a packet is kept than its reader asks for, at most :data:`PACKET_LIMIT`.
* A field that is longer than its packet is :class:`Unreadable`. Bytes after the last field are
  ignored, as servers do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from tele.transfers.observer import Unreadable

TOO_LONG: Final = "a field is longer than its packet"
#: As in OpenSSH's sftp-common.h.
PACKET_LIMIT: Final = 256 * 1024
#: Length and type; length, type and number.
TYPED: Final = 5
NUMBERED: Final = 9

_TYPED: Final = struct.Struct(">IB")
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")

#: Which attributes there are (section 5).
_SIZE, _OWNER, _MODE = 1, 2, 4


class Fields:
    """The fields of a packet, from its number on."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes | bytearray, at: int = TYPED) -> None:
        self._data = data
        self._at = at

    def u32(self) -> int:
        """Read four bytes."""
        at = self._at
        self._at = at + 4
        try:
            return int(_U32.unpack_from(self._data, at)[0])
        except struct.error:
            raise Unreadable(TOO_LONG) from None

    def u64(self) -> int:
        """Read eight bytes."""
        at = self._at
        self._at = at + 8
        try:
            return int(_U64.unpack_from(self._data, at)[0])
        except struct.error:
            raise Unreadable(TOO_LONG) from None

    def string(self) -> bytes:
        """Read a length and so many bytes."""
        size = self.u32()
        at = self._at
        end = self._at = at + size
        if end > len(self._data):
            raise Unreadable(TOO_LONG)
        return bytes(self._data[at:end])

    def attributes(self) -> tuple[int | None, str]:
        """Read the size, if it is there, and the mode in octal, or nothing."""
        flags = self.u32()
        size = self.u64() if flags & _SIZE else None
        if flags & _OWNER:
            self.u64()
        return size, f"{self.u32() & 0o7777:04o}" if flags & _MODE else ""


#: Called with the first bytes of a packet.
ReadHead = Callable[[bytes | bytearray], None]
#: Called with type and length of a packet, the latter from the type on. Returns how many bytes of
#: it, from its first, to read, and what to call with them.
Begin = Callable[[int, int], tuple[int, ReadHead]]
#: Called with type and all of a packet that came in one piece; whether that was read.
ReadWhole = Callable[[int, memoryview], bool]


class Packets:
    """One direction of the stream, in pieces."""

    __slots__ = (
        "_begin", "_head", "_left", "_read", "_sink", "_skip", "_typed", "_wanted", "_whole",
    )  # fmt: skip

    def __init__(self, begin: Begin, whole: ReadWhole) -> None:
        """``whole`` is asked first, ``begin`` about what it does not read."""
        self._begin = begin
        self._whole = whole
        self._head = bytearray()
        self._wanted = TYPED
        self._typed = False
        self._read: ReadHead = _nothing
        #: Bytes of the packet that are not in the head.
        self._left = 0
        #: Bytes that are content, and who takes them; and bytes of nothing after it.
        self._skip = 0
        self._sink: Callable[[memoryview], None] | None = None

    def content(self, size: int, sink: Callable[[memoryview], None] | None) -> None:
        """After the head that is being read come ``size`` bytes for ``sink``."""
        if size > self._left:
            raise Unreadable(TOO_LONG)
        self._skip, self._sink = size, sink

    def more(self, size: int, read: ReadHead) -> None:
        """The head that is being read has ``size`` bytes more; call ``read`` with all of it."""
        if size > self._left:
            raise Unreadable(TOO_LONG)
        self._wanted += size
        self._left -= size
        self._read = read

    def feed(self, view: memoryview) -> None:
        """Read the next piece. Raises :class:`Unreadable`."""
        at, end = 0, len(view)
        if self._skip > end:  # it is content, as most pieces of large files are
            if self._sink is not None:
                self._sink(view)
            self._skip -= end
            self._left -= end
            return
        while at < end:
            if not self._head and end - at >= TYPED:
                length, kind = _TYPED.unpack_from(view, at)
                packet_end = at + 4 + length
                if packet_end <= end and 1 <= length <= PACKET_LIMIT:
                    packet = view[at:packet_end]
                    at = packet_end
                    if not self._whole(kind, packet):
                        self._start(length, kind)
                        self._read_whole(packet)
                    continue
                self._start(length, kind)
                size = min(self._wanted, end - at)
                self._head += view[at : at + size]
                at += size
                if size == self._wanted:
                    self._read_head()
            elif self._skip:
                size = min(self._skip, end - at)
                if self._sink is not None:
                    self._sink(view[at : at + size])
                self._skip -= size
                self._left -= size
                at += size
            elif self._typed and len(self._head) >= self._wanted:
                size = min(self._left, end - at)
                self._left -= size
                at += size
            else:
                size = min(self._wanted - len(self._head), end - at)
                self._head += view[at : at + size]
                at += size
                if len(self._head) == self._wanted:
                    self._read_head()
            if self._typed and not self._left and len(self._head) >= self._wanted:
                self._next()

    def _read_whole(self, packet: memoryview) -> None:
        """Read a packet that came in one piece, as most do."""
        at = 0
        while at < self._wanted:  # its reader may ask for more
            at = self._wanted
            self._read(packet[:at].tobytes())
        if self._skip and self._sink is not None:
            self._sink(packet[at : at + self._skip])
        self._skip = self._left = 0
        self._next()

    def _next(self) -> None:
        self._head.clear()
        self._wanted = TYPED
        self._typed = False
        self._sink = None

    def _start(self, length: int, kind: int) -> None:
        if not 1 <= length <= PACKET_LIMIT:
            raise Unreadable(f"a packet of {length} bytes")
        wanted, self._read = self._begin(kind, length)
        self._typed = True
        self._wanted = max(TYPED, min(wanted, length + 4))
        self._left = length + 4 - self._wanted

    def _read_head(self) -> None:
        if not self._typed:
            self._start(*_TYPED.unpack_from(self._head))
        if len(self._head) == self._wanted:
            self._read(self._head)


def _nothing(_: bytes | bytearray) -> None:
    """There is nothing to read yet."""
