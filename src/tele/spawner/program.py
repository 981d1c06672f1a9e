"""Who starts people's programs? A small process of its own, with no connection in it.

Run as ``python -I -S program.py FD [OPTIONS]`` before the node accepts anybody; ``FD`` is one
end of a SOCK_SEQPACKET pair, the node holds the other (:mod:`tele.node.spawning`). For each
session it forks one child, which becomes the account for good and executes its shell.

Invariants:

* Standard library only: it runs without ``site`` and loads nothing of tele but the files
  beside it that obey the same law.
* One thread, no connection, no secret. What one session costs does not depend on how
  many there are.
* This process never changes its identity; a child does, once (:mod:`tele.spawner.session_child`).
* Requests are not trusted: accounts are looked up here, only own children are signalled,
  and a malformed request is answered, not died of.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from types import FrameType, ModuleType
from typing import Any, NoReturn

if __name__ == "__main__":
    # Without site there is no tele; its name stands for this folder and nothing else.
    for _name, _folders in (("tele", []), ("tele.spawner", [os.path.dirname(__file__)])):
        _package = ModuleType(_name)
        _package.__path__ = _folders
        sys.modules[_name] = _package

from tele.spawner.accounts import Refused
from tele.spawner.control_groups import Groups, own_group
from tele.spawner.login_records import Records
from tele.spawner.pam_monitor import STATUS
from tele.spawner.session_child import (
    Surroundings,
    changed_signals,
    drop_privileges,
    enter,
    place_descriptors,
    read_own,
    reset_signals,
    write_own,
)
from tele.spawner.spawn_messages import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE,
    NO_OPTIONS,
    SESSION_KINDS,
    SIGNALS,
    SOCKET_KINDS,
    Options,
    Start,
    pack,
    unpack,
)

#: Seconds that sessions have to end when the spawner does, before their groups are left alone.
LAST_WAIT = 1.0
#: Why descriptors of a request do not arrive.
NO_DESCRIPTORS = "it has no file descriptors left"
#: How a session ended whose keeper died before it could tell.
LOST = -1


class Child:
    """One session: its process, whose it is, and the pipe that tells whether it came to exec.

    ``pid`` is our own child's; ``leader`` leads the session: the same, or a child of that
    (:mod:`tele.spawner.pam_monitor`), which tells through the pipe ``outcome`` how it ended.
    """

    __slots__ = (
        "gid", "heard", "kind", "leader", "number", "outcome", "pid", "pipe", "status",
        "terminal", "uid",
    )  # fmt: skip

    def __init__(
        self, number: int, pid: int, pipe: int, kind: str = "exec", outcome: int | None = None
    ) -> None:
        self.number = number
        self.pid = self.leader = pid
        self.kind = kind
        self.pipe: int | None = pipe
        self.outcome = outcome
        self.heard = b""
        self.terminal = ""
        self.uid = self.gid = -1
        #: How it ended, as waitpid tells it, once it did.
        self.status: int | None = None


class Spawner:
    """Takes requests from ``control`` and reports on its children until that ends."""

    def __init__(self, control: socket.socket, options: Options = NO_OPTIONS) -> None:
        self._control = control
        self._pam = options.pam
        self._open_files = options.open_files
        self._groups = Groups(own_group(), kill_leftovers=options.kill_leftovers)
        self._records = Records()
        self._oom_score = read_own("oom_score_adj").strip() or b"0"
        self._by_number: dict[int, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._changed: tuple[int, ...] = ()
        self._ending = False

    def run(self) -> None:
        """Serve until the node goes away, then hang every session up."""
        wake, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._changed = changed_signals()
        if os.geteuid() == 0:
            write_own("oom_score_adj", b"-1000")  # as sshd's listener; children give it back
        self._selector.register(wake, selectors.EVENT_READ)
        self._selector.register(self._control, selectors.EVENT_READ)
        try:
            while True:
                ready = self._selector.select(self._groups.pause)
                if not ready:
                    self._groups.sweep()
                for key, _ in ready:
                    if key.fd == wake:
                        os.read(wake, 4096)
                        while self.reap():
                            pass
                    elif key.fd == self._control.fileno():
                        self._receive()
                    elif isinstance(key.data, Child):
                        if key.fd == key.data.outcome:
                            self._hear_outcome(key.data)
                        else:
                            self.hear(key.data)
        except (EOFError, ConnectionError):
            return
        finally:
            self._end_all()

    def _end_all(self) -> None:
        """Hang every session up, and see that what ends at once leaves nothing behind."""
        self._ending = True
        for child in self._by_pid.values():
            _hang_up(child)
        until = time.monotonic() + LAST_WAIT
        while self._by_pid and time.monotonic() < until:
            if not self.reap():
                time.sleep(0.01)
        self._groups.close()

    def _receive(self) -> None:
        data, descriptors, flags, _ = socket.recv_fds(
            self._control, MAX_MESSAGE + 1, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        try:
            if not data and not descriptors:
                raise EOFError
            if flags & socket.MSG_TRUNC or len(data) > MAX_MESSAGE:
                raise ValueError("too long a message")
            header, strings = unpack(data)
            number = header.get("id")
            if type(number) is not int or not 0 < number < 1 << 53:
                raise ValueError("no number of a session")
            if flags & socket.MSG_CTRUNC:
                # The kernel could not give them to us; or the sender is not our node.
                if len(descriptors) == MAX_DESCRIPTORS or number in self._by_number:
                    raise ValueError("too many descriptors")
                self._cannot_start(number, NO_DESCRIPTORS)
                return
            self._perform(number, header, strings, descriptors)
        except ValueError as error:
            self._report(0, "refused", message=str(error))
        finally:
            for fd in descriptors:
                os.close(fd)

    def _cannot_start(self, number: int, why: str) -> None:
        text = f"the node cannot start a process: {why}"
        self._report(number, "failed", reason="spawner", message=text)

    def _perform(
        self, number: int, header: dict[str, Any], strings: list[bytes], fds: list[int]
    ) -> None:
        operation = header.get("op")
        if operation == "start":
            start = Start(header, strings)
            if number in self._by_number:
                raise ValueError("the number of a session is in use")
            if len(fds) != (1 if start.pty or start.kind in SOCKET_KINDS else 3):
                raise ValueError("not the descriptors that it needs")
            if start.pty and not 136 <= os.major(os.fstat(fds[0]).st_rdev) <= 143:
                raise ValueError("not a pseudo terminal")
            self._start(number, start, fds)
        elif operation in ("signal", "hangup", "kill"):
            name = header.get("signal")
            if operation == "signal" and (type(name) is not str or name not in SIGNALS):
                raise ValueError("no such signal")
            child = self._by_number.get(number)
            if child is None or child.status is not None:
                return  # it has just ended
            if operation == "hangup":
                _hang_up(child)
                expelled = header.get("expelled") is True
                self._groups.person_left(self._groups.name(number), expelled=expelled)
            elif operation == "kill":
                _send(child, signal.SIGKILL)
            else:
                self._signal(child, signal.Signals[f"SIG{name}"])
        else:
            raise ValueError("no such operation")

    def _start(self, number: int, start: Start, descriptors: list[int]) -> None:
        kept = bool(self._pam) and start.kind in SESSION_KINDS and os.geteuid() == 0
        pipes: list[tuple[int, int]] = []
        try:
            for _ in range(1 + kept):
                pipes.append(os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
            pid = _fork()
        except OSError as error:
            for pipe in pipes:
                _close(*pipe)
            self._cannot_start(number, error.strerror or str(error))
            return
        theirs = [writing for _, writing in pipes]
        if pid == 0:
            around = Surroundings(
                self._groups,
                self._groups.name(number),
                self._pam,
                self._oom_score,
                self._records,
                self._open_files,
            )
            _be_child(start, descriptors, theirs, self._changed, around)
        _close(*theirs)
        self.add(Child(number, pid, pipes[0][0], start.kind, pipes[1][0] if kept else None))

    def add(self, child: Child) -> None:
        """Look after a child that was started."""
        self._by_number[child.number] = self._by_pid[child.pid] = child
        for pipe in (child.pipe, child.outcome):
            if pipe is not None:
                self._selector.register(pipe, selectors.EVENT_READ, child)

    def hear(self, child: Child) -> None:
        """Read what a child says: at the end of it, it executed, or has said why not."""
        if child.pipe is None:
            return
        while True:
            try:
                data = os.read(child.pipe, 8192)
            except BlockingIOError:
                return
            if not data:
                break
            child.heard += data
        self._forget(child.pipe)
        child.pipe = None
        whose, newline, failure = child.heard.decode("utf-8", "replace").partition("\n")
        child.heard = b""
        group = 0
        if whose:
            numbers, _, child.terminal = whose.rpartition(" ")
            child.uid, child.gid, child.leader, group = map(int, numbers.split())
        if newline and not failure:
            self._report(child.number, "started", pid=child.leader, cgroup=group)
            self._tell_end(child)
            return
        failure = failure.lstrip("\n") or "spawner\0the session died as it started"
        reason, _, message = failure.partition("\0")
        del self._by_number[child.number]
        self._report(child.number, "failed", reason=reason, message=message)
        self._clean_up(child)

    def _hear_outcome(self, child: Child) -> None:
        """Its keeper says how it ended, or has died before it could."""
        if child.outcome is None:
            return
        try:
            data = os.read(child.outcome, STATUS.size)
        except BlockingIOError:
            return
        self._forget(child.outcome)
        child.outcome = None
        (child.status,) = STATUS.unpack(data) if len(data) == STATUS.size else (LOST,)
        self.hear(child)
        self._tell_end(child)

    def _forget(self, pipe: int) -> None:
        self._selector.unregister(pipe)
        os.close(pipe)

    def reap(self, pid: int = -1) -> bool:
        """Take note of a child that ended; False if there is none."""
        try:
            pid, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return False
        child = self._by_pid.pop(pid, None)
        if child is not None:  # else one that only sent a signal
            self._hear_outcome(child)
            if child.status is None:
                child.status = status
            self.hear(child)
            self._tell_end(child)
        return pid != 0

    def _tell_end(self, child: Child) -> None:
        """It ended, and all that it said before it executed is heard: the pipe may lag behind."""
        if child.status is None or child.pipe is not None:
            return
        if self._by_number.get(child.number) is child:
            del self._by_number[child.number]
            self._report(child.number, "exited", **_outcome(child.status))
            if child.status == LOST:
                _hang_up(child)
            self._clean_up(child)

    def _clean_up(self, child: Child) -> None:
        """A session has ended: what else the machine knows of it."""
        if child.kind in SESSION_KINDS:
            self._groups.session_ended(self._groups.name(child.number))
        if child.terminal and self._records.kept and _fork() == 0:
            # Somebody may have locked the files: not here.
            try:
                self._records.log_out(child.terminal.removeprefix("/dev/"), child.leader)
            finally:
                os._exit(0)

    def _signal(self, child: Child, number: signal.Signals) -> None:
        """Signal the group as its user: part of it may be root's (sudo), and not theirs to end."""
        if child.uid < 0 or _fork() != 0:
            return
        try:
            reset_signals(self._changed)
            drop_privileges(child.uid, child.gid, ())
            os.killpg(child.leader, number)
        finally:
            os._exit(0)

    def _report(self, number: int, event: str, **rest: Any) -> None:
        # Waiting for a slow node is fine: there is nothing else to do meanwhile.
        with contextlib.suppress(OSError) if self._ending else contextlib.nullcontext():
            self._control.send(pack({"id": number, "event": event, **rest}))


