"""How does a payload become a packet, and a packet a payload (RFC 4253, section 6)?

One object per direction: it owns the cipher, the sequence number and the counts that say
when new keys are due. Before the first keys a packet is plain; after them it is as one of
the families of ciphers makes it: ``gcm``, ``etm`` and ``chacha``, each in a module of its own.

Invariants:

* Nothing of a packet is looked at before it is authenticated, but its length.
* A packet has at least one byte of payload and 4 to 255 bytes of padding.
* Every sealer takes channel data where they lie: the fast way is the only way of all ciphers.
* Input and output buffers are the caller's, and never overlap.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import Final, Protocol

from tele.errors import ProtocolError
from tele.wire.numbers import CHANNEL_DATA, CHANNEL_EXTENDED_DATA, MAC_ERROR

LENGTH_SIZE: Final = 4
BLOCK: Final = 16
PLAIN_BLOCK: Final = 8
MIN_PADDING: Final = 4

#: What a packet adds to its payload at most: length, padding length, padding, and a tag of
#: up to 64 bytes.
OVERHEAD: Final = 96
#: Bytes of padding that a sealer has to be given.
PADDING_SIZE: Final = 32
#: Room before the data of a data packet; that of CHANNEL_EXTENDED_DATA needs all of it.
DATA_HEADER_SIZE: Final = 18

WRAP: Final = 0xFFFFFFFF
_NONCEWRAP: Final = 0xFFFFFFFFFFFFFFFF
_DATA: Final = struct.Struct(">IBBII")
_DATA_START: Final = DATA_HEADER_SIZE - _DATA.size
_EXTENDED: Final = struct.Struct(">IBBIII")


class Sealer(Protocol):
    """The sending direction. ``octets`` and ``packets`` count since these keys began."""

    sequence: int
    packets: int
    octets: int

    def seal(self, payload: bytes, out: memoryview, at: int) -> int:
        """Write the packet of ``payload`` to ``out`` at ``at``; return where it ends."""

    def seal_data(
        self, room: memoryview, channel: int, size: int, code: int | None, out: memoryview, at: int
    ) -> int:
        """Write the packet of channel data that lie in ``room`` from ``DATA_HEADER_SIZE`` on.

        The header before and the padding after the data are overwritten. ``code`` is None
        for CHANNEL_DATA, else the type of CHANNEL_EXTENDED_DATA. Returns where it ends.
        """


class Opener(Protocol):
    """The receiving direction. ``limit`` is the longest packet length that is taken.

    ``needed`` is the size of a packet that was not all there, once its length was; else 0.
    """

    sequence: int
    packets: int
    octets: int
    limit: int
    needed: int
    payload_end: int

    def open(self, source: memoryview, start: int, end: int, room: memoryview) -> int:
        """Take the packet at ``source[start:end]``; return its size, 0 if it is not all there.

        The payload is ``room[1:payload_end]``. Raises :class:`ProtocolError`.
        """


def _padding_for(size: int, block: int) -> int:
    """Return the padding that makes ``size`` plus it a multiple of ``block``."""
    padding = block - size % block
    return padding if padding >= MIN_PADDING else padding + block


class PlainSealer:
    """Before keys."""

    __slots__ = ("octets", "packets", "sequence")

    def __init__(self) -> None:
        self.sequence = 0
        self.packets = 0
        self.octets = 0

    def seal(self, payload: bytes, out: memoryview, at: int) -> int:
        """See :class:`Sealer`. The padding is zeros: there is nothing to hide."""
        padding = _padding_for(LENGTH_SIZE + 1 + len(payload), PLAIN_BLOCK)
        length = 1 + len(payload) + padding
        end = at + LENGTH_SIZE + length
        out[at:end] = length.to_bytes(4, "big") + bytes((padding,)) + payload + bytes(padding)
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += end - at
        return end

    def seal_data(
        self, room: memoryview, channel: int, size: int, code: int | None, out: memoryview, at: int
    ) -> int:
        """See :class:`Sealer`. There are none before keys."""
        raise ValueError("channel data before keys")


class PlainOpener:
    """Before keys."""

    __slots__ = ("limit", "needed", "octets", "packets", "payload_end", "sequence")

    def __init__(self, limit: int) -> None:
        self.needed = 0
        self.sequence = 0
        self.packets = 0
        self.octets = 0
        self.limit = limit
        self.payload_end = 0

    def open(self, source: memoryview, start: int, end: int, room: memoryview) -> int:
        """See :class:`Opener`."""
        self.needed = 0
        if end - start < LENGTH_SIZE:
            return 0
        length = int.from_bytes(source[start : start + LENGTH_SIZE], "big")
        if (length + LENGTH_SIZE) % PLAIN_BLOCK or not 12 <= length <= self.limit:
            raise bad_length()
        stop = start + LENGTH_SIZE + length
        if stop > end:
            self.needed = stop - start
            return 0
        room[:length] = source[start + LENGTH_SIZE : stop]
        self.payload_end = payload_end(room[0], length)
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += stop - start
        return stop - start


def payload_end(padding: int, length: int) -> int:
    """Return where a payload ends in a packet of ``length``. Raises :class:`ProtocolError`."""
    if not MIN_PADDING <= padding <= length - 2:
        raise ProtocolError("a packet has padding that none can have")
    return length - padding


def bad_length() -> ProtocolError:
    """What is wrong with a packet of a length that none can have."""
    return ProtocolError("a packet has a length that none can have")


def not_authentic() -> ProtocolError:
    """What is wrong with a packet whose tag is not of its bytes."""
    return ProtocolError("a packet is not authentic", MAC_ERROR)


class CipherSealer(ABC):
    """Under keys. ``padding`` is at least ``PADDING_SIZE`` bytes of anything.

    The packet without its length is a multiple of 16, whatever less the cipher asks for.
    """

    __slots__ = ("_padding", "octets", "packets", "sequence")

    def __init__(self, padding: bytes, sequence: int) -> None:
        self._padding = padding
        self.sequence = sequence
        self.packets = 0
        self.octets = 0

    def seal(self, payload: bytes, out: memoryview, at: int) -> int:
        """See :class:`Sealer`."""
        padding = _padding_for(1 + len(payload), BLOCK)
        length = 1 + len(payload) + padding
        plain = bytes((padding,)) + payload + self._padding[:padding]
        return self._encrypt(length.to_bytes(4, "big"), plain, length, out, at)

    def seal_data(
        self, room: memoryview, channel: int, size: int, code: int | None, out: memoryview, at: int
    ) -> int:
        """See :class:`Sealer`."""
        if code is None:
            start = _DATA_START
            padding = _padding_for(10 + size, BLOCK)
            length = 10 + size + padding
            _DATA.pack_into(room, start, length, padding, CHANNEL_DATA, channel, size)
        else:
            start = 0
            padding = _padding_for(14 + size, BLOCK)
            length = 14 + size + padding
            _EXTENDED.pack_into(
                room, 0, length, padding, CHANNEL_EXTENDED_DATA, channel, code, size
            )
        data_end = DATA_HEADER_SIZE + size
        room[data_end : data_end + padding] = self._padding[:padding]
        body = start + LENGTH_SIZE
        return self._encrypt(room[start:body], room[body : body + length], length, out, at)

    @abstractmethod
    def _encrypt(
        self,
        header: bytes | memoryview,
        plain: bytes | memoryview,
        length: int,
        out: memoryview,
        at: int,
    ) -> int:
        """Write the packet of ``header``, its length, and ``plain``; return where it ends."""


class CipherOpener:
    """What all openers under keys remember."""

    __slots__ = ("limit", "needed", "octets", "packets", "payload_end", "sequence")

    def __init__(self, limit: int, sequence: int) -> None:
        self.needed = 0
        self.sequence = sequence
        self.packets = 0
        self.octets = 0
        self.limit = limit
        self.payload_end = 0
