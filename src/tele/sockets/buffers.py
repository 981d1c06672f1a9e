"""Which memory do all connections of the process share?

A packet lives in these buffers only while it is handled; a connection owns none of them,
so that an idle one costs no buffer at all.

Invariants:

* Dispatch is synchronous: nobody keeps a memoryview of these across a reactor turn, nor
  across a call that may receive or send data of another connection.
* Plaintext of other connections never leaks: whoever seals overwrites the padding.
"""

from __future__ import annotations

import os
from typing import Final

from tele.wire.packets import DATA_HEADER_SIZE, OVERHEAD, PADDING_SIZE

#: Most payload that we put into one CHANNEL_DATA packet, and the most that we ask for.
MAX_DATA: Final = 32768
#: Most bytes of one packet that we accept after authentication.
MAX_PACKET: Final = 256 * 1024
#: Most bytes that one read of a socket takes.
READ_SIZE: Final = 256 * 1024
#: Full data packets that one send to a socket may hold.
BATCH: Final = 14

_SEALED_SIZE: Final = DATA_HEADER_SIZE + MAX_DATA + OVERHEAD

#: What a socket's bytes are read into, after the unfinished packet of that connection.
RECEIVED: Final = memoryview(bytearray(READ_SIZE + MAX_PACKET + OVERHEAD))

_ROOM_SIZE: Final = DATA_HEADER_SIZE + MAX_DATA + PADDING_SIZE

#: Data packets before they are encrypted, a batch of them: their data begin at
#: ``DATA_HEADER_SIZE``.
PLAIN: Final = tuple(memoryview(bytearray(_ROOM_SIZE)) for _ in range(BATCH))

#: Where a pump reads plaintext into: one read fills many packets.
DATA_BUFFERS: Final = tuple(room[DATA_HEADER_SIZE : DATA_HEADER_SIZE + MAX_DATA] for room in PLAIN)

#: The same, for data that are copied instead of read: a pump may be using PLAIN.
COPIED: Final = memoryview(bytearray(_ROOM_SIZE))

#: Sealed packets of one connection on their way to its socket.
SEALED: Final = memoryview(bytearray((BATCH + 1) * _SEALED_SIZE + MAX_PACKET))

#: When SEALED holds this much, it is sent: a batch of full data packets.
SEALED_FULL: Final = BATCH * MAX_DATA

#: What padding is cut from. Its value protects nothing: it is encrypted and authenticated.
PADDING: Final = os.urandom(PADDING_SIZE)

_opened: list[memoryview] = []


def borrow_opened() -> memoryview:
    """Take a room for one decrypted packet.

    Usually the one room of the process; a connection that runs inside another connection's
    channel finds it taken, and gets its own.
    """
    return _opened.pop() if _opened else memoryview(bytearray(MAX_PACKET + OVERHEAD))


def return_opened(room: memoryview) -> None:
    """Give back what :func:`borrow_opened` gave."""
    if not _opened:
        _opened.append(room)
