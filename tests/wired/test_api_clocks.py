"""TLS between machines whose clocks differ, or were set: dates, names and authorities apart."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from service_identity import VerificationError
from twisted.protocols.tls import TLSMemoryBIOFactory

from api_world import SERVER_NAME, Ca, RawClient, World, _Single, host, real_now, user
from tele.errors import AccessDenied, NotLoggedIn, TeleError, WrongClock
from tele.https.callers import Peer
from tele.https.connection import explain
from tele.https.identity import TlsIdentity
from tele.https.trust import ClientTls, ServerTls, WrongDate
from tele.model.authority import AuthorityKind
from tele.model.identity import HostRole

HOUR = timedelta(hours=1)


class SetBack:
    """The clock of a machine whose date was set back by so much since a process started."""

    def __init__(self, by: timedelta) -> None:
        self._by = by.total_seconds()

    def seconds(self) -> float:
        return time.time() + self._by

    def wall_seconds(self) -> float:
        return time.time()


def clock(by: timedelta) -> Any:
    return SetBack(by)


class Client(RawClient):
    """Remembers why it ended."""

    why: BaseException | None = None

    def connectionLost(self, reason: Any = None) -> None:
        self.why = None if reason is None else reason.value
        super().connectionLost(reason)


def connect(
    world: World,
    *,
    set_back: timedelta = timedelta(),
    server_name: str = SERVER_NAME,
    trust: str | None = None,
    identity: TlsIdentity | None = None,
) -> Client:
    """Shake hands with auth, and return the client."""
    client = Client()
    trusted = [trust or world.host_ca.certificate]
    tls = ClientTls(server_name, lambda: identity, lambda: trusted, clock(set_back))
    factory: Any = TLSMemoryBIOFactory(tls, True, _Single(client), clock=world.clock)
    world.attach(factory.buildProtocol(None))
    world.wires.flush()
    return client


def is_served(world: World, client: Client) -> bool:
    """Whether auth answers it."""
    client.transport.write(b"GET /v1/health HTTP/1.1\r\nhost: auth\r\n\r\n")
    world.wires.flush()
    return b" 200 " in client.received


def issued(world: World, ahead: timedelta, life: timedelta = 24 * HOUR) -> TlsIdentity:
    """Return a certificate of auth's that was issued so long from now."""
    auth = evolve(host(HostRole.AUTH, name="auth"), expires=real_now() + ahead + life)
    return world.host_ca.issue(auth, real_now() + ahead)


def test_what_was_valid_stays_so_when_the_clock_is_set_back() -> None:
    """A certificate of an hour ago is of the future then, and nothing is wrong with it."""
    world = World()
    world.auth = issued(world, 3 * HOUR)
    assert is_served(world, connect(world, set_back=3 * HOUR))
    early = connect(world, set_back=2 * HOUR)
    assert isinstance(early.why, WrongDate)
    assert "is valid only from" in str(early.why)


def test_nothing_else_is_forgiven_with_the_date() -> None:
    """Another name, another CA and an end that has come are refused as ever (attack)."""
    world = World()
    world.auth = issued(world, 3 * HOUR)
    other = connect(world, set_back=5 * HOUR, server_name="auth.other")
    assert isinstance(other.why, VerificationError)
    other_ca = connect(world, set_back=5 * HOUR, trust=Ca.make(AuthorityKind.HOST).certificate)
    assert other_ca.why is not None
    assert not isinstance(other_ca.why, WrongDate)
    world.auth = issued(world, -25 * HOUR)
    over = connect(world, set_back=50 * HOUR)
    assert isinstance(over.why, WrongDate)
    assert "expired at" in str(over.why)


@pytest.mark.parametrize("name", ["auth.other", "other", "auth.example.other", "192.0.2.1"])
def test_the_name_is_checked_where_dates_are_right(name: str) -> None:
    """The certificate has to be auth's of this cluster, not any of its CA."""
    world = World()
    assert is_served(world, connect(world))
    assert connect(world, server_name=name).why is not None
    world.auth = world.host_ca.issue(host(HostRole.NODE))
    assert isinstance(connect(world).why, VerificationError)


def test_clients_keep_their_certificates_when_auths_clock_is_set_back() -> None:
    """One from before is taken in the handshake and for calls; one of the true future is not."""
    world = World()
    ca = world.user_ca
    later = ca.issue(evolve(user(), expires=real_now() + 12 * HOUR), real_now() + 3 * HOUR)
    world.server._tls = ServerTls(lambda: world.auth, lambda: [ca.certificate], clock(3 * HOUR))
    assert is_served(world, connect(world, identity=later))
    strict = World()
    strict.server._tls = ServerTls(lambda: strict.auth, lambda: [ca.certificate], clock(HOUR))
    assert not is_served(strict, connect(strict, identity=later))


def test_a_caller_is_judged_by_the_date_as_it_went_on() -> None:
    """The steady date makes no certificate valid after its end."""
    from cryptography import x509

    ca, moment = Ca.make(AuthorityKind.HOST), real_now()
    text = ca.issue(host(HostRole.NODE)).certificate.encode()
    peer = Peer(lambda: x509.load_pem_x509_certificates(text)[0])
    early = moment - 3 * HOUR
    assert peer.identify([ca.trusted], early, moment)
    with pytest.raises(NotLoggedIn, match="set the clock that is wrong"):
        peer.identify([ca.trusted], early, early + HOUR)
    with pytest.raises(NotLoggedIn, match="expired at"):
        peer.identify([ca.trusted], moment + 2 * HOUR, moment)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (WrongDate("expired at X"), WrongClock, "set the clock that is wrong"),
        (VerificationError([]), TeleError, "another name"),
    ],
)
def test_each_has_its_own_message(error: Exception, kind: type[TeleError], message: str) -> None:
    """Dates are the clocks' matter, names and authorities are not."""
    said = explain("a:1", error)
    assert isinstance(said, kind)
    assert not isinstance(said, AccessDenied)
    assert message in str(said)
