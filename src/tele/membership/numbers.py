"""Which numbers does a member of the cluster have, whatever its role?"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from tele.measures import catalogue
from tele.measures.metric import Sample
from tele.membership.audit_reporter import AuditReporter
from tele.membership.member import Member


@frozen
class MemberNumbers:
    """The numbers of ``member``."""

    clock: IReactorTime
    member: Member

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        member = self.member
        announcer, sender = member.numbers
        if member.expires is not None:
            yield catalogue.CERTIFICATE.at(member.expires.timestamp(), "own")
            yield catalogue.SKEW.at(member.clock.skew)
        is_away = announcer.last is None or member.auth_away_since is not None
        yield catalogue.REACHABLE.at(not is_away)
        if isfinite(member.state_age):
            yield catalogue.STATE_AGE.at(member.state_age)
        yield catalogue.HEARTBEATS.at(announcer.answered, "ok")
        yield catalogue.HEARTBEATS.at(announcer.failed, "failed")
        if announcer.last is not None:
            yield catalogue.HEARTBEAT_AGE.at(self.clock.seconds() - announcer.last)
        waiting, seconds = sender.waiting
        yield catalogue.SPOOL.at(waiting)
        yield catalogue.SPOOL_AGE.at(seconds)
        yield catalogue.SPOOL_FULL.at(not sender.has_capacity)
        yield catalogue.LOST.at(sender.lost)


def login_samples(reporter: AuditReporter) -> Iterator[Sample]:
    """Return the logins and refused connections that ``reporter`` has counted."""
    yield from reporter.logins.samples(catalogue.LOGINS)
    yield from reporter.refusals.samples(catalogue.REFUSED)
