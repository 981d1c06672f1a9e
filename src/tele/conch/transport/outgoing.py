"""How do messages leave?

Sealed packets gather in the one shared buffer and leave in one send: at the end of a pump's
turn, or, while received packets are handled, at the end of them all.

Invariants:

* Packets leave in the order in which they were sent, whatever kind they are.
* The shared buffer holds packets of one connection at a time: whoever claims it first
  pushes out what its owner has there.
* Between our KEXINIT and our NEWKEYS only messages of the exchange leave; the others wait.
"""

from __future__ import annotations

from attrs import define

from tele.sockets.buffers import (
    COPIED,
    DATA_BUFFERS,
    MAX_DATA,
    MAX_PACKET,
    PLAIN,
    SEALED,
    SEALED_FULL,
)
from tele.sockets.links import Link
from tele.wire import numbers as n
from tele.wire.fields import string, uint32
from tele.wire.packets import DATA_HEADER_SIZE, OVERHEAD, Sealer

#: What may leave during an exchange (RFC 4253, section 7.1).
_EXCHANGE = frozenset({n.DISCONNECT, n.IGNORE, n.UNIMPLEMENTED, n.DEBUG, n.NEWKEYS, *range(30, 50)})


@define
class SendBatch:
    """The shared buffer's one owner, and whether sends are being gathered.

    ``gathering`` counts the receivers that are at work, one inside the other where a
    connection runs in a channel of another.
    """

    owner: Outgoing | None = None
    gathering: int = 0

    def gather(self) -> None:
        """Received packets are about to be handled: let what is sent meanwhile gather."""
        self.gathering += 1

    def deliver(self) -> None:
        """They are handled: send it. May fill the buffer of an outer connection again."""
        self.gathering -= 1
        if not self.gathering:
            while self.owner is not None:
                self.owner.push()


SEND_BATCH = SendBatch()


class Outgoing:
    """The sending direction of one connection."""

    __slots__ = ("_at", "_waiting", "blocked", "link", "sealer", "waiting_octets")

    def __init__(self, link: Link, sealer: Sealer) -> None:
        self.link = link
        self.sealer = sealer
        self.blocked = False
        self.waiting_octets = 0
        self._waiting: list[tuple[int, bytes]] | None = None
        self._at = 0

    def send(self, number: int, payload: bytes) -> None:
        """Send one message, or let it wait for the end of the exchange."""
        if self.blocked and number not in _EXCHANGE:
            self._wait(number, payload)
            return
        self._seal(bytes((number,)) + payload)
        self.flush()

    def send_kexinit(self, payload: bytes) -> None:
        """Send our KEXINIT, whole, and let what is not of the exchange wait from now on."""
        self.blocked = True
        self._waiting = []
        self._seal(payload)
        self.flush()

    def send_line(self, line: bytes) -> None:
        """Send bytes that are no packet: the version line. They leave with the next packet."""
        self._claim(len(line))
        SEALED[self._at : self._at + len(line)] = line
        self._at += len(line)

    def seal_data(self, channel: int, length: int, extended: int | None, room: int = 0) -> None:
        """Seal ``DATA_ROOMS[room][:length]``. Keys have to be there."""
        if self.blocked:
            # Somebody did not ask can_send(): in order, and bounded by the caller.
            self._wait_for_data(channel, DATA_BUFFERS[room][:length], extended)
            return
        self._claim(MAX_DATA + OVERHEAD)
        self._seal_buffer(PLAIN[room], channel, length, extended)

    def send_data(self, channel: int, view: memoryview | bytes, extended: int | None) -> None:
        """Copy ``view`` and seal it. The rooms are left alone: somebody may be filling them."""
        if self.blocked:
            self._wait_for_data(channel, view, extended)
            return
        self._claim(MAX_DATA + OVERHEAD)
        length = len(view)
        COPIED[DATA_HEADER_SIZE : DATA_HEADER_SIZE + length] = view
        self._seal_buffer(COPIED, channel, length, extended)
        self.flush()

    def _seal_buffer(self, room: memoryview, channel: int, length: int, code: int | None) -> None:
        if length > MAX_DATA:
            raise ValueError("more channel data than fit a packet")
        self._at = self.sealer.seal_data(room, channel, length, code, SEALED, self._at)
        if self._at >= SEALED_FULL:
            self.push()

    def flush(self) -> None:
        """Send what is sealed, unless it gathers."""
        if not SEND_BATCH.gathering:
            self.push()

    def push(self) -> None:
        """Send what is sealed."""
        size = self._at
        if size:
            self._at = 0
            SEND_BATCH.owner = None
            self.link.send(SEALED[:size])

    def renew(self, sealer: Sealer, first: tuple[int, bytes] | None) -> None:
        """Our NEWKEYS has been sent: go on with ``sealer``, ``first`` before all that waits."""
        self.sealer = sealer
        self.blocked = False
        waiting, self._waiting, self.waiting_octets = self._waiting, None, 0
        if first is not None:
            self.send(*first)
        for number, payload in waiting or ():
            self.send(number, payload)

    def forget(self) -> None:
        """The connection is gone: so is what was not sent."""
        self._at = 0
        self._waiting = None
        if SEND_BATCH.owner is self:
            SEND_BATCH.owner = None

    def _wait(self, number: int, payload: bytes) -> None:
        if self._waiting is not None:
            self._waiting.append((number, payload))
            self.waiting_octets += len(payload) + OVERHEAD

    def _wait_for_data(self, channel: int, view: memoryview | bytes, extended: int | None) -> None:
        head, data = uint32(channel), string(bytes(view))
        if extended is None:
            self._wait(n.CHANNEL_DATA, head + data)
        else:
            self._wait(n.CHANNEL_EXTENDED_DATA, head + uint32(extended) + data)

    def _seal(self, payload: bytes) -> None:
        if len(payload) > MAX_PACKET:
            raise ValueError(f"a message of {len(payload)} bytes is longer than any packet")
        self._claim(len(payload) + OVERHEAD)
        self._at = self.sealer.seal(payload, SEALED, self._at)

    def _claim(self, size: int) -> None:
        """Make the shared buffer ours, with ``size`` bytes of room from ``_at`` on.

        A connection in a channel of another pushes into that one's packets: look again.
        """
        while True:
            owner = SEND_BATCH.owner
            if owner is not None and owner is not self:
                owner.push()
            elif self._at + size > len(SEALED):
                self.push()
            else:
                SEND_BATCH.owner = self
                return
