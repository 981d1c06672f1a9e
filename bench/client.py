"""The other end of many connections: a process of its own, on tele's SSH client.

It reads commands as lines of JSON on its standard input, and answers with one each:

``{"open": 1000}`` logs in so often and keeps the connections; how long it took, and how much
memory of this process each costs. ``{"start": 100}`` runs ``true`` so often, one after the
other, on the first connection; seconds of each. ``{"show": 100}`` starts a program on so many
connections that shows a line every second, and leaves it running; ``{"shown": 100}`` waits until
so many have shown something since the last command, and says how many did, and which errors were
shown or programs ended.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver

from tele.certs.certificate import parse_certificate
from tele.certs.keys import PrivateKey
from tele.conch.client.session import ProgramChannel, execute
from tele.conch.client.transport import ClientIdentity, connect
from tele.conch.session.programs import ProgramRequest
from tele.sockets.direct import DirectReactor

#: Logins under way at once: servers refuse unauthenticated clients beyond some number.
PARALLEL = 8
#: A program that shows something all the time.
SHOWS = (
    b'exec bash -c "exec 3<> <(:); while :; do echo a line of some length, as a program shows it;'
    b' read -t 1 -u 3; done"'
)
#: How long its next line may take.
SHOWN_SECONDS = 60.0


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

    def __init__(self, port: int, identities: Sequence[ClientIdentity]) -> None:
        self._endpoint = TCP4ClientEndpoint(DirectReactor(reactor), "127.0.0.1", port)
        self._identities = cycle(identities)
        self._connections: list[Any] = []
        self._seen: set[Any] = set()
        #: Errors that were shown, and ends of programs, of which there should be none.
        self._problems: Counter[str] = Counter()

    def lineReceived(self, line: bytes) -> None:
        """One command."""
        [(name, count)] = json.loads(line).items()
        commands = {
            "open": self._open,
            "start": self._start,
            "show": self._show,
            "shown": self._shown,
        }
        doing: Any = commands[name](count)
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
                identity=next(self._identities),
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

    async def _show(self, count: int) -> dict[str, float]:
        start = time.monotonic()
        for connection in self._connections[:count]:
            channel = ProgramChannel(ProgramRequest("exec", SHOWS), partial(self._saw, connection))
            connection.openChannel(channel)
            channel.ended.addCallback(lambda how: self._problems.update((str(how),)))
            await channel.started
        return {"seconds": time.monotonic() - start}

    def _saw(self, connection: Any, code: int | None, view: memoryview) -> None:
        if code is None:
            self._seen.add(connection)
        else:
            self._problems.update((bytes(view).decode("utf-8", "replace"),))

    async def _shown(self, count: int) -> dict[str, Any]:
        self._seen.clear()
        start = time.monotonic()
        while len(self._seen) < count and time.monotonic() < start + SHOWN_SECONDS:
            pause: Deferred[None] = Deferred()
            cast(Any, reactor).callLater(0.05, pause.callback, None)
            await pause
        return {
            "seconds": time.monotonic() - start,
            "shown": len(self._seen),
            "problems": dict(self._problems),
        }


def identity(key: Path, login: str) -> ClientIdentity:
    """Return who logs in as ``login`` with ``key`` and its certificate."""
    line = key.with_name(f"{key.name}-cert.pub").read_text()
    return ClientIdentity(
        PrivateKey.from_openssh(key.read_bytes()),
        parse_certificate(base64.b64decode(line.split()[1])),
        login,
    )


def main() -> None:
    """Read commands until the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--login", required=True)
    parser.add_argument(
        "--keys", type=Path, nargs="+", required=True, help="the certificate is KEY-cert.pub"
    )
    options = parser.parse_args()
    StandardIO(Client(options.port, [identity(key, options.login) for key in options.keys]))
    cast(Any, reactor).run()


if __name__ == "__main__":
    main()
