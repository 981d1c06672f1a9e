"""A stolen recording proxy, with its own certificate over TLS, and a user's real login to it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from recording_proxy import Proxied, end_programs
from small_cluster import ME, SmallCluster, small_cluster
from tele.auth.proxied_sessions import LOGINS_BURST
from tele.certs.keys import PrivateKey
from tele.errors import AccessDenied
from tele.model.api.proxying import MINT_SESSION, CertifiedKey, MintSession
from tele.model.event import Event

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made
        end_programs(made)


class Thief:
    """Has the certificate of a proxy, and what alice signed to log in to a node through it."""

    def __init__(self, cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proxied = Proxied(cluster)
        self.cluster = cluster
        self.requests: list[MintSession] = []
        self._authority: Any = self.proxied.proxy.member.authority
        perform = self._authority.perform

        def watched(operation: Any, request: Any) -> Any:
            if operation is MINT_SESSION:
                self.requests.append(request)
            return perform(operation, request)

        monkeypatch.setattr(self._authority, "perform", watched)

    def mint(self) -> CertifiedKey:
        """Ask for a certificate for a key of the thief's own, for alice's session."""
        stolen = evolve(self.requests[0], ssh_public_key=PrivateKey.generate().public.line)
        asked: Deferred[CertifiedKey] = self._authority.perform(MINT_SESSION, stolen)
        return self.cluster.reactor.wait(asked)

    def minted(self) -> list[Event]:
        """The events of certificates for sessions."""
        return [e for e in self.cluster.events("cert.issue") if e.fields["kind"] == "session"]


@pytest.fixture
def thief(cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> Thief:
    """One who has taken a recording proxy over."""
    return Thief(cluster, monkeypatch)


def test_a_stolen_proxy_uses_up_the_session(thief: Thief) -> None:
    """While alice is connected the thief gets a bounded number of certificates; each names her
    session and the host in the audit, and then there is the refusal (attack).
    """
    proxied = thief.proxied
    words = proxied.cluster.jump_words("alice", proxied.proxy, "web1.small", "sleep 60")
    proxied.cluster.start("ssh", *words)
    thief.cluster.wait_event("session.start", 2)
    session = thief.requests[0].session_id
    for _ in range(LOGINS_BURST - 1):
        thief.mint()
    with pytest.raises(AccessDenied, match="has logged in to web1 20 times"):
        thief.mint()
    minted = thief.minted()
    assert len(minted) == LOGINS_BURST
    assert {(each.session_id, each.fields["node"]) for each in minted} == {(session, "web1")}
    denied = thief.cluster.events("auth.denied")[-1]
    assert denied.server_id == proxied.proxy.member.host_id
    assert denied.fields["operation"] == "mint_session"


def test_a_stolen_proxy_gets_nothing_after_the_session(thief: Thief) -> None:
    """What alice signed opens nothing when she has left (attack)."""
    assert thief.proxied.ssh("echo in").stdout == b"in\n"
    thief.cluster.wait_event("session.end", 2)
    with pytest.raises(AccessDenied, match="has ended"):
        thief.mint()
    assert len(thief.minted()) == 1
