"""Which plain host keys do clients see behind proxies, and who replaces one?

Clients that know no host certificates compare such a key with one that they have from elsewhere.

Invariants:

* A user learns keys of hosts that they may see, and of no other.
* A key that was replaced proves no login any more, from the commit on that has the event of it.
* The private key of a proxy is in no answer.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from tele.auth.authorities import Authorities
from tele.auth.authorizer import Authorizer, user_caller
from tele.auth.handlers import Handler, handler
from tele.auth.journal import Journal
from tele.auth.operations.keeping import reason_of
from tele.auth.presence import Hosts
from tele.auth.state import State
from tele.auth.target_keys import TargetKeys
from tele.errors import Conflict, NotFound, quoted
from tele.loop import now
from tele.model.api import plain_keys as api
from tele.model.api import table
from tele.model.api.operation import Nothing
from tele.model.identity import Caller, HostRole
from tele.model.presence import Host


class PlainKeyOperations:
    """Operations on the keys ``keys`` of the cluster ``cluster``."""

    def __init__(
        self,
        cluster: str,
        clock: IReactorTime,
        authorities: Authorities,
        hosts: Hosts,
        state: State,
        keys: TargetKeys,
        authorizer: Authorizer,
        journal: Journal,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._authorities = authorities
        self._hosts = hosts
        self._state = state
        self._keys = keys
        self._authorizer = authorizer
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.LIST_PLAIN_KEYS, self.list_plain_keys),
            handler(table.REPLACE_PLAIN_KEY, self.replace_plain_key),
        )

    async def list_plain_keys(self, request: api.ListPlainKeys, caller: Caller) -> api.PlainKeyList:
        """Return the keys of a host behind each proxy."""
        host = self._find(HostRole.NODE, request.host)
        if host is None or not await self._is_visible(host, caller):
            raise NotFound(f"no such node: {quoted(request.host)}; tele ls shows the nodes")
        self._check(host)
        found, suite, seal = [], self._authorities.suite, self._authorities.seal
        for proxy in sorted(self._hosts.all(HostRole.PROXY), key=lambda each: each.name):
            key = (await self._keys.key(proxy.id, host.id, suite, seal)).public
            found.append(api.PlainKey(proxy.name, proxy.id, key.line, key.fingerprint))
        names = (host.name, f"{host.name}.{self._cluster}", f"{host.id}.{self._cluster}")
        every = tuple(dict.fromkeys((*names, *host.names)))
        return api.PlainKeyList(host.name, host.id, every, tuple(found))

    async def replace_plain_key(self, request: api.ReplacePlainKey, caller: Caller) -> Nothing:
        """Give a proxy another key for a host."""
        reason = reason_of(request.reason)
        host = self._find(HostRole.NODE, request.host)
        if host is None:
            raise NotFound(f"no such node: {quoted(request.host)}; tele ls shows the nodes")
        proxy = self._find(HostRole.PROXY, request.proxy)
        if proxy is None:
            raise NotFound(
                f"no such proxy: {quoted(request.proxy)}; tele nodes keys {host.name} shows them"
            )
        self._check(host)
        change = await self._keys.replaced(proxy.id, host.id)
        event = self._journal.event(
            "node.key_replace", caller, server_id=host.id, server_name=host.name,
            proxy_id=proxy.id, proxy=proxy.name, reason=reason,
        )  # fmt: skip
        await self._journal.append(event, changes={event.id: [change]})
        return Nothing()

    def _check(self, host: Host) -> None:
        """Raise :class:`Conflict` if clients see no plain key of the host."""
        recording = self._state.recording
        if not recording.proxy_plain_keys:
            raise Conflict(
                "proxies answer with host certificates only: session_recording.proxy_plain_keys of"
                " the cluster is false (tele get cluster)"
            )
        if not (recording.mode.by_proxies or host.sshd):
            raise Conflict(
                f"sessions of {host.name} do not end at proxies (session_recording.mode is"
                f" {recording.mode.value}): it shows its own host key"
            )

    def _find(self, role: HostRole, wanted: str) -> Host | None:
        by_id = self._hosts.find(role, wanted)
        if by_id is not None:
            return by_id
        # Names are unique, whatever the case of their letters.
        return self._hosts.named(role, wanted)

    async def _is_visible(self, host: Host, caller: Caller) -> bool:
        if await self._authorizer.may(caller, "node", "list"):
            return True
        policy, moment = self._state.policy, now(self._clock)
        return policy.may_reach(user_caller(caller), host.labels, moment, host.id) is None
