"""How does an SSH transport use the transport below it?

Invariants:

* A link is busy from the moment it could not send everything until it has sent it all.
* Bytes given to a link are copied or sent before the call returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from tele.sockets.direct import DirectSocket


class Link(Protocol):
    """The connection to the peer."""

    @property
    def busy(self) -> bool:
        """Whether bytes wait to be sent."""

    @property
    def waiting(self) -> int:
        """About how many bytes wait to be sent."""

    def send(self, view: memoryview) -> None:
        """Send bytes of a shared buffer."""

    def close(self) -> None:
        """Close once everything is sent."""

    def abort(self) -> None:
        """Close now."""

    def pause(self) -> None:
        """Receive no more for now."""

    def resume(self) -> None:
        """Receive again."""


class SocketLink:
    """A direct socket: sends at once, keeps only what the kernel does not take."""

    __slots__ = ("_socket",)

    def __init__(self, socket: DirectSocket) -> None:
        self._socket = socket

    @property
    def busy(self) -> bool:
        """See :class:`Link`."""
        return self._socket.pending() > 0

    @property
    def waiting(self) -> int:
        """See :class:`Link`."""
        return self._socket.pending()

    def send(self, view: memoryview) -> None:
        """See :class:`Link`."""
        self._socket.send_now(view)

    def close(self) -> None:
        """See :class:`Link`."""
        self._socket.loseConnection()

    def abort(self) -> None:
        """See :class:`Link`."""
        self._socket.abortConnection()

    def pause(self) -> None:
        """See :class:`Link`."""
        self._socket.pauseProducing()

    def resume(self) -> None:
        """See :class:`Link`."""
        self._socket.resumeProducing()


@implementer(IPushProducer)
class TransportLink:
    """Any other Twisted transport, as one of its push producers if it has them."""

    __slots__ = ("_drained", "_registered", "_transport", "busy", "waiting")

    def __init__(self, transport: Any, drained: Callable[[], None]) -> None:
        self._transport = transport
        self._drained = drained
        self.busy = False
        self.waiting = 0
        register = getattr(transport, "registerProducer", None)
        self._registered = register is not None
        if register is not None:
            register(self, True)

    def send(self, view: memoryview) -> None:
        """See :class:`Link`."""
        if self.busy:
            self.waiting += len(view)
        self._transport.write(bytes(view))

    def close(self) -> None:
        """See :class:`Link`. A transport with a producer would wait for it."""
        self._unregister()
        self._transport.loseConnection()

    def abort(self) -> None:
        """See :class:`Link`."""
        self._unregister()
        getattr(self._transport, "abortConnection", self._transport.loseConnection)()

    def pause(self) -> None:
        """See :class:`Link`."""
        self._call("pauseProducing")

    def resume(self) -> None:
        """See :class:`Link`."""
        self._call("resumeProducing")

    def pauseProducing(self) -> None:
        """The buffer of the transport is full."""
        self.busy = True

    def resumeProducing(self) -> None:
        """The buffer of the transport is empty."""
        self.busy = False
        self.waiting = 0
        self._drained()

    def stopProducing(self) -> None:
        """The connection is closed."""
        self.busy = True
        self._registered = False

    def _call(self, name: str) -> None:
        method = getattr(self._transport, name, None)
        if method is not None:
            method()

    def _unregister(self) -> None:
        if self._registered:
            self._registered = False
            self._transport.unregisterProducer()


def make_link(transport: Any, drained: Callable[[], None]) -> Link:
    """Return the link over ``transport``; ``drained`` is called when it is not busy any more."""
    if isinstance(transport, DirectSocket):
        return SocketLink(transport)
    return TransportLink(transport, drained)
