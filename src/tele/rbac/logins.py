"""Which OS accounts does a role allow? Logins, with templates filled from traits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from tele.errors import InvalidInput, quoted
from tele.model.resources import Role
from tele.rbac.host_users import check_numbers
from tele.rbac.templates import Traits, expanded, template

#: A portable account name (useradd(8)), and names of directory services: ``DOM\user``,
#: ``DOM+user``, ``user@dom``, letters of any alphabet, ``MACHINE$``. passwd(5) allows no spaces and
#: colons in them, ssh(1) no shell characters.
_LOGIN = re.compile(r"\w(?:[\w.@+\\-]{0,253}[\w.@+-])?\$?")
#: The trait that ``users add --login`` fills, and that the role ``access`` reads.
LOGINS_TRAIT: Final = "logins"


def is_login(text: str) -> bool:
    """Whether ``text`` can be an OS account's name: no path, option or shell syntax.

    Whether there is such an account is decided by the account database of each node.
    """
    return _LOGIN.fullmatch(text) is not None


def expand(logins: Iterable[str], traits: Traits) -> tuple[str, ...]:
    """Return the logins that texts of a role stand for, see :mod:`tele.rbac.templates`.

    Texts that cannot be account names are left out.
    """
    found = (each for login in logins for each in expanded(login, traits))
    return tuple(dict.fromkeys(each for each in found if is_login(each)))


def denied(listed: Iterable[str], login: str, traits: Traits) -> bool:
    """Whether denied logins have ``login``: by its name, ``*``, or what cannot be read."""
    return any(each == "*" or _denies(each, login, traits) for each in listed)


def _denies(listed: str, login: str, traits: Traits) -> bool:
    try:
        found = template(listed)
    except InvalidInput:
        return True
    return listed == login if found is None else found.stands_for(login, traits)


def logins_of(traits: Traits, roles: Iterable[Role]) -> tuple[str, ...]:
    """Return every login that ``roles`` allow and none denies: a certificate's principals."""
    several = list(roles)
    allowed = dict.fromkeys(
        login for role in several for login in expand(role.spec.allow.logins, traits)
    )
    listed = dict.fromkeys(each for role in several for each in role.spec.deny.logins)
    return tuple(login for login in allowed if not denied(listed, login, traits))


def check_traits(traits: Mapping[str, tuple[str, ...]]) -> None:
    """Raise :class:`InvalidInput` for a login of a user that cannot be an account name, or a number
    that no account can have.
    """
    check_numbers(traits)
    for login in traits.get(LOGINS_TRAIT, ()):
        if not is_login(login):
            raise InvalidInput(
                f"{quoted(login)} is not a login: an account name has no spaces, slashes, colons or"
                " shell characters"
            )


def check_logins(logins: Iterable[str], *, deny: bool = False) -> None:
    """Raise :class:`InvalidInput` for a login of a role that can never match."""
    for login in logins:
        if deny and login == "*":
            continue
        found = template(login)
        # Whatever the template stands for, what is around it stays.
        if not is_login(login if found is None else f"{found.before}x{found.after}"):
            raise InvalidInput(
                f"{quoted(login)} is not a login: expected an account name or"
                " {{internal.<trait>}}"
            )
