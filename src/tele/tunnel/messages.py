"""Which SSH channels and global requests do members of a cluster use (docs/protocols/tunnel)?

A node that dials a proxy sends :data:`TUNNEL` once. Then the proxy opens a :data:`CLIENT` channel
for each client, and the node :data:`AUTH` channels for its own calls of the API. A proxy that dials
another proxy opens :data:`CLIENT` channels for nodes whose tunnels end there.

Invariants:

* Names are private (RFC 4250, section 4.6.1): an implementation of others refuses them.
* Every message is parsed to its last byte.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from tele.errors import ProtocolError
from tele.model.addresses import plain_host
from tele.wire.fields import Reader, string, uint32

#: Channel, proxy to node and proxy to proxy: a client's connection to the SSH server of a node.
CLIENT: Final = b"client@tele"
#: Channel, node to proxy: a stream to auth, which the proxy relays unchanged.
AUTH: Final = b"auth@tele"
#: Global request, node to proxy: this connection is a tunnel; open :data:`CLIENT` channels on it.
TUNNEL: Final = b"tunnel@tele"
#: Global request, proxy to node: no new clients will come, dial another proxy.
LEAVING: Final = b"leaving@tele"

INSTANCE_SIZE: Final = 16
_TEXT_LIMIT: Final = 255


def auth_as_destination(cluster: str) -> str:
    """Return the destination of a signed client address that is for auth."""
    return f"auth.{cluster}"


@frozen
class ClientAddress:
    """What a proxy states about a client: the node it is for, and its (host, port)."""

    host_id: str
    remote_addr: tuple[str, int]

    def encode(self) -> bytes:
        """Return the data of CHANNEL_OPEN."""
        host, port = self.remote_addr
        return string(self.host_id.encode()) + string(host.encode()) + uint32(port)

    @classmethod
    def decode(cls, data: bytes) -> ClientAddress:
        """Read what :meth:`encode` wrote. Raises :class:`ProtocolError`."""
        reader = Reader(data)
        host_id, host, port = reader.text(_TEXT_LIMIT), reader.text(_TEXT_LIMIT), reader.uint32()
        reader.end()
        if port > 0xFFFF or not host.isprintable():
            raise ProtocolError("invalid client address")
        return cls(host_id, (plain_host(host), port))


@frozen
class Hello:
    """The data of :data:`TUNNEL`: ``instance`` is 16 random bytes, new at each start of a node."""

    instance: bytes

    def encode(self) -> bytes:
        """Return the data of the global request."""
        return string(self.instance)

    @classmethod
    def decode(cls, data: bytes) -> Hello:
        """Read what :meth:`encode` wrote. Raises :class:`ProtocolError`."""
        reader = Reader(data)
        instance = reader.string()
        reader.end()
        if len(instance) != INSTANCE_SIZE:
            raise ProtocolError(f"an instance has {INSTANCE_SIZE} bytes")
        return cls(instance)
