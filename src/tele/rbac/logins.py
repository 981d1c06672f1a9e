"""Which OS accounts does a role mean? Logins, with templates filled from traits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tele.errors import InvalidInput, quoted
from tele.model.resources import Role

_TEMPLATE = re.compile(r"\{\{\s*internal\.([A-Za-z0-9_-]{1,64})\s*\}\}")

#: What a portable account name looks like (useradd(8)), with the dots and @ that directories use.
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?")


def is_login(text: str) -> bool:
    """Whether ``text`` can be an OS account's name: no path, option or shell word."""
    return _LOGIN.fullmatch(text) is not None


def expand(logins: Iterable[str], traits: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the logins with ``{{internal.<trait>}}`` replaced by the trait's values.

    A template stands for a whole login, never a part of one. Whatever is no possible
    account name is left out.
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


def check_logins(logins: Iterable[str], *, deny: bool = False) -> None:
    """Raise :class:`InvalidInput` for a login that can never be one."""
    for login in logins:
        if deny and login == "*":
            continue
        if not _TEMPLATE.fullmatch(login) and not is_login(login):
            raise InvalidInput(
                f"{quoted(login)} is no login: give an account name or {{{{internal.<trait>}}}}"
            )
