"""A Twisted program that is a node, and takes part in every session with a recorder of its own.

python embed_node.py FOLDER AUTH_HOST:PORT TOKEN_FILE CA_PIN
"""

import sys
from pathlib import Path

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import react
from zope.interface import implementer

from tele.embed import Address, JoinConfig, NodeConfig, Pins, node_service, read_address
from tele.interfaces import IRecorder, IRecording
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingStart


@implementer(IRecording)
class Counting:
    """One session: counts what the programs in it write."""

    paused = False

    def __init__(self, start: RecordingStart) -> None:
        self.start = start
        self.written = 0

    def write(self, frame: Frame) -> None:
        """Look at one frame; the data is the program's, so only its length goes anywhere."""
        if frame.kind is FrameKind.OUTPUT:
            self.written += len(frame.data)

    def when_resumed(self, callback) -> None:
        """Never paused, so never asked."""
        callback()

    def close(self, reason: str, sequence: int = 0) -> Deferred[None]:
        """The session ended."""
        print(f"{self.start.user} as {self.start.login}: {self.written} bytes", flush=True)
        return succeed(None)


@implementer(IRecorder)
class Counter:
    """Opens a recording for each session; failing here would refuse the session."""

    def open(self, start: RecordingStart) -> Deferred[IRecording]:
        """A session starts."""
        return succeed(Counting(start))


async def main(reactor, folder: str, auth: str, token_file: str, ca_pin: str) -> None:
    """Join the cluster, and serve until the program ends."""
    config = NodeConfig(
        name="embedded",
        listen=Address("127.0.0.1", 0),
        labels={"embedded": "yes"},
        join=JoinConfig(
            auth=(read_address(auth),), token_file=Path(token_file), ca_pin=Pins((ca_pin,))
        ),
    )
    node = node_service(reactor, config, Path(folder), recorder=Counter())
    node.startService()
    reactor.addSystemEventTrigger("before", "shutdown", node.stopService)
    port = await node.ready
    print(f"serving on port {port}", flush=True)
    await Deferred()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
