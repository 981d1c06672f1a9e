"""Which names may a host have, and which principals may a host certificate have?

A principal in a host certificate identifies this host to clients. It must not identify another
host, or the cluster itself.

Invariants:

* A name is refused if it is, ends in, or can be read as a principal that the cluster assigns (an
  id, a name in the cluster's domain, ``proxy``, ``auth``), in upper or lower case.
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
    """Raise :class:`InvalidInput` if ``text`` could be a principal that the cluster assigns."""
    name, domain = text.lower().rstrip("."), cluster.lower()
    if name == domain or name.endswith(f".{domain}"):
        raise InvalidInput(f"{quoted(text)} is in the cluster's own domain; choose another name")
    if any(_UUID.fullmatch(label) for label in name.split(".")):
        raise InvalidInput(f"{quoted(text)} can be read as the id of a host; choose another name")
    if name in _RESERVED:
        raise InvalidInput(f"the name {quoted(text)} is reserved for the cluster's own {name}")
    if "*" in name or "?" in name:
        raise InvalidInput(f"{quoted(text)} is a pattern: give each name by itself")


def check_name(name: str, cluster: str, role: HostRole) -> None:
    """Raise :class:`InvalidInput` if a host of this role may not have the name ``name``.

    A proxy may have the name ``proxy``, auth ``auth``, and any host the name of the cluster.
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
    """Return the addresses that can be principals, each once, in lower case, in order.

    Names without a dot, which are names of nodes, and names that :func:`check_principal` refuses
    are left out.
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
