"""Which logins have a process that starts their sessions, and for how long?

See :mod:`tele.spawner.login_process`. A login gets one when its second session starts soon after
the one before; it takes no more sessions after a while, and ends with the last of them.

Invariants:

* Standard library only: the spawner loads it.
* A session whose process cannot be handed over starts in a child of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from typing import Final, Protocol

from tele.spawner.control_groups import Groups
from tele.spawner.login_process import DONE, ENDED, FAILED, MAX_TEXT, MESSAGE, READY, STARTED
from tele.spawner.prepared_child import PreparedChild
from tele.spawner.session_child import sftp_server
from tele.spawner.spawn_messages import Start, pack

#: Seconds within which a second session of a login has to start for it to have a process.
SOON: Final = 10.0
#: Seconds that a process takes sessions for: what it knows of its account is not older.
LIFETIME: Final = 30.0
#: Seconds without a session after which it ends.
IDLE: Final = 10.0
#: Logins that are remembered.
MAX_LOGINS: Final = 64
_KINDS: Final = frozenset({"shell", "exec", "forced"})


class ISessions(Protocol):
    """What becomes of sessions that were handed over."""

    def on_started(self, number: int, pid: int, uid: int, gid: int, group: int) -> None:
        """A session executes its program."""

    def on_failed(self, number: int, failure: str) -> None:
        """A session did not start: the reason, NUL, and a message."""

    def on_ended(self, number: int, status: int | None) -> None:
        """The program of a session ended; None if its status is lost."""

    def next_group(self) -> str:
        """Return a name for a control group."""


class LoginHost:
    """One process and the sessions that it started; ``group`` is where it waits."""

    __slots__ = ("channel", "gid", "group", "idle_at", "pid", "retires_at", "sessions", "uid")

    def __init__(self, prepared: PreparedChild, now: float) -> None:
        self.pid = prepared.pid
        self.channel = prepared.channel
        self.group = prepared.group
        self.uid = self.gid = -1
        #: Numbers of sessions, with the id of the control group; 0 once they have started.
        self.sessions: dict[int, int] = {}
        self.idle_at = now + IDLE
        self.retires_at = now + LIFETIME


class LoginHosts:
    """The processes of logins."""

    def __init__(self, groups: Groups, sessions: ISessions) -> None:
        self._groups = groups
        self._sessions = sessions
        self._serving: dict[str, LoginHost] = {}
        self._alive: list[LoginHost] = []
        self._last: dict[str, float] = {}
        self._kinds = _KINDS | ({"sftp"} if sftp_server() else set())
        self._disabled = False

    @property
    def pause(self) -> float | None:
        """Seconds until :meth:`sweep` should be called; None if there is nothing to retire."""
        if not self._serving:
            return None
        return max(0.0, min(host.idle_at for host in self._serving.values()) - time.monotonic())

    def sweep(self) -> None:
        """Retire processes that were idle for long."""
        now = time.monotonic()
        for login, host in list(self._serving.items()):
            if host.idle_at <= now:
                self._retire(login)

    def is_wanted(self, start: Start) -> bool:
        """Whether a process should be made for the login of a session that has just started."""
        now, login = time.monotonic(), start.login
        last = self._last.pop(login, now - SOON)
        if not self._can_host(start):
            return False
        if len(self._last) >= MAX_LOGINS:
            del self._last[next(iter(self._last))]
        self._last[login] = now
        return login not in self._serving and now - last < SOON

    def adopt(self, login: str, prepared: PreparedChild) -> LoginHost:
        """Have a prepared child serve ``login``; it was sent :func:`login_request`."""
        host = self._serving[login] = LoginHost(prepared, time.monotonic())
        self._alive.append(host)
        return host

    def hand_over(self, number: int, start: Start, data: bytes, fds: list[int]) -> str | None:
        """Give a session to the process of its login; return its control group, None if it has
        none that takes it.
        """
        host = self._serving.get(start.login)
        if host is None or host.uid < 0 or not self._can_host(start):
            return None
        now = time.monotonic()
        if host.retires_at <= now:
            self._retire(start.login)
            return None
        group, upcoming = host.group, self._sessions.next_group()
        opened = self._groups.make(upcoming)
        if opened is None:
            return None
        try:
            socket.send_fds(host.channel, [data], [*fds, *opened])
        except OSError:
            self._groups.session_ended(upcoming)
            return None
        finally:
            for fd in opened:
                os.close(fd)
        host.sessions[number] = self._groups.id_of(group)
        host.group = upcoming
        host.idle_at = min(now + IDLE, host.retires_at)
        return group

    def read(self, host: LoginHost) -> bool:
        """Read one message of a process; False when it has ended."""
        try:
            data = host.channel.recv(MESSAGE.size + MAX_TEXT)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            return False
        if len(data) < MESSAGE.size or data[0] > DONE:
            return True  # why it could not become the account; a session will be told
        kind, number, value = MESSAGE.unpack_from(data)
        if kind == READY:
            host.uid, host.gid = number, value
        elif kind == STARTED:
            group, host.sessions[number] = host.sessions[number], 0
            self._sessions.on_started(number, value, host.uid, host.gid, group)
        elif kind == FAILED:
            del host.sessions[number]
            self._sessions.on_failed(number, data[MESSAGE.size :].decode("utf-8", "replace"))
        elif kind == ENDED:
            del host.sessions[number]
            self._sessions.on_ended(number, value)
        elif kind == DONE:
            # Before Linux 5.16 only root enters a group, also by a file that root opened.
            self._disabled = value in (errno.EACCES, errno.EPERM)
            self._forget(host)
        return True

    def lost(self, host: LoginHost) -> None:
        """A process has ended: so has what it did not start, and what it started is on its own."""
        self._forget(host)
        self._alive.remove(host)
        host.channel.close()
        for number in list(host.sessions):
            self._sessions.on_ended(number, None)
        self._groups.session_ended(host.group)

    def doubt(self, number: int) -> None:
        """A session takes too long to start, or is not wanted: others do not wait behind it."""
        for host in self._alive:
            if number in host.sessions:
                self._forget(host)

    def read_all(self) -> bool:
        """Read what there is; whether processes are left."""
        for host in list(self._alive):
            if not self.read(host):
                self.lost(host)
        return bool(self._alive)

    def close(self) -> None:
        """Serve no more."""
        for login in list(self._serving):
            self._retire(login)

    def _can_host(self, start: Start) -> bool:
        return (
            not self._disabled and start.kind in self._kinds and not start.pty and not start.cookie
        )

    def _retire(self, login: str) -> None:
        self._forget(self._serving[login])

    def _forget(self, host: LoginHost) -> None:
        """Give it no more sessions: it ends with its last."""
        for login, serving in list(self._serving.items()):
            if serving is host:
                del self._serving[login]
        with contextlib.suppress(OSError):  # it has ended
            host.channel.shutdown(socket.SHUT_WR)


def login_request(login: str) -> bytes:
    """Return what makes a prepared child serve ``login``."""
    return pack({"op": "login", "login": login})
