"""How are SSH values laid out in bytes (RFC 4251, section 5)?

Invariants:

* A reader never returns less than was announced, and never reads past its end: it raises
  :class:`tele.errors.ProtocolError`.
* A message is read to its end: :meth:`Reader.end` refuses trailing bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from tele.errors import ProtocolError

#: Most names that a name-list of a peer may have.
NAMES_LIMIT = 256


class Reader:
    """Takes values off the front of ``data``."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        start, end = self._at, self._at + size
        if end > len(self._data):
            raise ProtocolError("a message ends before its fields do")
        self._at = end
        return self._data[start:end]

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def boolean(self) -> bool:
        """Return the next boolean; any value but zero is true."""
        return self.take(1) != b"\0"

    def uint32(self) -> int:
        """Return the next uint32."""
        return int.from_bytes(self.take(4), "big")

    def uint64(self) -> int:
        """Return the next uint64."""
        return int.from_bytes(self.take(8), "big")

    def string(self, limit: int | None = None) -> bytes:
        """Return the next string; more than ``limit`` bytes of it are refused."""
        size = self.uint32()
        if limit is not None and size > limit:
            raise ProtocolError(f"a field of {size} bytes is longer than the {limit} allowed")
        return self.take(size)

    def text(self, limit: int | None = None) -> str:
        """Return the next string, which has to be UTF-8."""
        try:
            return self.string(limit).decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError("a text field is not UTF-8") from None

    def name_list(self) -> tuple[bytes, ...]:
        """Return the next name-list."""
        joined = self.string()
        if joined.count(b",") >= NAMES_LIMIT:
            raise ProtocolError("a name-list has too many names")
        return tuple(joined.split(b",")) if joined else ()

    def rest(self) -> bytes:
        """Return everything that is left."""
        return self.take(len(self._data) - self._at)

    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self._at == len(self._data)

    def end(self) -> None:
        """Raise :class:`ProtocolError` if anything is left."""
        if not self.at_end():
            raise ProtocolError("a message with bytes after its last field")


def uint32(value: int) -> bytes:
    """Return ``value`` as uint32."""
    return value.to_bytes(4, "big")


def string(data: bytes) -> bytes:
    """Return ``data`` as string."""
    return len(data).to_bytes(4, "big") + data


def boolean(value: bool) -> bytes:
    """Return ``value`` as boolean."""
    return b"\1" if value else b"\0"


def name_list(names: Iterable[bytes]) -> bytes:
    """Return ``names`` as name-list."""
    return string(b",".join(names))


def mpint(magnitude: bytes) -> bytes:
    """Return the unsigned big-endian number ``magnitude`` as mpint."""
    magnitude = magnitude.lstrip(b"\0")
    if magnitude and magnitude[0] & 0x80:
        magnitude = b"\0" + magnitude
    return string(magnitude)
