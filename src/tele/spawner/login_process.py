"""How do further sessions of a login start without a fork of root's process?

As sshd has a process of the user for each connection, an account that starts several sessions
soon after each other gets a process that has looked the account up, set its limits and dropped
root's privileges once; it then starts each session with vfork. Only sessions without a terminal,
PAM or a display start here.

Invariants:

* Standard library only. It serves after the privileges are gone for good, one login only, and
  for a short time: what was read of the account and the machine is not older than that.
* The account cannot trace it: it is not dumpable, or it does not serve.
* Each session is in a control group of its own: this process waits in the next one.

Messages to the spawner: ``READY`` (uid, gid), ``STARTED`` (session, pid), ``FAILED`` (session, 0,
reason NUL text), ``ENDED`` (session, status of waitpid), ``DONE`` (0, errno) when it serves no
more.
"""

from __future__ import annotations

import os
import pwd
import select
import signal
import socket
import struct
from typing import Final, NoReturn

from tele.spawner.accounts import Refused, check_open, check_sessions, find_account
from tele.spawner.login_environment import environment_of, system_variables
from tele.spawner.session_child import (
    SpawnContext,
    drop_privileges,
    enter_home,
    leave_root_settings,
    limit_files,
    program_of,
)
from tele.spawner.spawn_messages import MAX_DESCRIPTORS, Start, receive, unpack

READY, STARTED, FAILED, ENDED, DONE = range(5)
#: Kind, number of the session, pid or status; text may follow.
MESSAGE: Final = struct.Struct("=Bqq")
MAX_TEXT: Final = 3000


def serve_login(login: str, channel: socket.socket, context: SpawnContext) -> NoReturn:
    """Become the account ``login`` and serve requests of ``channel`` until its end."""
    limit_files(context.open_files)
    os.umask(0o022)
    account = find_account(login)
    check_open(account)
    check_sessions(account)
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    variables = system_variables()
    os.setsid()
    root = os.geteuid() == 0
    if root:
        leave_root_settings(account.pw_uid, context.oom_score, context.unaudited)
    drop_privileges(account.pw_uid, account.pw_gid, groups)
    if root and os.stat("/proc/self/mem").st_uid != 0 != account.pw_uid:
        raise Refused("the account could trace this process", "spawner")
    _leave_standard_descriptors()
    channel.send(MESSAGE.pack(READY, account.pw_uid, account.pw_gid))
    LoginProcess(channel, account, variables).run()
    os._exit(0)


def _leave_standard_descriptors() -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


class LoginProcess:
    """Starts sessions of one account and reports how they end."""

    def __init__(
        self, channel: socket.socket, account: pwd.struct_passwd, variables: dict[bytes, bytes]
    ) -> None:
        self._channel = channel
        self._account = account
        self._variables = variables
        self._running: dict[int, int] = {}
        self._open = True
        self._serving = True

    def run(self) -> None:
        """Serve until the spawner sends no more, and all that runs has ended."""
        wake, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        ready = select.poll()
        ready.register(wake, select.POLLIN)
        ready.register(self._channel, select.POLLIN)
        while self._open or self._running:
            for fd, events in ready.poll():
                if fd == wake:
                    os.read(wake, 4096)
                    self._reap()
                elif events & select.POLLHUP:
                    return  # the spawner is dead: what it sent last does not count, sessions go on
                else:
                    self._receive()
            if not self._open:
                ready.modify(self._channel, 0)

    def _receive(self) -> None:
        data, descriptors, flags = receive(self._channel, MAX_DESCRIPTORS + 1)
        if not data:
            self._open = False
            return
        header, strings = unpack(data)
        number = header["id"]
        standard, group = descriptors[:MAX_DESCRIPTORS], descriptors[MAX_DESCRIPTORS:]
        failure = ""
        try:
            if flags & socket.MSG_CTRUNC:
                self._stop_serving()
                raise Refused("the process of the login has no file descriptors left", "spawner")
            if not self._serving:
                raise Refused("the process of the login ends; try again", "spawner")
            pid = self._spawn(Start(header, strings), standard)
        except Refused as refused:
            failure = f"{refused.reason}\0{refused}"
        except Exception as error:
            failure = f"spawner\0the session could not start: {type(error).__name__}: {error}"
        else:
            self._running[pid] = number
            self._report(STARTED, number, pid)
        finally:
            for fd in standard:
                os.close(fd)
        for fd in group:
            self._enter(fd)  # also if it starts no more: what ends this session is not for it
        if failure:  # its group may be killed as soon as that is known
            self._report(FAILED, number, 0, failure)

    def _enter(self, group: int) -> None:
        """Enter the group of the next session: by a file that root has opened."""
        try:
            os.write(group, b"0")
        except OSError as error:
            self._stop_serving(error.errno or 0)
        finally:
            os.close(group)

    def _stop_serving(self, error: int = 0) -> None:
        if self._serving:  # what is on its way is answered until the spawner sends no more
            self._serving = False
            self._report(DONE, 0, error)

    def _spawn(self, start: Start, descriptors: list[int]) -> int:
        account = self._account
        path, words = program_of(start, account)
        environment = environment_of(account, start.environment, None, self._variables)
        enter_home(account.pw_dir, descriptors[2])
        try:
            return os.posix_spawnp(
                path,
                words,
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate(descriptors)],
                setsid=True,
                setsigmask=(),
            )
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}", "exec") from None
        finally:
            os.chdir("/")

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._running.pop(pid, None)
            if number is not None:
                self._report(ENDED, number, status)

    def _report(self, kind: int, number: int, value: int, text: str = "") -> None:
        self._channel.send(MESSAGE.pack(kind, number, value) + text.encode()[:MAX_TEXT])
