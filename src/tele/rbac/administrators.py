"""Who can administer the cluster, and does a change leave an administrator?

An administrator may update both users and roles, and can thereby give every other permission.

Invariants:

* A user who has expired, or is locked, is no administrator.
* A user who will expire does not replace an administrator who does not.
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
    """Return the administrators; with ``lasting`` only those who do not expire."""
    return frozenset(
        name
        for name, user in directory.users.items()
        if _administers(user, directory, now, lasting)
    )


def last_lost(before: Directory, after: Directory, now: datetime) -> frozenset[str]:
    """Return the administrators that a change removes if it leaves none, else nothing."""
    for lasting in (True, False):
        had = administrators(before, now, lasting=lasting)
        if had and not administrators(after, now, lasting=lasting):
            return had
    return frozenset()


def _lasts(role: Role) -> bool:
    return role.metadata.expires is None and not role.spec.options.valid_times


def _administers(user: User, directory: Directory, now: datetime, lasting: bool) -> bool:
    expires = user.metadata.expires
    if expires is not None and (lasting or expires <= now):
        return False
    held = user.spec.roles
    roles = directory.roles
    if lasting:
        roles = {n: r for n, r in roles.items() if n in held and _lasts(r)}
    if not all(permits(held, roles, resource, "update", now) for resource in ("user", "role")):
        return False
    return (
        locked(directory.locks.values(), UserIdentity(user.metadata.name, "", now, held), now)
        is None
    )
