"""How are messages sent?

Sealed packets are collected in one shared buffer and sent at once: at the end of a pump's turn,
or, while received packets are handled, after all of them.

Invariants:

* Packets are sent in the order of the calls, whatever kind they are.
* The shared buffer holds packets of one connection at a time: a connection that claims it first
  sends what its owner has there.
* Between our KEXINIT and our NEWKEYS only messages of the key exchange are sent; others wait.
"""

from __future__ import annotations

from collections.abc import Sequence

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

#: Messages that may be sent during a key exchange (RFC 4253, section 7.1).
_EXCHANGE = frozenset({n.DISCONNECT, n.IGNORE, n.UNIMPLEMENTED, n.DEBUG, n.NEWKEYS, *range(30, 50)})


@define
class SendBatch:
    """The owner of the shared buffer, and whether packets are collected in it.

    ``gathering`` counts the receivers at work, nested where a connection runs in a channel of
    another one.
    """

    owner: Outgoing | None = None
    gathering: int = 0

    def gather(self) -> None:
        """Collect packets while received packets are handled."""
        self.gathering += 1

    def deliver(self) -> None:
        """Received packets are handled: send. This may fill the buffer for an outer connection."""
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
        """Send one message, or queue it until the end of the key exchange."""
        if self.blocked and number not in _EXCHANGE:
            self._wait(number, payload)
            return
        self._seal(bytes((number,)) + payload)
        self.flush()

    def send_kexinit(self, payload: bytes) -> None:
        """Send our KEXINIT with its number; queue other messages from now on."""
        self.blocked = True
        self._waiting = []
        self._seal(payload)
        self.flush()

    def send_line(self, line: bytes) -> None:
        """Send the version line, together with the next packet."""
        self._claim(len(line))
        SEALED[self._at : self._at + len(line)] = line
        self._at += len(line)

    def seal_data(self, channel: int, lengths: Sequence[int], extended: int | None) -> None:
        """Seal so many bytes of each of the first DATA_BUFFERS, after the first key exchange."""
        if self.blocked:
            # The caller did not check can_send(): queue in order; the caller bounds it.
            for buffer, length in zip(DATA_BUFFERS, lengths, strict=False):
                self._wait_for_data(channel, buffer[:length], extended)
            return
        for buffer, length in zip(PLAIN, lengths, strict=False):
            self._claim(MAX_DATA + OVERHEAD)
            self._seal_buffer(buffer, channel, length, extended)

    def send_data(self, channel: int, view: memoryview | bytes, extended: int | None) -> None:
        """Copy ``view`` and seal it. DATA_BUFFERS are not touched: a caller may be filling them."""
        if self.blocked:
            self._wait_for_data(channel, view, extended)
            return
        self._claim(MAX_DATA + OVERHEAD)
        length = len(view)
        COPIED[DATA_HEADER_SIZE : DATA_HEADER_SIZE + length] = view
        self._seal_buffer(COPIED, channel, length, extended)
        self.flush()

    def _seal_buffer(self, buffer: memoryview, channel: int, length: int, code: int | None) -> None:
        if length > MAX_DATA:
            raise ValueError("more channel data than fit a packet")
        self._at = self.sealer.seal_data(buffer, channel, length, code, SEALED, self._at)
        if self._at >= SEALED_FULL:
            self.push()

    def flush(self) -> None:
        """Send sealed packets, unless they are collected."""
        if not SEND_BATCH.gathering:
            self.push()

    def push(self) -> None:
        """Send sealed packets."""
        size, self._at = self._at, 0
        if SEND_BATCH.owner is self:  # also of nothing, after an error: deliver() waits for that
            SEND_BATCH.owner = None
        if size:
            self.link.send(SEALED[:size])

    def renew(self, sealer: Sealer, first: tuple[int, bytes] | None) -> None:
        """Our NEWKEYS was sent: use ``sealer``, and send ``first`` before all queued messages."""
        self.sealer = sealer
        self.blocked = False
        waiting, self._waiting, self.waiting_octets = self._waiting, None, 0
        if first is not None:
            self.send(*first)
        for number, payload in waiting or ():
            self.send(number, payload)

    def forget(self) -> None:
        """The connection is closed: drop what was not sent."""
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
        """Own the shared buffer, with ``size`` bytes free from ``_at`` on.

        Sending packets of a connection in a channel of another makes packets of that one: check
        again.
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
