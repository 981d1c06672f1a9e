"""Which events does a node leave in the audit?

Invariants:

* Who and where is filled in here, the same way for every event.
* A stranger cannot fill the audit: refusals of those who are nobody here are let through
  at a rate, of which each source has a part, and how many were not is said with the next one.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from tele.audit.chain import event
from tele.audit.lines import log_event
from tele.conch.server.connection_admission import Refused, denied_limiter
from tele.conch.server.credentials import DeniedAttempt
from tele.loop import now
from tele.membership.member import Member
from tele.model.addresses import Address, source_network
from tele.node.programs import ConnectionContext

TEXT_LIMIT: Final = 32 * 1024


def address(of: tuple[str, int]) -> str:
    """Return ``host:port``."""
    return str(Address(*of))


def cut(text: str) -> str:
    """Return ``text`` short enough for an event, and saying so; and such as JSON can hold."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}... ({len(text)} characters)"


class AuditReporter:
    """Makes events and hands them to the member, which sees that they arrive."""

    def __init__(self, reactor: Any, member: Member) -> None:
        self._reactor = reactor
        self._member = member
        self._limiter = denied_limiter()

    def _emit(self, name: str, **fields: Any) -> None:
        host = self._member.identity.host
        made = event(
            name,
            str(uuid.uuid4()),
            now(self._reactor),
            host.cluster,
            server_id=host.host_id,
            server_name=host.name,
            **fields,
        )
        log_event(made)
        self._member.emit(made)

    def emit(self, name: str, visit: ConnectionContext, **fields: Any) -> None:
        """Something happened on a connection; ``error`` not empty means that it failed."""
        grant = visit.grant
        self._emit(
            name,
            user=grant.identity.user,
            login=grant.login,
            roles=grant.roles,
            session_id=visit.session_id,
            login_session=grant.identity.login_session,
            remote_addr=address(visit.remote_addr),
            ok=not fields.get("error"),
            **fields,
        )

    def denied(self, attempt: DeniedAttempt) -> None:
        """Somebody was not let in."""
        source = source_network(attempt.remote_addr[0])
        unsaid = self._limiter.admit(self._reactor.seconds(), source)
        if unsaid is None:
            return
        more = {"others_not_listed": unsaid} if unsaid else {}
        self._emit(
            "auth.denied",
            user=cut(attempt.key_id),
            login=cut(attempt.login),
            remote_addr=address(attempt.remote_addr),
            ok=False,
            error=cut(attempt.message),
            reason=attempt.reason,
            method=cut(attempt.method),
            serial=str(attempt.serial),
            fingerprint=attempt.fingerprint,
            **more,
        )

    def refused(self, refused: Refused) -> None:
        """Connections were closed before anybody could say who they are."""
        self._emit(
            "auth.refused",
            ok=False,
            error=f"{refused.count} connections were refused",
            count=refused.count,
            why=dict(refused.why),
            sources=list(refused.sources),
        )
