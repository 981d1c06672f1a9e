"""Settings of the cluster that nodes and proxies honour, as OpenSSH's client meets them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recording_proxy import Proxied, end_programs
from small_cluster import ME, NAME, SmallCluster, SmallNode, small_cluster
from tele.errors import InvalidInput
from tele.model.api.cluster import PUT_CLUSTER, PutCluster
from tele.model.api.users import ADD_USER, RESET_USER, NewUser, ResetUser
from tele.model.cluster_settings import AllowedAlgorithms, PasswordPolicy
from tele.model.resources import (
    Cluster,
    ClusterSpec,
    Metadata,
    RecordingMode,
    RecordingSettings,
    User,
)

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

BANNER = "Authorized use only.\nAll sessions are recorded: \u00a7 1.\n"
SHOWN = "Authorized use only.\nAll sessions are recorded: \u00a7 1.\n"
GCM, CHACHA = "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A cluster with one user."""
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made
        end_programs(made)


def put(cluster: SmallCluster, *members: Any, **settings: Any) -> None:
    """Change the settings of the running cluster, and wait until ``members`` know them."""
    spec = ClusterSpec(**settings)
    request = PutCluster(Cluster(Metadata(NAME), spec))
    cluster.reactor.wait(cluster.admin.perform(PUT_CLUSTER, request))
    for member in members:
        cluster.reactor.until(lambda member=member: member.settings == spec.for_hosts)


def stderr_of(done: Any) -> str:
    return str(done.stderr.decode().replace("\r\n", "\n"))


def test_the_banner_and_the_message_of_the_day(cluster: SmallCluster) -> None:
    """The banner comes before each login, the message when a shell begins on a terminal, and
    nowhere else: commands, forwards and files of programs stay as they are.
    """
    node = cluster.node()
    put(cluster, node.member, banner=BANNER, message_of_the_day="Maintenance on Sunday.")
    shell = cluster.ssh("alice", node, stdin=b"exit\n", options=("-tt",))
    assert SHOWN in stderr_of(shell)
    assert b"Maintenance on Sunday.\r\n" in shell.stdout
    command = cluster.ssh("alice", node, "echo out")
    assert (command.stdout, stderr_of(command)) == (b"out\n", SHOWN)
    put(cluster, node.member)
    shell = cluster.ssh("alice", node, stdin=b"exit\n", options=("-tt",))
    assert "Authorized" not in stderr_of(shell)
    assert b"Maintenance" not in shell.stdout


def test_a_refused_client_has_read_the_banner_and_the_reason(cluster: SmallCluster) -> None:
    """Both are banners of RFC 4252: the second one says why."""
    node = cluster.node()
    put(cluster, node.member, banner=BANNER)
    refused = cluster.ssh("alice", node, "true", login="nobody-of-that-name")
    assert refused.returncode == 255
    assert SHOWN in stderr_of(refused)


def test_through_a_recording_proxy_the_banner_comes_once(cluster: SmallCluster) -> None:
    """The proxy ends the user's SSH and shows it; the node behind it does not show it to the
    proxy, whose errors would have it.
    """
    proxied = Proxied(cluster)
    put(
        cluster, proxied.node.member, proxied.proxy.member,
        banner=BANNER, session_recording=RecordingSettings(RecordingMode.PROXY),
    )  # fmt: skip
    done = proxied.ssh("echo out")
    assert (done.stdout, stderr_of(done)) == (b"out\n", SHOWN)


def connects(cluster: SmallCluster, node: SmallNode, option: str) -> str:
    """Return nothing, or why a client with one option does not connect."""
    done = cluster.ssh("alice", node, "echo in", options=("-o", option))
    assert (done.stdout == b"in\n") is (done.returncode == 0)
    return stderr_of(done)


def test_only_allowed_algorithms_are_offered(cluster: SmallCluster) -> None:
    """Also ones that a node does not offer by default; a client without one of them is told so."""
    node = cluster.node()
    assert connects(cluster, node, f"Ciphers={GCM}") == ""
    assert "no matching cipher" in connects(cluster, node, f"Ciphers={CHACHA}")
    put(
        cluster, node.member,
        algorithms=AllowedAlgorithms(
            key_exchanges=("curve25519-sha256",),
            ciphers=(CHACHA, "aes256-ctr"),
            macs=("hmac-sha2-512-etm@openssh.com",),
        ),
    )  # fmt: skip
    assert connects(cluster, node, f"Ciphers={CHACHA}") == ""
    assert "no matching cipher" in connects(cluster, node, f"Ciphers={GCM}")
    assert "no matching key exchange" in connects(
        cluster, node, "KexAlgorithms=curve25519-sha256@libssh.org"
    )
    assert connects(cluster, node, "MACs=hmac-sha2-512-etm@openssh.com") == ""
    (macs,) = (connects(cluster, node, option) for option in ("Ciphers=aes256-ctr",))
    assert macs == ""
    put(cluster, node.member)
    assert connects(cluster, node, f"Ciphers={GCM}") == ""


def test_the_password_policy_holds_for_chosen_passwords(cluster: SmallCluster) -> None:
    """From the next password on; the error does not repeat the password."""
    put(cluster, password_policy=PasswordPolicy(min_length=12, min_classes=3))

    def add(name: str, password: str) -> Any:
        request = NewUser(User(Metadata(name)), password)
        return cluster.reactor.wait(cluster.admin.perform(ADD_USER, request))

    for short in ("Sh0rt", "all-small-and-signs", "12345678901234"):
        with pytest.raises(InvalidInput) as refused:
            add("bob", short)
        assert short not in str(refused.value)
    add("bob", "Long-enough-1")
    with pytest.raises(InvalidInput, match="at least 12 characters"):
        cluster.reactor.wait(cluster.admin.perform(RESET_USER, ResetUser("bob", "Sh0rt-one")))
    assert add("carol", "").password  # one that auth makes is random
