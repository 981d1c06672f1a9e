"""Grants of one role, for tests: each option goes to the role or to the connection."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from attrs import evolve, fields_dict

from tele.model.access import Grant, RoleGrant
from tele.model.identity import UserIdentity

LATER: Final = datetime(2099, 1, 1, tzinfo=UTC)


def one_role(identity: UserIdentity, login: str, role: str = "access", **options: Any) -> Grant:
    """Return the grant of one role until ``expires``, or for many years."""
    expires = options.pop("expires", LATER)
    return changed(Grant(identity, login, expires, (RoleGrant(role),)), **options)


def changed(grant: Grant, **options: Any) -> Grant:
    """Return ``grant`` with other ``options``, alike in each of its roles."""
    mine = {name: options.pop(name) for name in fields_dict(RoleGrant) if name in options}
    return evolve(grant, given=tuple(evolve(each, **mine) for each in grant.given), **options)
