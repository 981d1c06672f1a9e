"""Which certificates are worth nothing, or less than they say, before they expire?

A certificate cannot be taken back from its holder. So auth tells nodes and proxies from which
moment on the certificates of a user or a host count no more. What was issued later, after the
user or the host came back, is not touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from attrs import Factory, frozen

from tele.model.identity import HostRole


@frozen
class HostRevocation:
    """Certificates of this host in this role that were issued before ``before`` are void."""

    host_id: str
    role: HostRole
    name: str
    before: datetime


@frozen
class UserRevocation:
    """What certificates of ``user`` are still worth.

    Those issued before ``removed`` are void: that user does not exist any more. Those issued
    before ``narrowed`` count for ``roles`` and ``traits`` at most: the user has lost others, or was
    given some, which may deny what the certificate allows. From ``expires`` on, those issued
    before it are void.
    """

    user: str
    removed: datetime | None = None
    narrowed: datetime | None = None
    roles: tuple[str, ...] = ()
    traits: Mapping[str, tuple[str, ...]] = Factory(dict)
    expires: datetime | None = None


def revoked_before(now: datetime) -> datetime:
    """Return the time that revokes all that was issued up to ``now``.

    Certificates know whole seconds. What replaces a certificate is issued at this time at the
    earliest.
    """
    return now.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
