"""May the user connect to the node that the index found?

Invariants:

* Access is decided before anything is dialled. Unknown, ambiguous, offline and denied are different
  errors.
* Nothing is found after the user's certificate has expired.
* Each decision is counted for the user, who has a limited rate of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime

from tele.errors import AccessDenied, InvalidInput
from tele.loop import Expiry, now
from tele.model import access
from tele.model.addresses import Address
from tele.model.identity import UserIdentity
from tele.model.presence import Host
from tele.rbac.policy import Policy
from tele.routing.index import NodeIndex, check_online

#: Ports that mean a node's SSH server, beside the port that it has.
SSH_PORTS: Final = frozenset({22, 3022})
#: Characters of the name of a node.
TARGET_LIMIT: Final = 255


class NodeFinder:
    """Finds nodes of ``index`` for users.

    ``has_tunnel(host_id)``: the node has a tunnel here. ``count_decision(user)`` raises when the
    user has caused too many.
    """

    def __init__(
        self,
        clock: IReactorTime,
        index: NodeIndex,
        policy: Callable[[], Policy],
        has_tunnel: Callable[[str], bool],
        count_decision: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._index = index
        self._policy = policy
        self._has_tunnel = has_tunnel
        self._count_decision = count_decision

    def get(self, host: Host) -> Host:
        """Return ``host`` as it is known now."""
        return self._index.get(host.id) or host

    def find(self, identity: UserIdentity, expiry: Expiry, wanted: str, port: int) -> Host:
        """Return the node that ``wanted`` names. Raises a :class:`tele.errors.TeleError`."""
        policy, moment = self._policy(), now(self._clock)
        if expiry.has_passed:
            moment = max(moment, identity.expires)

        def denied(host: Host) -> access.Denied | None:
            self._count_decision(identity.user)
            return policy.may_connect(identity, host.labels, moment, host.id)

        if len(wanted) > TARGET_LIMIT:
            raise InvalidInput(f"the name of a node has at most {TARGET_LIMIT} characters")
        host = self._index.find(wanted, lambda host: denied(host) is None)
        problem = denied(host)
        if problem is not None:
            raise AccessDenied(f"denied: {problem.message}", problem.reason.value)
        ports = {Address.parse(address)[1] for address in host.addresses} | SSH_PORTS
        if port not in ports:
            raise InvalidInput(f"port {port} of {host.name} is not its SSH port")
        # A tunnel that is here is newer than what auth knows, and so is an attempt to connect to a
        # host that does not announce itself.
        return host if host.sshd or self._has_tunnel(host.id) else check_online(host)
