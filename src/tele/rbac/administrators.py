"""Who can administer the cluster, and would anybody be left after a change?

An administrator may update both users and roles: whoever may do that can give themselves, or
somebody else, everything else.

Invariants:

* Only who can log in counts: a user who has expired, or is locked, administers nothing.
* An administrator for a while only is not a replacement for one without an end.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from attrs import Factory, frozen

from tele.model.identity import UserIdentity
from tele.model.resources import Lock, Role, User
from tele.rbac.decision import locked, permits


@frozen
class Directory:
    """Users, roles and locks of a cluster, by name."""

    users: Mapping[str, User] = Factory(dict)
    roles: Mapping[str, Role] = Factory(dict)
    locks: Mapping[str, Lock] = Factory(dict)


def administrators(directory: Directory, now: datetime, *, lasting: bool = False) -> frozenset[str]:
    """Return who may administer users and roles; with ``lasting`` only those without an end."""
    return frozenset(
        name
        for name, user in directory.users.items()
        if _administers(user, directory, now, lasting)
    )


def last_lost(before: Directory, after: Directory, now: datetime) -> frozenset[str]:
    """Return the administrators whom a change takes away, if it leaves none; else nobody."""
    for lasting in (True, False):
        had = administrators(before, now, lasting=lasting)
        if had and not administrators(after, now, lasting=lasting):
            return had
    return frozenset()


def _administers(user: User, directory: Directory, now: datetime, lasting: bool) -> bool:
    expires = user.metadata.expires
    if expires is not None and (lasting or expires <= now):
        return False
    held = user.spec.roles
    roles = directory.roles
    if lasting:
        roles = {n: r for n, r in roles.items() if n in held and r.metadata.expires is None}
    if not all(permits(held, roles, resource, "update", now) for resource in ("user", "role")):
        return False
    return (
        locked(directory.locks.values(), UserIdentity(user.metadata.name, "", now, held), now)
        is None
    )
