"""How are two channels of two connections spliced, as a jump host does?

Data of one are encrypted for the other from the buffer that they were decrypted into.

Invariants:

* A peer gets credit when what it sent has left on the other side: the queue between the two is
  at most one window in each direction.
* EOF and CLOSE pass through in order. A channel is confirmed when its other half is, and
  refused with the reason that the other half was refused with.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.conch.connection.backlog import Backlog
from tele.conch.connection.channel import Channel
from tele.conch.connection.channel_connection import ChannelConnection
from tele.conch.connection.relay import RelayObserver
from tele.log import make_logger

log = make_logger(__name__)


class SplicedChannel(Channel):
    """One of two halves."""

    other: SplicedChannel

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self._early = Backlog()
        #: Bytes that its peer has sent.
        self.passed = 0
        #: Is told what happens, if this half is the client's: what it has sent went to the stream.
        self.observer: RelayObserver | None = None
        #: What its peer has sent waits: the client may not have it yet.
        self._waits = False

    def data_view(self, view: memoryview) -> None:
        """Send data on; what is queued is credited when it has left."""
        self._pass_on(view, None)

    def extended_view(self, code: int, view: memoryview) -> None:
        """Send extended data on, with their type."""
        self._pass_on(view, code)

    def _pass_on(self, view: memoryview, code: int | None) -> None:
        if self.other.id is None or self._waits:
            self._early.append(view, code)
            return
        self.passed += len(view)
        waiting = self.other.send_view(view, code)
        self.consumed(len(view) - waiting)

    def _pass_on_early(self) -> None:
        """The other half is open: pass on what came before."""
        if self._waits:
            return
        early = self._early
        while early:
            view, code = early.first(self.localMaxPacket)
            with view:
                size = len(view)
                self._pass_on(view, code)
            early.drop(size)
        if self.remote_eof:
            self.other.send_eof()
        if self.remoteClosed:
            self.other.loseConnection()

    def _observe_open(self) -> None:
        """Tell the observer; what is for this half's peer waits as long as it says."""
        wait = None if self.observer is None else self.observer.opened(self.id)
        if wait is not None:
            self.other._waits = True
            wait.addCallbacks(self._may_pass, self._must_not)

    def _may_pass(self, _: None) -> None:
        self.other._waits = False
        if self.is_open:
            self.other._pass_on_early()

    def _must_not(self, failure: Failure) -> None:
        """The connection ends."""
        if self.is_open:
            log.info("forward closed", error=failure.getErrorMessage())
            self.withdraw()

    def withdraw(self) -> None:
        """See :class:`Channel`: both halves close."""
        for half in (self, self.other):
            if half.id is not None:
                Channel.withdraw(half)
            half._waits = True

    def queue_sent(self, count: int) -> None:
        """What was queued here came from the other half's peer: give credit."""
        self.other.consumed(count)

    def eofReceived(self) -> None:
        """The peer sent EOF: pass it on."""
        if self.other.id is not None and not self._waits:
            self.other.send_eof()

    def closed(self) -> None:
        """This half is closed: close the other one after what it has to send."""
        super().closed()
        if self.other.id is not None and not self._waits:
            self.other.loseConnection()
        if self.observer is not None:
            self.observer.closed(self.passed, self.other.passed)


class NearHalf(SplicedChannel):
    """The half that a peer asked for; the other one may have received data already."""

    def channelOpen(self, specificData: bytes) -> None:
        """The channel is open."""
        self._observe_open()
        self.other._pass_on_early()

    def openFailed(self, reason: Any) -> None:
        """The connection ended while the other half was opened."""
        self.other.loseConnection()
        if self.observer is not None:
            self.observer.refused(reason)


class FarHalf(SplicedChannel):
    """The half that we ask for."""

    def __init__(self, name: bytes, **named: Any) -> None:
        super().__init__(**named)
        self.name = name
        self.opened: Deferred[SplicedChannel] = Deferred(self._cancel)
        self._cancelled = False

    def _cancel(self, _: Deferred[SplicedChannel]) -> None:
        """The caller does not wait for the other peer's reply any more."""
        self._cancelled = True

    def channelOpen(self, specificData: bytes) -> None:
        """The channel is open."""
        if self._cancelled:
            self.observer = None
            self.loseConnection()
        else:
            self._observe_open()
            self.opened.callback(self.other)

    def openFailed(self, reason: Any) -> None:
        """The other peer refused, or its connection was lost."""
        if not self._cancelled:
            self.opened.errback(reason)


def open_splice(
    connection: ChannelConnection,
    name: bytes,
    extra: bytes,
    *,
    remoteWindow: int,
    remoteMaxPacket: int,
    avatar: Any = None,
    observer: RelayObserver | None = None,
    for_client: bool = True,
) -> Deferred[SplicedChannel]:
    """Open a channel of type ``name`` on ``connection`` for one that a peer asks for.

    Fires with the channel to give to that peer, or fails with the other one's refusal; it can
    be cancelled. For an avatar's ``channelLookup`` or a connection's ``channel_<type>``.
    ``observer`` is told what happens to it, but not of a refusal that the caller gets;
    ``for_client``: the peer that asks is the client, else the other one is.
    """
    near = NearHalf(remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket, avatar=avatar)
    far = FarHalf(name)
    near.other, far.other = far, near
    (near if for_client else far).observer = observer
    opened = far.opened  # it may be refused at once
    connection.openChannel(far, extra)
    return opened
