"""What closes a PAM session when its program has ended? A parent process that stays.

Between the spawner and the session stands one more process, which opened the PAM session
and waits; it reports to the spawner how the program ended and then closes the session, however
long that takes. It goes on when the spawner dies.

Invariants:

* Standard library only: the spawner loads it, but for PAM, which is loaded in the child.
* It stays root and touches nothing of the session: no terminal, no pipe, no file of theirs.
* The spawner knows that the program has ended before its number can be another process's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tele.spawner.pam import PamSession

#: How the program ended: the status of waitpid.
STATUS: Final = struct.Struct("=i")
#: In a status: the memory of the process was dumped (wait(2)).
CORE: Final = 0x80


def open_pam(service: str, account: pwd.struct_passwd, host: str, terminal: str) -> PamSession:
    """Open a PAM session for ``account`` in this process, which has its groups from now on."""
    from tele.spawner.pam import PamSession

    os.setgroups(os.getgrouplist(account.pw_name, account.pw_gid))  # modules may add some
    session = PamSession(service, account.pw_name, host, terminal)
    session.open()
    return session


def stay_behind(session: PamSession, report: int, outcome: int) -> None:
    """Return in a child, which is to become the program; this process becomes its monitor."""
    pid = os.fork()
    if pid == 0:
        os.close(outcome)
        return
    try:
        _monitor(session, pid, report, outcome)
    finally:
        os._exit(0)


def _monitor(session: PamSession, pid: int, report: int, outcome: int) -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.close(report)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
    os.chdir("/")
    status = _end_of(pid)
    with contextlib.suppress(BrokenPipeError):  # the spawner has died
        os.write(outcome, STATUS.pack(status))
    os.close(outcome)
    session.close()


def _end_of(pid: int) -> int:
    """Wait for a child and return its status; it stays a zombie until this process ends."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if ended is None:
        raise ChildProcessError(pid)
    if ended.si_code == os.CLD_EXITED:
        return ended.si_status << 8
    return ended.si_status | (CORE if ended.si_code == os.CLD_DUMPED else 0)
