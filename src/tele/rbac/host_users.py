"""Which OS account do the roles of a user want for a login?

Invariants:

* An account is made if one of the roles that allow the login on the node has it made. Kept beats
  dropped: nothing is removed that a role keeps.
* Groups and lines of sudoers are those of all roles that allow the login on the node, without those
  that any role of the user denies; ``*`` denies all. The order of roles does not matter.
* What a role gives to the command that it forces is not given to what another role lets run: beside
  a role that forces none, its groups and lines are left out.
* A trait that is no number makes no account, rather than one with another number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tele.errors import InvalidInput
from tele.model.host_user import GID_TRAIT, UID_TRAIT, HostUser, HostUserMode
from tele.model.resources import Conditions, Role, RoleOptions
from tele.spawner.accounts import Refused
from tele.spawner.host_account import check_group, check_shell, check_sudoers

#: The digits of a number of an account.
_MAX_DIGITS = 10


def host_user(
    allowing: Iterable[Role], held: Iterable[Role], traits: Mapping[str, tuple[str, ...]]
) -> HostUser | None:
    """Return the account; None if no role has one made.

    ``allowing`` are the roles that allow the login on the node, ``held`` all that may deny.
    """
    granting = sorted(allowing, key=lambda role: role.metadata.name)
    modes = {role.spec.options.create_host_user for role in granting} - {HostUserMode.OFF}
    if not modes:
        return None
    denying = [role.spec.deny for role in held]
    free = [role for role in granting if not role.spec.options.force_command]
    counted = free or granting
    shells = (role.spec.options.create_host_user_shell for role in granting)
    return HostUser(
        HostUserMode.KEEP not in modes,
        _without(
            [name for role in counted for name in role.spec.allow.host_groups],
            [name for deny in denying for name in deny.host_groups],
        ),
        _without(
            [line for role in counted for line in role.spec.allow.host_sudoers],
            [line for deny in denying for line in deny.host_sudoers],
        ),
        next((shell for shell in shells if shell), ""),
        _number(traits, UID_TRAIT),
        _number(traits, GID_TRAIT),
    )


def _without(allowed: Sequence[str], denied: Sequence[str]) -> tuple[str, ...]:
    if "*" in denied:
        return ()
    return tuple(sorted(set(allowed) - set(denied)))


def _number(traits: Mapping[str, tuple[str, ...]], name: str) -> int | None:
    values = traits.get(name, ())
    if not values:
        return None
    text = values[0]
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else -1


def check_host_users(allow: Conditions, deny: Conditions, options: RoleOptions) -> None:
    """Raise :class:`InvalidInput` for a group, a line of sudoers or a shell that no node takes."""
    try:
        for name in (*allow.host_groups, *(g for g in deny.host_groups if g != "*")):
            check_group(name)
        for line in (*allow.host_sudoers, *(s for s in deny.host_sudoers if s != "*")):
            check_sudoers(line)
        if options.create_host_user_shell:
            check_shell(options.create_host_user_shell)
    except Refused as refused:
        raise InvalidInput(str(refused)) from None


def check_numbers(traits: Mapping[str, tuple[str, ...]]) -> None:
    """Raise :class:`InvalidInput` for a trait that cannot be the number of an account."""
    for name in (UID_TRAIT, GID_TRAIT):
        if _number(traits, name) == -1 or len(traits.get(name, ())) > 1:
            raise InvalidInput(f"the trait {name} is one number, such as 2001")
