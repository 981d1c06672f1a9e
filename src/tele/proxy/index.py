"""Which node does a visitor mean?

Laws of this file:

* A look-up costs the same whether the cluster has ten nodes or a hundred thousand.
* Four answers are four different sentences: unknown, ambiguous, offline, found.
* Names compare without regard to case, as DNS names do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tele.errors import InvalidInput, NotFound, Unreachable, quoted
from tele.model.codec import format_time
from tele.model.presence import Host, Status


class NodeIndex:
    """The cluster's nodes by id and by name, replaced as a whole at each change."""

    def __init__(self, cluster: str) -> None:
        self._suffix = f".{cluster.lower()}"
        self._by_id: dict[str, Host] = {}
        self._by_name: dict[str, list[Host]] = {}

    def replace(self, hosts: Iterable[Host]) -> None:
        """Take the cluster's nodes as they are now."""
        by_name: dict[str, list[Host]] = defaultdict(list)
        self._by_id = {}
        for host in hosts:
            self._by_id[host.id.lower()] = host
            by_name[host.name.lower()].append(host)
        self._by_name = dict(by_name)

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, wanted: str) -> Host:
        """Return the one node that ``wanted`` names: name, ``name.cluster``, or host id.

        A node that is offline is returned too. Raises :class:`NotFound`, or
        :class:`InvalidInput` when several nodes have that name and not exactly
        one of them is online.
        """
        name = wanted.lower().rstrip(".").removesuffix(self._suffix)
        host = self._by_id.get(name)
        if host is not None:
            return host
        named = self._by_name.get(name, [])
        if not named:
            raise NotFound(f"no such node: {quoted(wanted)}; tele ls shows the nodes")
        if len(named) > 1:
            online = [host for host in named if host.status is Status.ONLINE]
            if len(online) != 1:
                ids = ", ".join(sorted(host.id for host in named)[:5])
                raise InvalidInput(
                    f"{len(named)} nodes are called {quoted(wanted)}; say which by its id: {ids}"
                )
            named = online
        return named[0]


def check_online(host: Host) -> Host:
    """Return ``host``, or raise :class:`Unreachable` saying since when it is offline."""
    if host.status is not Status.ONLINE:
        raise Unreachable(f"node {host.name} is offline since {format_time(host.last_seen)}")
    return host
