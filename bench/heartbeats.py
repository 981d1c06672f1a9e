"""What does a fleet cost auth?

    python bench/heartbeats.py [--hosts 300] [--rounds 10]

Prints JSON: CPU of auth, in milliseconds, for each thing that a host asks of it, and memory of
auth for each host that follows the cluster's state, as every host does.
``docs/explanation/scale`` and ``bench/fleet.py`` calculate with these figures.

join        a host joins for the first time, first contact included
heartbeat   "I live", on a connection that is open already, as every 30 seconds
news        the same, when something changed: its tunnels, say. It is stored at once
connect     the same as a heartbeat, on a new connection: what TLS costs besides
follow      a host begins to follow the cluster's state, on a new connection
change      a role is made: the state is sent to all watchers
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater, react

from agents import join_in_turn
from servers import BIN, Fleet, Server, account, auth, run
from tele.errors import Unreachable
from tele.https.client import RemoteAuthority
from tele.https.pinning import server_name
from tele.membership.identity import MemberIdentity, tls_authorities
from tele.membership.joining import Applicant, JoinSettings
from tele.model.api.members import ANNOUNCE, WATCH_STATE, WatchState
from tele.model.identity import HostRole
from tele.model.presence import Mode, Presence
from tunnels import token_of

PARALLEL = 8
SETTLE_SECONDS = 2.0
REST_SECONDS = 20.0


@define
class Fleets:
    """Hosts of a cluster, all in this process."""

    reactor: Any
    fleet: Fleet
    server: Server
    members: list[MemberIdentity] = field(factory=list)
    authorities: list[RemoteAuthority] = field(factory=list)
    notified_count: int = 0

    async def cost(self, count: int, one: Callable[[int], Awaitable[object]]) -> float:
        """Do ``one`` so often, a few at a time; CPU seconds of auth for each."""
        left = count

        async def some() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await one(left)

        before = sum(self.server.cpu().values())
        await gatherResults([Deferred.fromCoroutine(some()) for _ in range(PARALLEL)])
        return (sum(self.server.cpu().values()) - before) / count

    async def pause(self, seconds: float) -> None:
        """Wait."""
        await deferLater(self.reactor, seconds, lambda: None)

    async def join(self, number: int) -> None:
        """One more host."""
        fleet = self.fleet
        settings = JoinSettings(
            (f"127.0.0.1:{fleet.auth_port}",), (fleet.pin,), fleet.token_file.read_text
        )
        applicant = Applicant(f"crowd{number}", HostRole.NODE)
        member = await join_in_turn(self.reactor, settings, applicant)
        self.members.append(member)
        self.authorities.append(self.connect(member))

    def connect(self, member: MemberIdentity) -> RemoteAuthority:
        """Auth, called by a host."""
        return RemoteAuthority(
            self.reactor,
            [f"127.0.0.1:{self.fleet.auth_port}"],
            lambda: member.tls,
            lambda: tls_authorities(member.authorities),
            server_name(member.host.cluster),
        )

    async def announce(self, number: int, tunnels: tuple[str, ...] = ()) -> None:
        """A host announces itself."""
        number %= len(self.members)
        presence = Presence(self.members[number].host.name, HostRole.NODE, mode=Mode.TUNNEL,
                        tunnels=tunnels)  # fmt: skip
        await self.authorities[number].perform(ANNOUNCE, presence)

    async def announce_anew(self, number: int) -> None:
        """The same on a new connection."""
        member = self.members[number % len(self.members)]
        authority = self.connect(member)
        try:
            presence = Presence(member.host.name, HostRole.NODE, mode=Mode.TUNNEL)
            await authority.perform(ANNOUNCE, presence)
        finally:
            authority.close()

    async def follow(self, number: int) -> None:
        """A host begins to follow."""
        first: Deferred[None] = Deferred()

        def notified(_: object) -> None:
            self.notified_count += 1
            if not first.called:
                first.callback(None)

        following = self.authorities[number].follow(WATCH_STATE, WatchState(), notified)
        following.addErrback(lambda failure: failure.trap(CancelledError, Unreachable))
        await first

    async def change(self, changes: int) -> float:
        """Make roles; CPU seconds of auth for each, and each that follows."""
        before, notified_count = sum(self.server.cpu().values()), self.notified_count
        for number in range(changes):
            folder, name = self.fleet.folder, f"bench{number}"
            role = folder / f"{name}.yaml"
            role.write_text(f"kind: role\nversion: v1\nmetadata: {{name: {name}}}\nspec: {{}}\n")
            args = ("apply", "-f", str(role), "--config", f"{folder}/auth.yaml")
            run(str(BIN / "tele"), *args)
        deadline = time.monotonic() + 60
        while self.notified_count < notified_count + changes * len(self.members):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.notified_count - notified_count} were notified")
            await self.pause(0.05)
        return (sum(self.server.cpu().values()) - before) / changes / len(self.members)


async def measures(fleets: Fleets, hosts: int, rounds: int) -> dict[str, float]:
    """Take all measures; milliseconds, and KiB."""
    server, result = fleets.server, {}
    result["join_ms"] = await fleets.cost(hosts, fleets.join)
    before = server.memory()
    result["follow_ms"] = await fleets.cost(hosts, fleets.follow)
    await fleets.pause(SETTLE_SECONDS)
    result["follow_KiB"] = (server.memory() - before) / hosts / 1024 / 1000
    spent, began = sum(server.cpu().values()), time.monotonic()
    await fleets.pause(REST_SECONDS)
    rest = (sum(server.cpu().values()) - spent) / (time.monotonic() - began)
    result["follow_rest_ms_a_minute"] = rest * 60 / hosts
    result["change_ms"] = await fleets.change(10)
    before = server.memory()
    await fleets.cost(hosts, fleets.announce)
    result["calls_KiB"] = (server.memory() - before) / hosts / 1024 / 1000
    result["heartbeat_ms"] = await fleets.cost(hosts * rounds, fleets.announce)
    turn = str(uuid.uuid4())
    result["news_ms"] = await fleets.cost(hosts, lambda n: fleets.announce(n, (turn,)))
    result["connect_ms"] = await fleets.cost(hosts, fleets.announce_anew)
    return {name: round(value * 1000, 3) for name, value in result.items()}


def main() -> None:
    """Start auth, measure, print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=10, help="heartbeats of each")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def measure(reactor: Any) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="tele-bench-") as name,
            account() as login,
            auth(Path(name), "node", login) as fleet,
        ):
            token_of(fleet).rename(fleet.token_file)
            server = Server("auth", fleet.auth_port, fleet.auth_pid, ())
            fleets = Fleets(reactor, fleet, server)
            figures = await measures(fleets, options.hosts, options.rounds)
            about = {"cpus": os.cpu_count(), "python": sys.version.split()[0]}
            json.dump({**about, "hosts": options.hosts, **figures}, sys.stdout, indent=2)
            print()

    react(lambda reactor: Deferred.fromCoroutine(measure(reactor)))


if __name__ == "__main__":
    main()
