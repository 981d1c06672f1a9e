"""How do messages arrive?

Invariants:

* A message is handled before the next one is looked at; while somebody holds, none is.
* After the end nothing is handled any more, whatever else was received with it.
* Of what was received only the unfinished packet is kept, and its beginning is not moved for
  each piece that drips in; the limit of the opener bounds it (and, while somebody holds, what was
  read before reading stopped, of which a client that has not logged in may have sent little).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tele.conch.transport.outgoing import SEND_BATCH
from tele.errors import ProtocolError
from tele.sockets.buffers import MAX_PACKET, READ_SIZE, borrow_opened, return_opened
from tele.wire.numbers import CHANNEL_DATA, CHANNEL_EXTENDED_DATA
from tele.wire.packets import Opener
from tele.wire.phases import MessageFilter, Phase
from tele.wire.version import take_version

#: A transport that goes on delivering although it was told to pause gets no further.
_HELD_LIMIT = 4 * (READ_SIZE + MAX_PACKET)
#: Packets as long as may be before the login, of one that waits: a client sends two or three small
#: ones before it needs an answer.
_HELD_PACKETS = 2

TakeData = Callable[[int, memoryview], None]
TakeExtended = Callable[[int, int, memoryview], None]


class Receiver(Protocol):
    """Who handles what arrives."""

    def take_preface(self, data: bytes) -> int | None:
        """Return how many bytes at the start of ``data`` come before the version line.

        None: more is needed to know. Asked until it says how many, before anything else.
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
        #: How many bytes the unfinished packet lacks; 0: it is not known, or somebody holds.
        self.missing = 0
        self.held = False
        self.stopped = False
        self.take_data: TakeData | None = None
        self.take_extended: TakeExtended | None = None
        self._prefaced = False
        self._versioned = False
        self._feeding = False

    def feed(self, source: memoryview, end: int) -> None:
        """Handle ``source[:end]``, which begins with what was kept.

        Raises what handling raises; :class:`ProtocolError` is the peer's fault.
        """
        at = 0
        self.missing = 0
        room = borrow_opened()
        self._feeding = True
        SEND_BATCH.gather()
        try:
            if not self._versioned:
                at = self._take_version(source, end)
            if self._versioned:
                at = self._take_packets(source, at, end, room)
        except BaseException:
            self.stopped = True
            raise
        finally:
            self._feeding = False
            return_opened(room)
            self.kept = b"" if self.stopped else bytes(source[at:end])
            if self.stopped:
                self.missing = 0
            SEND_BATCH.deliver()
        if len(self.kept) > self._held_limit():
            raise ProtocolError("too much was sent while we were busy")

    def _held_limit(self) -> int:
        """How much may be kept: of a client that has not logged in little, for many may wait."""
        limit = self.opener.limit
        return _HELD_LIMIT if limit >= MAX_PACKET else _HELD_PACKETS * limit

    def keep(self, data: bytes) -> bool:
        """Keep more of an unfinished packet, without moving the rest. False: it has to be fed."""
        if len(data) >= self.missing:
            return False
        if not isinstance(self.kept, bytearray):
            self.kept = bytearray(self.kept)
        self.kept += data
        self.missing -= len(data)
        return True

    def hold(self) -> None:
        """Handle no further message for now."""
        self.held = True

    def release(self) -> bool:
        """Go on. True: there may be messages in ``kept``, and nobody is at work on them."""
        self.held = False
        return bool(self.kept) and not self._feeding and not self.stopped

    def stop(self) -> None:
        """Handle nothing any more."""
        self.stopped = True
        self.take_data = self.take_extended = None
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

    def _take_packets(self, source: memoryview, at: int, end: int, room: memoryview) -> int:
        while not self.held and not self.stopped:
            opener = self.opener
            taken = opener.open(source, at, end, room)
            if not taken:
                self.missing = max(0, opener.needed - (end - at))
                break
            at += taken
            number = room[1]
            stop = opener.payload_end
            if number == CHANNEL_DATA and self.take_data and self._filter.phase is Phase.OPEN:
                self.take_data(_channel(room), _data(room, 6, stop))
            elif (
                number == CHANNEL_EXTENDED_DATA
                and self.take_extended
                and self._filter.phase is Phase.OPEN
            ):
                code = int.from_bytes(room[6:10], "big")
                self.take_extended(_channel(room), code, _data(room, 10, stop))
            else:
                self._receiver.packet_received(number, bytes(room[2:stop]))
        return at


def _channel(room: memoryview) -> int:
    return int.from_bytes(room[2:6], "big")


def _data(room: memoryview, start: int, stop: int) -> memoryview:
    """Return the string at ``start``, which has to end the payload."""
    begin = start + 4
    if begin > stop or begin + int.from_bytes(room[start:begin], "big") != stop:
        raise ProtocolError("channel data are not as long as they say")
    return room[begin:stop]
