"""Which node does a name, an id or a label mean, and what if there is none or more than one?

Invariants:

* A lookup by name costs the same in a cluster of ten nodes and of a hundred thousand. A lookup by
  labels costs as many steps as the rarest label has nodes, up to a limit, and ends when it is known
  to be ambiguous.
* Unknown, ambiguous and offline are different errors.
* Names are compared without regard to case, as in DNS; labels exactly.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import chain, islice
from typing import TypeVar

from tele.errors import InvalidInput, NotFound, Unreachable, quoted
from tele.model.api.hosts import HostChanges
from tele.model.codec import format_time
from tele.model.presence import Host, Status

K = TypeVar("K")

#: Labels that a selector may have.
SELECTOR_LIMIT = 16
#: The separator of two labels; a value may contain the character, too.
_NEXT_LABEL = re.compile(r"[,+](?=[^,+=]*=|$)")
#: How many nodes an error about an ambiguous name lists.
SHOWN = 5
#: Nodes that are checked for one selector: each of them is a decision.
CANDIDATES_LIMIT = 5000


class NodeIndex:
    """The cluster's nodes by id, by name and by label."""

    def __init__(self, cluster: str) -> None:
        self._suffix = f".{cluster.lower()}"
        #: Whether auth has sent the complete list; before that, no name is unknown.
        self.is_loaded = False
        #: Whether there is a list from before a restart, which is used until then.
        self._restored = False
        #: Whether auth is sending a new complete list.
        self._beginning = False
        #: While it does: nodes that were known before and not sent yet.
        self._stale: set[str] = set()
        self._by_id: dict[str, Host] = {}
        self._by_name: dict[str, dict[str, Host]] = defaultdict(dict)
        self._by_label: dict[tuple[str, str], dict[str, Host]] = defaultdict(dict)

    def put(self, host: Host) -> None:
        """Add or replace a node."""
        self.remove(host.id)
        key = host.id.lower()
        self._stale.discard(key)
        self._by_id[key] = host
        self._by_name[host.name.lower()][key] = host
        for label in host.labels.items():
            self._by_label[label][key] = host

    def remove(self, host_id: str) -> None:
        """Remove a node; an unknown one is ignored."""
        key = host_id.lower()
        host = self._by_id.pop(key, None)
        if host is None:
            return
        _drop(self._by_name, host.name.lower(), key)
        for label in host.labels.items():
            _drop(self._by_label, label, key)

    def revoke(self, host_id: str, before: datetime) -> None:
        """A node was removed from the cluster: remove it, unless it was seen after ``before``."""
        host = self.get(host_id)
        if host is not None and host.last_seen < before:
            self.remove(host_id)

    def change(self, changes: HostChanges) -> None:
        """Apply changes that auth sends.

        During a new complete list, as after a restart of auth, the nodes known before stay.
        """
        if changes.first:
            self._beginning = True
            self._stale = set(self._by_id)
        for host in changes.items:
            self.put(host)
        for host_id in changes.gone:
            self.remove(host_id)
        if changes.last:
            self.is_loaded = True
            self._beginning = False
            stale, self._stale = self._stale, set()
            for host_id in stale:
                self.remove(host_id)

    def restore(self, hosts: Iterable[Host]) -> None:
        """Add the nodes known before a restart; they are used until auth sends the list."""
        for host in hosts:
            self.put(host)
        self._restored = True

    @property
    def is_complete(self) -> bool:
        """Whether these are all nodes that auth sent last."""
        return self.is_loaded and not self._beginning

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Host]:
        return iter(self._by_id.values())

    def get(self, host_id: str) -> Host | None:
        """Return the node with this id, if it is known."""
        return self._by_id.get(host_id.lower())

    def find(self, wanted: str, visible: Callable[[Host], bool] = lambda _: True) -> Host:
        """Return the node that ``wanted`` names: by name, ``name.cluster``, host id, or labels.

        Labels are ``env=prod,role=db``, or with ``+``, since OpenSSH accepts no commas in names; of
        a key that is given twice either value matches. Labels find ``visible`` nodes only.

        An offline node is returned too. Raises :class:`NotFound`, or :class:`InvalidInput` when
        several nodes match and not exactly one of them is online.
        """
        if not self.is_loaded and not self._restored:
            raise Unreachable(
                "this proxy does not know the nodes yet: auth is unreachable; try again"
            )
        try:
            return self._find(wanted, visible)
        except NotFound:
            if self.is_loaded:
                raise
            raise Unreachable(
                f"{quoted(wanted)} is not among the nodes that this proxy knew before its restart,"
                " and auth is unreachable; try again"
            ) from None

    def _find(self, wanted: str, visible: Callable[[Host], bool]) -> Host:
        name = wanted.rstrip(".")
        if name.lower().endswith(self._suffix):
            name = name[: -len(self._suffix)]
        if "=" in name:
            return _one(wanted, *self._labelled(wanted, name, visible), "match")
        host = self._by_id.get(name.lower())
        if host is not None:
            return host
        called = self._by_name.get(name.lower(), {}).values()
        return _one(wanted, list(islice(called, CANDIDATES_LIMIT)), False, "are called")

    def _labelled(
        self, wanted: str, name: str, visible: Callable[[Host], bool]
    ) -> tuple[list[Host], bool]:
        """Return the nodes that match; True: there may be more, but more than one is online."""
        # For each key the nodes with each of its values: no node is in two of these.
        sets: dict[str, dict[str, dict[str, Host]]] = defaultdict(dict)
        for number, part in enumerate(_NEXT_LABEL.split(name)):
            key, equals, value = part.partition("=")
            if not equals or not key or number >= SELECTOR_LIMIT:
                raise InvalidInput(
                    f"{quoted(wanted)} is not a selector: expected key=value,key=value"
                )
            sets[key][value] = self._by_label.get((key, value), {})
        rarest, *others = sorted(
            (list(each.values()) for each in sets.values()),
            key=lambda any_of: sum(map(len, any_of)),
        )
        matching: list[Host] = []
        online = 0
        for number, (node, host) in enumerate(chain.from_iterable(each.items() for each in rarest)):
            if number >= CANDIDATES_LIMIT:
                raise InvalidInput(f"{quoted(wanted)} matches too many nodes; add labels")
            if all(any(node in each for each in any_of) for any_of in others) and visible(host):
                matching.append(host)
                online += host.status is Status.ONLINE
                if online > SHOWN:
                    return matching, True
        return matching, False


def _drop(index: dict[K, dict[str, Host]], key: K, host_id: str) -> None:
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
                f"{number} nodes {verb} {quoted(wanted)}; name one by its id:"
                f" {', '.join(some)}{others}"
            )
        hosts = online
    return hosts[0]


def check_online(host: Host) -> Host:
    """Return ``host``, or raise :class:`Unreachable` saying since when it is offline."""
    if host.status is not Status.ONLINE:
        raise Unreachable(f"node {host.name} is offline since {format_time(host.last_seen)}")
    return host
