"""What may an authenticated client do on this node? Its avatar.

Invariant: each connection counts for its user, like everything that is opened on it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from attrs import evolve
from twisted.internet.defer import Deferred

from tele.conch.forwarding.local import (
    LOCAL_CHANNEL,
    IForwarder,
    open_direct_streamlocal,
    open_direct_tcpip,
)
from tele.conch.forwarding.remote import IListener
from tele.conch.session.channel import SessionChannel
from tele.conch.session.programs import ProgramRequest
from tele.conch.session.session_forwarding import ISessionForwards
from tele.membership.audit_reporter import AuditReporter
from tele.model.access import Grant
from tele.node.forwards import ForwardingResources, Forwards
from tele.node.host_users import AccountLease
from tele.node.programs import NodePrograms
from tele.reactor import Reactor
from tele.recording.tee import ConnectionTape
from tele.sessions.avatar import SessionAvatar
from tele.sessions.context import ConnectionContext
from tele.sessions.forward_record import ForwardRecords

#: Shared by all connections, and never changed.
_CHANNELS: Final[dict[bytes, Any]] = {
    b"session": SessionChannel,
    b"direct-tcpip": open_direct_tcpip,
    LOCAL_CHANNEL: open_direct_streamlocal,
}


class NodeAvatar(SessionAvatar):
    """A user on one connection to this node."""

    is_joinable = True
    forward_interfaces: ClassVar[tuple[Any, ...]] = (IForwarder, IListener, ISessionForwards)

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
        self._lease = forwarding.account.take()
        super().__init__(reactor, context, programs, tape, audit)
        self._forwarding = forwarding
        self._account: AccountLease | None = None
        self.channelLookup = _CHANNELS

    def use_account(self, lease: AccountLease) -> None:
        """What roles say of the account from now on changes it."""
        self._account = lease
        lease.update(self.grant.host_user)

    def regranted(self, grant: Grant) -> None:
        """See :class:`SessionAvatar`."""
        super().regranted(grant)
        if self._account is not None:
            self._account.update(grant.host_user)

    def make_forwards(self, records: ForwardRecords) -> Forwards:
        """See :class:`SessionAvatar`."""
        return Forwards(
            self._reactor,
            self.context,
            self._forwarding,
            records,
            self._ending.check,
            lambda: self.conn,
        )

    def logged_out(self) -> None:
        """See :class:`SessionAvatar`."""
        self._lease.release()
        super().logged_out()

    def start(self, request: ProgramRequest, channel_number: int) -> Deferred[Any]:
        """See :class:`SessionAvatar`. Programs find the agent that is forwarded."""
        made = self._made_forwards
        if made is not None:
            request = evolve(request, agent=made.agent_path)
        return super().start(request, channel_number)
