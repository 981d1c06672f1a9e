"""Ports of every part while there are no descriptors: they wait, log it once, and continue."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from own_reactor import OwnReactor, own_reactor
from tele.https.ports import LocalPort, TcpPort
from tele.log import event_text
from tele.sockets.direct import listen


class Greeting(Protocol):
    """Sends two bytes to an accepted client."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(b"in")
        transport.loseConnection()


@define
class NoDescriptors:
    """A listening socket of which nothing can be accepted ``left`` times."""

    below: Any
    code: int
    left: int
    asked: list[int] = field(factory=list)

    def accept(self) -> Any:
        """Fail as the kernel does, or accept."""
        self.asked.append(self.code)
        if self.left:
            self.left -= 1
            raise OSError(self.code, "no more")
        return self.below.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


@pytest.fixture
def reactor() -> Iterator[OwnReactor]:
    with own_reactor() as made:
        yield made


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged at warning or above."""
    received: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event["log_level"].name in ("warn", "error", "critical"):
            received.append(str(event_text(event)))

    globalLogPublisher.addObserver(observe)
    yield received
    globalLogPublisher.removeObserver(observe)


Listen = Callable[[OwnReactor, Any, Path], Any]


def of_node(reactor: OwnReactor, factory: Any, folder: Path) -> Any:
    """The port of a node, or of a proxy."""
    return listen(reactor, 0, factory, "127.0.0.1")


def of_auth(reactor: OwnReactor, factory: Any, folder: Path) -> Any:
    """The port of auth."""
    port = TcpPort(0, factory, 5, "127.0.0.1", reactor)
    port.startListening()
    return port


def of_auth_locally(reactor: OwnReactor, factory: Any, folder: Path) -> Any:
    """The socket of auth."""
    port: Any = LocalPort(os.fsencode(folder / "s"), factory, 5, 0o600, reactor, True)
    port.startListening()
    return port


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
@pytest.mark.parametrize("make", [of_node, of_auth, of_auth_locally])
def test_a_shortage_is_waited_for(
    reactor: OwnReactor, lines: list[str], tmp_path: Path, make: Listen, code: int
) -> None:
    """A client that connects meanwhile is accepted afterwards, without a new attempt; the port
    tries once in a while, and the log has one line.
    """
    factory: Any = Factory.forProtocol(Greeting)
    port = make(reactor, factory, tmp_path)
    short = port.socket = NoDescriptors(port.socket, code, 2)
    where = port.socket.getsockname()
    with socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET) as client:
        client.connect(where)
        client.setblocking(False)
        received: list[bytes] = []

        def answered() -> bool:
            try:
                received.append(client.recv(2))
            except BlockingIOError:
                return False
            return True

        reactor.until(answered)
    assert received == [b"in"]
    assert len(short.asked) <= 5, "it does not ask all the time"
    (line,) = lines
    assert "can be accepted" in line
    reactor.wait(port.stopListening())


def test_a_port_that_is_closed_meanwhile(reactor: OwnReactor, tmp_path: Path) -> None:
    """Nothing is left of a port that is closed while it waits."""
    factory: Any = Factory.forProtocol(Greeting)
    port = of_node(reactor, factory, tmp_path)
    short = port.socket = NoDescriptors(port.socket, errno.EMFILE, 100)
    with socket.create_connection(port.socket.getsockname()):
        reactor.until(lambda: bool(short.asked))
        stopping: Any = port.stopListening()
        reactor.wait(stopping)
    own: Any = reactor
    assert own.getDelayedCalls() == []
