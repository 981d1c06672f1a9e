"""Hosts that were away during rotations of the CAs: they reconnect by themselves, or must not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from small_cluster import ME, NAME, SmallCluster, SmallNode, small_cluster
from tele.errors import AccessDenied
from tele.membership import renewal
from tele.membership.identity import is_superseded
from tele.membership.joining import JoinSettings
from tele.model.api.authorities import AUTHORITIES, ROTATE, Rotate
from tele.model.api.operation import Nothing
from tele.model.authority import AuthorityKind, TrustedAuthority, authority_of
from tele.model.rotation import Phase

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

PHASES = (Phase.INIT, Phase.UPDATE_CLIENTS, Phase.UPDATE_SERVERS, Phase.STANDBY)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallCluster]:
    """A cluster with one user, whose hosts renew soon."""
    monkeypatch.setattr(renewal, "SPREAD_SECONDS", 1.0)
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def rotate(cluster: SmallCluster, *phases: Phase, compromised: bool = False) -> None:
    for phase in phases:
        asked = Rotate(phase, (), True, compromised=compromised)
        cluster.reactor.wait(cluster.admin.perform(ROTATE, asked))


def pin_of(cluster: SmallCluster) -> str:
    host = authority_of(trusted(cluster), AuthorityKind.HOST)
    assert host is not None
    return host.pins[0]


def trusted(cluster: SmallCluster) -> tuple[TrustedAuthority, ...]:
    found = cluster.reactor.wait(cluster.admin.perform(AUTHORITIES, Nothing()))
    present: tuple[TrustedAuthority, ...] = found.trusted
    return present


def tokenless(cluster: SmallCluster, *pins: str) -> JoinSettings:
    """What a host is configured with whose token is gone."""
    return JoinSettings((f"127.0.0.1:{cluster.port}",), pins)


def serves(cluster: SmallCluster, node: SmallNode) -> None:
    """Wait until it has followed; then a user who logged in just now gets in."""
    present, member = trusted(cluster), node.member
    cluster.reactor.until(lambda: member.authorities == present and not member.trouble)
    cluster.reactor.until(lambda: not is_superseded(member.identity, present))
    cluster.person("alice", ME)
    words = cluster.ssh_words("alice", node, "127.0.0.1", "echo on")
    name = f"HostKeyAlias={node.member.identity.host.name}.{NAME}"
    done = cluster.run("ssh", *(name if w.startswith("HostKeyAlias=") else w for w in words))
    assert done.stdout == b"on\n", done.stderr


def test_a_host_that_was_away_reconnects_without_a_token(cluster: SmallCluster) -> None:
    """In the last phase of a rotation, and after two whole rotations: it is the host that it was,
    and so is one that joins with the pin of before.
    """
    oldest = pin_of(cluster)
    first, second = cluster.node(), cluster.node(name="web2")
    ids = {n.member.host_id for n in (first, second)}
    for node in (first, second):
        cluster.stop_node(node)
    rotate(cluster, *PHASES[:3])
    second = cluster.node(name="web2", settings=tokenless(cluster, oldest))
    serves(cluster, second)
    rotate(cluster, PHASES[3])
    serves(cluster, second)
    cluster.stop_node(second)
    rotate(cluster, *PHASES)
    for name in ("web1", "web2"):
        node = cluster.node(name=name, settings=tokenless(cluster, oldest))
        ids.discard(node.member.host_id)
        serves(cluster, node)
    assert not ids
    assert len(cluster.events("node.join")) == 2
    assert {e.server_name for e in cluster.events("node.rejoin")} == {"web1", "web2"}
    token = cluster.settings().token
    serves(cluster, cluster.node(name="web3", settings=_with_token(cluster, oldest, token())))


def _with_token(cluster: SmallCluster, pin: str, token: str | None) -> JoinSettings:
    return JoinSettings((f"127.0.0.1:{cluster.port}",), (pin,), lambda: token)


def test_a_compromised_key_says_nothing_of_the_new_one(cluster: SmallCluster) -> None:
    """Nobody who knows only such a key, or one of before, trusts auth; neither does a host that
    joins with its pin, and no token is sent.
    """
    oldest = pin_of(cluster)
    rotate(cluster, *PHASES)
    before = pin_of(cluster)
    node = cluster.node(settings=_with_token(cluster, oldest, cluster.settings().token()))
    cluster.stop_node(node)
    rotate(cluster, PHASES[0], compromised=True)
    rotate(cluster, *PHASES[1:])
    node = cluster.node(settings=tokenless(cluster, before))
    cluster.reactor.until(lambda: "another CA made its certificate" in node.member.trouble)
    known = len(cluster.events("node.join"))
    for name, pin in (("web2", oldest), ("web3", before)):
        settings = _with_token(cluster, pin, cluster.settings().token())
        with pytest.raises(AccessDenied, match="does not match the pin"):
            cluster.node(name=name, settings=settings)
    assert len(cluster.events("node.join")) == known
    assert not cluster.events("node.rejoin")
