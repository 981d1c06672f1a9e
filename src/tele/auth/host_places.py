"""Under which key is what belongs to a host in one of its roles?

A node's key is its host id alone, as it was when only nodes recorded sessions.
"""

from __future__ import annotations

from tele.interfaces import IBackend
from tele.model.identity import HostPlace, HostRole


def place_key(place: HostPlace) -> str:
    """Return the part of a key that stands for a host."""
    role, host_id = place
    return host_id if role is HostRole.NODE else f"{role.value}:{host_id}"


def place_of(key: str) -> HostPlace:
    """Return the host that part of a key stands for."""
    role, colon, host_id = key.partition(":")
    return (HostRole(role), host_id) if colon else (HostRole.NODE, key)


async def places_below(backend: IBackend, prefix: str) -> set[HostPlace]:
    """Return the hosts that have keys ``<prefix><host>/...``, without reading them all."""
    found: set[HostPlace] = set()
    start, end = prefix, prefix[:-1] + "0"
    while items := await backend.range(start, end, 1):
        key = items[0].key.removeprefix(prefix).partition("/")[0]
        found.add(place_of(key))
        start = f"{prefix}{key}0"  # the character after the slash
    return found
