"""Which addresses are those of the cluster's proxies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock
from zope.interface import implementer

from tele.errors import Unavailable
from tele.interfaces import IAuthority
from tele.model.api.members import ClusterInfo
from tele.model.api.table import CLUSTER
from tele.node.proxies import LOOK_SECONDS, ProxyAddresses

INFO = ClusterInfo("test", "1", datetime(2026, 1, 1, tzinfo=UTC), ())


class Names(Clock):
    """A clock that also knows names."""

    names: dict[str, str]

    def resolve(self, name: str) -> Deferred[str]:
        found = self.names.get(name)
        return succeed(found) if found else fail(DNSLookupError(name))


@implementer(IAuthority)
@define(slots=False)
class Auth:
    """Says which proxies there are."""

    info: ClusterInfo = INFO
    away: bool = False
    asked: list[Any] = field(factory=list)

    def perform(self, operation: Any, request: Any) -> Deferred[Any]:
        self.asked.append(operation)
        return fail(Unavailable("auth is away")) if self.away else succeed(self.info)

    def follow(self, operation: Any, request: Any, receiver: Any) -> Deferred[None]:
        raise AssertionError("nothing is followed")


def test_addresses_are_what_auth_says() -> None:
    """Addresses, names and ports; what was known holds while auth or a name is away."""
    reactor = Names()
    reactor.names = {"proxy.example": "192.0.2.2"}
    auth = Auth(evolve(INFO, proxies=("192.0.2.1:3080", "[2001:db8::1]:3080", "proxy.example:1")))
    proxies = ProxyAddresses(reactor, lambda: auth)
    assert "192.0.2.1" not in proxies
    proxies.start()
    assert auth.asked == [CLUSTER]
    assert all(host in proxies for host in ("192.0.2.1", "2001:db8::1", "192.0.2.2"))
    assert "192.0.2.3" not in proxies
    auth.away = True
    reactor.names = {}
    reactor.advance(LOOK_SECONDS)
    assert "192.0.2.1" in proxies
    auth.away = False
    reactor.advance(LOOK_SECONDS)
    assert "192.0.2.2" in proxies
    auth.info = INFO
    reactor.advance(LOOK_SECONDS)
    assert "192.0.2.1" not in proxies
    proxies.stop()
    assert not reactor.getDelayedCalls()
    assert len(auth.asked) == 4


def test_stopped_while_asking() -> None:
    """A question that is under way is given up."""
    reactor = Names()
    cancelled: list[str] = []
    answer: Deferred[Any] = Deferred(lambda _: cancelled.append("yes"))
    auth = Auth()
    auth.perform = lambda operation, request: answer  # type: ignore[method-assign]
    proxies = ProxyAddresses(reactor, lambda: auth)
    proxies.start()
    proxies.stop()
    proxies.stop()
    assert cancelled == ["yes"]
    assert not reactor.getDelayedCalls()
