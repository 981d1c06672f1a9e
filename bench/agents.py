"""Many nodes in one process, each with a tunnel to a proxy, with commands line by line.

    python bench/agents.py --auth PORT --proxy PORT --token FILE --pin PIN

Reads JSON from standard input, one command a line, and answers each with a line:
``{"open": N}`` joins N nodes and waits for their tunnels; ``{"wait": N}`` waits until N
tunnels are up, ``{"lost": N}`` until no more than N are.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineOnlyReceiver

from tele.conch.client.transport import ClientIdentity, MemberVerifier
from tele.errors import Unavailable
from tele.https.client import RemoteAuthority
from tele.https.pinning import server_name
from tele.membership.identity import MemberIdentity, ssh_authorities, tls_authorities
from tele.membership.joining import Applicant, JoinSettings, Network, join
from tele.model.api.members import ANNOUNCE
from tele.model.authority import AuthorityKind
from tele.model.identity import HostRole
from tele.model.presence import Mode, Presence
from tele.outbound.dialer import dial
from tele.tunnel.agents import Agents

PARALLEL = 8
LOOK_SECONDS = 0.05


def resident() -> int:
    """Bytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def join_in_turn(clock: Any, settings: JoinSettings, applicant: Applicant) -> MemberIdentity:
    """Join as a member does: auth lets so many of one network join in a second, the rest wait."""
    while True:
        try:
            return await join(clock, Network(), settings, applicant, settings.token())
        except Unavailable:
            await deferLater(clock, 0.5, lambda: None)


class Crowd(LineOnlyReceiver):
    """Runs commands."""

    delimiter = b"\n"

    def __init__(self, proxy: str, settings: JoinSettings) -> None:
        self._proxy = proxy
        self._settings = settings
        self._members: list[MemberIdentity] = []
        self._agents: list[Agents] = []

    def lineReceived(self, line: bytes) -> None:
        """One command."""
        [(name, count)] = json.loads(line).items()
        doing: Any = {"open": self._open, "wait": self._wait, "lost": self._lost}[name](count)
        answer: Deferred[Any] = Deferred.fromCoroutine(doing)
        answer.addErrback(lambda failure: {"error": failure.getTraceback()})
        answer.addCallback(self._say)

    def _say(self, result: dict[str, Any]) -> None:
        self.sendLine(json.dumps(result).encode())  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Any = None) -> None:
        """End of the commands."""
        cast(Any, reactor).stop()

    @property
    def up(self) -> int:
        """How many tunnels there are."""
        return sum(len(agents.proxy_ids) for agents in self._agents)

    async def _open(self, count: int) -> dict[str, float]:
        left = count

        async def some() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                applicant = Applicant(f"crowd{left}", HostRole.NODE)
                member = await join_in_turn(reactor, self._settings, applicant)
                await self._announce(member)
                self._members.append(member)

        await gatherResults([Deferred.fromCoroutine(some()) for _ in range(PARALLEL)])
        memory, start = resident(), time.monotonic()
        for member in self._members:
            agents = self._tunnels(member)
            self._agents.append(agents)
            agents.start()
        await self._until(lambda: self.up >= count)
        return {
            "seconds": time.monotonic() - start,
            "agent_bytes_each": (resident() - memory) / count,
        }

    async def _announce(self, member: MemberIdentity) -> None:
        """Announce the node: a proxy closes tunnels of unknown hosts."""
        host = member.host
        authority = RemoteAuthority(
            reactor,
            self._settings.addresses,
            lambda: member.tls,
            lambda: tls_authorities(member.authorities),
            server_name(host.cluster),
        )
        try:
            presence = Presence(host.name, HostRole.NODE, mode=Mode.TUNNEL)
            await authority.perform(ANNOUNCE, presence)
        finally:
            authority.close()

    def _tunnels(self, member: MemberIdentity) -> Agents:
        host = member.host
        return Agents(
            reactor,
            lambda: host.host_id,
            count=1,
            proxies=lambda: (),
            bootstrap=(self._proxy,),
            identity=lambda: ClientIdentity(member.keys.ssh, member.ssh_certificate, host.host_id),
            verifier=lambda: MemberVerifier(
                ssh_authorities(member.authorities, AuthorityKind.HOST),
                host.cluster,
                (HostRole.PROXY,),
            ),
            serve=lambda _: None,
            endpoint=lambda address: dial(reactor, address, 10),
            changed=lambda: None,
        )

    async def _wait(self, count: int) -> dict[str, float]:
        start = time.monotonic()
        await self._until(lambda: self.up >= count)
        return {"seconds": time.monotonic() - start, "up": self.up}

    async def _lost(self, count: int) -> dict[str, float]:
        start = time.monotonic()
        await self._until(lambda: self.up <= count)
        return {"seconds": time.monotonic() - start, "up": self.up}

    async def _until(self, condition: Any, seconds: float = 300.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.up} of {len(self._agents)} tunnels are up")
            pause: Deferred[None] = Deferred()
            cast(Any, reactor).callLater(LOOK_SECONDS, pause.callback, None)
            await pause


def main() -> None:
    """Read commands until the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--auth", type=int, required=True)
    parser.add_argument("--proxy", type=int, required=True)
    parser.add_argument("--token", type=Path, required=True)
    parser.add_argument("--pin", required=True)
    options = parser.parse_args()
    token = options.token.read_text()
    settings = JoinSettings((f"127.0.0.1:{options.auth}",), (options.pin,), lambda: token)
    StandardIO(Crowd(f"127.0.0.1:{options.proxy}", settings))
    cast(Any, reactor).run()


if __name__ == "__main__":
    main()
