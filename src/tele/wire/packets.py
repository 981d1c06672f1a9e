"""How does a payload become a packet, and a packet a payload (RFC 4253, section 6)?

One object per direction owns the cipher, the sequence number and the counts by which new keys are
due. Packets are plain before the first key exchange. The ciphers are in ``gcm``, ``etm`` and
``chacha``.

Invariants:

* Only the length of a packet is used before it is authenticated.
* A packet has at least one byte of payload and 4 to 255 bytes of padding.
* Every sealer encrypts channel data where they lie, without a copy.
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
#: Bytes before the data of a data packet; CHANNEL_EXTENDED_DATA needs all of them.
DATA_HEADER_SIZE: Final = 18

WRAP: Final = 0xFFFFFFFF
_NONCEWRAP: Final = 0xFFFFFFFFFFFFFFFF
#: What comes before the data of a packet of CHANNEL_DATA, and where it begins in a buffer.
DATA_HEADER: Final = struct.Struct(">IBBII")
DATA_START: Final = DATA_HEADER_SIZE - DATA_HEADER.size
#: Bytes before the data that are encrypted: of the padding length, and of the message.
DATA_FIELDS: Final = DATA_HEADER.size - LENGTH_SIZE
_EXTENDED: Final = struct.Struct(">IBBIII")


class Sealer(Protocol):
    """The sending direction. ``octets`` and ``packets`` count since these keys began."""

    sequence: int
    packets: int
    octets: int

    def seal(self, payload: bytes, out: memoryview, at: int) -> int:
        """Write the packet of ``payload`` to ``out`` at ``at``; return where it ends."""

    def seal_data(
        self,
        buffer: memoryview,
        channel: int,
        size: int,
        code: int | None,
        out: memoryview,
        at: int,
    ) -> int:
        """Write the packet of channel data that lie in ``buffer`` from ``DATA_HEADER_SIZE`` on.

        The header before and the padding after the data are overwritten. ``code`` is None
        for CHANNEL_DATA, else the type of CHANNEL_EXTENDED_DATA. Returns where it ends.
        """


class Opener(Protocol):
    """The receiving direction. ``limit`` is the longest packet length that is accepted.

    ``needed`` is the size of an incomplete packet, if its length is known; else 0.
    """

    sequence: int
    packets: int
    octets: int
    limit: int
    needed: int
    payload_end: int

    def open(self, source: memoryview, start: int, end: int, buffer: memoryview) -> int:
        """Decrypt the packet at ``source[start:end]``; return its size, 0 if it is incomplete.

        The payload is ``buffer[1:payload_end]``. Raises :class:`ProtocolError`.
        """


def padding_for(size: int, block: int) -> int:
    """Return the padding that makes ``size`` plus it a multiple of ``block``."""
    padding = block - size % block
    return padding if padding >= MIN_PADDING else padding + block


class PlainSealer:
    """Before the first key exchange."""

    __slots__ = ("octets", "packets", "sequence")

    def __init__(self) -> None:
        self.sequence = 0
        self.packets = 0
        self.octets = 0

    def seal(self, payload: bytes, out: memoryview, at: int) -> int:
        """See :class:`Sealer`. The padding is zeros."""
        padding = padding_for(LENGTH_SIZE + 1 + len(payload), PLAIN_BLOCK)
        length = 1 + len(payload) + padding
        end = at + LENGTH_SIZE + length
        out[at:end] = length.to_bytes(4, "big") + bytes((padding,)) + payload + bytes(padding)
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += end - at
        return end

    def seal_data(
        self,
        buffer: memoryview,
        channel: int,
        size: int,
        code: int | None,
        out: memoryview,
        at: int,
    ) -> int:
        """See :class:`Sealer`. Not allowed before the first key exchange."""
        raise ValueError("channel data before keys")


class PlainOpener:
    """Before the first key exchange."""

    __slots__ = ("limit", "needed", "octets", "packets", "payload_end", "sequence")

    def __init__(self, limit: int) -> None:
        self.needed = 0
        self.sequence = 0
        self.packets = 0
        self.octets = 0
        self.limit = limit
        self.payload_end = 0

    def open(self, source: memoryview, start: int, end: int, buffer: memoryview) -> int:
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
        buffer[:length] = source[start + LENGTH_SIZE : stop]
        self.payload_end = payload_end(buffer[0], length)
        self.sequence = (self.sequence + 1) & WRAP
        self.packets += 1
        self.octets += stop - start
        return stop - start


def payload_end(padding: int, length: int) -> int:
    """Return where a payload ends in a packet of ``length``. Raises :class:`ProtocolError`."""
    if not MIN_PADDING <= padding <= length - 2:
        raise bad_padding()
    return length - padding


def bad_padding() -> ProtocolError:
    """Return the error of a packet with an invalid padding length."""
    return ProtocolError("a packet with invalid padding")


def bad_length() -> ProtocolError:
    """Return the error of a packet with an invalid length."""
    return ProtocolError("a packet with an invalid length")


def not_authentic() -> ProtocolError:
    """Return the error of a packet with a wrong MAC."""
    return ProtocolError("a packet with a wrong MAC", MAC_ERROR)


class CipherSealer(ABC):
    """Under keys. ``padding`` is at least ``PADDING_SIZE`` bytes of anything.

    The packet without its length is a multiple of 16, more than some ciphers need.
    """

    __slots__ = ("_padding", "octets", "packets", "sequence")

    def __init__(self, padding: bytes, sequence: int) -> None:
        self._padding = padding
        self.sequence = sequence
        self.packets = 0
        self.octets = 0

    def seal(self, payload: bytes, out: memoryview, at: int) -> int:
        """See :class:`Sealer`."""
        padding = padding_for(1 + len(payload), BLOCK)
        length = 1 + len(payload) + padding
        plain = bytes((padding,)) + payload + self._padding[:padding]
        return self._encrypt(length.to_bytes(4, "big"), plain, length, out, at)

    def seal_data(
        self,
        buffer: memoryview,
        channel: int,
        size: int,
        code: int | None,
        out: memoryview,
        at: int,
    ) -> int:
        """See :class:`Sealer`."""
        if code is None:
            start = DATA_START
            padding = padding_for(DATA_FIELDS + size, BLOCK)
            length = DATA_FIELDS + size + padding
            DATA_HEADER.pack_into(buffer, start, length, padding, CHANNEL_DATA, channel, size)
        else:
            start = 0
            padding = padding_for(14 + size, BLOCK)
            length = 14 + size + padding
            _EXTENDED.pack_into(
                buffer, 0, length, padding, CHANNEL_EXTENDED_DATA, channel, code, size
            )
        data_end = DATA_HEADER_SIZE + size
        buffer[data_end : data_end + padding] = self._padding[:padding]
        body = start + LENGTH_SIZE
        return self._encrypt(buffer[start:body], buffer[body : body + length], length, out, at)

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
    """The common part of all openers with keys."""

    __slots__ = ("limit", "needed", "octets", "packets", "payload_end", "sequence")

    def __init__(self, limit: int, sequence: int) -> None:
        self.needed = 0
        self.sequence = sequence
        self.packets = 0
        self.octets = 0
        self.limit = limit
        self.payload_end = 0
