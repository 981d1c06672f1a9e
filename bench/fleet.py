"""What does a fleet of so many nodes need, and what breaks first?

    python bench/fleet.py --nodes 100000 [--tunnels 2] [--proxies 8]

Calculates; measures nothing. The constants are what ``bench/tunnels.py --only agents`` (2,000
nodes) and ``bench/heartbeats.py`` (300) measured on a machine with 2 cores, which others used at
the same time: put in your own. The table of the page about scale comes from here.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Final

from attrs import frozen

HEARTBEAT_SECONDS: Final = 30.0
#: An agent's longest pause between two attempts.
BACKOFF_SECONDS: Final = 15.0
#: How much of one core a process may use all the time, so that it stands a bad moment.
BUSY: Final = 0.5
CERTIFICATE_HOURS: Final = 24
RENEWAL: Final = 2 / 3
#: Most tunnels that we advise to have at one proxy, one process on one core.
TUNNELS_A_PROXY: Final = 10_000
#: ``tele.https.limits.Limits.connections``.
AUTH_CONNECTIONS: Final = 65_536
#: With more of them each would have its time taken by the others' heartbeats.
MOST_AUTHS: Final = 64


@frozen
class Measured:
    """Memory in KiB, CPU in milliseconds of one core."""

    #: At a proxy: a tunnel, and its node in the list of nodes.
    tunnel_KiB: float = 11.3
    #: At a proxy: a node's connection to auth, weighed without the kernel's part.
    stream_KiB: float = 4.4
    #: At a proxy and at auth: the last presence of a node, measured.
    host_KiB: float = 1.4
    #: At auth: a node that follows the state, and its connection for calls.
    follow_KiB: float = 50.1
    calls_KiB: float = 36.1
    base_MiB: float = 75.0
    #: A node in the list that proxies read, in JSON; three labels, two tunnels.
    host_bytes: float = 366.0
    #: At a proxy: an idle tunnel, in a second.
    rest_ms: float = 0.004
    #: At a proxy: a node's login.
    login_ms: float = 4.0
    heartbeat_ms: float = 0.82
    #: At an auth: a heartbeat that another one took, read from the store.
    heard_ms: float = 0.024
    news_ms: float = 1.95
    #: A call on a new connection, less the call.
    connect_ms: float = 2.1
    follow_ms: float = 2.8
    #: A node that follows the state, in a minute in which nothing changes.
    follow_rest_ms: float = 1.0
    #: As joining, which makes the same certificates.
    renew_ms: float = 10.0
    #: To send one node a new role or lock.
    change_ms: float = 0.063


@frozen
class Fleet:
    """A fleet, and what it needs."""

    nodes: int
    tunnels: int
    proxies: int
    measured: Measured = Measured()

    @property
    def per_proxy(self) -> float:
        """Tunnels at each proxy."""
        return self.nodes * min(self.tunnels, self.proxies) / self.proxies

    def proxy_MiB(self) -> float:
        """Memory of one proxy: its tunnels, the list of all nodes, the streams that it relays."""
        m = self.measured
        streams = 2 * self.nodes / self.proxies * m.stream_KiB
        lists = self.nodes * m.host_KiB
        return m.base_MiB + (self.per_proxy * m.tunnel_KiB + streams + lists) / 1024

    def proxy_cpu(self) -> float:
        """Cores that one idle proxy uses."""
        return self.per_proxy * self.measured.rest_ms / 1000

    def proxy_files(self) -> int:
        """Descriptors of one proxy: tunnels, and for each node that comes to auth through it the
        stream of the state and a connection for calls.
        """
        return math.ceil(self.per_proxy + 2 * self.nodes / self.proxies) + 1000

    def back_seconds(self) -> float:
        """From a proxy's start until all its tunnels are back."""
        return self.per_proxy * self.measured.login_ms / 1000 + BACKOFF_SECONDS

    def cpu_of_auths(self, auths: int) -> float:
        """Cores that each of so many idle auths uses: heartbeats, streams, renewals."""
        m = self.measured
        beats = self.nodes / HEARTBEAT_SECONDS
        own = beats * m.heartbeat_ms
        own += self.nodes * m.follow_rest_ms / 60
        own += self.nodes / (CERTIFICATE_HOURS * 3600 * RENEWAL) * m.renew_ms
        others = beats * (auths - 1) / auths * m.heard_ms
        return (own / auths + others) / 1000

    def auths(self) -> int:
        """How few auths do with half a core each, and have places for all connections."""
        auths = max(1, math.ceil(2 * self.nodes / AUTH_CONNECTIONS))
        while self.cpu_of_auths(auths) > BUSY and auths < MOST_AUTHS:
            auths += 1
        return auths

    def auth_MiB(self) -> float:
        """Memory of one of them: every node's stream, and the last presence of each host."""
        m = self.measured
        connections = self.nodes / self.auths() * (m.follow_KiB + m.calls_KiB)
        return m.base_MiB + (connections + self.nodes * m.host_KiB) / 1024

    def auth_files(self) -> int:
        """Descriptors of one auth: a stream and a connection for calls of each node."""
        return math.ceil(2 * self.nodes / self.auths()) + 1000

    def auth_storm_seconds(self) -> float:
        """CPU of one auth after a proxy went: its nodes reconnect and announce themselves."""
        m = self.measured
        each = m.follow_ms + m.connect_ms + m.news_ms
        return self.nodes / self.proxies * each / 1000 / self.auths()

    def list_MB(self) -> float:
        """Bytes of the list of all nodes, which a proxy reads once after it started."""
        return self.nodes * self.measured.host_bytes / 1e6

    def change_seconds(self) -> float:
        """CPU of one auth to send a new role or lock to all."""
        return self.nodes * self.measured.change_ms / 1000 / self.auths()

    def rows(self) -> list[tuple[str, str]]:
        """The table."""
        return [
            ("nodes", f"{self.nodes:,}"),
            ("tunnels of each node", f"{min(self.tunnels, self.proxies)}"),
            ("proxies", f"{self.proxies:,}"),
            ("tunnels at each proxy", f"{self.per_proxy:,.0f}"),
            ("memory of a proxy", f"{self.proxy_MiB():,.0f} MiB"),
            ("CPU of an idle proxy", f"{self.proxy_cpu():.0%} of a core"),
            ("descriptors of a proxy", f"{self.proxy_files():,}"),
            ("list of nodes, read at a proxy's start", f"{self.list_MB():,.1f} MB"),
            ("all tunnels back after a proxy's start", f"{self.back_seconds():,.0f} s"),
            ("auths, each on a core of its own", f"{self.auths():,}"),
            ("heartbeats a second, at each auth",
             f"{self.nodes / HEARTBEAT_SECONDS / self.auths():,.0f}"),
            ("CPU of an idle auth", f"{self.cpu_of_auths(self.auths()):.0%} of a core"),
            ("memory of an auth", f"{self.auth_MiB():,.0f} MiB"),
            ("descriptors of an auth", f"{self.auth_files():,}"),
            ("CPU of an auth after the end of one proxy", f"{self.auth_storm_seconds():,.0f} s"),
            ("CPU of an auth to send a new lock", f"{self.change_seconds():,.1f} s"),
        ]  # fmt: skip


def proxies_for(nodes: int, tunnels: int) -> int:
    """Return how many proxies to have: two at least, and one more than it takes."""
    return max(2, math.ceil(nodes * tunnels / TUNNELS_A_PROXY) + 1)


def planned(nodes: int, tunnels: int = 2, proxies: int = 0) -> Fleet:
    """Return a fleet with ``proxies``, or as many as we advise."""
    return Fleet(nodes, tunnels, proxies or proxies_for(nodes, tunnels))


def as_text(fleets: Sequence[Fleet]) -> str:
    """Return the table for a terminal."""
    columns = [[value for _, value in fleet.rows()] for fleet in fleets]
    names = [name for name, _ in fleets[0].rows()]
    return "\n".join(
        f"{name:42}" + "".join(f"{column[i]:>18}" for column in columns)
        for i, name in enumerate(names)
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, action="append", help="may be given several times")
    parser.add_argument("--tunnels", type=int, default=2, help="node.tunnels")
    parser.add_argument("--proxies", type=int, default=0, help="as many as we advise")
    options = parser.parse_args()
    sizes = options.nodes or [2_000, 10_000, 100_000]
    print(as_text([planned(size, options.tunnels, options.proxies) for size in sizes]))


if __name__ == "__main__":
    main()
