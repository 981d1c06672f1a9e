"""A cluster gets another signature suite by a rotation, while people work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from small_cluster import ME, SmallCluster, small_cluster
from tele.certs.suites import SignatureSuite
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


def test_hosts_and_cas_get_the_configured_suite(cluster: SmallCluster) -> None:
    """Configured and restarted, auth keeps its keys. The rotation makes CA keys of the new suite,
    and hosts make theirs when they renew; a rollback leads back. No session ends, no login fails.
    """
    fleet = Fleet(cluster)
    ed25519, ecdsa = (suite.key_type for suite in SignatureSuite)
    cluster.stop_auth()
    cluster.suite = SignatureSuite.ECDSA
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
                assert types(fleet) == {ecdsa}
                assert host_keys(fleet)[0].startswith(f"{ecdsa} ")
        if phases[-2] is Phase.ROLLBACK:
            assert types(fleet) == {ed25519}
    assert types(fleet) == {ecdsa}
    assert [line.split()[0] for line in host_keys(fleet)] == [ecdsa]
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
