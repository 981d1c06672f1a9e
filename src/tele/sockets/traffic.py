"""How many bytes went over this process's connections, at no cost for those that move them?

Linux counts them for each TCP connection (``struct tcp_info``, linux/tcp.h, since 4.2): the count
is read when a connection ends, and when it is asked for.

Invariants:

* A byte is counted once: of a connection that ended it stays counted.
* Where the kernel does not count, or the connection is no TCP, there are none.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from attrs import define, field

#: ``tcpi_bytes_acked`` and ``tcpi_bytes_received``, and where they begin.
_COUNTS: Final = struct.Struct("=QQ")
_AT: Final = 120
_INFO: Final[int] = getattr(socket, "TCP_INFO", 0)
_TCP: Final = (socket.AF_INET, socket.AF_INET6)


def bytes_of(connected: socket.socket) -> tuple[int, int]:
    """Return how many bytes its peer has acknowledged, and how many came from it."""
    if not _INFO or connected.family not in _TCP:
        return 0, 0
    try:
        info = connected.getsockopt(socket.IPPROTO_TCP, _INFO, _AT + _COUNTS.size)
        sent, received = _COUNTS.unpack_from(info, _AT)
    except (OSError, struct.error):
        return 0, 0  # closed, no TCP, or an older kernel
    return int(sent), int(received)


@define(eq=False)
class Traffic:
    """The connections that are open, and what the others have moved."""

    _open: set[socket.socket] = field(factory=set)
    _sent: int = 0
    _received: int = 0

    def opened(self, connected: socket.socket) -> None:
        """Count a connection from now on. May be called twice."""
        self._open.add(connected)

    def closing(self, connected: socket.socket) -> None:
        """A connection is closed next. May be called twice, and for one that was not counted."""
        if connected not in self._open:
            return
        self._open.discard(connected)
        sent, received = bytes_of(connected)
        self._sent += sent
        self._received += received

    @property
    def total(self) -> tuple[int, int]:
        """Bytes sent and received, of all."""
        sent, received = self._sent, self._received
        for each in self._open:
            more = bytes_of(each)
            sent += more[0]
            received += more[1]
        return sent, received


#: The direct connections of this process, as its descriptors are counted: for all its parts.
TRAFFIC: Final = Traffic()
