"""What is before HTTP on auth's port? TLS, and before that perhaps a preface of a proxy.

A proxy of the cluster relays TLS streams without decrypting them. Its preface is one line before
them with the address of the client, signed with the proxy's key, so that auth counts, and writes
into the audit, the client's address and not the proxy's.

Invariants:

* Another module verifies the preface; one that is not valid is ignored, and the connection has the
  address that it comes from.
* Until the preface is complete nothing else is read; the timeout of the handshake runs.
* A network has a rate of handshakes that show no member's certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.protocols.tls import TLSMemoryBIOProtocol

from tele.errors import PeerError
from tele.https.channel import ApiChannel, address_text
from tele.https.connections import TlsFactory
from tele.log import make_logger
from tele.model.addresses import plain_address, plain_host

_log: Final = make_logger(__name__)

#: Given the first bytes: how many of them are a preface, and the address that it vouches for.
#: None: more bytes are needed. Raises a :class:`PeerError` for what cannot become one.
Preface = Callable[[bytes], tuple[int, tuple[str, int] | None] | None]


def no_preface(_data: bytes) -> tuple[int, tuple[str, int] | None]:
    """Take TLS only."""
    return 0, None


class TlsConnection(TLSMemoryBIOProtocol):
    """TLS of one connection, after the preface if there is one."""

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
                _log.debug("preface refused", peer=address_text(self.getPeer()), error=str(error))
                self.abortConnection()
                return
            if found is None:
                return
            size, address = found
            data, self._seen, self._begun = self._seen[size:], b"", True
            if address is not None:
                self._relayed_from(*address)
            channel = self.wrappedProtocol
            if not channel.api.may_shake_hands(channel.source):
                self.abortConnection()
                return
        if data:
            super().dataReceived(data)

    def _relayed_from(self, host: str, port: int) -> None:
        address = plain_address(host)
        if address is None:
            return  # the proxy listens on something else than TCP
        proxy = self.getPeer()
        kind = IPv4Address if address.version == 4 else IPv6Address
        self._claimed = kind("TCP", plain_host(host), port)
        self.wrappedProtocol.relayed_by(proxy)

    def getPeer(self) -> Any:
        """Return the address of the client."""
        return self._claimed or super().getPeer()


class PrefacedTlsFactory(TlsFactory):
    """Makes TLS connections that may begin with a preface."""

    protocol = TlsConnection
    preface: Preface = staticmethod(no_preface)
