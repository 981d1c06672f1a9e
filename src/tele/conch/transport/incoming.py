"""How are messages received?

Invariants:

* A message is handled before the next one is decrypted; none is while messages are held.
* Nothing is handled after the end, whatever else was received with it.
* Only an unfinished packet is kept, and it is not copied for each small piece received. The limit
  of the opener bounds it. While messages are held, what was read before reading stopped is kept,
  too, with a smaller limit before authentication.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tele.conch.transport.outgoing import SEND_BATCH
from tele.errors import ProtocolError
from tele.sockets.buffers import MAX_PACKET, READ_SIZE, borrow_opened, return_opened
from tele.wire.numbers import CHANNEL_DATA, CHANNEL_EXTENDED_DATA, CHANNEL_WINDOW_ADJUST
from tele.wire.packets import Opener
from tele.wire.phases import MessageFilter, Phase
from tele.wire.version import take_version

#: Most bytes kept while messages are held, from a transport that delivers although it is paused.
_HELD_LIMIT = 4 * (READ_SIZE + MAX_PACKET)
#: The same before authentication, in packets of the greatest length: a client sends two or three
#: small ones before it needs a reply.
_HELD_PACKETS = 2

TakeData = Callable[[int, memoryview], None]
TakeExtended = Callable[[int, int, memoryview], None]
TakeCredit = Callable[[int, int], None]
#: Where a CHANNEL_WINDOW_ADJUST ends: padding length, number, channel and credit.
_CREDIT_END = 10


class Receiver(Protocol):
    """Handles received messages."""

    def take_preface(self, data: bytes) -> int | None:
        """Return how many bytes at the start of ``data`` precede the version line.

        None: more bytes are needed. Called until it returns a number, before anything else.
        """

    def version_received(self, line: bytes) -> None:
        """The peer's version line."""

    def packet_received(self, number: int, payload: bytes) -> None:
        """One message; ``payload`` is without its number."""


class Incoming:
    """The receiving direction of one connection."""

    __slots__ = (
        "_feeding",
        "_filter",
        "_prefaced",
        "_receiver",
        "_versioned",
        "from_server",
        "held",
        "kept",
        "missing",
        "opener",
        "stopped",
        "take_credit",
        "take_data",
        "take_extended",
    )

    def __init__(
        self, receiver: Receiver, message_filter: MessageFilter, opener: Opener, from_server: bool
    ) -> None:
        self._receiver = receiver
        self._filter = message_filter
        self.opener = opener
        self.from_server = from_server
        self.kept: bytes | bytearray = b""
        #: How many bytes the unfinished packet lacks; 0: unknown, or messages are held.
        self.missing = 0
        self.held = False
        self.stopped = False
        self.take_data: TakeData | None = None
        self.take_extended: TakeExtended | None = None
        self.take_credit: TakeCredit | None = None
        self._prefaced = False
        self._versioned = False
        self._feeding = False

    def feed(self, source: memoryview, end: int) -> None:
        """Handle ``source[:end]``, which begins with ``kept``.

        Raises what handling raises; :class:`ProtocolError` is the peer's fault.
        """
        at = 0
        self.missing = 0
        buffer = borrow_opened()
        self._feeding = True
        SEND_BATCH.gather()
        try:
            if not self._versioned:
                at = self._take_version(source, end)
            if self._versioned:
                at = self._take_packets(source, at, end, buffer)
        except BaseException:
            self.stopped = True
            raise
        finally:
            self._feeding = False
            return_opened(buffer)
            self.kept = b"" if self.stopped else bytes(source[at:end])
            if self.stopped:
                self.missing = 0
            SEND_BATCH.deliver()
        if len(self.kept) > self._held_limit():
            raise ProtocolError("too many bytes received while messages are held")

    def _held_limit(self) -> int:
        """Most bytes that may be kept: fewer before authentication, as many clients may wait."""
        limit = self.opener.limit
        return _HELD_LIMIT if limit >= MAX_PACKET else _HELD_PACKETS * limit

    def keep(self, data: bytes) -> bool:
        """Append to the unfinished packet. False: ``data`` completes it, and has to be fed."""
        if len(data) >= self.missing:
            return False
        if not isinstance(self.kept, bytearray):
            self.kept = bytearray(self.kept)
        self.kept += data
        self.missing -= len(data)
        return True

    def hold(self) -> None:
        """Handle no message until :meth:`release`."""
        self.held = True

    def release(self) -> bool:
        """Handle messages again. True: ``kept`` may hold some, and is to be fed."""
        self.held = False
        return bool(self.kept) and not self._feeding and not self.stopped

    def stop(self) -> None:
        """Handle nothing from now on."""
        self.stopped = True
        self.take_data = self.take_extended = self.take_credit = None
        if not self._feeding:
            self.kept = b""
            self.missing = 0

    def _take_version(self, source: memoryview, end: int) -> int:
        data = bytes(source[:end])
        before = 0
        if not self._prefaced:
            found_preface = self._receiver.take_preface(data)
            if found_preface is None:
                return 0
            before = found_preface
            self._prefaced = True
        found = take_version(data[before:], self.from_server)
        if found is None:
            return before
        line, taken = found
        self._versioned = True
        self._receiver.version_received(line)
        return before + taken

    def _take_packets(self, source: memoryview, at: int, end: int, buffer: memoryview) -> int:
        while not self.held and not self.stopped:
            opener = self.opener
            taken = opener.open(source, at, end, buffer)
            if not taken:
                self.missing = max(0, opener.needed - (end - at))
                break
            at += taken
            number = buffer[1]
            stop = opener.payload_end
            if number == CHANNEL_DATA and self.take_data and self._filter.phase is Phase.OPEN:
                self.take_data(_channel(buffer), _data(buffer, 6, stop))
            elif (
                number == CHANNEL_EXTENDED_DATA
                and self.take_extended
                and self._filter.phase is Phase.OPEN
            ):
                code = int.from_bytes(buffer[6:10], "big")
                self.take_extended(_channel(buffer), code, _data(buffer, 10, stop))
            elif (
                number == CHANNEL_WINDOW_ADJUST
                and stop == _CREDIT_END  # one of a wrong length is refused below
                and self.take_credit
                and self._filter.phase is Phase.OPEN
            ):
                self.take_credit(_channel(buffer), int.from_bytes(buffer[6:stop], "big"))
            else:
                self._receiver.packet_received(number, bytes(buffer[2:stop]))
        return at


def _channel(buffer: memoryview) -> int:
    return int.from_bytes(buffer[2:6], "big")


def _data(buffer: memoryview, start: int, stop: int) -> memoryview:
    """Return the string at ``start``, which has to end at ``stop``."""
    begin = start + 4
    if begin > stop or begin + int.from_bytes(buffer[start:begin], "big") != stop:
        raise ProtocolError("the length of channel data is wrong")
    return buffer[begin:stop]
