"""Does a client's SSH pass through this proxy to a node, or does it end here?

Invariants:

* It ends here for every host that cannot record itself, and for all while sessions are recorded by
  proxies. The client cannot choose.
* It is decided when the connection begins: sessions that run go on as they began.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tele.conch.connection.channel import Channel
from tele.conch.connection.relay import StreamEnd
from tele.conch.connection.stream import StreamChannel
from tele.model.presence import Host
from tele.model.resources import RecordingMode
from tele.proxy.terminating.pipe import connect_pipe
from tele.proxy.terminating.servers import TargetServers
from tele.routing.dialer import NodeDialer
from tele.sockets.direct import peer_address

#: The modes in which proxies record sessions.
PROXY_MODES: Final = frozenset((RecordingMode.PROXY, RecordingMode.PROXY_SYNC))


class TerminatingRoute:
    """Connects clients to hosts, as :class:`NodeDialer` does.

    ``ends_here(host)``: the client's SSH is ended in this proxy, by one of ``servers``.
    """

    def __init__(
        self,
        clock: IReactorTime,
        dialer: NodeDialer,
        servers: TargetServers,
        ends_here: Callable[[Host], bool],
    ) -> None:
        self._clock = clock
        self._dialer = dialer
        self._servers = servers
        self._ends_here = ends_here

    def open(self, host: Host, remote_addr: tuple[str, int], **channel: Any) -> Deferred[Channel]:
        """See :meth:`NodeDialer.open`."""
        if not self._ends_here(host):
            return self._dialer.open(host, remote_addr, **channel)
        return Deferred.fromCoroutine(self._open(host, remote_addr, channel))

    async def _open(
        self, host: Host, remote_addr: tuple[str, int], channel: dict[str, Any]
    ) -> Channel:
        client = peer_address(remote_addr)
        protocol = await self._servers.accept(host, client)
        return StreamChannel(protocol, client, peer_address((host.name, 0)), **channel)

    def connect(self, host: Host, remote_addr: tuple[str, int]) -> Deferred[StreamEnd]:
        """See :meth:`NodeDialer.connect`."""
        if not self._ends_here(host):
            return self._dialer.connect(host, remote_addr)
        return Deferred.fromCoroutine(self._connect(host, remote_addr))

    async def _connect(self, host: Host, remote_addr: tuple[str, int]) -> StreamEnd:
        client = peer_address(remote_addr)
        protocol = await self._servers.accept(host, client)
        stream = StreamEnd()
        connect_pipe(self._clock, stream, client, protocol, peer_address((host.name, 0)))
        return stream
