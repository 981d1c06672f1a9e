"""What may a user do on one connection to a target, which ends in this proxy? Their avatar.

Invariants:

* What a node would refuse is refused here, by the same grant; the target is asked only for what is
  granted.
* The connection counts for its user, like its channels (:mod:`tele.proxy.user_limits`), beside the
  connection to the jump host that it came on.
* Events are the proxy's, and name the host on which the session is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeAlias

from zope.interface import implementer

from tele.admission.slots import Slots
from tele.conch.connection.windows import ISharedWindows, WindowBudget
from tele.conch.forwarding.local import LOCAL_CHANNEL
from tele.conch.forwarding.remote import IListener
from tele.conch.session.remote_runner import RemoteSessionChannel
from tele.conch.session.session_forwarding import ISessionForwards
from tele.membership.audit_reporter import AuditReporter
from tele.model.presence import Host
from tele.proxy.user_limits import UserUsage
from tele.reactor import Reactor
from tele.recording.tee import ConnectionTape
from tele.sessions.avatar import SessionAvatar
from tele.sessions.context import ConnectionContext
from tele.sessions.forward_permission import OF_A_NODE, OF_AN_SSHD
from tele.sessions.forward_record import ForwardRecords
from tele.sessions.remote_forwards import (
    IRemoteForwards,
    RemoteForwards,
    open_remote_streamlocal,
    open_remote_tcpip,
)
from tele.sessions.remote_programs import RemotePrograms
from tele.sessions.remote_target import RemoteTarget
from tele.tunnel.relayed_channels import CHANNELS_LIMIT

#: Shared by all connections, and never changed.
_CHANNELS: Final[dict[bytes, Any]] = {
    b"session": RemoteSessionChannel,
    b"direct-tcpip": open_remote_tcpip,
    LOCAL_CHANNEL: open_remote_streamlocal,
}


@implementer(ISharedWindows)
class TargetAvatar(SessionAvatar):
    """A user on one connection to ``target``."""

    forward_interfaces: ClassVar[tuple[Any, ...]] = (IRemoteForwards, IListener, ISessionForwards)
    channels_limit = CHANNELS_LIMIT

    def __init__(
        self,
        reactor: Reactor,
        context: ConnectionContext,
        host: Host,
        make_target: MakeTarget,
        tape: ConnectionTape | None,
        audit: AuditReporter,
        usage: UserUsage,
        slots: Slots,
    ) -> None:
        """Raise :class:`AccessDenied` if the user has too many connections already."""
        self.host = host
        self.tape = tape
        #: The user's own agent logs in to the target.
        self.by_agent = False
        self._user = context.grant.identity.user
        self._usage = usage
        self._slots = slots
        self.window_budget: WindowBudget | None = usage.add_connection(self._user, self)
        self._target = make_target(self)
        programs = RemotePrograms(
            reactor,
            self._target,
            context,
            lambda: self._forwards_agent,
            not host.sshd,
        )
        super().__init__(reactor, context, programs, tape, audit)
        self.channelLookup = _CHANNELS

    @property
    def _forwards_agent(self) -> bool:
        made = self._made_forwards
        return made is not None and bool(made.agent_forwarded)

    @property
    def agent_requested(self) -> bool:
        """Whether the client has said that it forwards its agent."""
        made = self._made_forwards
        return made is not None and bool(made.agent_requested)

    def make_forwards(self, records: ForwardRecords) -> RemoteForwards:
        """See :class:`SessionAvatar`."""
        forwards = RemoteForwards(
            self._reactor,
            self.context,
            self._target,
            records,
            self._ending.check,
            lambda: self.conn,
            self._slots,
            OF_AN_SSHD if self.host.sshd else OF_A_NODE,
        )
        forwards.agent_for_login = self.by_agent
        return forwards

    # -- the user's share (see tele.tunnel.relayed_channels.MemberConnection) -----------
    def may_open(self) -> str:
        """Return why another channel is refused, or nothing."""
        return self._usage.may_open(self._user)

    def set_channels(self, count: int) -> None:
        """There are so many channels now, those being opened included."""
        self._usage.set_channels(self._user, self, count)

    def logged_out(self) -> None:
        """See :class:`SessionAvatar`."""
        super().logged_out()
        self._target.close()
        self._usage.remove_connection(self._user, self)


#: Given an avatar, makes the target of its connection.
MakeTarget: TypeAlias = Callable[[TargetAvatar], RemoteTarget]
