"""Windows grow until they fill a long link, and only then."""

from __future__ import annotations

from collections import deque
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred

from channel_ends import ChannelEnds, ChannelUser, ChannelWorld
from tele.conch.connection.channel import WINDOW, Channel
from tele.conch.connection.channel_table import WINDOW_LIMIT, WINDOWS_LIMIT
from tele.conch.connection.connection import SSHConnection
from tele.conch.connection.splice import open_splice
from tele.conch.connection.windows import MIN_WINDOW
from tele.testing import LinkEnd

MIB = 1 << 20
STEP = 0.01


@define(eq=False)
class LongEnd(LinkEnd):
    """One end of a link of ``delay`` seconds that carries ``rate`` bytes a second."""

    clock: Any = None
    delay: float = 0.05
    rate: float = 1e9
    _free_at: float = 0.0
    _due: deque[tuple[float, bytes]] = Factory(deque)

    def write(self, data: bytes) -> None:
        now = self.clock.seconds()
        self._free_at = max(now, self._free_at) + len(data) / self.rate
        self._due.append((self._free_at + self.delay, bytes(data)))

    def carry(self, limit: int) -> bool:
        assert self.peer is not None
        if not self._due or self._due[0][0] > self.clock.seconds() or self.peer.closed:
            return False
        self.peer.protocol.dataReceived(self._due.popleft()[1])
        return True


class Source(Channel):
    """The client's end: always has something to send."""

    name = b"bulk"

    def channelOpen(self, specificData: bytes) -> None:
        self.drained()

    def drained(self) -> None:
        while not self.has_queue and self.is_open:
            self.write(bytes(MIB))


class Drain(Channel):
    """The server's end: consumes everything at once, or late, or nothing."""

    name = b"bulk"
    got = 0
    stalled = False
    behind = 0

    def data_view(self, view: memoryview) -> None:
        self.got += len(view)
        if not self.stalled:
            late = min(self.behind, len(view))
            self.behind -= late
            self.consumed(len(view) - late)


class BulkUser(ChannelUser):
    """A user; ``drains`` are the server's ends of bulk channels."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.drains: list[Drain] = []
        self.channelLookup[b"bulk"] = self._drain

    def _drain(self, remoteWindow: int, remoteMaxPacket: int, data: bytes, avatar: Any) -> Drain:
        drain = Drain(remoteWindow=remoteWindow, remoteMaxPacket=remoteMaxPacket, avatar=avatar)
        self.drains.append(drain)
        return drain


def long_ends(delay: float, rate: float = 1e9, world: ChannelWorld | None = None) -> ChannelEnds:
    """Connect a client and a server that are ``delay`` seconds apart."""
    ends = (world or ChannelWorld(make_user=BulkUser)).link()
    for protocol, name in ((ends.client, "client_link"), (ends.server, "server_link")):
        long = LongEnd(protocol, clock=ends.world.clock, delay=delay, rate=rate)
        protocol.transport = long
        protocol.outgoing.link._transport = long
        setattr(ends, name, long)
    ends.client_link.peer, ends.server_link.peer = ends.server_link, ends.client_link
    return ends


def pass_time(ends: ChannelEnds, seconds: float) -> None:
    """Advance the clock, in steps."""
    for _ in range(round(seconds / STEP)):
        ends.settle()
        ends.world.clock.advance(STEP)
    ends.settle()


def upload(ends: ChannelEnds) -> Drain:
    """Start an endless upload; return the server's end."""
    ends.client.service.openChannel(Source())
    pass_time(ends, 0.2)
    drain: Drain = ends.server.avatar.drains[-1]
    return drain


def throughput(ends: ChannelEnds, drain: Drain, seconds: float) -> float:
    """Return how many bytes arrive in a round trip of 0.1 s, on average."""
    before = drain.got
    pass_time(ends, seconds)
    return (drain.got - before) * 0.1 / seconds


def test_a_link_of_a_tenth_of_a_second_is_filled() -> None:
    """At 100 ms and 1 Gbit/s, 2 MiB a round trip become all that the link can carry."""
    ends = long_ends(0.05, 125e6)
    drain = upload(ends)
    assert drain.localWindowSize == WINDOW
    assert throughput(ends, drain, 0.2) <= WINDOW * 1.01
    pass_time(ends, 1.2)
    assert drain.localWindowSize == WINDOW_LIMIT
    assert throughput(ends, drain, 0.3) > 0.95 * 12.5e6


