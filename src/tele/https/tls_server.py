"""What comes before HTTP on auth's port? TLS, and before that perhaps a proxy's word.

A proxy of the cluster passes TLS streams on without opening them. It says in one line before them
where the client comes from, signed with its key, so that auth counts, and writes into the audit,
the client's address and not the proxy's.

Invariants:

* Whether a line is a proxy's word is not decided here; one that is not good counts for nothing,
  and the connection is then from where it comes from.
* Until the line is read whole nothing else is looked at; the time of the handshake runs.
* A network that makes handshakes and shows no member's certificate has a rate of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.protocols.tls import TLSMemoryBIOProtocol

from tele.errors import PeerError
from tele.https.channel import ApiChannel, TlsFactory
from tele.log import make_logger
from tele.model.addresses import plain_address, plain_host

_log: Final = make_logger(__name__)

#: Given the first bytes: how many of them are a proxy's word, and the address that it vouches for.
#: None: more bytes are needed. Raises a :class:`PeerError` for what cannot become one.
Preface = Callable[[bytes], tuple[int, tuple[str, int] | None] | None]


def no_preface(_data: bytes) -> tuple[int, tuple[str, int] | None]:
    """Take TLS only."""
    return 0, None


class TlsConnection(TLSMemoryBIOProtocol):
    """TLS of one connection, after a proxy's word if there is one."""

    factory: PrefacedTlsFactory
    wrappedProtocol: ApiChannel
    transport: Any
    _seen = b""
    _begun = False
    _claimed: IAddress | None = None

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the network."""
        if not self._begun:
            self._seen += data
            try:
                found = self.factory.preface(self._seen)
            except PeerError as error:
                _log.debug("refused {peer!r}: {why!s}", peer=self.getPeer(), why=error)
                self.abortConnection()
                return
            if found is None:
                return
            size, address = found
            data, self._seen, self._begun = self._seen[size:], b"", True
            if address is not None:
                self._come_from(*address)
            channel = self.wrappedProtocol
            if not channel.api.may_shake_hands(channel.source):
                self.abortConnection()
                return
        if data:
            super().dataReceived(data)

    def _come_from(self, host: str, port: int) -> None:
        address = plain_address(host)
        if address is None:
            return  # a proxy that listens on something else than TCP
        proxy = self.getPeer()
        kind = IPv4Address if address.version == 4 else IPv6Address
        self._claimed = kind("TCP", plain_host(host), port)
        self.wrappedProtocol.moved(proxy)

    def getPeer(self) -> Any:
        """Return where the client comes from."""
        return self._claimed or super().getPeer()


class PrefacedTlsFactory(TlsFactory):
    """Makes TLS connections before which a proxy may say where they come from."""

    protocol = TlsConnection
    preface: Preface = staticmethod(no_preface)
