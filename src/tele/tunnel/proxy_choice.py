"""Which proxies does a node dial?

Invariants:

* Pure functions: values in, values out.
* The result depends on the arguments only: all parts compute the same choice without coordination.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b

from tele.model.api.members import Proxy


def preferred(host_id: str, proxies: Iterable[Proxy]) -> list[Proxy]:
    """Return ``proxies`` in the order of preference of the node ``host_id``.

    By rendezvous hashing: nodes spread evenly, and a proxy that is added or removed moves only its
    own nodes.
    """
    return sorted(proxies, key=lambda proxy: _weight(host_id, proxy.id))


def _weight(host_id: str, proxy_id: str) -> bytes:
    return blake2b(f"{host_id}/{proxy_id}".encode(), digest_size=8).digest()


def wanted(order: Sequence[Proxy], failing: Collection[str], count: int) -> list[Proxy]:
    """Return the proxies to dial: the first of ``order``, up to ``count`` that are not ``failing``.

    Failing proxies before these are included: they are dialled until they answer.
    """
    chosen: list[Proxy] = []
    good = 0
    for proxy in order:
        if good >= count:
            break
        chosen.append(proxy)
        good += proxy.id not in failing
    return chosen
