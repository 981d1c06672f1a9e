"""What do the processes of sessions do? A small root process that owns the BPF programs.

Run as ``python -I -S program.py FD JOIN [OPTIONS]`` by the node: ``FD`` is one end of its socket
pair, ``JOIN`` one end of that of its sessions (:mod:`tele.tracer.messages`).

Invariants:

* Standard library, ``libbpf.so.1`` and the files beside it, nothing else; no connection, no secret.
* It reads no memory of a process and no file of a session: what is recorded, the kernel has read.
* A process joins a session by itself only, before it executes anything.
* What the node does not take is bounded: then the rings are not read, and the kernel counts what is
  lost.
* With the node its end comes, and nothing is left in the kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from types import ModuleType
from typing import Any, Final

if __name__ == "__main__":
    # Without site there is no tele; its name stands for this folder and nothing else.
    for _name, _folders in (("tele", []), ("tele.tracer", [os.path.dirname(__file__)])):
        _package = ModuleType(_name)
        _package.__path__ = _folders
        sys.modules[_name] = _package

from tele.tracer import records
from tele.tracer.messages import (
    BATCH_BYTES,
    JOINED,
    Options,
    number_of,
    pack,
    receive,
    unpack,
    wanted,
)
from tele.tracer.programs import Programs, Unavailable
from tele.tracer.tracing import Tracing

#: Bytes that wait for the node before the rings are read no more.
WAITING_LIMIT: Final = 4 << 20
#: How much less than others it waits for a processor: nice(2).
PRIORITY: Final = -10
#: Seconds in which records are gathered after the first one came.
GATHER: Final = 0.02


class Tracer:
    """Serves ``control``, the node, and ``joining``, its sessions, until the node goes away."""

    def __init__(self, control: socket.socket, joining: socket.socket, options: Options) -> None:
        self._control = control
        self._joining = joining
        self._options = options
        self._tracing = Tracing(options)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._poll = select.epoll()
        self._polled: set[int] = set()
        self._writing = False

    def run(self) -> None:
        """Say what can be traced, and serve until the node goes away."""
        if not self._introduce():
            return
        self._poll.register(self._control, select.EPOLLIN)
        self._poll.register(self._joining, select.EPOLLIN)
        try:
            while True:
                self._serve()
        except (EOFError, ConnectionError):
            return
        finally:
            self._tracing.close()

    def _introduce(self) -> bool:
        try:
            programs = Programs(self._options)
        except Unavailable as error:
            message = {"event": "unavailable", "reason": error.reason, "message": str(error)}
            self._control.send(pack(message))
            return False
        answer = {"event": "ready", "kinds": programs.kinds, "missing": programs.missing}
        self._tracing.adopt(programs, _now())  # the first session is likely to come now
        self._control.setblocking(False)
        self._tell(answer)
        return True

    def _serve(self) -> None:
        full = self._waiting_bytes > WAITING_LIMIT
        self._poll_rings(wanted=not full)
        gathering = False
        for fd, events in self._poll.poll(None if full else self._tracing.pause):
            if fd == self._control.fileno():
                if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    self._receive()
                if events & select.EPOLLOUT:
                    self._write()
            elif fd == self._joining.fileno():
                self._join()
            else:
                gathering = True
        if gathering and self._tracing.pause != 0.0:
            time.sleep(GATHER)
        if self._waiting_bytes <= WAITING_LIMIT:
            self._send_records(self._tracing.read(_now()))

    def _poll_rings(self, *, wanted: bool) -> None:
        """Poll the rings there are; none while the node does not take what was read."""
        descriptors = {ring.fileno() for ring in self._tracing.rings} if wanted else set()
        for fd in self._polled - descriptors:
            with contextlib.suppress(OSError):  # closed with its ring
                self._poll.unregister(fd)
        for fd in descriptors - self._polled:
            self._poll.register(fd, select.EPOLLIN)
        self._polled = descriptors

    def _receive(self) -> None:
        try:
            data, descriptors, _ = receive(self._control, 1)
            for fd in descriptors:
                os.close(fd)
            if not data:
                raise EOFError
            self._perform(unpack(data))
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            self._tell({"event": "refused", "message": str(error)})

    def _perform(self, message: dict[str, Any]) -> None:
        operation = message.get("op")
        if operation == "start":
            request = wanted(message)
            try:
                self._tracing.start(request, _now())
            except (OSError, ValueError, Unavailable) as error:
                self._tell({"event": "failed", "id": request.number, "message": str(error)})
            else:
                self._tell({"event": "started", "id": request.number})
        elif operation == "end":
            self._tracing.end(number_of(message))
        elif operation in ("stop", "flush"):
            number = number_of(message)
            if not self._tracing.knows(number):
                answer = {"event": "failed", "id": number, "message": "it is not traced"}
                self._tell(answer)
            elif operation == "flush":
                self._send_records(self._tracing.flush(_now()))
                missed = self._tracing.missed(number)
                self._tell({"event": "flushed", "id": number, "missed": missed})
            else:
                missed = self._tracing.missed(number)
                last, known = self._tracing.stop(number, _now())
                self._send_records(last)
                self._tell({"event": "stopped", "id": number, **known, "missed": missed})
        else:
            raise ValueError("no such operation")

    def _join(self) -> None:
        try:
            data, descriptors, sender = receive(self._joining, 2)
        except ValueError:
            return  # the process that sent it gets no answer, and does not start
        if not data:
            self._poll.unregister(self._joining)  # the node has closed it
            return
        try:
            if len(descriptors) != 2:
                raise ValueError("not the descriptors that it needs")
            pidfd, answer = descriptors
            text = JOINED
            try:
                if _process_of(pidfd) != sender:
                    raise ValueError("a process can only be joined by itself")
                self._tracing.join(number_of(unpack(data)), pidfd)
            except (OSError, ValueError) as error:
                text = str(error).encode("utf-8", "replace")[:512]
            with contextlib.suppress(OSError):  # it has died
                os.write(answer, text)
        except ValueError:
            return
        finally:
            for fd in descriptors:
                os.close(fd)

    def _send_records(self, found: list[bytes]) -> None:
        parts: list[bytes] = []
        size = 0
        for record in found:
            if parts and size + len(record) > BATCH_BYTES:
                self._send(records.join(parts))
                parts, size = [], 0
            parts.append(record)
            size += len(record) + records.LENGTH.size
        if parts:
            self._send(records.join(parts))

    def _tell(self, message: dict[str, Any]) -> None:
        self._send(pack(message))

    def _send(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if not self._writing:
            self._write()

    def _write(self) -> None:
        while self._waiting:
            try:
                self._control.send(self._waiting[0])
            except BlockingIOError:
                if not self._writing:
                    self._writing = True
                    self._poll.modify(self._control, select.EPOLLIN | select.EPOLLOUT)
                return
            self._waiting_bytes -= len(self._waiting.popleft())
        if self._writing:
            self._writing = False
            self._poll.modify(self._control, select.EPOLLIN)


def _process_of(pidfd: int) -> int:
    """Return the process of a pidfd. Raises ValueError if it is none, or has ended."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "Pid" and int(value) > 0:
                return int(value)
    raise ValueError("not a descriptor of a process")


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def main() -> None:
    """Serve on the descriptors of the first two arguments, with the options of the third."""
    control = socket.socket(fileno=int(sys.argv[1]))
    joining = socket.socket(fileno=int(sys.argv[2]))
    options = Options(**json.loads(sys.argv[3])) if len(sys.argv) > 3 else Options()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir("/")
    with contextlib.suppress(OSError):
        os.nice(PRIORITY)  # a session that loads the machine does not delay its own record
    for channel in (control, joining):
        channel.set_inheritable(False)
    control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    joining.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with control, joining:
        Tracer(control, joining, options).run()


if __name__ == "__main__":
    main()
