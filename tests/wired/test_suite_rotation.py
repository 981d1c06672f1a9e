"""A cluster gets another signature suite by a rotation, while people work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint

from small_cluster import ME, SmallCluster, small_cluster
from tele.certs.certificate import parse_certificate
from tele.certs.composite import is_offered
from tele.certs.keys import parse_line
from tele.certs.suites import SignatureSuite
from tele.conch.client.transport import ClientIdentity, HostVerifier, connect
from tele.embed.ssh import execute
from tele.errors import Conflict
from tele.membership import renewal
from tele.membership.identity import is_superseded
from tele.model.api.authorities import ROTATE, Rotate
from tele.model.rotation import Phase
from test_rotation import Fleet, host_keys

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallCluster]:
    """A cluster of the suite ``ed25519`` with one user, whose hosts renew soon."""
    monkeypatch.setattr(renewal, "SPREAD_SECONDS", 1.0)
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def types(fleet: Fleet) -> set[str]:
    """The types of the hosts' SSH keys."""
    return {m.identity.keys.ssh.public.type.decode("ascii") for m in fleet.members}


@pytest.mark.parametrize("wanted", [SignatureSuite.ECDSA, SignatureSuite.RSA])
def test_hosts_and_cas_get_the_configured_suite(
    cluster: SmallCluster, wanted: SignatureSuite
) -> None:
    """Configured and restarted, auth keeps its keys. The rotation makes CA keys of the new suite,
    and hosts make theirs when they renew; a rollback leads back. No session ends, no login fails.
    """
    fleet = Fleet(cluster)
    ed25519, changed = SignatureSuite.ED25519.key_type, wanted.key_type
    cluster.stop_auth()
    cluster.suite = wanted
    cluster.start_auth()
    cluster.reactor.until(lambda: not any(m.trouble for m in fleet.members), 60)
    assert types(fleet) == {ed25519}
    ids = [m.identity.host.host_id for m in fleet.members]
    for phases in (
        (Phase.INIT, Phase.UPDATE_CLIENTS, Phase.UPDATE_SERVERS, Phase.ROLLBACK, Phase.STANDBY),
        (Phase.INIT, Phase.UPDATE_CLIENTS, Phase.UPDATE_SERVERS, Phase.STANDBY),
    ):
        for phase in phases:
            users = phase in (Phase.UPDATE_SERVERS, Phase.STANDBY)
            if users:
                fleet.log_in()
            fleet.begin(phase, force=users)
            fleet.reached()
            fleet.work()
            if phase is Phase.UPDATE_SERVERS:
                assert types(fleet) == {changed}
                assert host_keys(fleet)[0].startswith(f"{changed} ")
        if phases[-2] is Phase.ROLLBACK:
            assert types(fleet) == {ed25519}
    assert types(fleet) == {changed}
    assert [line.split()[0] for line in host_keys(fleet)] == [changed]
    assert [m.identity.host.host_id for m in fleet.members] == ids
    assert not cluster.events("node.rejoin")


def test_a_forced_rotation_leads_to_the_same(cluster: SmallCluster) -> None:
    """A host that misses phases, and reconnects by its old key, makes a key of the new suite, too:
    clients of the suite accept no other.
    """
    direct = cluster.node()
    member = direct.member
    cluster.stop_auth()
    cluster.suite = SignatureSuite.ECDSA
    cluster.start_auth()
    cluster.reactor.until(lambda: not member.trouble, 60)
    for phase in (Phase.INIT, Phase.UPDATE_CLIENTS, Phase.UPDATE_SERVERS, Phase.STANDBY):
        cluster.reactor.wait(cluster.admin.perform(ROTATE, Rotate(phase, (), True)))
    cluster.reactor.until(
        lambda: (
            member.identity.keys.is_of(SignatureSuite.ECDSA)
            and not is_superseded(member.identity, member.authorities)
        ),
        90,
    )
    cluster.person("alice", ME)
    assert cluster.ssh("alice", direct, "echo on").stdout == b"on\n"


@pytest.mark.skipif(not is_offered(), reason="cryptography offers no ML-DSA")
def test_signatures_that_quantum_computers_do_not_forge(cluster: SmallCluster) -> None:
    """CAs, hosts and a user get composite keys: they reach each other. A client of OpenSSH that
    does not know them is told so, and accepts nothing else.
    """
    wanted = SignatureSuite.MLDSA44_ED25519
    proxy, direct = cluster.proxy(), cluster.node()
    tunnelled = cluster.tunnel_node(proxy).host
    members = (proxy.member, direct.member, tunnelled.member)
    cluster.stop_auth()
    cluster.suite = wanted
    cluster.start_auth()
    cluster.reactor.until(lambda: not any(m.trouble for m in members), 60)
    for phase in (Phase.INIT, Phase.UPDATE_CLIENTS, Phase.UPDATE_SERVERS, Phase.STANDBY):
        cluster.reactor.wait(cluster.admin.perform(ROTATE, Rotate(phase, (), True)))
    cluster.reactor.until(
        lambda: all(
            m.identity.keys.is_of(wanted) and not is_superseded(m.identity, m.authorities)
            for m in members
        ),
        90,
    )
    key = cluster.ssh_keys["alice"] = wanted.generate()
    cluster.person("alice", ME)
    folder = cluster.folder / "people"
    (known,) = (folder / "known_hosts").read_text().splitlines()
    authority = parse_line(known.split(None, 2)[2])

    async def says() -> bytes:
        connection = await connect(
            cluster.reactor,
            TCP4ClientEndpoint(cluster.reactor, "127.0.0.1", direct.port),
            verify_host=HostVerifier({authority}, ("web1.small",)),
            identity=ClientIdentity(
                key, parse_certificate(parse_line((folder / "alice-cert.pub").read_text())), ME
            ),
        )
        result = await execute(connection, b"echo on")
        connection.transport.loseConnection()
        return result.stdout

    assert cluster.reactor.wait(Deferred.fromCoroutine(says())) == b"on\n"
    known_here = cluster.run("ssh", "-Q", "key").stdout
    done = cluster.ssh("alice", direct, "true")
    if wanted.key_type.encode() in known_here:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 255
        assert b"no matching host key type found" in done.stderr


def test_a_host_that_cannot_verify_composite_keys_is_named(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rotation does not begin: that host would refuse all others."""
    monkeypatch.setattr("tele.membership.member._COMPOSITE", ())
    member = cluster.node().member
    cluster.stop_auth()
    cluster.suite = SignatureSuite.MLDSA44_ED25519
    cluster.start_auth()
    cluster.reactor.until(lambda: not member.trouble, 60)
    with pytest.raises(Conflict, match="web1 cannot verify keys of the suite mldsa44-ed25519"):
        cluster.reactor.wait(cluster.admin.perform(ROTATE, Rotate(Phase.INIT, ())))
