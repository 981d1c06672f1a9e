"""Which events does a member of the cluster report to the audit, and with which fields?

Invariants:

* The member, the time and the fields of the subject are set here, the same for every event.
* Unauthenticated clients cannot fill the audit: denied attempts are rate limited, in all and for
  each source network. The next event that is reported counts those that were left out.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReactorTime

from tele.audit.chain import event
from tele.audit.lines import log_event
from tele.conch.server.connection_admission import Refused, denied_limiter
from tele.conch.server.credentials import DeniedAttempt
from tele.loop import now
from tele.measures.metric import Tally
from tele.membership.member import Member
from tele.model.addresses import Address, source_network

#: Characters of one text in an event.
TEXT_LIMIT: Final = 32 * 1024


class EventSubject(Protocol):
    """A connection that events are about."""

    @property
    def event_fields(self) -> Mapping[str, Any]:
        """The fields of its events: user, login, address."""


def cut(text: str) -> str:
    """Return ``text`` as JSON can hold it; a text that is too long ends with its length."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}... ({len(text)} characters)"


class AuditReporter:
    """Makes events and hands them to ``member``, which delivers them to auth."""

    def __init__(self, clock: IReactorTime, member: Member) -> None:
        self._clock = clock
        self._member = member
        self._limiter = denied_limiter()
        #: Logins by result and reason; connections that were refused, by reason.
        self.logins, self.refusals = Tally(2), Tally()
        self.logins.add("accepted", "", count=0)  # a rate needs a value before the first one

    def emit(self, name: str, subject: EventSubject | None = None, /, **fields: Any) -> None:
        """Report an event; a non-empty ``error`` means that it failed, and a denial is never ok."""
        self.emit_at(now(self._clock), name, subject, **fields)

    def emit_at(
        self, time: datetime, name: str, subject: EventSubject | None = None, /, **fields: Any
    ) -> None:
        """Report an event, as :meth:`emit` does, of what happened at ``time``."""
        if name == "session.start":
            self.logins.add("accepted", "")
        host = self._member.identity.host
        made = event(
            name,
            str(uuid.uuid4()),
            time,
            host.cluster,
            server_id=host.host_id,
            server_name=host.name,
            ok=name != "auth.denied" and not fields.get("error"),
            **({} if subject is None else subject.event_fields),
            **fields,
        )
        log_event(made)
        self._member.emit(made)

    def denied(self, attempt: DeniedAttempt, **about: str) -> None:
        """Report a login that was denied, within the rate limit; ``about`` are further fields."""
        self.logins.add("refused", attempt.reason)
        source = source_network(attempt.remote_addr[0])
        more = self._limiter.listed(self._clock.seconds(), {}, source)
        if more is None:
            return
        self.emit(
            "auth.denied",
            user=cut(attempt.key_id),
            login=cut(attempt.login),
            remote_addr=str(Address(*attempt.remote_addr)),
            error=cut(attempt.message),
            reason=attempt.reason,
            method=cut(attempt.method),
            serial=str(attempt.serial),
            fingerprint=attempt.fingerprint,
            **about,
            **more,
        )

    def refused(self, refused: Refused) -> None:
        """Report connections that were closed before authentication."""
        for why, count in refused.why.items():
            self.refusals.add(why, count=count)
        self.emit(
            "auth.refused",
            error=f"{refused.count} connections were refused",
            count=refused.count,
            why=dict(refused.why),
            sources=list(refused.sources),
        )
