"""What may an authenticated user do on one connection, wherever the programs run?

Invariants:

* The grant is decided at login, and again when the cluster's rules change; here it is only read,
  and what it does not give is refused.
* Everything that is started or connected to is an audit event, and is recorded if there is a
  recording.
* Nothing new begins after the certificate has expired.
* A connection ends when it has to be recorded and cannot be any more.
"""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.conch.avatar import ConchUser
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tele.conch.connection.permissions import IPermissions
from tele.conch.forwarding.remote import REQUESTS, answer_request
from tele.conch.session.channel import SessionChannel
from tele.conch.session.programs import ISessionPrograms, ProgramRequest
from tele.membership.audit_reporter import AuditReporter
from tele.model.access import Denied, Grant, Reason
from tele.reactor import Reactor
from tele.recording.tee import ConnectionTape
from tele.sessions.audited import AuditedSession
from tele.sessions.context import ConnectionContext
from tele.sessions.ending import SessionEnding
from tele.sessions.forward_record import ForwardRecords
from tele.sessions.sharing import SharedSession
from tele.sessions.time_limits import TimeLimits


@implementer(ISessionPrograms)
class SessionAvatar(ConchUser):
    """A user on one connection. ``grant`` is what they may do.

    Subclasses set ``channelLookup``, and make what forwards.
    """

    #: Its connection: there is none while the login is decided and stored.
    conn: Any = None
    #: The interfaces of what :meth:`make_forwards` returns.
    forward_interfaces: ClassVar[tuple[Any, ...]] = ()
    #: Whether it is on a node behind a proxy that ends the user's SSH, and applies limits to it.
    is_proxied = False
    #: Whether other users may join its sessions: their terminals are of this machine.
    is_joinable: ClassVar[bool] = False

    def __init__(
        self,
        reactor: Reactor,
        context: ConnectionContext,
        programs: Any,
        tape: ConnectionTape | None,
        audit: AuditReporter,
    ) -> None:
        super().__init__()
        self.context = context
        self._reactor = reactor
        self._ending = SessionEnding(reactor, context.grant)
        self._limits: TimeLimits | None = None
        self._is_logged_in = False
        #: What those who join have of it.
        self.shared = (
            SharedSession(reactor, context, tape, self._notify, self.expelled)
            if self.is_joinable
            else None
        )
        self._session = AuditedSession(
            reactor, context, programs, tape, audit, self._ending, self.shared
        )
        self._tape = tape
        if tape is not None:
            tape.on_end(self.not_recorded)
        self._audit = audit
        self._made_forwards: Any = None

    def make_forwards(self, records: ForwardRecords) -> Any:
        """Return what forwards for this connection, with ``restrict()`` and ``close()``."""
        raise NotImplementedError

    def __str__(self) -> str:
        """Return user, login and session, for the log."""
        user, session = self.grant.identity.user, self.context.session_id
        return f"{user} as {self.grant.login}, session {session}"

    def __conform__(self, interface: Any) -> Any:
        """Forwards and permissions are other objects: see ``zope.interface``."""
        if interface is IPermissions:
            return self.grant
        return self._forwards if interface in self.forward_interfaces else None

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:
        """Open or close a listener of the client (RFC 4254, section 7.1)."""
        if requestType in REQUESTS:
            return answer_request(requestType, data, self)
        return super().gotGlobalRequest(requestType, data)

    @property
    def _forwards(self) -> Any:
        """What is forwarded, made when it is first needed: most connections forward nothing."""
        if self._made_forwards is None:
            records = ForwardRecords(self._reactor, self.context, self._audit, self._tape)
            self._made_forwards = self.make_forwards(records)
        return self._made_forwards

    @property
    def ended(self) -> Denied | None:
        """Why access ended, once it has."""
        return self._ending.denied

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
        """The grant has changed: programs that it does not permit end.

        Listeners that it does not permit are closed; open forwarded connections go on.
        """
        changed = grant.client_keepalive != self.grant.client_keepalive
        self.context.grant = grant
        self._follow_limits()
        self._session.regranted(self._notify)
        if self.shared is not None:
            self.shared.regranted()
        if self._made_forwards is not None:
            self._made_forwards.restrict()
        if changed and self.conn is not None:
            self.conn.transport.watch_peer()

    def expelled(self, denied: Denied) -> None:
        """Access has ended: so does the connection, with the reason as its last message."""
        self._stop_limits()
        self._ending.expel(denied, self.conn)

    def not_recorded(self, why: str) -> None:
        """The connection ends soon: a channel may be in the middle of sending now."""
        self._reactor.callLater(0, self.expelled, Denied(Reason.RECORDING, why))

    def handed_over(self, why: str) -> None:
        """It had something done by others, which a role forbids: the connection ends soon."""
        self._reactor.callLater(0, self.expelled, Denied(Reason.HANDOVER, why))

    def _notify(self, number: int, text: str) -> None:
        channels = {} if self.conn is None else self.conn.channels
        channel = channels.get(number - 1)
        if isinstance(channel, SessionChannel):
            channel.notice(text)

    def _follow_limits(self) -> None:
        grant = self.grant
        if self.is_proxied or self.ended is not None:
            return
        if self._limits is None and (grant.client_idle_timeout or grant.disconnect_expired_cert):
            self._limits = TimeLimits(self._reactor, lambda: self.conn, self.expelled)
        if self._limits is not None:
            self._limits.follow(grant)

    def _stop_limits(self) -> None:
        if self._limits is not None:
            self._limits.stop()

    def logged_in(self) -> None:
        """The user is logged in."""
        self._is_logged_in = True
        self._session.logged_in()
        self._follow_limits()

    def logged_out(self) -> None:
        """The connection has ended, or the login was refused after all."""
        self._stop_limits()
        if self._made_forwards is not None:
            self._made_forwards.close()
        (self._session.logged_out if self._is_logged_in else self._session.discarded)()

    # -- programs ---------------------------------------------------------------------
    def env_allowed(self, name: str) -> bool:
        """See :class:`tele.conch.session.programs.ISessionPrograms`."""
        return self._session.env_allowed(name)

    def start(self, request: ProgramRequest, channel_number: int) -> Deferred[Any]:
        """See :class:`tele.conch.session.programs.ISessionPrograms`."""
        return self._session.start(request, channel_number)
