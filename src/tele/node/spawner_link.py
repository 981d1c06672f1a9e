"""How do messages with descriptors get to the spawner and reports back?

Invariants:

* Nothing here waits: what cannot be sent now is queued, in order.
* Descriptors that are to be sent are closed here once they are, or never will be.
* A shortage of the kernel is waited for; it does not count as the end of the spawner.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor, IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.reactor import Reactor
from tele.spawner.spawn_messages import MAX_MESSAGE
from tele.workers import SerialWorker

#: Seconds to wait when the kernel cannot take a message, as when too many descriptors of one
#: user are in flight.
SHORTAGE_PAUSE: Final = 0.1
_SHORTAGE: Final = frozenset(
    {errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)


@implementer(IReadDescriptor, IWriteDescriptor)
class Link:
    """The socket to one spawner process, and that process."""

    def __init__(
        self,
        reactor: Reactor,
        command: Sequence[str],
        options: str,
        received: Callable[[dict[str, Any]], None],
        lost: Callable[[], None],
        inherited: tuple[int, ...] = (),
    ) -> None:
        """Start the spawner, which has the descriptors ``inherited``, too. Raises OSError."""
        self._reactor = reactor
        self._on_report = received
        self._on_loss = lost
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._closed: Deferred[None] | None = None
        self._pause: IDelayedCall | None = None
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
        with theirs:
            try:
                self.process = subprocess.Popen(  # noqa: S603 - our own program
                    [*command, str(theirs.fileno()), options],
                    pass_fds=(theirs.fileno(), *inherited),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env={"TZ": os.environ["TZ"]} if "TZ" in os.environ else {},
                    start_new_session=True,  # the terminal's Ctrl-C is for the node
                )
            except OSError:
                self._socket.close()
                raise
        reactor.addReader(self)

    def send(self, data: bytes, descriptors: tuple[int, ...]) -> None:
        """Send one message, now or once the socket takes it; closes ``descriptors``."""
        self._queue.append((data, descriptors))
        if len(self._queue) == 1 and self._pause is None:
            self.doWrite()

    async def close(self) -> None:
        """Ask the spawner to end; kill it after five seconds."""
        self._closed = Deferred()
        self._socket.shutdown(socket.SHUT_WR)
        timer = self._reactor.callLater(5, self.process.kill)
        await self._closed
        if timer.active():
            timer.cancel()

    def doRead(self) -> None:
        """Read a report, or the end."""
        try:
            data = self._socket.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._on_report(json.loads(data))
        else:
            self._end()

    def doWrite(self) -> None:
        """Send queued messages."""
        while self._queue:
            data, descriptors = self._queue[0]
            try:
                socket.send_fds(self._socket, [data], descriptors)
            except BlockingIOError:
                self._reactor.addWriter(self)
                return
            except OSError as error:
                if error.errno in _SHORTAGE:
                    self._wait()
                    return
                break  # the spawner has ended; doRead sees that
            self._queue.popleft()
            close_all(descriptors)
        self._reactor.removeWriter(self)

    def _wait(self) -> None:
        """Try later: the kernel takes no message now, though it reports the socket as writable."""
        self._reactor.removeWriter(self)
        if self._pause is None:
            self._pause = self._reactor.callLater(SHORTAGE_PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self.doWrite()

    def _end(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        self._socket.close()
        for _, descriptors in self._queue:
            close_all(descriptors)
        self._queue.clear()
        # It is ending, since its end of the socket is closed; it may wait for a disk.
        self.process.kill()
        worker = SerialWorker(self._reactor, "end of the spawner")
        reaped = worker.call(self.process.wait)
        worker.close()
        if self._closed is None:
            self._on_loss()
        else:
            reaped.addCallback(lambda _: None).chainDeferred(self._closed)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends, or cannot poll the socket."""
        self._end()

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "spawner"


def duplicates(descriptors: Sequence[int]) -> tuple[int, ...]:
    """Return copies of ``descriptors``: all, or none and an OSError."""
    made: list[int] = []
    try:
        for descriptor in descriptors:
            made.append(os.dup(descriptor))
    except OSError:
        close_all(made)
        raise
    return tuple(made)


def close_all(descriptors: Sequence[int]) -> None:
    """Close ``descriptors``."""
    for descriptor in descriptors:
        os.close(descriptor)
