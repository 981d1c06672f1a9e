"""Which proxies does a node dial?

Invariants:

* Decisions only: values in, values out; no connection is known here.
* The same for everybody who knows the same, so that nobody has to agree with anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b

from tele.model.api.members import Proxy


def preferred(host_id: str, proxies: Iterable[Proxy]) -> list[Proxy]:
    """Return ``proxies`` in the order in which the node ``host_id`` likes them.

    By rendezvous hashing: nodes spread evenly, and when a proxy comes or goes, only those
    nodes dial anew that it concerns.
    """
    return sorted(proxies, key=lambda proxy: _weight(host_id, proxy.id))


def _weight(host_id: str, proxy_id: str) -> bytes:
    return blake2b(f"{host_id}/{proxy_id}".encode(), digest_size=8).digest()


def wanted(order: Sequence[Proxy], failing: Collection[str], count: int) -> list[Proxy]:
    """Return whom to dial: the first of ``order`` up to ``count`` that are not ``failing``.

    Those that fail and come before are dialled on: they may be back.
    """
    chosen: list[Proxy] = []
    good = 0
    for proxy in order:
        if good >= count:
            break
        chosen.append(proxy)
        good += proxy.id not in failing
    return chosen
