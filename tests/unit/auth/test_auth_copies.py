"""A copy of a host's disk: what it does with the host's certificates shows, and the host is locked.

The attacker has the private keys and the certificates of a host, as they were at one moment.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from attrs import evolve
from cryptography import x509

from auth_world import HOST_ID, World, result
from tele.auth.generations import PREFIX
from tele.certs.keys import PrivateKey
from tele.certs.rejoin import sign_rejoin
from tele.certs.x509 import TlsKey, read_identity
from tele.errors import AccessDenied
from tele.interfaces import Delete
from tele.loop import now
from tele.model.api import members, table
from tele.model.api.cluster import PutCluster
from tele.model.api.members import PublicKeys, RejoinRequest
from tele.model.api.paging import ByName
from tele.model.cluster_settings import HostCertificates, OnCopy
from tele.model.identity import Caller, HostIdentity, HostRole
from tele.model.lifetimes import HOST_LIFETIME
from tele.model.presence import Presence
from tele.model.resources import Cluster, ClusterSpec, Metadata

LOCK: Final = f"copied-{HOST_ID}"
PRESENCE: Final = Presence("web1", HostRole.NODE, ("192.0.2.9:3022",))


def who(certificates: Any) -> Caller:
    """The caller whose TLS certificate this is."""
    leaf = x509.load_pem_x509_certificates(certificates.tls.encode())[0]
    identity = read_identity(leaf)
    assert isinstance(identity, HostIdentity)
    assert identity.serial
    return Caller(identity, "192.0.2.9:1234")


class Machine:
    """One machine with the keys of a host, and its last certificates."""

    def __init__(self, world: World, certificates: Any) -> None:
        self.world, self.certificates = world, certificates
        self.keys = PublicKeys(world.joined[HOST_ID][1].public.line, TlsKey.generate().public_pem)

    def renew(self, *, answered: bool = True) -> Any:
        """Renew as a host does at two thirds of the life; not ``answered``: the answer is lost."""
        self.world.clock.advance(HOST_LIFETIME.total_seconds() / 10)
        request = members.RenewRequest("web1", self.keys)
        got = self.world.do(table.RENEW, request, who(self.certificates))
        if answered:
            self.certificates = got
        return got

    def announce(self) -> None:
        """Make the call that each host makes all the time."""
        self.world.do(table.ANNOUNCE, PRESENCE, who(self.certificates))

    def copy(self) -> Machine:
        """A machine with a copy of the disk, as it is now."""
        return Machine(self.world, self.certificates)


@pytest.fixture
def host(world: World) -> Machine:
    """A host that has joined."""
    return Machine(world, world.join(world.token()))


def locks(world: World) -> list[str]:
    return [each.metadata.name for each in result(world.parts.users.locks(10, ""))]


def caught(world: World, machine: Machine, act: Any) -> None:
    """``act`` of a machine is refused, is an event, and locks the host."""
    with pytest.raises(AccessDenied) as refused:
        act()
    assert refused.value.reason == "copied"
    (event,) = world.events("node.copied")
    assert (event.server_id, event.fields["locked"], event.ok) == (HOST_ID, True, False)
    assert locks(world) == [LOCK]
    with pytest.raises(AccessDenied, match="locked"):
        machine.announce()
    assert len(world.events("node.copied")) == 1


def test_a_host_renews_for_ever(world: World, host: Machine) -> None:
    """Each certificate from the one before: nothing is said, whatever calls are made between."""
    for _ in range(20):
        host.renew()
        host.announce()
    assert world.events("node.copied") == []
    assert locks(world) == []


def test_answers_that_are_lost_are_no_copy(world: World, host: Machine) -> None:
    """A host whose network fails asks again and again with the certificate that it has."""
    for _ in range(5):
        for _ in range(3):
            host.renew(answered=False)
        host.renew()
        host.announce()
    assert world.events("node.copied") == []


def test_the_copy_renews_later_than_the_host(world: World, host: Machine) -> None:
    """The host has gone on by two certificates: it would not use that one any more."""
    copy = host.copy()
    host.renew()
    host.renew()
    caught(world, host, copy.renew)


def test_the_copy_renews_before_the_host(world: World, host: Machine) -> None:
    """The host renews from the same certificate; what the copy has got is worth nothing then."""
    copy = host.copy()
    copy.renew()
    copy.announce()
    host.renew()
    assert world.events("node.copied") == []
    caught(world, host, copy.announce)


def test_the_copy_renews_after_the_host(world: World, host: Machine) -> None:
    """Then the host's certificate is one that the copy, as auth sees it, did not get: the next call
    of the host shows that there are two.
    """
    copy = host.copy()
    host.renew()
    copy.renew()
    caught(world, copy, host.announce)


def test_two_copies_wait_for_the_end_of_the_certificate(world: World, host: Machine) -> None:
    """What is renewed from a certificate before a rejoin is refused after it."""
    copy = host.copy()
    key: PrivateKey = world.joined[HOST_ID][1]
    host.renew()
    world.clock.advance(HOST_LIFETIME.total_seconds() + 1)
    proof = sign_rejoin(key, "c", HOST_ID, HostRole.NODE, host.keys.ssh, host.keys.tls)
    host.certificates = world.do(
        table.REJOIN, RejoinRequest(HOST_ID, HostRole.NODE, host.keys, proof), Caller(None, "::1")
    )
    host.renew()
    caller = who(copy.certificates)
    assert isinstance(caller.identity, HostIdentity)
    later = evolve(caller.identity, expires=now(world.clock) + HOST_LIFETIME)
    request = members.RenewRequest("web1", copy.keys)
    caught(world, host, lambda: world.do(table.RENEW, request, evolve(caller, identity=later)))


def test_a_lock_that_is_removed_stays_so(world: World, host: Machine) -> None:
    """An administrator who knows why (a machine that was restored) removes the lock: whichever
    goes on is the host, and a copy shows again.
    """
    copy = host.copy()
    host.renew()
    host.renew()
    caught(world, host, copy.renew)
    world.do(table.DELETE_LOCK, ByName(LOCK))
    for _ in range(3):
        host.renew()
        host.announce()
    assert len(world.events("node.copied")) == 1
    with pytest.raises(AccessDenied, match="copy"):
        copy.renew()
    assert locks(world) == [LOCK]


def test_a_cluster_that_wants_a_report_only(world: World, host: Machine) -> None:
    """Both machines go on, and each time that they part is an event."""
    rules = HostCertificates(on_copied_identity=OnCopy.REPORT)
    spec = ClusterSpec(host_certificates=rules)
    world.do(table.PUT_CLUSTER, PutCluster(Cluster(Metadata("c"), spec)))
    copy = host.copy()
    host.renew()
    host.renew()
    copy.renew()
    (event,) = world.events("node.copied")
    assert event.fields["locked"] is False
    assert locks(world) == []
    copy.announce()
    host.announce()


def test_an_auth_of_an_older_version_counts_nothing(world: World, host: Machine) -> None:
    """What it issues between two certificates of this one is no copy, nor is what was issued before
    there were counts.
    """
    host.renew()
    item = result(world.backend.get(f"{PREFIX}node/{HOST_ID}"))
    assert item is not None
    result(world.backend.commit(Delete(f"{PREFIX}node/{HOST_ID}")))
    host.renew()
    member = result(world.parts.members.find(HostRole.NODE, HOST_ID))
    assert member is not None
    expires = now(world.clock) + HOST_LIFETIME
    world.clock.advance(60)
    stored = world.parts.members._members
    old = evolve(member, issued=now(world.clock), expires=expires)
    result(world.backend.commit(stored.put(f"node/{HOST_ID}", old)))
    host.certificates = world.parts.issuer.host(HOST_ID, "web1", HostRole.NODE, host.keys, ())
    host.renew()
    assert world.events("node.copied") == []


def test_another_auth_knows_what_was_lost(world: World, host: Machine) -> None:
    """The host asked one auth, and its copy calls another one on the same store."""
    copy = host.copy()
    copy.renew()
    host.renew()
    other = type(world.parts.members.generations)(world.backend)
    result(other.start())
    identity = who(copy.certificates).identity
    assert isinstance(identity, HostIdentity)
    with pytest.raises(AccessDenied, match="two machines"):
        other.check(identity)
    other.stop()


def test_a_hosts_copy_says_nothing_about_other_hosts(world: World, host: Machine) -> None:
    """The lock is on the host's id alone."""
    second = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22"
    world.join(world.token(), second)
    copy = host.copy()
    host.renew()
    host.renew()
    caught(world, host, copy.renew)
    world.do(table.ANNOUNCE, evolve(PRESENCE, name="web-22"), who(world.joined[second][0]))
