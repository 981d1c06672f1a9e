"""Which OS accounts does a role allow? Logins, with templates filled from traits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from tele.errors import InvalidInput, quoted
from tele.model.resources import Role

_TEMPLATE = re.compile(r"\{\{\s*internal\.([A-Za-z0-9_-]{1,64})\s*\}\}")

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


def expand(logins: Iterable[str], traits: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the logins with ``{{internal.<trait>}}`` replaced by the trait's values.

    A template stands for a whole login, never for a part of one. Texts that cannot be account names
    are left out.
    """
    found: dict[str, None] = {}
    for login in logins:
        template = _TEMPLATE.fullmatch(login)
        values = traits.get(template[1], ()) if template else (login,)
        found.update((value, None) for value in values if is_login(value))
    return tuple(found)


def logins_of(traits: Mapping[str, tuple[str, ...]], roles: Iterable[Role]) -> tuple[str, ...]:
    """Return every login that ``roles`` allow and none denies: a certificate's principals."""
    several = list(roles)
    allowed = dict.fromkeys(
        login for role in several for login in expand(role.spec.allow.logins, traits)
    )
    denied = {login for role in several for login in expand(role.spec.deny.logins, traits)}
    everything = any("*" in role.spec.deny.logins for role in several)
    return () if everything else tuple(login for login in allowed if login not in denied)


def check_traits(traits: Mapping[str, tuple[str, ...]]) -> None:
    """Raise :class:`InvalidInput` for a login of a user that cannot be an account name."""
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
        if not _TEMPLATE.fullmatch(login) and not is_login(login):
            raise InvalidInput(
                f"{quoted(login)} is not a login: expected an account name or"
                " {{internal.<trait>}}"
            )
