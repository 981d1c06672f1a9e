"""Which names may a host say that it has?

A host chooses its own name and the addresses that it is reached by; both end up in its
certificates. None of them may be a name by which somebody else is known: not that of
the cluster's auth or proxy, not another host's id, nothing in the cluster's own domain.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from tele.errors import InvalidInput, quoted
from tele.model.identity import HostRole

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_RESERVED: Final = {"auth": HostRole.AUTH, "proxy": HostRole.PROXY}


def check_name(name: str, host_id: str, role: HostRole) -> None:
    """Raise :class:`InvalidInput` if a host of this role may not be called ``name``."""
    if _RESERVED.get(name.lower(), role) is not role:
        raise InvalidInput(f"the name {quoted(name)} is kept for the cluster's own {name.lower()}")
    if _UUID.fullmatch(name) and name != host_id:
        raise InvalidInput(f"{quoted(name)} looks like another host's id: choose another name")


def own_addresses(addresses: Iterable[str], cluster: str) -> tuple[str, ...]:
    """Return those addresses that are not names of the cluster, each once, in order.

    A name without a dot is left out, since nodes are known by such names, and so are
    patterns and everything in the cluster's domain: what a host has there comes from its
    name and id.
    """
    domain = cluster.lower()
    return tuple(dict.fromkeys(a for a in addresses if _is_foreign(a.lower().rstrip("."), domain)))


def _is_foreign(address: str, domain: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        pattern = "*" in address or "?" in address
        inside = address == domain or address.endswith(f".{domain}")
        return "." in address and not pattern and not inside
    return True
