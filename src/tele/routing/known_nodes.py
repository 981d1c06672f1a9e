"""Which nodes does a proxy know that was started while auth is away?

Those that it knew last. They are kept beside the state of the cluster, and count like that: a proxy
goes on with what it was told, as if it had not been restarted, until auth tells it anew.

Invariants:

* Nodes that nobody has heard of for so long that auth has forgotten them are not known, nor are
  those that were removed, of which the cluster's state tells also when the list was kept before.
* What is kept says where nodes are and what labels they have. Who may go there, the cluster's
  state and each node itself decide.
* A fleet that changes all the time is written now and then: the larger it is, the less often.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

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
    """Keeps the nodes of ``index`` with what ``member`` remembers."""

    def __init__(self, reactor: Any, member: Member, index: NodeIndex) -> None:
        self._reactor = reactor
        self._member = member
        self._index = index
        self._timer: Any = None

    def restore(self) -> None:
        """Know the nodes that were kept, if there are any."""
        oldest = now(self._reactor) - FORGET_AFTER
        nodes = [node for node in self._member.memory.nodes if node.last_seen > oldest]
        if nodes:
            self._index.restore(nodes)
            with suppress(Unavailable):  # nobody gets in without a state; then they are looked at
                for gone in self._member.policy.revoked_hosts(HostRole.NODE):
                    self._index.revoke(gone.host_id, gone.before)
            count = len(self._index)
            _log.info("{count} nodes are known from before; auth is asked anew", count=count)

    def changed(self) -> None:
        """Auth has told something: keep it soon."""
        if self._timer is None:
            pause = SAVE_SECONDS + len(self._index) / NODES_PER_SECOND
            self._timer = self._reactor.callLater(pause, self._save)

    def _save(self) -> None:
        self._timer = None
        if self._index.is_complete:
            self._member.memory.keep_nodes(tuple(self._index))
        else:
            self.changed()  # they are being told: half of them are not all

    def stop(self) -> None:
        """Keep what is not kept yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if self._index.is_complete:
                self._member.memory.keep_nodes(tuple(self._index))
