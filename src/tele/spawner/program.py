"""What starts the programs of users? A small root process that holds no connection.

Run as ``python -I -S program.py FD [OPTIONS]`` before the node accepts connections; ``FD`` is one
end of a SOCK_SEQPACKET pair, the node holds the other (:mod:`tele.node.spawning`). Each session
is one child (:mod:`tele.spawner.prepared_child`), which becomes the account for good and
executes its shell.

Invariants:

* Standard library only: it runs without ``site`` and loads nothing of tele but the files
  beside it that obey the same rule.
* One thread, no connection, no secret. What one session costs does not depend on how
  many there are.
* This process never changes its identity; a child does, once (:mod:`tele.spawner.session_child`).
* It reads no name service while it serves: that may wait.
* Requests are not trusted: each child looks its account up, only sessions of this process are
  signalled, and a malformed request is answered with ``refused``.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, Final

if __name__ == "__main__":
    # Without site there is no tele; its name stands for this folder and nothing else.
    for _name, _folders in (("tele", []), ("tele.spawner", [os.path.dirname(__file__)])):
        _package = ModuleType(_name)
        _package.__path__ = _folders
        sys.modules[_name] = _package

from tele.spawner.account_requests import AccountRequests
from tele.spawner.before_serving import have_standard_descriptors, keep_private, load_name_services
from tele.spawner.children import DIED, LOST, Child, Signals, outcome_of
from tele.spawner.control_groups import Groups, own_group
from tele.spawner.host_accounts import Switches
from tele.spawner.login_hosts import LoginHost, LoginHosts, login_request, stamps
from tele.spawner.login_records import Records
from tele.spawner.pam_monitor import STATUS
from tele.spawner.prepared_child import PreparedChild, fork, prepare
from tele.spawner.session_child import (
    SpawnContext,
    changed_signals,
    has_no_login_uid,
    read_own,
    write_own,
)
from tele.spawner.socket_processes import SocketProcesses
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
    receive,
    unpack,
)

#: Children that wait for a request.
PREPARED: Final = 1
#: Seconds that sessions have to end when the spawner does, before their groups are left alone.
LAST_WAIT: Final = 1.0
#: Why descriptors of a request do not arrive.
NO_DESCRIPTORS: Final = "it has no file descriptors left"


class Spawner:
    """Takes requests from ``control`` and reports on its children until that ends."""

    def __init__(self, control: socket.socket, options: Options = NO_OPTIONS) -> None:
        self._control = control
        self._groups = Groups(own_group(), kill_leftovers=options.kill_leftovers)
        self._records = Records()
        self._context = SpawnContext(
            groups=self._groups,
            pam=options.pam,
            oom_score=read_own("oom_score_adj").strip() or b"0",
            records=self._records,
            open_files=options.open_files,
            unaudited=has_no_login_uid(),
            tracer=options.tracer,
        )
        self._by_number: dict[int, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._prepared: deque[PreparedChild] = deque()
        self._serial = 0
        self._signals = Signals()
        self._hosts = LoginHosts(self._groups, self)
        self._sockets = SocketProcesses()
        self._accounts = AccountRequests(
            Switches(options.accounts, options.homes, options.shells, options.sudoers),
            self._watch,
            self._forget,
            lambda number, answer: self._report(number, "account", **answer),
        )
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._wake = -1
        self._ending = False

    def run(self) -> None:
        """Serve until the node goes away, then hang every session up."""
        self._wake, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._context = self._context._replace(changed_signals=changed_signals())
        if os.geteuid() == 0:
            write_own("oom_score_adj", b"-1000")  # as sshd's listener; children give it back
        self._watch(self._wake, select.EPOLLIN, self._reap_all)
        self._watch(self._control.fileno(), select.EPOLLIN, self._receive)
        try:
            self._refill()
            while True:
                pauses = [each.pause for each in (self._groups, self._hosts)]
                ready = self._poll.poll(min((p for p in pauses if p is not None), default=None))
                for each in (self._groups, self._hosts):
                    if each.pause == 0.0:  # due, however much there is to do beside
                        each.sweep()
                for fd, _ in ready:
                    handler = self._handlers.get(fd)
                    if handler is not None:
                        handler()
        except (EOFError, ConnectionError):
            return
        finally:
            self._end_all()

    def _watch(self, fd: int, events: int, handler: Callable[[], None]) -> None:
        self._poll.register(fd, events)
        self._handlers[fd] = handler

    def _unwatch(self, fd: int) -> None:
        del self._handlers[fd]
        self._poll.unregister(fd)

    def _forget(self, fd: int) -> None:
        self._unwatch(fd)
        os.close(fd)

    def _end_all(self) -> None:
        """Hang every session up, and see that what ends at once leaves nothing behind."""
        self._ending = True
        self._hosts.close()
        for prepared in self._prepared:
            prepared.channel.close()
        for child in {*self._by_number.values(), *self._by_pid.values()}:
            if child.status is None:
                self._signals.hang_up(child)
        until = time.monotonic() + LAST_WAIT
        while self._hosts.read_all() or self._by_pid or self._prepared:
            if time.monotonic() > until:
                break
            if not self.reap():
                time.sleep(0.01)
        self._hosts.kill()
        self._groups.close()
        self._accounts.end()

    def _receive(self) -> None:
        data, descriptors, flags = receive(self._control, MAX_DESCRIPTORS)
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
            self._perform(number, header, strings, data, descriptors)
        except ValueError as error:
            self._report(0, "refused", message=str(error))
        finally:
            for fd in descriptors:
                os.close(fd)

    def _cannot_start(self, number: int, why: str) -> None:
        text = f"the node cannot start a process: {why}"
        self._report(number, "failed", reason="spawner", message=text)

    def _perform(
        self,
        number: int,
        header: dict[str, Any],
        strings: list[bytes],
        data: bytes,
        fds: list[int],
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
            self._start(number, start, data, fds)
        elif operation in ("signal", "hangup", "kill"):
            name = header.get("signal")
            if operation == "signal" and (type(name) is not str or name not in SIGNALS):
                raise ValueError("no such signal")
            child = self._by_number.get(number)
            if child is None:
                return  # it has just ended
            self._read_outcome(child)
            self.read_report(child)  # which may name the leader
            if child.status is not None or self._by_number.get(number) is not child:
                return
            if child.pid < 0:
                # A process of its login is about to start it.
                child.unwanted = True
                self._hosts.doubt(number)
            elif operation == "hangup":
                self._signals.hang_up(child)
                if child.group:
                    expelled = header.get("expelled") is True
                    self._groups.user_left(child.group, expelled=expelled)
            elif operation == "kill":
                self._signals.send(child, signal.SIGKILL)
            else:
                # Part of it may be root's (sudo), and not theirs to end.
                self._signals.send_as_account(child, signal.Signals[f"SIG{name}"])
        elif operation == "account":
            if header.get("do") == "release":
                self._hosts.retire(str(header.get("login")))
            self._accounts.take(number, header, self._context.changed_signals)
        else:
            raise ValueError("no such operation")

    def _start(self, number: int, start: Start, data: bytes, fds: list[int]) -> None:
        if full := self._sockets.refusal(start):
            self._cannot_start(number, full)
            return
        outcome: tuple[int, ...] = ()
        monitored = self._context.is_monitored(start.kind)
        group = None if monitored else self._hosts.hand_over(number, start, data, fds)
        if group is not None:
            self._by_number[number] = Child(number, -1, None, group)
            return
        try:
            if monitored:
                outcome = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            prepared = self._hand_over(data, [*fds, *outcome[1:]], start.kind in SESSION_KINDS)
        except OSError as error:
            _close(*outcome)
            self._cannot_start(number, error.strerror or str(error))
            return
        _close(*outcome[1:])
        channel = prepared.channel.detach()
        self.add(Child(number, prepared.pid, channel, prepared.group, *outcome[:1]))
        self._sockets.add(prepared.pid, start)
        self._refill()
        if not monitored and self._hosts.is_wanted(start):
            self._host(start)

    def _host(self, start: Start) -> None:
        """Have a process for further sessions of the login of ``start``."""
        files = stamps()
        try:
            prepared = self._hand_over(login_request(start.login), [], grouped=True)
        except OSError:
            return
        host = self._hosts.adopt(start, files, prepared)
        self._watch(host.channel.fileno(), select.EPOLLIN, lambda: self._read_host(host))
        self._refill()

    def _read_host(self, host: LoginHost) -> None:
        if not self._hosts.read(host):
            self._unwatch(host.channel.fileno())
            self._hosts.lost(host)

    def on_started(self, number: int, pid: int, uid: int, gid: int, group: int) -> None:
        """A session executes its program."""
        child = self._by_number[number]
        child.pid = child.leader = pid
        child.uid, child.gid = uid, gid
        if child.unwanted:
            self._signals.send(child, signal.SIGKILL)
            if child.group:  # what has left its process group meanwhile
                self._groups.user_left(child.group, expelled=True)
        self._report(number, "started", pid=pid, cgroup=group)

    def on_failed(self, number: int, failure: str) -> None:
        """A session did not start: the reason, NUL, and a message."""
        self._fail(self._by_number[number], failure)

    def on_ended(self, number: int, status: int | None) -> None:
        """The program of a session ended; None if its status is lost."""
        child = self._by_number[number]
        if child.pid < 0:
            self._fail(child, DIED)
            return
        child.status = LOST if status is None else status
        self._report_end(child)

    def next_group(self) -> str:
        """Return a name for a control group."""
        self._serial += 1
        return self._groups.name(self._serial)

    def _hand_over(self, data: bytes, fds: list[int], grouped: bool) -> PreparedChild:
        """Give a request to a child. Raises OSError."""
        while True:
            ahead = grouped and bool(self._prepared)
            prepared = self._prepared.popleft() if ahead else self._prepare(grouped)
            try:
                socket.send_fds(prepared.channel, [data], fds)
            except OSError as error:
                self._discard(prepared)
                if not (ahead and isinstance(error, ConnectionError)):
                    raise
            else:
                return prepared

    def _prepare(self, grouped: bool) -> PreparedChild:
        return prepare(self.next_group() if grouped else "", self._context)

    def _discard(self, prepared: PreparedChild) -> None:
        prepared.channel.close()
        if prepared.group:
            self._groups.session_ended(prepared.group)

    def _refill(self) -> None:
        """Have children ready for the next requests."""
        with contextlib.suppress(OSError):  # the next request tries again, and reports it
            while len(self._prepared) < PREPARED:
                self._prepared.append(self._prepare(grouped=True))

    def add(self, child: Child) -> None:
        """Watch a child that was started."""
        self._by_number[child.number] = self._by_pid[child.pid] = child
        # Only its end matters: what it wrote is read then.
        if child.channel is not None:
            self._watch(child.channel, 0, lambda: self.read_report(child))
        if child.outcome is not None:
            self._watch(child.outcome, select.EPOLLIN, lambda: self._read_outcome(child))

    def read_report(self, child: Child) -> None:
        """Read what a child wrote: at its end, it executed its program, or wrote why not."""
        if child.channel is None:
            return
        while True:
            try:
                data = os.read(child.channel, 8192)
            except BlockingIOError:
                child.read_first_line()
                return
            except ConnectionError:  # it was killed before it read its request
                data = b""
            if not data:
                break
            child.report += data
        self._forget(child.channel)
        child.channel = None
        group, failure = child.read_first_line()
        if failure is None:
            self._report(child.number, "started", pid=child.leader, cgroup=group)
            self._report_end(child)
            return
        self._fail(child, failure)

    def _fail(self, child: Child, failure: str) -> None:
        reason, _, message = failure.partition("\0")
        del self._by_number[child.number]
        self._report(child.number, "failed", reason=reason, message=message)
        self._clean_up(child)

    def _read_outcome(self, child: Child) -> None:
        """Its monitor reports how it ended, or has died before it could."""
        if child.outcome is None:
            return
        try:
            data = os.read(child.outcome, STATUS.size)
        except BlockingIOError:
            return
        self._forget(child.outcome)
        child.outcome = None
        (child.status,) = STATUS.unpack(data) if len(data) == STATUS.size else (LOST,)
        self.read_report(child)
        self._report_end(child)

    def _reap_all(self) -> None:
        os.read(self._wake, 4096)
        while self.reap():
            pass

    def reap(self, pid: int = -1) -> bool:
        """Take note of a child that ended; False if there is none."""
        try:
            pid, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return False
        child = self._by_pid.pop(pid, None)
        self._sockets.reaped(pid)
        if child is not None:
            self._read_outcome(child)
            if child.status is None:
                child.status = status
            self.read_report(child)
            self._report_end(child)
        elif pid != 0:  # prepared, or one that only sent a signal
            self._signals.reaped(pid)
            self._hosts.reaped(pid)
            for prepared in [each for each in self._prepared if each.pid == pid]:
                self._prepared.remove(prepared)
                self._discard(prepared)
        return pid != 0

    def _report_end(self, child: Child) -> None:
        """Report its end, once all that it reported before exec is read: that may lag behind."""
        if child.status is None or child.channel is not None:
            return
        if self._by_number.get(child.number) is child:
            del self._by_number[child.number]
            self._report(child.number, "exited", **outcome_of(child.status))
            if child.status == LOST:  # its number may be another's
                self._signals.send_as_account(child, signal.SIGHUP, signal.SIGCONT)
            self._clean_up(child)

    def _clean_up(self, child: Child) -> None:
        """Remove what the machine still knows of a session that has ended."""
        if child.group:
            self._groups.session_ended(child.group)
        if child.terminal and self._records.available:
            with contextlib.suppress(OSError):  # no more processes can be made now
                self._log_out(child)

    def _log_out(self, child: Child) -> None:
        # Any user may lock the files: this process does not wait for that.
        if fork() != 0:
            return
        try:
            self._records.log_out(child.terminal.removeprefix("/dev/"), child.leader)
        finally:
            os._exit(0)

    def _report(self, number: int, event: str, **rest: Any) -> None:
        # This waits for a node that does not read: everything else would be reported to it, too.
        with contextlib.suppress(OSError) if self._ending else contextlib.nullcontext():
            self._control.send(pack({"id": number, "event": event, **rest}))


def _nothing(_number: int, _: FrameType | None) -> None:
    """SIGCHLD has to have a handler to reach the wake-up pipe."""


def _stop(number: int, _: FrameType | None) -> None:
    """SIGTERM: end as if the node had gone away."""
    raise EOFError(f"signal {number}")


def _close(*descriptors: int) -> None:
    for fd in descriptors:
        os.close(fd)


def main() -> None:
    """Serve on the descriptor that the first argument names, with the options of the second."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.set_inheritable(False)
        os.chdir("/")
        have_standard_descriptors()
        load_name_services()
        # Nothing here is garbage, and a collection in a child would copy every page.
        gc.disable()
        gc.freeze()
        options = Options(**json.loads(sys.argv[2])) if len(sys.argv) > 2 else NO_OPTIONS
        keep_private(options.tracer)
        Spawner(control, options).run()


if __name__ == "__main__":
    main()
