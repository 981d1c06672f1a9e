"""Which nodes does a proxy know when it is started while auth is unreachable?

Those that it knew last, from a cached list beside the cached state of the cluster. It uses them
until auth sends the list.

Invariants:

* Nodes that auth would have forgotten by now are not restored, nor are removed nodes, which the
  cluster's state names.
* The list has addresses and labels of nodes. The cluster's state and each node decide on access.
* Writes are limited in rate: the larger the fleet, the fewer.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.errors import Unavailable
from tele.log import make_logger
from tele.loop import now
from tele.membership.member import Member
from tele.model.identity import HostRole
from tele.model.presence import FORGET_AFTER
from tele.routing.index import NodeIndex

#: Seconds between two writes, and how many nodes make it a second more.
SAVE_SECONDS: Final = 1.0
NODES_PER_SECOND: Final = 1000

_log: Final = make_logger(__name__)


class KnownNodes:
    """Saves the nodes of ``index`` with the state of ``member``."""

    def __init__(self, clock: IReactorTime, member: Member, index: NodeIndex) -> None:
        self._clock = clock
        self._member = member
        self._index = index
        self._timer: IDelayedCall | None = None

    def restore(self) -> None:
        """Load the saved nodes into the index."""
        oldest = now(self._clock) - FORGET_AFTER
        nodes = [node for node in self._member.memory.nodes if node.last_seen > oldest]
        if nodes:
            self._index.restore(nodes)
            with suppress(Unavailable):  # without a state no user is admitted
                for gone in self._member.policy.revoked_hosts(HostRole.NODE):
                    self._index.revoke(gone.host_id, gone.before)
            _log.info("nodes restored from the cached list", count=len(self._index))

    def changed(self) -> None:
        """The index has changed: save it soon."""
        if self._timer is None:
            pause = SAVE_SECONDS + len(self._index) / NODES_PER_SECOND
            self._timer = self._clock.callLater(pause, self._save)

    def _save(self) -> None:
        self._timer = None
        if self._index.is_complete:
            self._member.memory.keep_nodes(tuple(self._index))
        else:
            self.changed()  # auth is still sending the list

    def stop(self) -> None:
        """Save changes that are not saved yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if self._index.is_complete:
                self._member.memory.keep_nodes(tuple(self._index))
