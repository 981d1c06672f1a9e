"""What may somebody do on this node, once they are in? The avatar.

Laws of this file:

* The grant was decided at login and is only read here; what it does not give is refused.
* Everything that is started or reached is an event first, and a recording if there is one.
* Nothing new begins after the certificate has expired.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.conch.avatar import ConchUser
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IProtocolFactory
from zope.interface import alsoProvides, implementer

from tele.conch.forwarding import ForwardRequest, IForwarder, open_direct_tcpip
from tele.conch.programs import ISessionPrograms, ProgramRequest
from tele.conch.session import SessionChannel
from tele.conch.sockets import DirectReactor
from tele.errors import AccessDenied, TeleError
from tele.loop import now
from tele.model.access import Reason
from tele.node.programs import NodePrograms, Visit
from tele.node.trail import Trail, address, cut
from tele.recording.tee import ConnectionTape, RecordedPrograms

CONNECT_TIMEOUT: Final = 30.0


@implementer(ISessionPrograms)
class Visitor(ConchUser):
    """One person on one connection. ``grant`` is what they may do."""

    def __init__(
        self,
        reactor: Any,
        visit: Visit,
        programs: NodePrograms,
        tape: ConnectionTape | None,
        trail: Trail,
    ) -> None:
        super().__init__()
        self.grant = visit.grant
        self.visit = visit
        self._reactor = reactor
        self._tape = tape
        self._programs: Any = programs if tape is None else RecordedPrograms(programs, tape)
        self._plain = programs
        self._trail = trail
        self._began = reactor.seconds()
        self._interactive = False
        self.channelLookup.update({b"session": SessionChannel, b"direct-tcpip": open_direct_tcpip})
        if self.grant.port_forwarding:
            alsoProvides(self, IForwarder)

    def arrived(self) -> None:
        """They are in."""
        self._trail.happened("session.start", self.visit)

    def left(self) -> None:
        """The connection is gone."""
        seconds = round(self._reactor.seconds() - self._began, 3)
        recorded = self._tape is not None and self._tape.started
        if self._tape is not None:
            self._tape.close("the connection ended")
        self._trail.happened(
            "session.end",
            self.visit,
            seconds=seconds,
            interactive=self._interactive,
            recorded=recorded,
        )

    def _check(self) -> None:
        if self.grant.expires <= now(self._reactor):
            raise AccessDenied(
                "the certificate has expired since you logged in: log in again",
                Reason.EXPIRED.value,
            )

    # -- programs ---------------------------------------------------------------------
    def env_allowed(self, name: str) -> bool:
        """See :class:`tele.conch.programs.ISessionPrograms`."""
        return self._plain.env_allowed(name)

    def start(self, request: ProgramRequest, channel_number: int) -> Deferred[Any]:
        """See :class:`tele.conch.programs.ISessionPrograms`."""
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
        try:
            self._check()
            program = await self._programs.start(request, channel_number)
        except TeleError as error:
            self._trail.happened(name, self.visit, error=cut(str(error)), **fields)
            raise
        self._interactive = self._interactive or request.pty is not None
        if getattr(program, "cgroup", 0):
            fields["cgroup"] = program.cgroup
        self._trail.happened(name, self.visit, **fields)
        return program

    # -- forwarding -------------------------------------------------------------------
    def connect(self, request: ForwardRequest, factory: IProtocolFactory) -> Deferred[Any]:
        """See :class:`tele.conch.forwarding.IForwarder`."""
        return Deferred.fromCoroutine(self._connect(request, factory))

    async def _connect(self, request: ForwardRequest, factory: IProtocolFactory) -> Any:
        target = address((request.host, request.port))
        fields = {"target": cut(target), "originator": cut(address(request.originator))}
        try:
            self._check()
            endpoint = HostnameEndpoint(
                DirectReactor(self._reactor), request.host, request.port, timeout=CONNECT_TIMEOUT
            )
            protocol = await endpoint.connect(factory)
        except Exception as error:
            self._trail.happened("forward", self.visit, error=cut(str(error)), **fields)
            raise
        self._trail.happened("forward", self.visit, **fields)
        return protocol
