"""Which labels does this node have? Those of the configuration, and output of commands.

Invariants:

* A command runs without privileges (as ``nobody`` if the node is root), without a shell, for a
  bounded time; only the first kilobyte of its output is used.
* A label never disappears because its command failed: it keeps its last value, so that no
  rule that denies by it loses its hold.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.conch.session.programs import Exit
from tele.errors import TeleError
from tele.log import make_logger
from tele.node.spawning import Launch, Spawning
from tele.reactor import Reactor
from tele.spawner.accounts import own_login
from tele.workers import SerialWorker

OUTPUT_LIMIT: Final = 1024
VALUE_LIMIT: Final = 256
LONGEST_RUN: Final = 10.0
UNKNOWN: Final = "unknown"

_log: Final = make_logger(__name__)


@frozen
class LabelCommand:
    """A label whose value is what ``command`` (argv) prints, asked for every ``period``."""

    name: str
    command: tuple[str, ...]
    period: timedelta = timedelta(minutes=1)


class Labels:
    """All labels that a node gives itself; given ones win over those of commands."""

    def __init__(
        self,
        reactor: Reactor,
        spawning: Spawning,
        static: Mapping[str, str],
        commands: tuple[LabelCommand, ...] = (),
    ) -> None:
        self._reactor = reactor
        self._spawning = spawning
        self._static = dict(static)
        self._commands = commands
        self._observers: list[Callable[[], None]] = []
        self._values: dict[str, str] = {}
        self._troubles: dict[str, str] = {}
        #: The account of the commands, once it was looked up: a name service may be slow.
        self._account: str | None = None
        self._worker = SerialWorker(reactor, "account of label commands")
        self._loops: list[LoopingCall] = []
        self._runs: set[Deferred[None]] = set()

    @property
    def current(self) -> dict[str, str]:
        """Return the labels as they are now."""
        return {**self._values, **self._static}

    def on_change(self, observer: Callable[[], None]) -> None:
        """Call ``observer`` when a value changed."""
        self._observers.append(observer)

    def start(self) -> Deferred[Any]:
        """Run the commands from now on; fires when each has run once."""
        first = []
        for command in self._commands:
            self._values[command.name] = UNKNOWN
            loop = LoopingCall(self._run, command)
            loop.clock = self._reactor
            self._loops.append(loop)
            loop.start(command.period.total_seconds(), now=False)
            first.append(self._run(command))
        return DeferredList(first)

    def stop(self) -> None:
        """Run no more commands."""
        for loop in self._loops:
            loop.stop()
        self._loops.clear()
        for run in list(self._runs):
            run.cancel()
        self._worker.close()

    def _run(self, command: LabelCommand) -> Deferred[None]:
        run = Deferred.fromCoroutine(self._ask(command))
        seconds = min(LONGEST_RUN, command.period.total_seconds())
        run.addTimeout(seconds, self._reactor)
        self._runs.add(run)

        def ended(result: Any) -> None:
            self._runs.discard(run)
            if isinstance(result, Failure):
                self._failed(command, _why(result))

        run.addBoth(ended)
        return run

    async def _ask(self, command: LabelCommand) -> None:
        if self._account is None:
            self._account = await self._worker.call(_command_account)
        launch = Launch("program", self._account, tuple(map(os.fsencode, command.command)))
        null = [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) for _ in range(2)]
        reading, writing = os.pipe2(os.O_CLOEXEC)
        output = _Output(self._reactor, reading)
        try:
            running = await self._spawning.start(launch, (null[0], writing, null[1]))
            try:
                data = await output.done
                if len(data) < OUTPUT_LIMIT:
                    _check(await running.exited)
            finally:
                running.signal("KILL")
        finally:
            output.close()
        self._set(command, data)

    def _set(self, command: LabelCommand, data: bytes) -> None:
        text = "".join(c for c in data.decode("utf-8", "replace").strip() if c.isprintable())
        self._troubles.pop(command.name, None)
        if self._values.get(command.name) != text[:VALUE_LIMIT]:
            self._values[command.name] = text[:VALUE_LIMIT]
            for observer in self._observers:
                observer()

    def _failed(self, command: LabelCommand, why: str) -> None:
        if self._troubles.get(command.name) != why:
            self._troubles[command.name] = why
            _log.warn("label command failed", label=command.name, error=why)


def _check(how: Exit) -> None:
    if how.status != 0:
        raise TeleError(f"it ended with {how.signal or how.status}")


def _why(failure: Failure) -> str:
    return str(failure.value) or type(failure.value).__name__


def _command_account() -> str:
    """Return the account that label commands run as."""
    if os.geteuid() != 0:
        return own_login()
    try:
        return pwd.getpwnam("nobody").pw_name
    except KeyError:
        raise TeleError("this machine has no account nobody to run commands as") from None


@implementer(IReadDescriptor)
class _Output:
    """Gathers the start of what comes from a pipe. ``done`` fires at its end or when full."""

    def __init__(self, reactor: Reactor, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor: int | None = descriptor
        self._data = b""
        self.done: Deferred[bytes] = Deferred()
        os.set_blocking(descriptor, False)
        reactor.addReader(self)

    def fileno(self) -> int:
        """Return the pipe's descriptor."""
        return -1 if self._descriptor is None else self._descriptor

    def doRead(self) -> None:
        """Read output, or its end."""
        if self._descriptor is None:
            return
        try:
            data = os.read(self._descriptor, OUTPUT_LIMIT)
        except BlockingIOError:
            return
        self._data += data
        if not data or len(self._data) >= OUTPUT_LIMIT:
            self._end()

    def _end(self) -> None:
        self.close()
        if not self.done.called:
            self.done.callback(self._data[:OUTPUT_LIMIT])

    def close(self) -> None:
        """Read no more. May be called twice."""
        if self._descriptor is not None:
            self._reactor.removeReader(self)
            os.close(self._descriptor)
            self._descriptor = None

    def connectionLost(self, reason: Failure) -> None:
        """The other end is closed and all is read, or the reactor ends."""
        self._end()

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "label"
