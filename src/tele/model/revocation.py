"""Which certificates are revoked, wholly or in part, before they expire?

Auth publishes to nodes and proxies until which time of issue the certificates of a user or a host
are revoked. Certificates that were issued later are not concerned.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from attrs import Factory, frozen

from tele.model.identity import HostRole


@frozen
class HostRevocation:
    """Certificates of this host in this role that were issued before ``before`` are revoked."""

    host_id: str
    role: HostRole
    name: str
    before: datetime


@frozen
class UserRevocation:
    """The revoked certificates of ``user``.

    Those issued before ``removed`` are revoked: that user does not exist any more. Those issued
    before ``narrowed`` are limited to ``roles`` and ``traits``: the user has lost others, or was
    given some, which may deny what the certificate allows. From ``expires`` on, those issued before
    it are revoked.
    """

    user: str
    removed: datetime | None = None
    narrowed: datetime | None = None
    roles: tuple[str, ...] = ()
    traits: Mapping[str, tuple[str, ...]] = Factory(dict)
    expires: datetime | None = None


def revoked_before(now: datetime) -> datetime:
    """Return the ``before`` that revokes all certificates issued up to ``now``.

    Certificates have whole seconds. A replacement is issued at this time at the earliest.
    """
    return now.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
