"""Names with several addresses, of which some are black holes: what answers is found at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from twisted.internet.protocol import Factory, Protocol
from zope.interface import alsoProvides, implementer

from own_reactor import own_reactor
from tele.model.addresses import ADDRESSES_LIMIT, alternate
from tele.outbound.happy_eyeballs import dial
from tele.outbound.hostname_endpoint import hostname_endpoint
from tele.sockets.direct import DirectReactor

#: No caller waits so long for a black hole.
FOR_EVER = 3600.0


@contextmanager
def black_hole(host: str, port: int = 0) -> Iterator[int]:
    """A port of ``host`` at which nothing answers: its queue is full, and what comes is dropped."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(family))
        listening.bind((host, port))
        listening.listen(0)
        where = listening.getsockname()
        for _ in range(8):
            filler = stack.enter_context(socket.socket(family))
            filler.setblocking(False)
            filler.connect_ex(where)
        yield where[1]


@contextmanager
def listener(host: str = "127.0.0.1") -> Iterator[int]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.bind((host, 0))
        listening.listen(16)
        yield listening.getsockname()[1]


def info(host: str, port: int) -> tuple[Any, ...]:
    """What a resolver returns of one address."""
    if ":" in host:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))


def resolver(*found: tuple[str, int]) -> Any:
    return lambda *_: [info(*each) for each in found]


@pytest.fixture
def no_descriptor_lost() -> Iterator[None]:
    """What is opened is closed."""
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def test_families_take_turns() -> None:
    """The first address of each family comes before the second one of any."""
    found = ["6a", "6b", "6c", "4a", "4b"]
    assert alternate(found, lambda name: name[0]) == ["6a", "4a", "6b", "4b", "6c"]


@pytest.mark.usefixtures("no_descriptor_lost")
@pytest.mark.parametrize("holes", [1, 5])
def test_a_command_does_not_wait_for_black_holes(holes: int) -> None:
    """Addresses that do not answer, however many come first, do not keep one that does."""
    with ExitStack() as stack:
        dead = [("127.0.0.3", stack.enter_context(black_hole("127.0.0.3"))) for _ in range(holes)]
        port = stack.enter_context(listener())
        made = dial("name.test", port, FOR_EVER, resolver(*dead, ("127.0.0.1", port)))
        with made:
            assert made.getpeername() == ("127.0.0.1", port)
            assert made.gettimeout() == FOR_EVER


@pytest.mark.usefixtures("no_descriptor_lost")
@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_a_command_does_not_wait_for_a_family() -> None:
    """Twenty addresses of a family that is a black hole are tried after one of the other."""
    with black_hole("::1") as dead, listener() as port:
        first = [("::1", dead)] * 20
        with dial("name.test", port, FOR_EVER, resolver(*first, ("127.0.0.1", port))) as made:
            assert made.getpeername() == ("127.0.0.1", port)


@pytest.mark.usefixtures("no_descriptor_lost")
def test_all_is_over_in_time() -> None:
    """Several black holes end together, not one after the other."""
    with black_hole("127.0.0.3") as dead, pytest.raises(TimeoutError):
        dial("name.test", dead, 1.0, resolver(*[("127.0.0.3", dead)] * 10_000))


@pytest.mark.usefixtures("no_descriptor_lost")
def test_the_error_of_the_first_address_is_raised() -> None:
    """If all refuse, the error says so; a name without an address is an error."""
    with listener() as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        dial("name.test", port, FOR_EVER, resolver(*[("127.0.0.1", port)] * 3))
    with pytest.raises(socket.gaierror):
        dial("no-such-name.invalid", 1, 5.0)


@implementer(IHostnameResolver)
class Resolver:
    """Answers with the addresses that it was made with."""

    def __init__(self, *addresses: IPv4Address | IPv6Address) -> None:
        self._addresses = addresses

    def resolveHostName(self, resolutionReceiver: Any, *args: Any, **named: Any) -> Any:
        resolutionReceiver.resolutionBegan(self)
        for address in self._addresses:
            resolutionReceiver.addressResolved(address)
        resolutionReceiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        """It is over at once."""


@pytest.mark.parametrize("direct", [True, False])
def test_a_service_does_not_wait_for_black_holes(direct: bool) -> None:
    """Hosts dial each other, and auth, in the same manner, with our sockets and with Twisted's."""
    with own_reactor() as reactor, black_hole("127.0.0.3") as dead, listener() as port:
        holes = [IPv4Address("TCP", "127.0.0.3", dead)] * 3
        found = Resolver(*holes, IPv4Address("TCP", "127.0.0.1", port))
        using: Any = DirectReactor(reactor, found)
        if not direct:
            using = _Resolving(reactor, found)
        endpoint = hostname_endpoint(using, "name.test", port, FOR_EVER)
        factory: Any = Factory.forProtocol(Protocol)
        factory.noisy = False
        made: Any = reactor.wait(endpoint.connect(factory))
        assert made.transport.getPeer().port == port
        made.transport.abortConnection()
        reactor.until(lambda: not made.transport.connected)


class _Resolving:
    """A reactor with another resolver."""

    def __init__(self, reactor: Any, found: Resolver) -> None:
        self._reactor = reactor
        self.nameResolver = found
        alsoProvides(self, IReactorPluggableNameResolver)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


def test_a_service_tries_so_many_addresses() -> None:
    """A name server that answers with ten thousand has so many tried, of both families."""
    asked: list[str] = []

    class Reactor(_Resolving):
        def connectTCP(self, host: str, *args: Any, **named: Any) -> Any:
            asked.append(host)
            return self._reactor.connectTCP(host, *args, **named)

    with own_reactor() as reactor, listener() as port:
        pass
    with own_reactor() as reactor:
        many = [IPv6Address("TCP", "::1", port)] * 10_000
        found = Resolver(*many, IPv4Address("TCP", "127.0.0.1", port))
        using: Any = Reactor(reactor, found)
        endpoint = hostname_endpoint(using, "name.test", port, 5.0)
        failed: list[Any] = []
        endpoint.connect(Factory.forProtocol(Protocol)).addErrback(failed.append)
        reactor.until(lambda: bool(failed))
    assert len(asked) == ADDRESSES_LIMIT
    assert asked[:3] == ["::1", "127.0.0.1", "::1"]
