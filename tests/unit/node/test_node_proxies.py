"""Which addresses are those of the cluster's proxies."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import DNSLookupError

from tele.node.proxies import ProxyAddresses


class NameResolver:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: dict[str, Deferred[list[str]]] = {}

    def resolve(self, name: str) -> Deferred[list[str]]:
        if name == "nowhere.example":
            return fail(DNSLookupError(name))
        assert name not in self.asked or self.asked[name].called, "one question at a time"
        self.asked[name] = Deferred()
        return self.asked[name]


def test_addresses_are_those_that_auth_published() -> None:
    """Addresses apply at once, names when they are resolved, with all of their addresses and in any
    notation; a removed proxy does not.
    """
    names = NameResolver()
    proxies = ProxyAddresses(names.resolve)
    assert "" not in proxies
    addresses = ["192.0.2.1:3080", "[2001:db8::1]:3080", "proxy.example:1", "nowhere.example:1"]
    proxies.update(addresses)
    assert all(host in proxies for host in ("192.0.2.1", "2001:db8::1"))
    assert "192.0.2.2" not in proxies
    assert "" not in proxies
    names.asked["proxy.example"].callback(["::ffff:192.0.2.2", "2001:db8::2"])
    assert all(host in proxies for host in ("192.0.2.2", "::ffff:192.0.2.2", "2001:DB8::2"))
    proxies.update(addresses)
    assert "192.0.2.2" in proxies, "until it is found anew"
    names.asked["proxy.example"].errback(DNSLookupError())
    assert "192.0.2.2" in proxies
    proxies.update(addresses)
    proxies.update(addresses)
    proxies.update(["192.0.2.9:1"])
    names.asked["proxy.example"].callback(["192.0.2.2"])
    assert "192.0.2.2" not in proxies
    assert "192.0.2.1" not in proxies
    assert "192.0.2.9" in proxies
