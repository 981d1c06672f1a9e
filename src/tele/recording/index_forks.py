"""The program that makes indexes: ``python -I -m tele.recording.index_forks TERMINAL``.

It forks a process for each recording, which gives up its rights and then reads the recording
(:mod:`tele.snapshots.program`). Standard input is a socket: a message with the CPU seconds and two
descriptors, of the recording and of a file for what is made of it, starts a process;
:data:`KILL` kills it; its exit status, a negative number for a signal, is the answer.

Invariants:

* The program itself reads nothing of a recording.
* One process runs at a time. With the socket it ends, and its process with it.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Final, NoReturn

from tele.snapshots.program import load_terminals, make_index
from tele.snapshots.terminals import MakeTerminal

KILL: Final = b"kill"
#: Bytes of a message.
STATUS_LIMIT: Final = 64


class _Children:
    """Notices that a child has ended while it waits for messages."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ended, wakeup = os.pipe()
        for end in (self._ended, wakeup):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)

    def wait(self, process: int) -> int | None:
        """Return the exit status of a child; None if the socket was closed, and the child ended."""
        is_open = True
        while True:
            watched = [self._ended, *([self._control.fileno()] if is_open else [])]
            ready, _, _ = select.select(watched, [], [])
            if self._ended in ready:
                with suppress(BlockingIOError):
                    os.read(self._ended, 512)
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    return os.waitstatus_to_exitcode(status) if is_open else None
            if self._control.fileno() in ready:
                is_open = bool(self._control.recv(STATUS_LIMIT))
                os.kill(process, signal.SIGKILL)


def _child(make: MakeTerminal, cpu_seconds: int, descriptors: list[int]) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        status = make_index(make, cpu_seconds)
    finally:
        os._exit(status)


def main(arguments: list[str]) -> int:
    """Run until the socket is closed."""
    make = load_terminals(arguments[0])
    gc.freeze()
    with socket.socket(fileno=os.dup(0)) as control:
        children = _Children(control)
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, STATUS_LIMIT, 2)
            if not message:
                return 0
            if len(descriptors) != 2:
                continue  # a process was to be killed that has ended
            process = os.fork()
            if process == 0:
                _child(make, int(message), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            status = children.wait(process)
            if status is None:
                return 0
            control.send(str(status).encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
