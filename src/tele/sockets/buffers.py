"""Which buffers do all connections of a process share?

A packet lives in these buffers only while it is handled; a connection owns none of them,
so that an idle one costs no buffer at all.

Invariants:

* Dispatch is synchronous: no memoryview of these is kept across a reactor turn, or across a call
  that may receive or send data of another connection.
* Plaintext of other connections never leaks: sealing overwrites the padding.
* A page of them that was never used takes no memory.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from tele.wire.packets import DATA_HEADER_SIZE, OVERHEAD, PADDING_SIZE

#: Most data in one CHANNEL_DATA packet, sent or accepted.
MAX_DATA: Final = 32768
#: Most bytes of one packet that is accepted after authentication.
MAX_PACKET: Final = 256 * 1024
#: Most bytes that one read of a socket takes.
READ_SIZE: Final = 256 * 1024
#: Full data packets that one send to a socket may hold.
BATCH: Final = 14

_SEALED_SIZE: Final = DATA_HEADER_SIZE + MAX_DATA + OVERHEAD


def _pages(size: int) -> memoryview:
    """Return zeroed memory of this process, which a child does not share."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


#: What a socket's bytes are read into, after the unfinished packet of that connection.
RECEIVED: Final = _pages(READ_SIZE + MAX_PACKET + OVERHEAD)

_BUFFER_SIZE: Final = DATA_HEADER_SIZE + MAX_DATA + PADDING_SIZE

#: A batch of data packets before encryption; data begin at ``DATA_HEADER_SIZE``.
PLAIN: Final = tuple(_pages(_BUFFER_SIZE) for _ in range(BATCH))

#: Where a pump reads plaintext into: one read fills many packets.
DATA_BUFFERS: Final = tuple(
    buffer[DATA_HEADER_SIZE : DATA_HEADER_SIZE + MAX_DATA] for buffer in PLAIN
)

#: One more, for data that are copied: a pump may be using PLAIN.
COPIED: Final = _pages(_BUFFER_SIZE)

#: Sealed packets of one connection before they are sent.
SEALED: Final = _pages((BATCH + 1) * _SEALED_SIZE + MAX_PACKET)

#: When SEALED holds this much, it is sent: a batch of full data packets.
SEALED_FULL: Final = BATCH * MAX_DATA

#: The source of padding, which is encrypted and authenticated; its value does not matter.
PADDING: Final = os.urandom(PADDING_SIZE)

_opened: list[memoryview] = []


def borrow_opened() -> memoryview:
    """Take a buffer for one decrypted packet.

    Usually the one of the process; a connection inside a channel of another one gets its own.
    """
    return _opened.pop() if _opened else memoryview(bytearray(MAX_PACKET + OVERHEAD))


def return_opened(buffer: memoryview) -> None:
    """Give back a buffer of :func:`borrow_opened`."""
    if not _opened:
        _opened.append(buffer)
