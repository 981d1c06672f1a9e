"""What does a listening port do when the process, or the machine, has no descriptors left?

Twisted's ports close the connection, or, when the machine has none, retry at once and for ever.
These leave connections in the kernel's accept queue and retry after a second.

Invariants:

* No connection is dropped for want of a descriptor: it waits in the queue, which is bounded.
* A shortage costs one call a second, and is logged once until it has ended.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Final

from twisted.internet import fdesc, tcp, unix
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime

#: Seconds until a port accepts again.
PAUSE_SECONDS: Final = 1.0
#: Connections that are accepted in one turn of the reactor.
BATCH: Final = 64
SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class _Patient:
    """Replaces ``doRead`` of a ``tcp.Port``."""

    socket: Any
    factory: Any
    reactor: IReactorFDSet
    transport: Any
    sessionno: int
    _short = False
    _pause: IDelayedCall | None = None

    def shortage(self, why: str) -> None:
        """Log that no connection can be accepted now."""

    def not_taken(self) -> None:
        """Log the exception that is being handled: a connection could not be set up."""

    def doRead(self) -> None:
        """Accept waiting connections."""
        for _ in range(BATCH):
            try:
                accepted, address = self.socket.accept()
            except OSError as error:
                if error.errno in SHORTAGE:
                    self._wait(error.errno)
                return  # the queue is empty, or the client has closed
            self._short = False
            try:
                self._take(accepted, address)
            except Exception:
                self.not_taken()

    def _take(self, accepted: Any, address: Any) -> None:
        port: Any = self
        fdesc._setCloseOnExec(accepted.fileno())
        if isinstance(address, tuple) and len(address) == 4:  # IPv6: with its scope
            host, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
            address = (host, *address[1:])
        protocol = self.factory.buildProtocol(port._buildAddr(address))
        if protocol is None:
            accepted.close()
            return
        number = self.sessionno
        self.sessionno = number + 1
        transport = self.transport(accepted, protocol, address, self, number, self.reactor)
        protocol.makeConnection(transport)

    def _wait(self, code: int | None) -> None:
        if not self._short:
            self._short = True
            self.shortage(os.strerror(code or 0))
        port: Any = self
        port.stopReading()
        if self._pause is None:
            self._pause = IReactorTime(self.reactor).callLater(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        self._pause = None
        port: Any = self
        port.startReading()

    def connectionLost(self, reason: Any) -> None:
        """The port is closed."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        below: Any = super()
        below.connectionLost(reason)


class PatientPort(_Patient, tcp.Port):
    """A TCP port."""


class PatientUnixPort(_Patient, unix.Port):
    """A port of UNIX sockets."""
