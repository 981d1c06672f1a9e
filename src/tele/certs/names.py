"""Which names may a host have, and which may a host certificate be for?

A name or an address in a host certificate tells clients that this host is meant by it. So
nobody gets one by which another host, or the cluster itself, could be meant.

Invariants:

* What is, ends in, or can be read as a principal that the cluster gives by itself (an id, a name
  in the cluster's domain, ``proxy``, ``auth``) is refused, in any case.
* Names are compared in lower case.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from tele.errors import InvalidInput, quoted
from tele.model.identity import HostRole

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBER: Final = re.compile(r"0x[0-9a-f]{0,16}|[0-9]{1,20}")
_RESERVED: Final = {"auth": HostRole.AUTH, "proxy": HostRole.PROXY}


def check_principal(text: str, cluster: str) -> None:
    """Raise :class:`InvalidInput` if a member's certificate is, or could be, for ``text``."""
    name, domain = text.lower().rstrip("."), cluster.lower()
    if name == domain or name.endswith(f".{domain}"):
        raise InvalidInput(f"{quoted(text)} is in the cluster's own domain; choose another name")
    if any(_UUID.fullmatch(label) for label in name.split(".")):
        raise InvalidInput(f"{quoted(text)} can be read as the id of a host; choose another name")
    if name in _RESERVED:
        raise InvalidInput(f"the name {quoted(text)} is kept for the cluster's own {name}")
    if "*" in name or "?" in name:
        raise InvalidInput(f"{quoted(text)} is a pattern: give each name by itself")


def check_name(name: str, cluster: str, role: HostRole) -> None:
    """Raise :class:`InvalidInput` if a host of this role may not be called ``name``.

    A proxy may be called ``proxy``, and auth ``auth``; any host may have the cluster's own name.
    """
    if _RESERVED.get(name.lower()) is role:
        return
    if name.lower() != cluster.lower():
        check_principal(name, cluster)
    if _is_numeric_address(name.lower()):
        raise InvalidInput(f"{quoted(name)} can be read as an address; choose another name")


def _is_numeric_address(name: str) -> bool:
    """Whether resolvers read ``name`` as an IPv4 address: one to four numbers (inet_aton(3))."""
    parts = name.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return False
    if len(parts) > 1:
        return True
    number = int(name[2:] or "0", 16) if name.startswith("0x") else int(name)
    return number < 2**32


def own_addresses(addresses: Iterable[str], cluster: str) -> tuple[str, ...]:
    """Return those addresses that can be in a certificate, each once, in lower case, in order.

    A name without a dot is left out, since nodes are known by such names, and so is what
    :func:`check_principal` refuses.
    """
    return tuple(dict.fromkeys(a.lower() for a in addresses if _is_foreign(a, cluster)))


def _is_foreign(address: str, cluster: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        try:
            check_principal(address, cluster)
        except InvalidInput:
            return False
        return "." in address.rstrip(".")
    return True
