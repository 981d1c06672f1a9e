"""A rotation of all CAs while people work: auth, a proxy, a direct node and one behind a tunnel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.python.failure import Failure

from small_cluster import ME, NAME, SmallCluster, small_cluster
from tele.certs.keys import parse_line
from tele.certs.x509 import issued_by
from tele.errors import Conflict, TeleError
from tele.https.client import RemoteAuthority
from tele.https.pinning import server_name
from tele.membership import renewal
from tele.membership.identity import tls_authorities
from tele.membership.member import Member
from tele.model.api.authorities import ROTATE, ROTATION, Rotate
from tele.model.api.members import WATCH_STATE, ClusterState, WatchState
from tele.model.api.operation import Nothing
from tele.model.authority import AuthorityKind, TrustedAuthority, authority_of
from tele.model.rotation import Phase

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallCluster]:
    """A cluster with one user, whose hosts renew soon."""
    monkeypatch.setattr(renewal, "SPREAD_SECONDS", 1.0)
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


class Fleet:
    """All of it, and a session of alice's on each node, that counts what it echoes."""

    def __init__(self, cluster: SmallCluster) -> None:
        self.cluster = cluster
        self.proxy, self.direct = cluster.proxy(), cluster.node()
        self.tunnelled = cluster.tunnel_node(self.proxy)
        alone = cluster.ssh_words("alice", self.direct, "127.0.0.1", self.ticking("web1"))
        jumping = cluster.jump_words("alice", self.proxy, "nat1", self.ticking("nat1"))
        self.sessions = [self.start(alone), self.start(jumping)]
        for name in ("web1", "nat1"):
            self.wait_ticks(name)

    def start(self, words: list[str]) -> subprocess.Popen[bytes]:
        """Start ssh; nobody reads what it prints, so that its end waits for no child of it."""
        quiet = subprocess.DEVNULL
        started = subprocess.Popen(["ssh", *words], stdin=quiet, stdout=quiet, stderr=quiet)
        self.cluster.programs.append(started)
        return started

    def ticking(self, name: str) -> str:
        return f"while echo tick >> {self.cluster.folder}/ticks.{name}; do sleep 0.2; done"

    def ticks(self, name: str) -> int:
        path = self.cluster.folder / f"ticks.{name}"
        return len(path.read_bytes()) if path.exists() else 0

    def wait_ticks(self, name: str) -> None:
        before = self.ticks(name)
        self.cluster.reactor.until(lambda: self.ticks(name) > before)

    @property
    def members(self) -> tuple[Member, ...]:
        return self.proxy.member, self.direct.member, self.tunnelled.host.member

    def look(self) -> Any:
        return self.cluster.reactor.wait(self.cluster.admin.perform(ROTATION, Nothing()))

    def begin(self, phase: Phase, *, force: bool = False) -> None:
        asked = self.cluster.admin.perform(ROTATE, Rotate(phase, (), force))
        self.cluster.reactor.wait(asked)

    def reached(self) -> None:
        """Wait until each host has reported what the phase needs of it."""
        reactor = self.cluster.reactor
        reactor.until(lambda: not any(host.behind for host in self.look().hosts), 90)
        assert len(self.look().hosts) == 3

    def work(self) -> None:
        """Sessions go on, and new ones begin, with the certificate of before and with a new one."""
        for session, name in zip(self.sessions, ("web1", "nat1"), strict=True):
            assert session.poll() is None
            self.wait_ticks(name)
        cluster = self.cluster
        assert cluster.ssh("alice", self.direct, "echo on").stdout == b"on\n"
        for name in ("web1", "nat1"):
            done = cluster.jump("alice", self.proxy, name, "echo on")
            assert done.stdout == b"on\n", done.stderr

    def log_in(self) -> None:
        self.cluster.person("alice", ME)

    def certified_by(self, line: str) -> bool:
        """Whether all hosts have certificates of this key, and of the TLS key that signs."""
        host = _host(self.members[0])
        return all(
            m.identity.ssh_certificate.authority_key == parse_line(line)
            and issued_by(m.identity.leaf, host.tls_certificates[:1])
            for m in self.members
        )


def host_keys(fleet: Fleet) -> tuple[str, ...]:
    return _host(fleet.members[0]).ssh_public_keys


