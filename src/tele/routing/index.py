"""Which node does a visitor mean?

Invariants:

* A look-up by name costs the same whether the cluster has ten nodes or a hundred thousand;
  one by labels costs what the rarest of them has nodes, up to a limit, and no more than is
  needed to know that several are meant.
* Four answers are four different sentences: unknown, ambiguous, offline, found.
* Names compare without regard to case, as DNS names do; labels as they are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import chain, islice
from typing import Any

from tele.errors import InvalidInput, NotFound, Unreachable, quoted
from tele.model.api.hosts import HostChanges
from tele.model.codec import format_time
from tele.model.presence import Host, Status

#: Labels that a selector may have.
SELECTOR_LIMIT = 16
#: What is between two labels of a selector; a value may have the character, too.
_NEXT_LABEL = re.compile(r"[,+](?=[^,+=]*=|$)")
#: How many are listed when several nodes are meant.
SHOWN = 5
#: Nodes that are looked at for one selector: each of them is a decision.
LOOKED_AT_LIMIT = 5000


class NodeIndex:
    """The cluster's nodes by id, by name and by label."""

    def __init__(self, cluster: str) -> None:
        self._suffix = f".{cluster.lower()}"
        #: Whether auth has told which nodes there are; until then nobody is unknown.
        self.told = False
        #: Whether there is a list of before a restart: who is on it is found until then.
        self._restored = False
        #: Whether nodes are being told anew, and not all of them were told yet.
        self._beginning = False
        #: While they are: those that were known before and not told yet.
        self._stale: set[str] = set()
        self._by_id: dict[str, Host] = {}
        self._by_name: dict[str, dict[str, Host]] = defaultdict(dict)
        self._by_label: dict[tuple[str, str], dict[str, Host]] = defaultdict(dict)

    def put(self, host: Host) -> None:
        """Take a node as it is now."""
        self.remove(host.id)
        key = host.id.lower()
        self._stale.discard(key)
        self._by_id[key] = host
        self._by_name[host.name.lower()][key] = host
        for label in host.labels.items():
            self._by_label[label][key] = host

    def remove(self, host_id: str) -> None:
        """Forget a node; one that is not known is fine."""
        key = host_id.lower()
        host = self._by_id.pop(key, None)
        if host is None:
            return
        _drop(self._by_name, host.name.lower(), key)
        for label in host.labels.items():
            _drop(self._by_label, label, key)

    def revoke(self, host_id: str, before: datetime) -> None:
        """Forget a node that was removed, unless it has come back: it was heard of since then."""
        host = self.get(host_id)
        if host is not None and host.last_seen < before:
            self.remove(host_id)

    def change(self, changes: HostChanges) -> None:
        """Take what auth says of the cluster's nodes.

        While it begins anew, as after a restart of auth, what was known stays good.
        """
        if changes.first:
            self._beginning = True
            self._stale = set(self._by_id)
        for host in changes.items:
            self.put(host)
        for host_id in changes.gone:
            self.remove(host_id)
        if changes.last:
            self.told = True
            self._beginning = False
            stale, self._stale = self._stale, set()
            for host_id in stale:
                self.remove(host_id)

    def restore(self, hosts: Iterable[Host]) -> None:
        """Take the nodes that were known before a restart: they are good until auth says more."""
        for host in hosts:
            self.put(host)
        self._restored = True

    @property
    def is_complete(self) -> bool:
        """Whether these are all nodes, as auth told them last."""
        return self.told and not self._beginning

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Host]:
        return iter(self._by_id.values())

    def get(self, host_id: str) -> Host | None:
        """Return the node with this id, if it is known."""
        return self._by_id.get(host_id.lower())

    def find(self, wanted: str, visible: Callable[[Host], bool] = lambda _: True) -> Host:
        """Return the one node that ``wanted`` means: name, ``name.cluster``, host id, or labels
        (``env=prod,role=db``; OpenSSH takes no commas in names, so ``+`` does as well; of a key
        that is given twice any of its values), of which only ``visible`` nodes count.

        A node that is offline is returned too. Raises :class:`NotFound`, or
        :class:`InvalidInput` when several nodes are meant and not exactly one of them is
        online.
        """
        if not self.told and not self._restored:
            raise Unreachable("this proxy does not know the nodes yet: auth is away; try again")
        try:
            return self._find(wanted, visible)
        except NotFound:
            if self.told:
                raise
            raise Unreachable(
                f"{quoted(wanted)} is not among the nodes that this proxy knew before its restart,"
                " and auth is away; try again"
            ) from None

    def _find(self, wanted: str, visible: Callable[[Host], bool]) -> Host:
        name = wanted.rstrip(".")
        if name.lower().endswith(self._suffix):
            name = name[: -len(self._suffix)]
        if "=" in name:
            return _one(wanted, *self._labelled(wanted, name, visible), "fit")
        host = self._by_id.get(name.lower())
        if host is not None:
            return host
        called = self._by_name.get(name.lower(), {}).values()
        return _one(wanted, list(islice(called, LOOKED_AT_LIMIT)), False, "are called")

    def _labelled(
        self, wanted: str, name: str, visible: Callable[[Host], bool]
    ) -> tuple[list[Host], bool]:
        """Return the nodes that fit; True: there may be more, but it is no single one anyway."""
        # For each key the nodes with each of its values: no node is in two of them.
        sets: dict[str, dict[str, dict[str, Host]]] = defaultdict(dict)
        for number, part in enumerate(_NEXT_LABEL.split(name)):
            key, equals, value = part.partition("=")
            if not equals or not key or number >= SELECTOR_LIMIT:
                raise InvalidInput(f"{quoted(wanted)} is no selector: expected key=value,key=value")
            sets[key][value] = self._by_label.get((key, value), {})
        rarest, *others = sorted(
            (list(each.values()) for each in sets.values()),
            key=lambda any_of: sum(map(len, any_of)),
        )
        fitting: list[Host] = []
        online = 0
        for number, (node, host) in enumerate(chain.from_iterable(each.items() for each in rarest)):
            if number >= LOOKED_AT_LIMIT:
                raise InvalidInput(f"{quoted(wanted)} fits too many nodes; say more labels")
            if all(any(node in each for each in any_of) for any_of in others) and visible(host):
                fitting.append(host)
                online += host.status is Status.ONLINE
                if online > SHOWN:
                    return fitting, True
        return fitting, False


def _drop(index: dict[Any, dict[str, Host]], key: Any, host_id: str) -> None:
    hosts = index.get(key)
    if hosts is not None:
        hosts.pop(host_id, None)
        if not hosts:
            del index[key]


def _one(wanted: str, hosts: list[Host], more: bool, verb: str) -> Host:
    if not hosts:
        raise NotFound(f"no such node: {quoted(wanted)}; tele ls shows the nodes")
    if len(hosts) > 1:
        online = [host for host in hosts if host.status is Status.ONLINE]
        if len(online) != 1:
            some = sorted(f"{host.name} ({host.id})" for host in online or hosts)[:SHOWN]
            left = len(online or hosts) - len(some)
            others = " and more" if more else f" and {left} more" if left else ""
            number = f"more than {SHOWN}" if more else len(hosts)
            raise InvalidInput(
                f"{number} nodes {verb} {quoted(wanted)}; say which by its id:"
                f" {', '.join(some)}{others}"
            )
        hosts = online
    return hosts[0]


def check_online(host: Host) -> Host:
    """Return ``host``, or raise :class:`Unreachable` saying since when it is offline."""
    if host.status is not Status.ONLINE:
        raise Unreachable(f"node {host.name} is offline since {format_time(host.last_seen)}")
    return host