def test_a_short_link_needs_no_more() -> None:
    """Without delay the window stays as it was, however much passes."""
    ends = long_ends(0.0)
    drain = ends.server.avatar.drains
    source = Source()
    ends.client.service.openChannel(source)
    for _ in range(3000):
        ends.turn()
        ends.world.clock.advance(1e-5)
    assert drain[0].got > 8 * WINDOW
    assert drain[0].localWindowSize == WINDOW


def test_a_slow_link_with_a_long_queue_gets_one_doubling() -> None:
    """A window that only makes a queue longer stops growing."""
    ends = long_ends(0.0, 8e6)
    drain = upload(ends)
    pass_time(ends, 6)
    assert drain.localWindowSize <= 2 * WINDOW


def test_a_consumer_that_is_behind_gets_no_more() -> None:
    """A consumer that is half a window behind is slow itself; the link is not."""
    ends = long_ends(0.05)
    drain = upload(ends)
    drain.behind = WINDOW // 2
    pass_time(ends, 2)
    assert drain.localWindowSize == WINDOW


def test_a_consumer_that_stalls_costs_its_window() -> None:
    """A stalled consumer's window is as large as it was, and no byte more arrives."""
    ends = long_ends(0.05)
    drain = upload(ends)
    pass_time(ends, 0.5)
    drain.stalled = True
    pass_time(ends, 0.5)
    size, got = drain.localWindowSize, drain.got
    assert size > WINDOW
    pass_time(ends, 2)
    assert drain.got == got
    assert drain.localWindowSize == size
    assert drain.unconsumed <= size


def test_all_windows_together_have_a_limit() -> None:
    """Channels opened beyond it get the smallest window; a closed channel returns its own."""
    ends = long_ends(0.0)
    ends.client.service.channels_limit = ends.server.service.channels_limit = 64
    for _ in range(40):
        ends.client.service.openChannel(Quiet())
    ends.settle()
    drains = ends.server.avatar.drains
    sizes = [drain.localWindowSize for drain in drains]
    assert sizes == [WINDOW] * (WINDOWS_LIMIT // WINDOW) + [MIN_WINDOW] * (
        40 - WINDOWS_LIMIT // WINDOW
    )
    # One of the first returns enough to the limit.
    drains[0].loseConnection()
    ends.settle()
    ends.client.service.openChannel(Quiet())
    ends.settle()
    assert drains[-1].localWindowSize == MIN_WINDOW  # the small ones have used up the limit
    for drain in drains[1:32]:
        drain.loseConnection()
    ends.settle()
    ends.client.service.openChannel(Quiet())
    ends.settle()
    assert drains[-1].localWindowSize == WINDOW


class Quiet(Channel):
    """Has nothing to send."""

    name = b"bulk"


def test_an_idle_channel_is_not_measured() -> None:
    """A channel with little data sends no request to the peer."""
    ends = long_ends(0.05)
    drain = upload_little(ends)
    assert drain.got == 100_000
    assert ends.server.service._windows._measure is None
    assert not ends.server.service.deferreds["global"]


def upload_little(ends: ChannelEnds) -> Drain:
    """Send a tenth of a megabyte."""
    quiet = Quiet()
    ends.client.service.openChannel(quiet)
    pass_time(ends, 0.2)
    quiet.write(bytes(100_000))
    pass_time(ends, 0.2)
    drain: Drain = ends.server.avatar.drains[-1]
    return drain


def test_a_peer_that_never_answers() -> None:
    """A channel that is closed while it is measured is not kept."""
    ends = long_ends(0.05)
    ends.client.service.gotGlobalRequest = lambda name, data: Deferred()
    drain = upload(ends)
    pass_time(ends, 1)
    assert drain.got > WINDOW
    assert drain.localWindowSize == WINDOW
    measure = ends.server.service._windows._measure
    drain.loseConnection()
    pass_time(ends, 0.3)
    assert measure.channel is None
    ends.client_link.close()


def test_both_halves_of_a_splice_grow() -> None:
    """Through a proxy, each link's window grows for itself: the jump fills the link too."""
    far = long_ends(0.05)
    far_connection: SSHConnection = far.client.service

    class Jump(ChannelUser):
        def __init__(self, world: Any) -> None:
            super().__init__(world)
            self.channelLookup[b"bulk"] = self._splice

        def _splice(self, data: bytes, avatar: Any, **sizes: Any) -> Deferred[Any]:
            return open_splice(far_connection, b"bulk", data, **sizes)

    near = long_ends(0.05, world=ChannelWorld(make_user=Jump, clock=far.world.clock))
    near.client.service.openChannel(Source())
    for _ in range(250):
        while near.turn() or far.turn():
            pass
        far.world.clock.advance(STEP)
    drain = far.server.avatar.drains[0]
    assert drain.localWindowSize > WINDOW
    assert drain.got > 10 * WINDOW