def test_people_work_through_a_rotation(cluster: SmallCluster) -> None:
    """Rolled back from the last phase, and then to its end, auth restarted in it: no session ends
    and no login fails, and what the old key has certified is worth nothing afterwards.
    """
    fleet = Fleet(cluster)
    (old,) = host_keys(fleet)
    joined = len(cluster.events("node.join"))
    for phases in (
        (Phase.INIT, Phase.UPDATE_CLIENTS, Phase.UPDATE_SERVERS, Phase.ROLLBACK, Phase.STANDBY),
        (Phase.INIT, Phase.UPDATE_CLIENTS, Phase.UPDATE_SERVERS, Phase.STANDBY),
    ):
        for phase in phases:
            users = phase in (Phase.UPDATE_SERVERS, Phase.STANDBY)
            if users:
                # Hosts have all reached the phase before: what holds this one up are users.
                with pytest.raises(Conflict, match=f"^phase {phase.value} is held up by users"):
                    fleet.begin(phase)
                fleet.log_in()
            fleet.begin(phase, force=users)
            fleet.reached()
            fleet.work()
            if phase is Phase.UPDATE_CLIENTS:
                cluster.stop_auth()
                cluster.start_auth()
                cluster.reactor.until(lambda: not any(m.trouble for m in fleet.members), 60)
            if phase is Phase.UPDATE_SERVERS:
                assert fleet.certified_by(host_keys(fleet)[0])
                assert host_keys(fleet)[0] != old
        if phases[-2] is Phase.ROLLBACK:
            assert host_keys(fleet) == (old,)
            assert fleet.certified_by(old)
    (new,) = host_keys(fleet)
    assert new != old
    assert fleet.certified_by(new)
    assert len(cluster.events("node.join")) == joined
    assert not cluster.events("node.rejoin")


def test_what_a_dropped_key_has_signed_is_refused(cluster: SmallCluster) -> None:
    """A user's certificate of before the rotation, at a node, and a host's at auth: also on the
    connection that it has open.
    """
    direct = cluster.node()
    stale = direct.member.identity
    people = cluster.folder / "people"
    before = (people / "alice-cert.pub").read_text()
    for phase in (Phase.INIT, Phase.UPDATE_CLIENTS, Phase.UPDATE_SERVERS):
        cluster.reactor.wait(cluster.admin.perform(ROTATE, Rotate(phase, (), True)))
        cluster.reactor.until(lambda: _up_to_date(cluster), 60)
    (people / "known_hosts").write_text(
        "".join(f"@cert-authority * {line}\n" for line in _host(direct.member).ssh_public_keys)
    )
    assert cluster.ssh("alice", direct, "echo on").stdout == b"on\n"
    # A thief has the identity of the host as it was, and keeps a connection open.
    thief = RemoteAuthority(
        cluster.reactor,
        [f"127.0.0.1:{cluster.port}"],
        lambda: stale.tls,
        lambda: tls_authorities(direct.member.authorities),
        server_name(NAME),
    )
    read: list[ClusterState] = []
    ended: list[Failure] = []
    thief.follow(WATCH_STATE, WatchState(), read.append).addErrback(ended.append)
    cluster.reactor.until(lambda: bool(read))
    cluster.reactor.wait(cluster.admin.perform(ROTATE, Rotate(Phase.STANDBY, (), True)))
    cluster.reactor.until(lambda: len(_host(direct.member).ssh_public_keys) == 1)
    assert (people / "alice-cert.pub").read_text() == before
    refused = cluster.ssh("alice", direct, "echo on")
    assert refused.returncode == 255
    assert b"Permission denied" in refused.stderr
    cluster.person("alice", ME)
    assert cluster.ssh("alice", direct, "echo on").stdout == b"on\n"
    cluster.reactor.until(lambda: bool(ended))
    known = len(read)
    again = thief.follow(WATCH_STATE, WatchState(), read.append)
    with pytest.raises(TeleError):
        cluster.reactor.wait(again)
    assert len(read) == known
    thief.close()
    cluster.reactor.until(lambda: _up_to_date(cluster), 60)


def _host(member: Member) -> TrustedAuthority:
    host = authority_of(member.authorities, AuthorityKind.HOST)
    assert host is not None
    return host


def _up_to_date(cluster: SmallCluster) -> bool:
    """Whether the hosts have reported what the present phase needs of them."""
    found = cluster.reactor.wait(cluster.admin.perform(ROTATION, Nothing()))
    return not any(host.behind for host in found.hosts)
