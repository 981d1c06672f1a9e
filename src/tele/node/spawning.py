"""How does the node talk to its spawner, and what if that dies?

Invariants:

* Nothing here waits: requests are queued and sent, reports come through the reactor.
* A spawner that dies is replaced at once, later ones with growing pauses. What it had
  started goes on: terminals and pipes belong to the node. Only exit statuses are lost; the end
  of each such process is seen through a pidfd.
* Each descriptor has one owner: those handed to :meth:`Spawning.start` are closed here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.capacity.descriptors import given_limit
from tele.conch.session.programs import Exit
from tele.errors import AccessDenied, InvalidInput, TeleError, Unavailable
from tele.log import make_logger
from tele.loop import backoff
from tele.node.spawner_link import Link, close_all, duplicates
from tele.reactor import Reactor
from tele.spawner.accounts import Refused
from tele.spawner.control_groups import own_group
from tele.spawner.spawn_messages import NO_OPTIONS, SIGNALS, Options, pack

PROGRAM: Final = Path(__file__).parent.with_name("spawner") / "program.py"
#: Where the services of PAM are described; a name that is in neither is "other", which denies.
PAM_FOLDERS: Final = ("/etc/pam.d", "/usr/lib/pam.d")
START_TIMEOUT: Final = 30.0
#: Signals to a session whose spawner has died.
_TO_ORPHANS: Final = {"hangup": signal.SIGHUP, "kill": signal.SIGKILL}
#: A spawner that lived so long, in seconds, is replaced without a pause.
STEADY: Final = 60.0

_log: Final = make_logger(__name__)


def session_options(pam: str, kill_leftovers: bool) -> Options:
    """Return how sessions are served here; ``pam`` is the name of a service, or ``off``.

    Raises InvalidInput for what cannot work on this machine.
    """
    if kill_leftovers and own_group() is None:
        raise InvalidInput("node.kill_leftovers: this machine has no cgroup v2 to kill by")
    if pam == "off":
        return Options("", kill_leftovers, given_limit())
    if os.geteuid() != 0:
        raise InvalidInput("node.pam: needs a node that runs as root")
    if not any(os.path.exists(os.path.join(folder, pam)) for folder in PAM_FOLDERS):
        raise InvalidInput(f"node.pam: there is no service {pam!r} in {PAM_FOLDERS[0]}")
    return Options(pam, kill_leftovers, given_limit())


@frozen
class Launch:
    """What to start. ``words``: one command line for ``exec`` and ``forced``, argv for ``program``.

    ``cookie`` are the arguments of ``xauth add`` for a forwarded display, if there is one;
    ``message`` is the cluster's message of the day, for a shell on a terminal. ``trace`` is by what
    its process joins the tracer, or 0.
    """

    kind: str
    login: str
    words: tuple[bytes, ...] = ()
    environment: Mapping[str, bytes] = field(factory=dict)
    pty: bool = False
    cookie: str = field(default="", repr=False)
    message: str = ""
    trace: int = 0


@define(eq=False)
class Running:
    """One started process. ``exited`` fires once, with how it ended.

    ``cgroup`` is the id of the control group in which all of the session is, or 0.
    """

    pid: int
    cgroup: int
    exited: Deferred[Exit]
    _request: Callable[[dict[str, Any]], bool]

    def signal(self, name: str) -> bool:
        """Signal its process group as its user (``TERM``); False if that cannot be."""
        return name in SIGNALS and self._request({"op": "signal", "signal": name})

    def hang_up(self) -> None:
        """Its client is gone: SIGHUP."""
        self._request({"op": "hangup"})

    def expel(self) -> None:
        """Access of its user has ended: SIGHUP, and soon the end of all of the session."""
        self._request({"op": "hangup", "expelled": True})

    def kill(self) -> None:
        """End its process group, whatever it ignores."""
        self._request({"op": "kill"})


@define(eq=False)
class _Session:
    started: Deferred[Running]
    exited: Deferred[Exit] = field(factory=Deferred)
    pid: int = 0
    given_up: bool = False
    orphan: int | None = None
    timeout: IDelayedCall | None = None


class Spawning:
    """Starts processes of users through a spawner, which it keeps alive.

    :param reactor: the reactor; also the clock.
    :param options: how it serves.
    :param command: how to run the spawner; its descriptor's number and options are added.
    """

    def __init__(
        self,
        reactor: Reactor,
        options: Options = NO_OPTIONS,
        command: Sequence[str] = (sys.executable, "-I", "-S", str(PROGRAM)),
    ) -> None:
        self._reactor = reactor
        self._command = tuple(command)
        self._options = json.dumps(options._asdict())
        self._inherited = () if options.tracer is None else (options.tracer,)
        self._link: Link | None = None
        self._sessions: dict[int, _Session] = {}
        #: Requests about accounts that are not answered yet.
        self._asked: dict[int, Deferred[Mapping[str, Any]]] = {}
        self._number = 0
        self._failures = 0
        self._since = 0.0
        self._restart: IDelayedCall | None = None
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """Process id of the spawner, if it lives."""
        return None if self._link is None else self._link.process.pid

    def open(self) -> None:
        """Start the spawner: before the first connection. Raises OSError."""
        self._stopped = False
        self._since = self._reactor.seconds()
        self._link = Link(
            self._reactor,
            self._command,
            self._options,
            self._received,
            self._lost,
            self._inherited,
        )

    async def close(self) -> None:
        """End the spawner, which hangs up all that it started, and wait for its end."""
        self._stopped = True
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()
        self._orphan_all()

    def start(self, launch: Launch, descriptors: Sequence[int]) -> Deferred[Running]:
        """Start a session on ``descriptors`` (a terminal's slave, or 0, 1 and 2).

        They are closed here, whatever happens. Fails with AccessDenied when the account
        may not, InvalidInput for what cannot be a command, Unavailable when it is the
        machine's fault. Cancelling the Deferred ends what was started.
        """
        try:
            return self._start(launch, descriptors)
        except Refused as refused:
            return _failed(_error(refused.reason, str(refused)))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def request_account(self, request: Mapping[str, Any]) -> Deferred[Mapping[str, Any]]:
        """Have the spawner do something about an account (:mod:`tele.spawner.host_accounts`).

        Fails with AccessDenied for an account that it does not make, Unavailable when it is the
        machine's fault.
        """
        if self._link is None:
            return _failed(Unavailable("this node cannot make accounts now; try again"))
        self._number += 1
        number = self._number
        answer: Deferred[Mapping[str, Any]] = Deferred()
        answer.addTimeout(START_TIMEOUT, self._reactor, onTimeoutCancel=self._account_too_late)
        self._asked[number] = answer
        self._link.send(pack({**request, "op": "account", "id": number}), ())
        return answer

    def _account_too_late(self, *_: object) -> Failure:
        return Failure(Unavailable("the account was not ready in time; the node is overloaded"))

    def _answered(self, number: int, report: dict[str, Any]) -> None:
        answer = self._asked.pop(number, None)
        if answer is None or answer.called:
            return
        if report["ok"]:
            answer.callback(report)
        else:
            answer.errback(Failure(_error(report["reason"], report["message"])))

    def kill_later(self, running: Running, seconds: float) -> None:
        """Kill what still runs after ``seconds``."""
        if running.exited.called:
            return
        timer = self._reactor.callLater(seconds, running.kill)

        def ended(how: Exit) -> Exit:
            if timer.active():
                timer.cancel()
            return how

        running.exited.addCallback(ended)

    def _start(self, launch: Launch, descriptors: Sequence[int]) -> Deferred[Running]:
        if self._link is None:
            return _failed(Unavailable("this node cannot start sessions now; try again"))
        try:
            passed = duplicates(descriptors)
        except OSError as error:
            return _failed(Unavailable(f"this node cannot start a session: {error.strerror}"))
        try:
            return self._send_start(self._link, launch, passed)
        except Refused:
            close_all(passed)
            raise

    def _send_start(self, link: Link, launch: Launch, passed: tuple[int, ...]) -> Deferred[Running]:
        number = self._number + 1
        header = {
            "op": "start",
            "id": number,
            "kind": launch.kind,
            "login": launch.login,
            "pty": launch.pty,
            "words": len(launch.words),
            "cookie": launch.cookie,
            "message": launch.message,
        }
        if launch.trace:
            header["trace"] = launch.trace
        variables = [f"{k}=".encode() + v for k, v in launch.environment.items()]
        data = pack(header, [*launch.words, *variables])
        self._number = number
        started: Deferred[Running] = Deferred(lambda _: self._give_up(number))
        session = self._sessions[number] = _Session(started)
        session.timeout = self._reactor.callLater(START_TIMEOUT, self._too_late, number)
        link.send(data, passed)
        return started

    def _request(self, number: int, request: dict[str, Any]) -> bool:
        session = self._sessions.get(number)
        if session is None:
            return False
        if session.orphan is not None:
            wanted = _TO_ORPHANS.get(request["op"])
            if wanted is None:
                return False
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(session.orphan, wanted)
            return True
        if self._link is None:
            return False
        self._link.send(pack({**request, "id": number}), ())
        return True

    def _give_up(self, number: int) -> None:
        """End a session whose start was cancelled, before or after its exec."""
        session = self._sessions.get(number)
        if session is not None:
            session.given_up = True
            self._request(number, {"op": "hangup" if session.pid else "kill"})

    def _too_late(self, number: int) -> None:
        session = self._sessions[number]
        session.timeout = None
        self._give_up(number)
        session.started.errback(
            Failure(Unavailable("the session did not start in time; the node is overloaded"))
        )

    # -- reports ----------------------------------------------------------------------
    def _received(self, report: dict[str, Any]) -> None:
        number, event = report["id"], report["event"]
        session = self._sessions.get(number)
        if event == "account":
            self._answered(number, report)
        elif event == "refused":
            _log.error("spawner refused a request", error=report["message"])
        elif session is None:
            return
        elif event == "started":
            self._started(number, session, report["pid"], report["cgroup"])
        elif event == "failed":
            del self._sessions[number]
            self._fail(session, _error(report["reason"], report["message"]))
        elif event == "exited":
            lost = report["status"] is None and report["signal"] is None
            message = "its exit status is lost" if lost else ""
            how = Exit(report["status"], report["signal"], report["core"], message)
            self._ended(number, how)

    def _started(self, number: int, session: _Session, pid: int, cgroup: int) -> None:
        session.pid = pid
        self._settle(session)
        if session.given_up:
            self._request(number, {"op": "hangup"})
            return
        running = Running(
            pid, cgroup, session.exited, lambda request: self._request(number, request)
        )
        session.started.callback(running)

    def _fail(self, session: _Session, error: TeleError) -> None:
        self._settle(session)
        if not session.given_up:
            session.started.errback(Failure(error))

    def _settle(self, session: _Session) -> None:
        if session.timeout is not None:
            session.timeout.cancel()
            session.timeout = None

    def _ended(self, number: int, how: Exit) -> None:
        session = self._sessions.pop(number, None)
        if session is not None and not session.exited.called:
            session.exited.callback(how)

    # -- its death --------------------------------------------------------------------
    def _lost(self) -> None:
        self._link = None
        self._orphan_all()
        if self._stopped:
            return
        lived = self._reactor.seconds() - self._since
        self._failures = 0 if lived > STEADY else self._failures + 1
        pause = 0.0 if self._failures <= 1 else backoff(self._failures - 2)
        _log.error("spawner ended", seconds=round(lived), restart_in=round(pause, 1))
        self._restart = self._reactor.callLater(pause, self._open_again)

    def _open_again(self) -> None:
        self._restart = None
        try:
            self.open()
        except OSError:
            _log.failure("spawner not started")
            self._lost()

    def _orphan_all(self) -> None:
        """Sessions that had started go on; the others did not start."""
        for number in list(self._asked):
            message = "the node's spawner ended; try again"
            self._answered(number, {"ok": False, "reason": "spawner", "message": message})
        for number, session in list(self._sessions.items()):
            if not session.pid:
                del self._sessions[number]
                self._fail(session, Unavailable("the node's spawner ended; try again"))
                continue
            lost = Exit(None, None, message="its exit status is lost: the spawner ended")
            try:
                if os.getsid(session.pid) != session.pid:
                    raise ProcessLookupError  # the number is another's by now
                session.orphan = os.pidfd_open(session.pid)
            except OSError:
                self._ended(number, lost)
                continue
            _Watch(self._reactor, session.orphan, partial(self._ended, number, lost))


def _failed(error: TeleError) -> Deferred[Any]:
    result: Deferred[Any] = Deferred()
    result.errback(Failure(error))
    return result


def _error(reason: str, message: str) -> TeleError:
    if reason == "invalid":
        return InvalidInput(message)
    if reason in ("spawner", "exec", "socket"):
        return Unavailable(message)
    return AccessDenied(message, reason)


@implementer(IReadDescriptor)
class _Watch:
    """Waits for the end of a process that is not our child, and closes its pidfd."""

    def __init__(self, reactor: Reactor, descriptor: int, ended: Callable[[], None]) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._on_end = ended
        reactor.addReader(self)

    def fileno(self) -> int:
        """Return the pidfd; it is readable once the process is gone."""
        return self._descriptor

    def doRead(self) -> None:
        """The process is gone."""
        if self._descriptor >= 0:
            self._reactor.removeReader(self)
            os.close(self._descriptor)
            self._descriptor = -1
            self._on_end()

    def connectionLost(self, reason: Failure) -> None:
        """The process is gone and reaped, or the reactor ends."""
        self.doRead()

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "orphan"
