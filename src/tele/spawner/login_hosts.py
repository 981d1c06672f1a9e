"""Which logins have a process that starts their sessions, and for how long?

See :mod:`tele.spawner.login_process`. A login of a user gets one when its second session starts
soon after the one before; it takes no more sessions after a while, or when the machine's files of
accounts change, and ends with the last of them.

Invariants:

* Standard library only: the spawner loads it.
* A session whose process cannot be handed over starts in a child of its own.
* The account may stop such a process: how many there are is bounded, and one that does not
  end in time is killed.
* It runs as the account, so its messages are not trusted: one that reports what cannot be is
  killed, and who it is counts as it said before it served anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import time
from typing import Final, Protocol

from tele.spawner.accounts import NOLOGIN_FILES
from tele.spawner.control_groups import Groups
from tele.spawner.login_environment import SYSTEM_FILES
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
#: Seconds that it has to end once it takes no more sessions and has none.
LINGER: Final = 30.0
#: Logins that are remembered.
MAX_LOGINS: Final = 64
#: Processes of one login, with those that take no more sessions.
MAX_HOSTS: Final = 16
#: What a process has read of the machine: when one of these changes, it is out of date.
_FILES: Final = ("/etc/passwd", "/etc/group", "/etc/shadow", *SYSTEM_FILES, *NOLOGIN_FILES)
#: The largest number of a process, and of a status.
_MAX_INT: Final = 2**31 - 1
#: See :func:`stamps`.
Stamps = tuple[tuple[int, ...] | None, ...]
_Key = tuple[str, bytes]
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

    __slots__ = (
        "channel", "ends_by", "files", "gid", "group", "idle_at", "login", "pending", "pid",
        "retires_at", "running", "uid",
    )  # fmt: skip

    def __init__(self, login: str, files: Stamps, prepared: PreparedChild, now: float) -> None:
        self.login = login
        self.files = files
        #: -1 once it has ended.
        self.pid = prepared.pid
        self.channel = prepared.channel
        self.group = prepared.group
        self.uid = self.gid = -1
        #: Numbers of sessions that are to be started, with the ids of their control groups.
        self.pending: dict[int, int] = {}
        #: Numbers of those that were started.
        self.running: set[int] = set()
        self.idle_at = now + IDLE
        self.retires_at = now + LIFETIME
        #: When it is killed unless sessions of it run; None while it serves.
        self.ends_by: float | None = None

    @property
    def killed_at(self) -> float | None:
        """When it is to be killed, as things are."""
        return None if self.running or self.pid < 0 else self.ends_by


class LoginHosts:
    """The processes of logins."""

    def __init__(self, groups: Groups, sessions: ISessions) -> None:
        self._groups = groups
        self._sessions = sessions
        self._serving: dict[_Key, LoginHost] = {}
        self._alive: list[LoginHost] = []
        self._last: dict[_Key, float] = {}
        self._kinds = _KINDS | ({"sftp"} if sftp_server() else set())
        self._disabled = False

    @property
    def pause(self) -> float | None:
        """Seconds until :meth:`sweep` should be called; None if there is nothing to retire."""
        due = [host.idle_at for host in self._serving.values()]
        due += [host.killed_at for host in self._alive if host.killed_at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def sweep(self) -> None:
        """Retire processes that were idle for long, and kill those that should have ended."""
        now = time.monotonic()
        for host in list(self._serving.values()):
            if host.idle_at <= now:
                self._forget(host)
        for host in self._alive:
            if host.killed_at is not None and host.killed_at <= now:
                _kill(host)
                host.ends_by = None

    def is_wanted(self, start: Start) -> bool:
        """Whether a process should be made for the login of a session that has just started."""
        now, key = time.monotonic(), _key_of(start)
        last = self._last.pop(key, now - SOON)
        if not self._can_host(start):
            return False
        if len(self._last) >= MAX_LOGINS:
            del self._last[next(iter(self._last))]
        self._last[key] = now
        if key in self._serving or now - last >= SOON:
            return False
        return sum(host.login == start.login for host in self._alive) < MAX_HOSTS

    def adopt(self, start: Start, files: Stamps, prepared: PreparedChild) -> LoginHost:
        """Have a prepared child serve the login of ``start``; it was sent :func:`login_request`
        after ``files`` were as they are.
        """
        host = LoginHost(start.login, files, prepared, time.monotonic())
        self._serving[_key_of(start)] = host
        self._alive.append(host)
        return host

    def hand_over(self, number: int, start: Start, data: bytes, fds: list[int]) -> str | None:
        """Give a session to the process of its login; return its control group, None if it has
        none that takes it.
        """
        host = self._serving.get(_key_of(start))
        if host is None or host.uid < 0 or not self._can_host(start):
            return None
        now = time.monotonic()
        if host.retires_at <= now or host.files != stamps():
            self._forget(host)
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
        host.pending[number] = self._groups.id_of(group)
        host.group = upcoming
        host.idle_at = min(now + IDLE, host.retires_at)
        return group

    def read(self, host: LoginHost) -> bool:
        """Read one message of a process; False when it has ended, or is to be."""
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
        if kind == READY and host.uid < 0:
            host.uid, host.gid = number, value
        elif kind == STARTED and number in host.pending and 1 < value <= _MAX_INT:
            group = host.pending.pop(number)
            host.running.add(number)
            self._sessions.on_started(number, value, host.uid, host.gid, group)
        elif kind == FAILED and number in host.pending:
            del host.pending[number]
            self._sessions.on_failed(number, data[MESSAGE.size :].decode("utf-8", "replace"))
        elif kind == ENDED and number in host.running and 0 <= value <= _MAX_INT:
            host.running.remove(number)
            if host.ends_by is not None:
                host.ends_by = time.monotonic() + LINGER
            self._sessions.on_ended(number, value)
        elif kind == DONE:
            # Before Linux 5.16 only root enters a group, also by a file that root opened.
            self._disabled = value in (errno.EACCES, errno.EPERM)
            self._forget(host)
        else:
            return False
        return True

    def lost(self, host: LoginHost) -> None:
        """A process has ended: so has what it did not start, and what it started is on its own."""
        self._forget(host)
        self._alive.remove(host)
        _kill(host)
        host.channel.close()
        for number in (*host.pending, *host.running):
            self._sessions.on_ended(number, None)
        self._groups.session_ended(host.group)

    def reaped(self, pid: int) -> None:
        """A process has ended: its number may be another's from now on."""
        for host in self._alive:
            if host.pid == pid:
                host.pid = -1

    def doubt(self, number: int) -> None:
        """A session takes too long to start, or is not wanted: others do not wait behind it."""
        for host in self._alive:
            if number in host.pending:
                self._forget(host)

    def read_all(self) -> bool:
        """Read what there is; whether processes are left."""
        for host in list(self._alive):
            if not self.read(host):
                self.lost(host)
        return bool(self._alive)

    def retire(self, login: str) -> None:
        """The account is to be removed: no process of it waits for further sessions."""
        for host in [each for each in self._serving.values() if each.login == login]:
            self._forget(host)

    def close(self) -> None:
        """Serve no more."""
        for host in list(self._serving.values()):
            self._forget(host)

    def kill(self) -> None:
        """End those that are left: their reports are not read any more."""
        for host in self._alive:
            _kill(host)

    def _can_host(self, start: Start) -> bool:
        # With rules of paths it is no other program that serves files.
        ruled = start.kind == "sftp" and bool(start.words)
        # A traced one joins its session by itself before it executes anything.
        hosted = start.kind in self._kinds and not ruled and not start.trace
        return not self._disabled and hosted and not start.pty and not start.cookie

    def _forget(self, host: LoginHost) -> None:
        """Give it no more sessions: it ends with its last."""
        for key, serving in list(self._serving.items()):
            if serving is host:
                del self._serving[key]
                host.ends_by = time.monotonic() + LINGER
        with contextlib.suppress(OSError):  # it has ended
            host.channel.shutdown(socket.SHUT_WR)


def stamps() -> Stamps:
    """Return device, inode, size and time of each file that processes of logins have read."""
    found: list[tuple[int, ...] | None] = []
    for path in _FILES:
        try:
            file = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns))
    return tuple(found)


def _kill(host: LoginHost) -> None:
    if host.pid >= 0:
        os.kill(host.pid, signal.SIGKILL)  # our child, and not reaped: the number is its own


def _key_of(start: Start) -> _Key:
    # Users who share a login have processes of their own, as under sshd.
    return start.login, start.environment.get("TELE_USER", b"")


def login_request(login: str) -> bytes:
    """Return what makes a prepared child serve ``login``."""
    return pack({"op": "login", "login": login})
