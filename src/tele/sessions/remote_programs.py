"""How is a program started on the target of a client's connection?

Invariants:

* A forced command replaces the requested one, which becomes a variable, as under sshd. A target
  that forces it by the certificate of the login gets the requested one, and sets the variable; any
  other gets the forced one.
* Variables that a client may not set on a node it may not set here.
* What is launched is reported right before it is; a target that does not start it in time is
  given up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.conch.session.programs import ISessionPrograms, ProgramRequest
from tele.conch.session.remote_program import RemoteProgram, RemoteRequest
from tele.errors import AccessDenied, Unreachable, quoted
from tele.model.session import Launched
from tele.sessions.context import ConnectionContext
from tele.sessions.ending import IExpellable
from tele.sessions.launching import allows_environment, check_terminal, permitted
from tele.sessions.remote_target import RemoteTarget

#: Seconds that a target has to start a program.
START_SECONDS: Final = 30.0
ORIGINAL_COMMAND: Final = "SSH_ORIGINAL_COMMAND"


@implementer(IExpellable)
class _Program(RemoteProgram):
    """A program that ends with the access of its user."""


@implementer(ISessionPrograms)
@frozen
class RemotePrograms:
    """Starts programs on ``target``; ``forwards_agent()``: whether the client's agent is forwarded
    to them. ``keeps_rules``: the target decides by the user's roles again, as a node does.
    """

    _reactor: IReactorTime
    _target: RemoteTarget
    _context: ConnectionContext
    _forwards_agent: Callable[[], bool] = lambda: False
    _keeps_rules: bool = False

    def env_allowed(self, name: str) -> bool:
        """See :class:`tele.conch.session.programs.ISessionPrograms`."""
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
        return Deferred.fromCoroutine(self._start(request, launching))

    async def _start(
        self, request: ProgramRequest, launching: Callable[[Launched], None]
    ) -> RemoteProgram:
        check_terminal(permitted(self._context.grant, request).launched, request)
        connection = await self._target.connection()
        # That may have taken a while: what counts is what is granted now.
        plan = permitted(self._context.grant, request)
        launched, force = plan.launched, plan.launched.forced
        check_terminal(launched, request)
        if plan.files and not self._keeps_rules:
            raise AccessDenied(
                f"only some files may be transferred with this login, and {self._target.name} runs"
                " OpenSSH's sshd, where it cannot be seen which files those are",
                "files",
            )
        grant = self._context.grant
        if grant.recording.trace and not (self._keeps_rules or grant.break_glass):
            raise AccessDenied(
                "a role demands that programs are traced (enhanced_recording), and"
                f" {self._target.name} runs OpenSSH's sshd, where that cannot be done",
                "tracing",
            )
        certified = connection.forced_command
        if certified is not None and force != certified:
            raise AccessDenied(
                f"at {self._target.name} this connection can only run {quoted(certified)}: the"
                " certificate for it forces that",
                "forced",
            )
        launching(launched)
        request = plan.narrowed(request)
        environment = {name: value for name, value in request.env.items() if self.env_allowed(name)}
        asked = evolve(request, env=environment)
        if force is None or force != certified:
            if force is not None and request.command:
                environment[ORIGINAL_COMMAND] = request.command.decode("utf-8", "surrogateescape")
            asked = evolve(asked, kind=launched.kind, command=launched.command)
        program = _Program(
            RemoteRequest(
                self._target.name,
                asked,
                agent=self._forwards_agent() and plan.agent_forwarding,
                signals=force is None,
            )
        )
        connection.openChannel(program)
        program.started.addTimeout(START_SECONDS, self._reactor)
        try:
            return await program.started
        except (DeferredTimeout, CancelledError):
            program.give_up()
            raise Unreachable(
                f"{self._target.name} has not started the {launched.kind} in"
                f" {START_SECONDS:.0f} seconds"
            ) from None
