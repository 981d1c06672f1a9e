"""What does the spawner know of a session, and how does it signal its processes?

Invariants:

* Standard library only: the spawner loads it.
* Nothing is sent to a process that is not of the session. Where the leader's number may be
  another's by now, because neither the spawner nor a monitor of root's waits for it, the session
  is signalled as its account, which may send that anyway.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Final

from tele.spawner.prepared_child import fork
from tele.spawner.session_child import drop_privileges

#: Why a session did not start that reported nothing.
DIED: Final = "spawner\0the session died as it started"
#: How a session ended whose monitor died before it reported that.
LOST: Final = -1
#: Processes that send a signal at once.
MAX_SENDERS: Final = 256


class Child:
    """One session: its process, its account, and the descriptor on which it reports until exec.

    ``pid`` is our own child's; ``leader`` leads the session: the same, or a child of that
    (:mod:`tele.spawner.pam_monitor`), which reports through the pipe ``outcome`` how it ended.
    ``group`` is the name of its control group, or empty. A session of a login's process
    (:mod:`tele.spawner.login_process`) has -1 for ``pid`` until it has started.
    """

    __slots__ = (
        "channel", "gid", "group", "hosted", "leader", "number", "outcome", "pid", "report",
        "status", "terminal", "uid", "unwanted",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        pid: int,
        channel: int | None,
        group: str = "",
        outcome: int | None = None,
    ) -> None:
        self.number = number
        self.pid = self.leader = pid
        #: Whether a process of its login starts it, and waits for it.
        self.hosted = pid < 0
        self.channel = channel
        self.group = group
        self.outcome = outcome
        self.report = b""
        self.terminal = ""
        self.uid = self.gid = -1
        #: How it ended, as waitpid returns it, once it did.
        self.status: int | None = None
        #: Whether it is to be killed as soon as it has started.
        self.unwanted = False

    def read_first_line(self) -> tuple[int, str | None]:
        """Take note of the first line reported; return the group's id, and why it failed."""
        first, newline, failure = self.report.decode("utf-8", "replace").partition("\n")
        group = 0
        if first and newline:
            numbers, _, self.terminal = first.rpartition(" ")
            self.uid, self.gid, self.leader, group = map(int, numbers.split())
            if not failure:
                return group, None
        return group, failure.lstrip("\n") or DIED


def outcome_of(status: int) -> dict[str, Any]:
    """Return what a report says of a status."""
    if status == LOST:
        return {"status": None, "signal": None, "core": False}
    if not os.WIFSIGNALED(status):
        return {"status": os.WEXITSTATUS(status), "signal": None, "core": False}
    number = os.WTERMSIG(status)
    try:
        name = signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        name = f"RT{number}"
    return {"status": None, "signal": name, "core": os.WCOREDUMP(status)}


class Signals:
    """Sends signals to sessions."""

    def __init__(self) -> None:
        self._senders: dict[int, None] = {}

    def send(self, child: Child, number: signal.Signals) -> None:
        """Signal its process group, as root if it is our own child; nothing before it has
        started.
        """
        if child.hosted:
            self.send_as_account(child, number)
            return
        # Before it has a group of its own, just itself.
        for send, pid in ((os.killpg, child.leader), (os.kill, child.pid)):
            try:
                send(pid, number)
            except ProcessLookupError:
                continue
            except PermissionError:
                return  # an ordinary user's node, and a program with other privileges
            return

    def send_as_account(self, child: Child, *numbers: signal.Signals) -> None:
        """Signal its process group as its user; not at all if no process can be made for that."""
        if child.uid < 0:
            return
        try:
            pid = fork()
        except OSError:
            return
        if pid != 0:
            self._sent_by(pid)
            return
        try:
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            drop_privileges(child.uid, child.gid, ())
            for number in numbers:
                os.killpg(child.leader, number)
        finally:
            os._exit(0)

    def hang_up(self, child: Child) -> None:
        """As a terminal that goes away does: SIGHUP, and SIGCONT for what is stopped."""
        if child.hosted:
            self.send_as_account(child, signal.SIGHUP, signal.SIGCONT)
            return
        self.send(child, signal.SIGHUP)
        self.send(child, signal.SIGCONT)

    def reaped(self, pid: int) -> None:
        """A process has ended."""
        self._senders.pop(pid, None)

    def _sent_by(self, pid: int) -> None:
        # The account may stop such a process.
        if len(self._senders) >= MAX_SENDERS:
            oldest = next(iter(self._senders))
            del self._senders[oldest]
            os.kill(oldest, signal.SIGKILL)
        self._senders[pid] = None
