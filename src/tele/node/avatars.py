"""What does each connection of a node get: programs, forwards and a recording of its own?

Invariant: names and waiting connections have a share for each user, over all connections.
"""

from __future__ import annotations

import uuid

from tele.admission.slots import Slots
from tele.conch.server.credentials import CertificateCredentials
from tele.membership.audit_reporter import AuditReporter
from tele.membership.member import Member
from tele.model.access import Grant
from tele.model.resources import RecordingMode
from tele.node.avatar import NodeAvatar
from tele.node.forwards import WAITING_LIMIT, ForwardingResources
from tele.node.programs import NodePrograms
from tele.node.settings import SessionSettings
from tele.node.subsystems import by_name
from tele.node.tracing import Tracing
from tele.node.user_sockets import UserSockets
from tele.outbound.name_lookup import NameResolver
from tele.reactor import Reactor
from tele.recording.tee import ConnectionTape
from tele.sessions.context import ConnectionContext
from tele.sessions.tape import make_tape
from tele.sessions.trace_record import TraceRecords


def is_recorded(grant: Grant, proxied: str) -> bool:
    """Whether a node records a session; ``proxied`` is the id of the one that ends at a proxy.

    While nodes record it does so, also if a proxy has a certificate from before.
    """
    mode = grant.recording.mode
    return mode is not RecordingMode.OFF and not (proxied and mode.by_proxies)


class AvatarFactory:
    """Makes the avatar of each connection."""

    def __init__(
        self,
        reactor: Reactor,
        member: Member,
        settings: SessionSettings,
        audit: AuditReporter,
        names: NameResolver,
        tracing: Tracing,
    ) -> None:
        self._reactor = reactor
        self._member = member
        self._settings = settings
        self._audit = audit
        self._names = names
        self._tracing = tracing
        self._subsystems = by_name(settings.subsystems)
        #: Connections of users that are forwarded, or wait to be.
        self.slots = Slots(WAITING_LIMIT)

    def make(self, grant: Grant, credentials: CertificateCredentials) -> NodeAvatar:
        """Return the avatar for a grant. Raises :class:`Unavailable` if its user has no share."""
        settings = self._settings
        # A session that ends at a proxy is another one there, which the proxy reports.
        proxied = credentials.checked.session
        context = ConnectionContext.of(
            grant, credentials, str(uuid.uuid4()), {"of_session": proxied} if proxied else None
        )
        account = settings.budget.account(grant.identity.user)
        tape = self._tape(context) if is_recorded(grant, proxied) else None

        def not_recorded(why: str) -> None:
            avatar.not_recorded(why)

        def forbidden(why: str) -> None:
            avatar.handed_over(why)

        records = TraceRecords(self._reactor, context, self._audit, tape, not_recorded, forbidden)
        avatar = NodeAvatar(
            self._reactor,
            context,
            NodePrograms(
                settings.spawning,
                context,
                account,
                self._reactor,
                self._subsystems,
                lambda: self._member.settings.message_of_the_day,
                lambda channel: self._tracing.open(context, channel, records),
            ),
            tape,
            self._audit,
            ForwardingResources(
                UserSockets(settings.spawning, grant.login, grant.identity.user),
                self._names,
                account,
                self.slots,
                settings.gateway_ports,
            ),
        )
        avatar.is_proxied = bool(proxied)
        return avatar

    def _tape(self, context: ConnectionContext) -> ConnectionTape | None:
        recorder = self._settings.recorder
        if recorder is None:
            return None
        return make_tape(self._reactor, recorder, context, self._member.identity.host)
