"""What has to be revoked when a user is removed or changed?

Invariants:

* A revoked certificate stays revoked: a new user of the name does not make it valid again.
* What a user has is never revoked, only what they have lost.
* A role, or a value of a trait, that is given is published like a loss: it may deny something.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from attrs import evolve

from tele.model.resources import User
from tele.model.revocation import UserRevocation, revoked_before

#: The longest lifetime of a user certificate.
LONGEST_CERTIFICATE: Final = timedelta(hours=30)
#: How long a revocation is published: as long as a certificate is valid, and a week more, for nodes
#: with open sessions that cannot reach auth meanwhile.
REVOCATION_LIFE: Final = LONGEST_CERTIFICATE + timedelta(days=7)
#: The longest time until an expiry that is waited for: later dates do not exist.
LONGEST_WAIT: Final = timedelta(days=365 * 1000)


def after_removal(old: UserRevocation | None, name: str, now: datetime) -> UserRevocation:
    """Return the revocation of a user who is removed at ``now``."""
    before = None if old is None else old.removed
    return UserRevocation(name, removed=_latest(before, revoked_before(now)))


def after_change(
    old: UserRevocation | None, before: User | None, after: User, now: datetime
) -> UserRevocation | None:
    """Return the revocation of a user who is created or changed at ``now``; None is none."""
    name, spec = after.metadata.name, after.spec
    present = old or UserRevocation(name)
    if before is None:
        if present.narrowed is not None or present.expires is not None:
            # An earlier user of this name has expired.
            present = after_removal(old, name, now)
    elif _differ(before, after):
        present = evolve(present, narrowed=_latest(present.narrowed, revoked_before(now)))
    if present.narrowed is not None:
        present = evolve(present, roles=spec.roles, traits=spec.traits)
    present = evolve(present, expires=after.metadata.expires)
    return None if present == UserRevocation(name) else present


def revocation_ttl(revocation: UserRevocation, now: datetime) -> timedelta:
    """Return how long a revocation has to be published to nodes and proxies."""
    times = (revocation.removed, revocation.narrowed, revocation.expires, now)
    left = max(each for each in times if each is not None) - now
    return min(left, LONGEST_WAIT) + REVOCATION_LIFE


def issued_from(revocation: UserRevocation | None, now: datetime) -> datetime:
    """Return the earliest time of issue of a certificate that no removal revokes.

    A narrowing does not concern it: it keeps what the user has now.
    """
    if revocation is None or revocation.removed is None:
        return now
    return max(revocation.removed, now)


def _differ(before: User, after: User) -> bool:
    """Whether roles or traits differ, apart from their order."""
    old, new = before.spec, after.spec
    names = {*old.traits, *new.traits}
    return set(old.roles) != set(new.roles) or any(
        set(old.traits.get(name, ())) != set(new.traits.get(name, ())) for name in names
    )


def _latest(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else max(one, other)