def _nothing(_number: int, _: FrameType | None) -> None:
    """SIGCHLD has to have a handler to reach the wake-up pipe."""


def _stop(number: int, _: FrameType | None) -> None:
    """SIGTERM: end as if the node had gone away."""
    raise EOFError(f"signal {number}")


def _outcome(status: int) -> dict[str, Any]:
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


def _send(child: Child, number: signal.Signals) -> None:
    # Before it has a group of its own, just itself.
    for send, pid in ((os.killpg, child.leader), (os.kill, child.pid)):
        try:
            send(pid, number)
        except ProcessLookupError:
            continue
        except PermissionError:
            return  # an ordinary user's node, and a program with other privileges
        return


def _hang_up(child: Child) -> None:
    """As a terminal that goes away does: SIGHUP, and SIGCONT for what is stopped."""
    _send(child, signal.SIGHUP)
    _send(child, signal.SIGCONT)


def _fork() -> int:
    """Fork with signals blocked: a handler of the parent's must not run in the child."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD, signal.SIGTERM))
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return pid


def _close(*descriptors: int) -> None:
    for fd in descriptors:
        os.close(fd)


def _be_child(
    start: Start,
    descriptors: list[int],
    pipes: list[int],
    changed: tuple[int, ...],
    around: Surroundings,
) -> NoReturn:
    report = pipes[0]
    try:
        try:
            reset_signals(changed)
            # First of all, so that not even a slow name service keeps anything of ours open.
            report, *outcome = place_descriptors(descriptors, pipes)
            enter(start, report, outcome[0] if outcome else None, around)
        except Refused as refused:
            text = f"{refused.reason}\0{refused}"
        except Exception as error:
            text = f"spawner\0the session could not start: {type(error).__name__}: {error}"
        else:
            text = "spawner\0the session could not start"
        # The first line says whose it is; here it may be there already, or not.
        os.write(report, ("\n" + text).encode("utf-8", "replace")[:3000])
    finally:
        os._exit(255)


def main() -> None:
    """Serve on the descriptor that the first argument names, with the options of the second."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.set_inheritable(False)
        os.chdir("/")
        # Nothing here is garbage, and a collection in a child would copy every page.
        gc.disable()
        gc.freeze()
        options = Options(**json.loads(sys.argv[2])) if len(sys.argv) > 2 else NO_OPTIONS
        Spawner(control, options).run()


if __name__ == "__main__":
    main()
