"""The other end of many connections: a process of its own, on tele's SSH client.

It reads commands as lines of JSON on its standard input, and answers with one each:

``{"open": 1000}`` logs in so often and keeps the connections; how long it took, and how much
memory of this process each costs. ``{"start": 100}`` runs ``true`` so often, one after the
other, on the first connection; seconds of each.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver

from tele.certs.certificate import parse_certificate
from tele.certs.keys import PrivateKey
from tele.conch.client.session import execute
from tele.conch.client.transport import ClientIdentity, connect
from tele.sockets.direct import DirectReactor

#: Logins under way at once: servers refuse unauthenticated clients beyond some number.
PARALLEL = 8


class AnyHost:
    """Takes any host for the right one."""

    def verify(self, certificate: Any, at: datetime) -> None:
        """Report it."""


def resident() -> int:
    """Bytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Client(LineOnlyReceiver):
    """Runs commands."""

    delimiter = b"\n"

    def __init__(self, port: int, identity: ClientIdentity) -> None:
        self._endpoint = TCP4ClientEndpoint(DirectReactor(reactor), "127.0.0.1", port)
        self._identity = identity
        self._connections: list[Any] = []

    def lineReceived(self, line: bytes) -> None:
        """One command."""
        [(name, count)] = json.loads(line).items()
        doing: Any = {"open": self._open, "start": self._start}[name](count)
        answer: Deferred[Any] = Deferred.fromCoroutine(doing)
        answer.addErrback(lambda failure: {"error": failure.getTraceback()})
        answer.addCallback(self._say)

    def _say(self, result: dict[str, Any]) -> None:
        self.sendLine(json.dumps(result).encode())  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Any = None) -> None:
        """End of the commands."""
        cast(Any, reactor).stop()

    async def _log_in(self) -> None:
        self._connections.append(
            await connect(
                reactor,
                self._endpoint,
                verify_host=AnyHost(),  # type: ignore[arg-type]
                identity=self._identity,
            )
        )

    async def _open(self, count: int) -> dict[str, float]:
        await self._log_in()
        memory, start = resident(), time.monotonic()
        left = count - 1

        async def some() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await self._log_in()

        await gatherResults([Deferred.fromCoroutine(some()) for _ in range(PARALLEL)])
        more = (resident() - memory) / (count - 1) if count > 1 else 0.0
        return {"seconds": time.monotonic() - start, "client_bytes_each": more}

    async def _start(self, count: int) -> dict[str, list[float]]:
        took = []
        for _ in range(count):
            start = time.monotonic()
            result = await execute(self._connections[0], b"true")
            if result.exit.status != 0:
                raise RuntimeError(f"a session failed: {result}")
            took.append(time.monotonic() - start)
        return {"took": took}


def main() -> None:
    """Read commands until the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--login", required=True)
    parser.add_argument("--key", type=Path, required=True, help="its certificate is KEY-cert.pub")
    options = parser.parse_args()
    line = options.key.with_name(f"{options.key.name}-cert.pub").read_text()
    identity = ClientIdentity(
        PrivateKey.from_openssh(options.key.read_bytes()),
        parse_certificate(base64.b64decode(line.split()[1])),
        options.login,
    )
    StandardIO(Client(options.port, identity))
    cast(Any, reactor).run()


if __name__ == "__main__":
    main()
