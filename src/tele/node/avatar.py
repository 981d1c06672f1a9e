"""What may an authenticated client do on this node? Its avatar.

Invariants:

* The grant is decided at login, and again when the cluster's rules change; here it is only read,
  and what it does not give is refused.
* Everything that is started or connected to is an audit event, and is recorded if there is a
  recording.
* Nothing new begins after the certificate has expired.
* Each connection counts for its user, like everything that is opened on it.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import evolve
from twisted.conch.avatar import ConchUser
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tele.conch.connection.permissions import IPermissions
from tele.conch.forwarding.local import (
    LOCAL_CHANNEL,
    IForwarder,
    open_direct_streamlocal,
    open_direct_tcpip,
)
from tele.conch.forwarding.remote import REQUESTS, IListener, answer_request
from tele.conch.session.channel import SessionChannel
from tele.conch.session.programs import Exit, ISessionPrograms, ProgramRequest
from tele.conch.session.session_forwarding import ISessionForwards
from tele.errors import AccessDenied, TeleError
from tele.loop import Expiry
from tele.membership.audit_reporter import AuditReporter, cut
from tele.model.access import Denied, Grant, Reason
from tele.model.session import Launched
from tele.node.forward_record import ForwardRecords
from tele.node.forwards import ForwardingResources, Forwards
from tele.node.programs import ConnectionContext, NodePrograms, Program
from tele.reactor import Reactor
from tele.recording.program_tap import RecordedPrograms
from tele.recording.tee import ConnectionTape
from tele.spawner.control_groups import EXPELLED_GRACE

#: Shared by all connections, and never changed.
_CHANNELS: Final[dict[bytes, Any]] = {
    b"session": SessionChannel,
    b"direct-tcpip": open_direct_tcpip,
    LOCAL_CHANNEL: open_direct_streamlocal,
}


@implementer(ISessionPrograms)
class NodeAvatar(ConchUser):
    """A user on one connection. ``grant`` is what they may do."""

    #: Its connection: there is none while the login is decided and stored.
    conn: Any = None

    def __init__(
        self,
        reactor: Reactor,
        context: ConnectionContext,
        programs: NodePrograms,
        tape: ConnectionTape | None,
        audit: AuditReporter,
        forwarding: ForwardingResources,
    ) -> None:
        """Raise :class:`Unavailable` if the user has no descriptors left."""
        super().__init__()
        self._lease = forwarding.account.take()
        self.context = context
        #: Why access ended, once it has.
        self.ended: Denied | None = None
        self._running: dict[Program, None] = {}
        self._reactor = reactor
        self._tape = tape
        self._programs: NodePrograms | RecordedPrograms = (
            programs if tape is None else RecordedPrograms(programs, tape)
        )
        self._plain = programs
        self._audit = audit
        self._began = reactor.seconds()
        self._expiry = Expiry(reactor, context.grant.expires)
        self._interactive = False
        self._forwarding = forwarding
        self._made_forwards: Forwards | None = None
        self.channelLookup = _CHANNELS

    def __str__(self) -> str:
        """Return user, login and session, for the log."""
        user, session = self.grant.identity.user, self.context.session_id
        return f"{user} as {self.grant.login}, session {session}"

    def __conform__(self, interface: Any) -> Any:
        """Forwards and permissions are other objects: see ``zope.interface``."""
        if interface is IPermissions:
            return self.grant
        return self._forwards if interface in (IForwarder, IListener, ISessionForwards) else None

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        """Open or close a listener of the client (RFC 4254, section 7.1)."""
        if requestType in REQUESTS:
            return answer_request(requestType, data, self)
        return super().gotGlobalRequest(requestType, data)

    @property
    def _forwards(self) -> Forwards:
        """What is forwarded, made when it is first needed: most connections forward nothing."""
        if self._made_forwards is None:
            self._made_forwards = Forwards(
                self._reactor,
                self.context,
                self._forwarding,
                ForwardRecords(self._reactor, self.context, self._audit, self._tape),
                self._check,
                lambda: self.conn,
            )
        return self._made_forwards

    @property
    def grant(self) -> Grant:
        """What the user may do now."""
        return self.context.grant

    @property
    def keepalive_interval(self) -> float:
        """See :mod:`tele.conch.transport.keepalive`."""
        interval = self.grant.client_keepalive
        return 0.0 if interval is None else interval.total_seconds()

    def regranted(self, grant: Grant) -> None:
        """The grant has changed; it applies to what begins from now on.

        Listeners that it does not permit are closed; open forwarded connections go on.
        """
        changed = grant.client_keepalive != self.grant.client_keepalive
        self.context.grant = grant
        if self._made_forwards is not None:
            self._made_forwards.restrict()
        if changed and self.conn is not None:
            self.conn.transport.watch_peer()

    def expelled(self, denied: Denied) -> None:
        """Access has ended: so does the connection, with the reason as its last message."""
        self.ended = denied
        programs = list(self._running)
        for program in programs:
            program.expel()
        if self.conn is not None:
            self.conn.transport.evict(denied.message)
        if programs:
            self._reactor.callLater(EXPELLED_GRACE, self._kill)

    def _kill(self) -> None:
        for program in list(self._running):
            program.kill()

    def logged_in(self) -> None:
        """The user is logged in."""
        self._audit.emit("session.start", self.context)

    def logged_out(self) -> None:
        """The connection has ended."""
        self._lease.release()
        if self._made_forwards is not None:
            self._made_forwards.close()
        seconds = round(self._reactor.seconds() - self._began, 3)
        recorded = self._tape is not None and self._tape.started
        ended = self.ended
        if self._tape is not None:
            self._tape.close("the connection ended" if ended is None else cut(ended.message))
        why = {} if ended is None else {"error": cut(ended.message), "reason": ended.reason.value}
        self._audit.emit(
            "session.end",
            self.context,
            seconds=seconds,
            interactive=self._interactive,
            recorded=recorded,
            **self._unrecorded(),
            **why,
        )

    def _unrecorded(self) -> dict[str, str]:
        """Return the fields of an event of a session that is not recorded from its start."""
        problem = "" if self._tape is None else self._tape.problem
        return {"unrecorded": cut(problem)} if problem else {}

    def _check(self) -> None:
        if self.ended is not None:
            raise AccessDenied(self.ended.message, self.ended.reason.value)
        if self._expiry.has_passed:
            raise AccessDenied(
                "the certificate has expired since you logged in: log in again",
                Reason.EXPIRED.value,
            )

    # -- programs ---------------------------------------------------------------------
    def env_allowed(self, name: str) -> bool:
        """See :class:`tele.conch.session.programs.ISessionPrograms`."""
        return self._plain.env_allowed(name)

    def start(self, request: ProgramRequest, channel_number: int) -> Deferred[Any]:
        """See :class:`tele.conch.session.programs.ISessionPrograms`."""
        return Deferred.fromCoroutine(self._start(request, channel_number))

    async def _start(self, request: ProgramRequest, channel_number: int) -> Any:
        name = "subsystem" if request.kind == "subsystem" else "exec"
        fields = {
            "kind": request.kind,
            "command": cut(request.command.decode("utf-8", "backslashreplace")),
            "pty": request.pty is not None,
        }
        if self.grant.force_command is not None:
            fields["forced"] = cut(self.grant.force_command)

        def launching(launched: Launched) -> None:
            if "forced" not in fields and launched.command != request.command:
                fields["runs"] = cut(launched.command.decode("utf-8", "backslashreplace"))

        try:
            self._check()
            if request.pty is not None and not self.grant.permit_pty:
                # The grant may have changed since the terminal was requested.
                raise AccessDenied("a terminal is not permitted", "pty")
            program = await self._programs.start(
                self._with_agent(request), channel_number, launching
            )
        except TeleError as error:
            self._audit.emit(name, self.context, error=cut(str(error)), **fields)
            raise
        self._interactive = self._interactive or request.pty is not None
        fields |= self._unrecorded()
        if isinstance(program, Program) and program.cgroup:
            fields["cgroup"] = program.cgroup
        self._audit.emit(name, self.context, **fields)
        if isinstance(program, Program):
            self._follow(program)
        return program

    def _follow(self, program: Program) -> None:
        """Keep a running program, to end it when access ends."""
        self._running[program] = None

        def ended(how: Exit) -> Exit:
            self._running.pop(program, None)
            return how

        program.exited.addCallback(ended)
        if self.ended is not None:
            # Access ended while it was being started.
            program.expel()

    def _with_agent(self, request: ProgramRequest) -> ProgramRequest:
        made = self._made_forwards
        return request if made is None else evolve(request, agent=made.agent_path)
