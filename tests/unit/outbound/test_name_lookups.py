"""Names that users choose: resolved in threads of their own, bounded; addresses not at all."""

from __future__ import annotations

import socket
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.model.addresses import ADDRESSES_LIMIT
from tele.outbound.name_lookup import NameResolver
from tele.sockets import direct as sockets


@implementer(IReactorFromThreads)
class Reactor(MemoryReactorClock):
    """Has no thread pool, and waits for calls of other threads on request."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Any] = SimpleQueue()

    def callFromThread(
        self,
        callable: Callable[..., Any],  # noqa: A002 - the interface's name
        *args: object,
        **kwargs: object,
    ) -> None:
        self._calls.put((callable, args))

    def turn(self) -> None:
        function, args = self._calls.get(timeout=30)
        function(*args)

    def getThreadPool(self) -> Any:
        raise AssertionError("the shared pool is used")


def found(*hosts: str) -> list[tuple[Any, ...]]:
    return [
        (
            socket.AF_INET6 if ":" in host else socket.AF_INET,
            socket.SOCK_STREAM,
            6,
            "",
            (host, 22, 0, 0) if ":" in host else (host, 22),
        )
        for host in hosts
    ]


def resolve(names: NameResolver, host: str) -> list[Any]:
    results: list[Any] = []
    Deferred.fromCoroutine(names.resolve("alice", host, 22)).addBoth(results.append)
    return results


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "::1"])
def test_an_address_is_not_resolved(host: str) -> None:
    """A literal address needs no thread and no name server."""

    def get(*_: Any) -> Any:
        raise AssertionError("it was resolved")

    ((address,),) = resolve(NameResolver(Reactor(), get), host)
    assert (address.host, address.port) == (host, 22)


def test_a_name_has_so_many_addresses() -> None:
    """However many its server answers, so many connections are tried and no more (attack)."""
    reactor = Reactor()
    names = NameResolver(reactor, lambda *_: found(*(f"192.0.2.{n}" for n in range(200))))
    results = resolve(names, "many.example")
    reactor.turn()
    assert len(results[0]) == ADDRESSES_LIMIT
    names.close()


@pytest.mark.parametrize("error", [socket.gaierror(-2, "unknown"), UnicodeError("label"), None])
def test_a_name_without_address(error: Exception | None) -> None:
    """The error names the name, whatever the system fails at."""
    reactor = Reactor()

    def get(*_: Any) -> Any:
        if error is not None:
            raise error
        return []

    names = NameResolver(reactor, get)
    results = resolve(names, "nowhere.example")
    reactor.turn()
    assert isinstance(results[0], Failure)
    assert results[0].check(DNSLookupError)
    assert "nowhere.example" in str(results[0].value)
    names.close()


def test_an_endpoint_dials_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each address is dialled by itself; the name is not looked up again."""
    dialled: list[tuple[str, int]] = []

    class Connector:
        def __init__(self, host: str, port: int, *_: Any) -> None:
            dialled.append((host, port))

        def connect(self) -> None:
            """No address answers."""

        def stopConnecting(self) -> None:
            """It is given up."""

    monkeypatch.setattr(sockets, "DirectConnector", Connector)
    reactor = Reactor()
    names = NameResolver(reactor, lambda *_: found("192.0.2.1", "2001:db8::1"))
    names.endpoint("alice", "two.example", 22, 10).connect(
        Factory.forProtocol(Protocol)
    ).addErrback(lambda _: None)
    reactor.turn()
    for _ in range(10):
        reactor.advance(0.5)
    assert sorted(dialled) == [("192.0.2.1", 22), ("2001:db8::1", 22)]
    names.close()
