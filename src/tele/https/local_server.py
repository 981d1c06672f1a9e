"""Which account is the peer of auth's socket on its own machine? The kernel says so."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory

from tele.https.channel import ApiChannel
from tele.https.connections import ApiFactory
from tele.model.identity import Identity


class LocalFactory(ServerFactory):
    """Serves the same API on a Unix socket, whose peer is known by its account.

    ``identify(uid)`` returns the caller that the account is, or None to close the connection.
    """

    noisy = False

    def __init__(self, api: ApiFactory, identify: Callable[[int], Identity | None]) -> None:
        self._api = api
        self._identify = identify

    def buildProtocol(self, addr: IAddress | None) -> LocalChannel | None:
        """Return the protocol of a new connection."""
        if self._api.full:
            return None
        channel = LocalChannel(self._api)
        channel.factory = self._api
        channel.identify = self._identify
        return channel


class LocalChannel(ApiChannel):
    """One connection on a Unix socket."""

    identify: Callable[[int], Identity | None]

    def connectionMade(self) -> None:
        """Ask the kernel for the peer's account (unix(7), SO_PEERCRED) before anything is read."""
        credentials = self.transport.socket.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        _, uid, _ = struct.unpack("3i", credentials)
        self.local_identity = self.identify(uid)
        super().connectionMade()
        if self.local_identity is None:
            self.transport.abortConnection()
