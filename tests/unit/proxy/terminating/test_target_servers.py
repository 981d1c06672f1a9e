"""The SSH servers of a recording proxy, one for each target."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tele.admission.limits import REKEY_BURST, REKEY_PER_SECOND
from tele.certs.keys import PrivateKey
from tele.conch.server.credentials import Trust
from tele.conch.server.settings import ServerSettings
from tele.conch.transport.exchange import HostKeys
from tele.model.identity import HostRole
from tele.model.presence import Host, Mode, Status
from tele.proxy.terminating.servers import TargetServers

SEEN = datetime(2026, 1, 1, tzinfo=UTC)


class Keys:
    """Has one host key for all targets."""

    def __init__(self) -> None:
        self.private = PrivateKey.generate()

    async def get(self, host_id: str) -> Any:
        return self

    def host_keys(self) -> HostKeys:
        return HostKeys(self.private)


class Proxy:
    """A proxy with targets, and clients that connect to them."""

    def __init__(self) -> None:
        self.clock = Clock()
        keys: Any = Keys()
        realm: Any = None
        self.servers = TargetServers(
            self.clock, keys, lambda _: realm, lambda: Trust("c", frozenset()), ServerSettings(),
            lambda *_: None,
        )  # fmt: skip

    def connect(self, target: int, address: str) -> Deferred[Any]:
        host = Host(
            f"h-{target}", f"db{target}", HostRole.NODE, ("192.0.2.1:22",), {}, Mode.DIRECT,
            Status.OFFLINE, SEEN, sshd=True,
        )  # fmt: skip
        client = IPv4Address("TCP", address, 1)
        return Deferred.fromCoroutine(self.servers.accept(host, client))


def test_key_exchanges_have_a_share_per_address() -> None:
    """A client that connects to one target after the other waits; clients of other addresses do not
    (attack).
    """
    proxy = Proxy()
    accepted = [proxy.connect(number, "192.0.2.7") for number in range(REKEY_BURST)]
    assert all(each.called for each in accepted)
    late = [proxy.connect(number, "192.0.2.7") for number in range(2)]
    assert not any(each.called for each in late)
    assert proxy.connect(1, "192.0.2.8").called
    proxy.clock.advance(1 / REKEY_PER_SECOND)
    assert [each.called for each in late] == [True, False]
    proxy.clock.advance(1 / REKEY_PER_SECOND)
    assert late[1].called


def test_renewed_keys_count_with_the_first_ones() -> None:
    """All servers have one account of an address: one more target is no further share."""
    proxy = Proxy()
    found: list[Any] = []
    for number in range(2):
        proxy.connect(number, "192.0.2.7").addCallback(found.append)
    assert found[0].rekey_pace is found[1].rekey_pace
