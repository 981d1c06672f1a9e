"""How does a session's process become one that is traced?

It asks the tracer (``tele.tracer``), whose socket the spawner was given, by its own pidfd: whatever
it executes and starts afterwards is of the same session.

Invariants:

* Standard library only: the spawner loads it.
* A session that is to be traced does not start otherwise: no answer in time is a refusal.
* Nothing of the socket is left in what is executed, or serves files.
"""

from __future__ import annotations

import array
import os
import select
import socket
import time
from typing import Final

from tele.spawner.accounts import Refused

#: Seconds in which the tracer has to answer.
TIMEOUT: Final = 10.0
#: Seconds between attempts while its queue is full.
PAUSE: Final = 0.01
JOINED: Final = b"joined"


def join(tracer: int, number: int) -> None:
    """Be of session ``number``; closes ``tracer``, the socket. Raises Refused."""
    until = time.monotonic() + TIMEOUT
    answer, theirs = os.pipe2(os.O_CLOEXEC)
    me = -1
    try:
        me = os.pidfd_open(os.getpid())
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=tracer) as channel:
            _ask(channel, b'{"id": %d}' % number, me, theirs, until)
        os.close(theirs)
        theirs = -1
        if not select.select([answer], [], [], max(0.0, until - time.monotonic()))[0]:
            raise Refused("its commands have to be recorded: the tracer does not answer", "tracing")
        said = os.read(answer, 512)
    except OSError as error:
        text = f"its commands have to be recorded: the tracer is not reached: {error.strerror}"
        raise Refused(text, "tracing") from None
    finally:
        for fd in (answer, theirs, me):
            if fd >= 0:
                os.close(fd)
    if said != JOINED:
        text = said.decode("utf-8", "replace") or "the tracer has ended"
        raise Refused(f"its commands have to be recorded: {text}", "tracing")


def _ask(channel: socket.socket, data: bytes, me: int, answer: int, until: float) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (me, answer)))]
    while True:
        try:
            # Others send on the same socket: it is not made non-blocking.
            channel.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(PAUSE)
        else:
            return
