"""How do two channels of two connections become one?

What arrives on one is sealed for the other while it is still where it was decrypted.

Invariants:

* A peer gets credit when what it sent has left on the other side: what waits between the
  two is the window, in each direction.
* EOF and CLOSE pass through in order. A channel is confirmed when its other half is, and
  refused with the reason that the other half was refused with.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from tele.conch.connection.backlog import Backlog
from tele.conch.connection.channel import Channel


class SplicedChannel(Channel):
    """One of two halves."""

    other: SplicedChannel

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self._early = Backlog()

    def data_view(self, view: memoryview) -> None:
        """Send it on; what has to wait is credited when it has left."""
        self._pass_on(view, None)

    def extended_view(self, code: int, view: memoryview) -> None:
        """Send it on, as what it is."""
        self._pass_on(view, code)

    def _pass_on(self, view: memoryview, code: int | None) -> None:
        if self.other.id is None:
            self._early.append(view, code)
            return
        waiting = self.other.send_view(view, code)
        self.consumed(len(view) - waiting)

    def _pass_on_early(self) -> None:
        """The other half is open: pass on what came before it was."""
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

    def queue_sent(self, count: int) -> None:
        """What had waited here came from the other half's peer."""
        self.other.consumed(count)

    def eofReceived(self) -> None:
        """The peer sends no more."""
        if self.other.id is not None:
            self.other.send_eof()

    def closed(self) -> None:
        """This half is gone: close the other one after what it has to send."""
        super().closed()
        if self.other.id is not None:
            self.other.loseConnection()


class _Near(SplicedChannel):
    """The half that a peer asked for; the other one has been open for some time, maybe."""

    def channelOpen(self, specificData: bytes) -> None:
        """The peer knows."""
        self.other._pass_on_early()

    def openFailed(self, reason: Any) -> None:
        """The peer left while the other half was opened."""
        self.other.loseConnection()


class _Far(SplicedChannel):
    """The half that we ask for."""

    def __init__(self, name: bytes, **named: Any) -> None:
        super().__init__(**named)
        self.name = name
        self.opened: Deferred[SplicedChannel] = Deferred(self._give_up)
        self._given_up = False

    def _give_up(self, _: Deferred[SplicedChannel]) -> None:
        """Nobody waits for the other peer's answer any more."""
        self._given_up = True

    def channelOpen(self, specificData: bytes) -> None:
        """The other peer agrees."""
        if self._given_up:
            self.loseConnection()
        else:
            self.opened.callback(self.other)

    def openFailed(self, reason: Any) -> None:
        """The other peer refused, or is gone."""
        if not self._given_up:
            self.opened.errback(reason)


def open_splice(
    connection: Any,
    name: bytes,
    extra: bytes,
    *,
    remoteWindow: int,
    remoteMaxPacket: int,
    avatar: Any = None,
) -> Deferred[SplicedChannel]:
    """Open a channel of type ``name`` on ``connection`` for one that a peer asks for.

    Fires with the channel to give to that peer, or fails with what the other one said; it
    can be cancelled. For an avatar's ``channelLookup`` or a connection's ``channel_<type>``.
    """
    near = _Near(remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket, avatar=avatar)
    far = _Far(name)
    near.other, far.other = far, near
    opened = far.opened  # it may be refused at once
    connection.openChannel(far, extra)
    return opened
