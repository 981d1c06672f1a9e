"""What has to be revoked when a user is removed or changed?

Invariants:

* What was void stays void: a name that somebody else gets does not wake its old certificates.
* What a user holds is never revoked, only what they hold no more.
* Who is given a role, or a value of a trait, is told of like who loses one: it may deny something.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from attrs import evolve

from tele.model.resources import User
from tele.model.revocation import UserRevocation, revoked_before

#: How long a certificate of a user is valid at most.
LONGEST_CERTIFICATE: Final = timedelta(hours=30)
#: How long a revocation is told: as long as a certificate is good, and a week more, for nodes that
#: are away from auth meanwhile with somebody logged in.
REVOCATION_LIFE: Final = LONGEST_CERTIFICATE + timedelta(days=7)
#: No end that is further away than this is waited for: later there is no date.
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
            # Somebody had this name before, and has expired.
            present = after_removal(old, name, now)
    elif _differ(before, after):
        present = evolve(present, narrowed=_latest(present.narrowed, revoked_before(now)))
    if present.narrowed is not None:
        present = evolve(present, roles=spec.roles, traits=spec.traits)
    present = evolve(present, expires=after.metadata.expires)
    return None if present == UserRevocation(name) else present


def revocation_ttl(revocation: UserRevocation, now: datetime) -> timedelta:
    """Return how long nodes and proxies have to be told of a revocation."""
    times = (revocation.removed, revocation.narrowed, revocation.expires, now)
    left = max(each for each in times if each is not None) - now
    return min(left, LONGEST_WAIT) + REVOCATION_LIFE


def issued_from(revocation: UserRevocation | None, now: datetime) -> datetime:
    """Return when a certificate is issued at the earliest, so that no removal revokes it.

    A narrowing takes nothing from it: that leaves what the user holds now.
    """
    if revocation is None or revocation.removed is None:
        return now
    return max(revocation.removed, now)


def _differ(before: User, after: User) -> bool:
    """Whether roles or traits are others; their order says nothing."""
    old, new = before.spec, after.spec
    names = {*old.traits, *new.traits}
    return set(old.roles) != set(new.roles) or any(
        set(old.traits.get(name, ())) != set(new.traits.get(name, ())) for name in names
    )


def _latest(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else max(one, other)
