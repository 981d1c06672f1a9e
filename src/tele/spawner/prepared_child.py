"""How is the process of a session made before a request for it arrives?

The spawner forks a few children ahead. Each closes what it inherited, enters a control group
of its own and waits for one request on its end of a socket pair; forking and entering the
group, which may wait for the kernel for milliseconds, then cost no session time.

Invariants:

* Standard library only: the spawner loads it.
* A prepared child has no descriptor but the standard ones, its socket and the tracer's, and serves
  one request. It ends when the spawner closes the other end, or dies.
* Nothing is known of the account before the request: what is read of the machine is read then.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from typing import Final, NamedTuple, NoReturn

from tele.spawner.accounts import Refused
from tele.spawner.login_process import serve_login
from tele.spawner.session_child import (
    SpawnContext,
    enter,
    leave_tracer,
    place_descriptors,
    reset_signals,
)
from tele.spawner.spawn_messages import MAX_DESCRIPTORS, MAX_MESSAGE, Start, receive, unpack

#: Where a child keeps its socket: above the descriptors that come with a request.
_REPORT: Final = 16


class PreparedChild(NamedTuple):
    """A child that waits for its request; ``group`` is the name of its control group, or empty."""

    pid: int
    channel: socket.socket
    group: str


def prepare(group: str, context: SpawnContext) -> PreparedChild:
    """Fork a child that waits for a request. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _be_child(theirs, group, context)
    theirs.close()
    ours.setblocking(False)
    # As much as a request may be: the kernel takes it in one piece.
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
    return PreparedChild(pid, ours, group)


def fork() -> int:
    """Fork with signals blocked: a handler of the parent must not run in the child."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD, signal.SIGTERM))
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return pid


def _be_child(inherited: socket.socket, group: str, context: SpawnContext) -> NoReturn:
    try:
        try:
            reset_signals(context.changed_signals)
            # First of all, so that not even a slow name service keeps a descriptor open.
            report = fcntl.fcntl(inherited, fcntl.F_DUPFD_CLOEXEC, _REPORT)
            kept = report
            if context.tracer is not None:
                kept = fcntl.fcntl(context.tracer, fcntl.F_DUPFD_CLOEXEC, report + 1)
                context = context._replace(tracer=kept)
            os.closerange(3, report)
            os.closerange(report + 1, kept)
            os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
            inherited.detach()
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=report)
            _serve(channel, group, context)
        except Refused as refused:
            text = f"{refused.reason}\0{refused}"
        except Exception as error:
            text = f"spawner\0the session could not start: {type(error).__name__}: {error}"
        else:
            text = "spawner\0the session could not start"
        # After the line that names account and leader, or after an empty one in its place.
        os.write(report, ("\n" + text).encode("utf-8", "replace")[:3000])
    finally:
        os._exit(255)


def _serve(channel: socket.socket, group: str, context: SpawnContext) -> None:
    # A PAM module may move the process elsewhere, and its monitor stays outside.
    group_id = context.groups.enter(group) if group and not context.pam else 0
    data, descriptors, flags = receive(channel, MAX_DESCRIPTORS + 1)
    if not data:
        os._exit(0)
    if flags & socket.MSG_CTRUNC:
        raise Refused("the session could not start: it has no file descriptors left", "spawner")
    header, strings = unpack(data)
    if header["op"] == "login":
        leave_tracer(context)
        serve_login(header["login"], channel, context)
    start = Start(header, strings)
    outcome = descriptors.pop() if context.is_monitored(start.kind) else None
    place_descriptors(descriptors)
    enter(start, channel.fileno(), outcome, context, group, group_id)
