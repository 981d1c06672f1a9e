"""What do members of a cluster say to each other over SSH (docs/protocols/tunnel)?

A node that dials a proxy says :data:`TUNNEL` once; from then on the proxy opens a
:data:`VISITOR` channel for each visitor, and the node :data:`AUTH` channels for its own calls
of the API. A proxy that dials another one opens :data:`VISITOR` channels, too: for a node
whose tunnel ends there.

Invariants:

* Names are of our own domain (RFC 4250, section 4.6.1): who is no member of ours does not
  know them and refuses.
* What is read is read to its last byte.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from tele.errors import ProtocolError
from tele.model.addresses import plain_host
from tele.wire.fields import Reader, string, uint32

#: Channel, proxy to node and proxy to proxy: a visitor for the SSH server of a node.
VISITOR: Final = b"visitor@tele"
#: Channel, node to proxy: a stream to auth, which the proxy passes on as it is.
AUTH: Final = b"auth@tele"
#: Global request, node to proxy: visitors are welcome on this connection.
TUNNEL: Final = b"tunnel@tele"
#: Global request, proxy to node: no new visitors will come, dial somebody else.
LEAVING: Final = b"leaving@tele"

INSTANCE_SIZE: Final = 16
_TEXT_LIMIT: Final = 255


def auth_as_destination(cluster: str) -> str:
    """Return what auth is called where others have a host id: clients come to it, too."""
    return f"auth.{cluster}"


@frozen
class Visitor:
    """Who is coming, and to which node. ``remote_addr`` is where they dialled from."""

    host_id: str
    remote_addr: tuple[str, int]

    def encode(self) -> bytes:
        """Return the data of CHANNEL_OPEN."""
        host, port = self.remote_addr
        return string(self.host_id.encode()) + string(host.encode()) + uint32(port)

    @classmethod
    def decode(cls, data: bytes) -> Visitor:
        """Read what :meth:`encode` wrote. Raises :class:`ProtocolError`."""
        reader = Reader(data)
        host_id, host, port = reader.text(_TEXT_LIMIT), reader.text(_TEXT_LIMIT), reader.uint32()
        reader.end()
        if port > 0xFFFF or not host.isprintable():
            raise ProtocolError("a visitor from an address that none has")
        return cls(host_id, (plain_host(host), port))


@frozen
class Hello:
    """Which run of a node this is: ``instance`` is 16 random bytes, new at each start."""

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
            raise ProtocolError("an instance of another size")
        return cls(instance)
