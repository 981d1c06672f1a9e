"""What runs on this node for one connection: shells, commands and sftp?

Invariants:

* The spawner runs everything; this module makes descriptors, environment and command line.
* A forced command replaces the requested one, which becomes a variable, as under sshd.
* What is launched is decided once, in one value; recordings depend on that, never on the
  request of the client.
* Nothing that the client or the account could set reaches the file server.
* Descriptors that a program does not get are closed here, also after an error. All count for
  the user until they are closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from attrs import Factory, define, evolve, field, frozen
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tele.capacity.descriptors import Account, Lease
from tele.conch.session.programs import (
    Exit,
    IHoldsDescriptors,
    ISessionPrograms,
    ProgramRequest,
    PtyRequest,
)
from tele.errors import InvalidInput, Unavailable, quoted
from tele.interfaces import ISubsystem, SubsystemSession
from tele.log import make_logger
from tele.model.addresses import Address
from tele.model.session import Launched
from tele.node.spawning import Launch, Running, Spawning
from tele.node.subsystems import SpokenProgram
from tele.node.terminal import get_size, open_terminal, set_size
from tele.node.tracing import ProgramTrace
from tele.reactor import Reactor
from tele.sessions.context import ConnectionContext
from tele.sessions.ending import IExpellable
from tele.sessions.launching import allows_environment, check_terminal, permitted
from tele.spawner.scp_request import read_scp
from tele.text import printable_lines

log = make_logger(__name__)

#: Bytes that a pipe holds: big enough for few turns of the reactor, small enough that an
#: ordinary user's share of the kernel (pipe-user-pages-soft) is good for a hundred sessions.
PIPE_SIZE: Final = 256 * 1024
#: Descriptors of a program while it starts, both ends of three pipes; and once it runs: ours,
#: and one to see its end by, should the spawner die.
STARTING: Final = 6
RUNNING: Final = 4
_TERM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)


@implementer(IExpellable, IHoldsDescriptors)
@define(eq=False)
class Program:
    """One running program; see :class:`tele.sessions.ending.IExpellable`."""

    stdin: int | None
    stdout: int | None
    stderr: int | None
    _running: Running
    _forced: bool
    _lease: Lease
    _terminal: int | None = None
    tap: Any = None
    exited: Deferred[Exit] = field(init=False)
    #: Close what others have of the terminal.
    _shares: list[Callable[[], None]] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.exited = self._running.exited
        self.exited.addCallback(self._ended)

    @property
    def cgroup(self) -> int:
        """The id of the control group that all of it is in, or 0."""
        return self._running.cgroup

    def follow(self, trace: ProgramTrace) -> None:
        """It is traced: its end is reported after what it did."""
        trace.started(self._running.pid, self._running.cgroup)
        self.exited.addCallback(trace.ended)

    def _ended(self, how: Exit) -> Exit:
        self._close_terminal()
        return how

    def _close_terminal(self) -> None:
        terminal, self._terminal = self._terminal, None
        shares, self._shares = self._shares, []
        for close in shares:
            close()
        if terminal is not None:
            os.close(terminal)

    def share_input(self, closed: Callable[[], None]) -> int | None:
        """See :class:`tele.sessions.sharing.Terminal`."""
        if self._terminal is None:
            return None
        shared = os.dup(self._terminal)
        self._shares.append(closed)
        return shared

    def size(self) -> tuple[int, int]:
        """See :class:`tele.sessions.sharing.Terminal`."""
        return (0, 0) if self._terminal is None else get_size(self._terminal)

    def descriptors_closed(self) -> None:
        """See :class:`tele.conch.session.programs.IHoldsDescriptors`."""
        self._lease.release()

    def signal(self, name: str) -> bool:
        """Signal its process group, unless its command is forced."""
        return not self._forced and self._running.signal(name)

    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """Set the size of its terminal."""
        if self._terminal is not None:
            set_size(self._terminal, columns, rows, width, height)

    def hang_up(self) -> None:
        """The client is gone: so is the terminal, and the group gets SIGHUP."""
        self._close_terminal()
        self._running.hang_up()

    def expel(self) -> None:
        """Access of its user has ended: it ends, and all that it started."""
        self._running.expel()

    def kill(self) -> None:
        """End it, whatever it ignores."""
        self._running.kill()


async def _no_trace(_: int) -> ProgramTrace | None:
    return None


@implementer(ISessionPrograms)
@frozen
class NodePrograms:
    """Starts programs for one connection, as the granted login.

    ``message`` returns the cluster's message of the day. ``trace`` begins to trace the next program
    on a channel, if a role wants that.

    Their descriptors count for ``account``; ``reactor`` is for ``subsystems`` that run in this
    process.
    """

    _spawning: Spawning
    _context: ConnectionContext
    _account: Account
    _reactor: Reactor
    _subsystems: Mapping[str, ISubsystem] = Factory(dict)
    _message: Callable[[], str] = str
    _trace: Callable[[int], Awaitable[ProgramTrace | None]] = _no_trace

    def env_allowed(self, name: str) -> bool:
        """LANG, LC_* and a few harmless others; never what changes what is run."""
        return allows_environment(name)

    def start(
        self,
        request: ProgramRequest,
        channel_number: int,
        launching: Callable[[Launched], None] = lambda _: None,
    ) -> Deferred[Any]:
        """See :class:`tele.conch.session.programs.ISessionPrograms`.

        ``launching`` is called with what is launched, right before it is.
        """
        return Deferred.fromCoroutine(self._start(request, channel_number, launching))

    async def _start(
        self, request: ProgramRequest, channel: int, launching: Callable[[Launched], None]
    ) -> Program | SpokenProgram:
        plan = permitted(self._context.grant, request)
        launched, request = plan.launched, plan.narrowed(request)
        if launched.kind == "subsystem" and not launched.files:
            subsystem = self._subsystem(request.command)
            served = await subsystem.start(self._session())
            if not isinstance(served, str):
                if request.pty is not None:
                    raise InvalidInput(f"the subsystem {subsystem.name} takes no terminal")
                if self._context.grant.recording.trace:
                    raise Unavailable(
                        f"the subsystem {subsystem.name} runs in the node's own process, which"
                        " cannot be traced, and a role demands that (enhanced_recording)"
                    )
                launching(launched)
                return SpokenProgram(self._reactor, served, self._account)
            launched = Launched("exec", served.encode())
        check_terminal(launched, request)
        launching(launched)
        launch = self._launch(request, launched, plan.files)
        lease = self._account.take(STARTING)
        trace = None
        try:
            trace = await self._trace(channel)
            if trace is not None:
                launch = evolve(launch, trace=trace.number)
            program = await self._run(request, launch, lease, launched.forced is not None)
        except BaseException:
            lease.release()
            if trace is not None:
                trace.close()
            raise
        if trace is not None:
            program.follow(trace)
        lease.keep(RUNNING)
        return program

    async def _run(
        self, request: ProgramRequest, launch: Launch, lease: Lease, forced: bool
    ) -> Program:
        try:
            ours, theirs = _pipes() if request.pty is None else _terminal(request.pty)
        except OSError as error:
            raise Unavailable(f"the node cannot start a session: {error.strerror}") from None
        try:
            running = await self._spawning.start(launch, theirs)
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        if request.pty is None:
            stdin, stdout, stderr = ours
            return Program(stdin, stdout, stderr, running, forced, lease)
        stdin, stdout, terminal = ours
        return Program(stdin, stdout, None, running, forced, lease, terminal)

    def _subsystem(self, name: bytes) -> ISubsystem:
        """Return the subsystem of a plugin that is asked for."""
        found = self._subsystems.get(name.decode("utf-8", "replace"))
        if found is None:
            raise InvalidInput(f"there is no subsystem {quoted(name)} on this node")
        return found

    def _session(self) -> SubsystemSession:
        grant = self._context.grant
        return SubsystemSession(
            grant.identity.user,
            grant.login,
            grant.roles,
            self._context.session_id,
            str(Address(*self._context.remote_addr)),
        )

    def _launch(self, request: ProgramRequest, launched: Launched, rules: bytes) -> Launch:
        login, forced = self._context.grant.login, launched.forced is not None
        if launched.files:
            words: tuple[bytes, ...] = (rules,) if rules else ()
            return Launch("sftp", login, words, _encoded(self._connection()))
        if rules:
            copy = read_scp(launched.command)
            if copy is None:
                raise InvalidInput("what is transferred by this command cannot be restricted")
            words = (rules, copy.options.encode(), *copy.paths)
            return Launch("scp", login, words, _encoded(self._connection()))
        environment = self._environment(request)
        if forced and request.command:
            environment["SSH_ORIGINAL_COMMAND"] = request.command
        greets = launched.kind == "shell" and request.pty is not None
        return Launch(
            "forced" if forced else launched.kind,
            login,
            (launched.command,) if launched.kind == "exec" else (),
            environment,
            pty=request.pty is not None,
            cookie=_cookie(request.display),
            message=printable_lines(self._message()).rstrip("\n") if greets else "",
        )

    def _connection(self) -> dict[str, str]:
        context = self._context
        remote = f"{context.remote_addr[0]} {context.remote_addr[1]}"
        return {
            "SSH_CLIENT": f"{remote} {context.local_addr[1]}",
            "SSH_CONNECTION": f"{remote} {context.local_addr[0]} {context.local_addr[1]}",
            "TELE_SESSION_ID": context.session_id,
            "TELE_USER": context.grant.identity.user,
        }

    def _environment(self, request: ProgramRequest) -> dict[str, bytes]:
        given = {
            name: value
            for name, value in request.env.items()
            if self.env_allowed(name) and "\0" not in value
        }
        own = self._connection()
        if request.pty is not None:
            # Libraries make a file name of it.
            term = request.pty.term
            known = _TERM.fullmatch(term) is not None
            own["TERM"] = term if known else "dumb"
            if not known:
                user = self._context.grant.identity.user
                log.info("TERM refused, dumb is used", user=user, term=term)
        if request.agent is not None:
            own["SSH_AUTH_SOCK"] = os.fsdecode(request.agent)
        if request.display is not None:
            own["DISPLAY"] = f"localhost:{request.display.number}.{request.display.request.screen}"
        return _encoded(given | own)


def _encoded(variables: Mapping[str, str]) -> dict[str, bytes]:
    return {name: os.fsencode(value) for name, value in variables.items()}


def _cookie(display: Any) -> str:
    """Return the input of xauth for a forwarded display (sshd's session.c)."""
    if display is None:
        return ""
    asked = display.request
    return f"unix:{display.number}.{asked.screen} {asked.protocol} {asked.cookie}"


def _pipes() -> tuple[list[int], list[int]]:
    """Return our ends (non-blocking) and the program's ends of pipes 0, 1 and 2."""
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for number in range(3):
            reading, writing = os.pipe2(os.O_CLOEXEC)
            ours.append(writing if number == 0 else reading)
            theirs.append(reading if number == 0 else writing)
            os.set_blocking(ours[-1], False)
            if number < 2:
                with contextlib.suppress(OSError):  # the user's share is used up
                    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        for descriptor in (*ours, *theirs):
            os.close(descriptor)
        raise
    return ours, theirs


def _terminal(request: PtyRequest) -> tuple[list[int], list[int]]:
    """Return the master thrice (to write, to read, to resize) and the slave."""
    master, slave = open_terminal(request)
    ours = [master]
    try:
        ours += [os.dup(master), os.dup(master)]
    except OSError:
        for descriptor in (*ours, slave):
            os.close(descriptor)
        raise
    return ours, [slave]
