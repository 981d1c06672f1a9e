"""Time-outs, obligations and their ends, as a user of OpenSSH's client and an auditor see them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from recording_proxy import Proxied, end_programs, read_error
from small_cluster import ME, SmallCluster, SmallNode, set_options, small_cluster
from tele.model.event import Event

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

SECONDS = timedelta(seconds=1)
Place = tuple[SmallCluster, SmallNode]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A cluster with a user and a node."""
    with small_cluster(tmp_path_factory.mktemp("limits")) as cluster:
        cluster.person("alice", ME)
        yield cluster, cluster.node()
        end_programs(cluster)


def begin(cluster: SmallCluster, *words: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start OpenSSH's client, and wait until its session has begun; with how many had ended."""
    ended, began = len(cluster.events("session.end")), len(cluster.events("exec"))
    process = cluster.start("ssh", *words)
    cluster.wait_event("exec", began + 1)
    return process, ended


def newest(events: tuple[Event, ...]) -> Event:
    return max(events, key=lambda each: each.time)


def test_an_idle_terminal_ends(place: Place) -> None:
    """Though it shows something all the time; the user reads why, and the audit has it."""
    cluster, node = place
    set_options(cluster, node, client_idle_timeout=3 * SECONDS)
    command = "while :; do echo .; sleep 0.2; done"
    words = cluster.ssh_words("alice", node, "-tt", "127.0.0.1", command)
    done = cluster.run("ssh", *words)
    assert done.returncode == 255
    assert b"this connection ends in" in done.stdout
    assert b"tele: idle for 3 s, which is the limit here" in done.stdout
    cluster.wait_event("session.end")
    event = newest(cluster.events("session.end"))
    assert (event.fields["reason"], event.ok) == ("idle", False)
    set_options(cluster, node)


def test_what_moves_bytes_is_not_idle(place: Place) -> None:
    """A command without a terminal that writes for longer than the limit runs to its end; one that
    is silent does not.
    """
    cluster, node = place
    set_options(cluster, node, client_idle_timeout=2 * SECONDS)
    lines = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done"
    busy = cluster.ssh("alice", node, lines)
    assert (busy.stdout.split()[-1:], busy.returncode) == ([b"8"], 0)
    silent = cluster.ssh("alice", node, "sleep 300")
    assert silent.returncode == 255
    assert silent.stdout == b""
    assert b"idle for 2 s" in silent.stderr
    set_options(cluster, node)


def test_a_connection_ends_with_its_certificate_if_a_role_says_so(place: Place) -> None:
    """Set while the connection is there: without the option it would go on."""
    cluster, node = place
    set_options(cluster, node)
    cluster.person("carol", ME, ttl=20 * SECONDS)
    words = cluster.ssh_words("carol", node, "-tt", "127.0.0.1", "sleep 300")
    process, ended = begin(cluster, *words)
    set_options(cluster, node, disconnect_expired_cert=True)
    cluster.reactor.until(lambda: process.poll() is not None, 60)
    cluster.wait_event("session.end", ended + 1)
    assert newest(cluster.events("session.end")).fields["reason"] == "expired"
    assert b"the certificate has expired" in read_error(cluster, process)
    set_options(cluster, node)


@pytest.mark.parametrize(
    ("option", "reason", "said"),
    [
        ("require_mfa", "mfa", b"requires a second factor"),
        ("pin_source_ip", "address", b"valid for your address only"),
    ],
)
def test_an_obligation_that_is_not_met_refuses_and_ends(
    place: Place, option: str, reason: str, said: bytes
) -> None:
    """New logins, and sessions that run when the role changes: the user reads which role and why,
    and the audit has the reason.
    """
    cluster, node = place
    set_options(cluster, node)
    words = cluster.ssh_words("alice", node, "127.0.0.1", "sleep 300")
    process, ended = begin(cluster, *words)
    set_options(cluster, node, **{option: True})
    cluster.reactor.until(lambda: process.poll() is not None, 20)
    assert said in read_error(cluster, process)
    cluster.wait_event("session.end", ended + 1)
    assert newest(cluster.events("session.end")).fields["reason"] == reason
    refused = cluster.ssh("alice", node, "echo in")
    assert (refused.stdout, refused.returncode) == (b"", 255)
    assert said in refused.stderr
    cluster.reactor.until(
        lambda: any(each.fields.get("reason") == reason for each in denials(cluster))
    )
    set_options(cluster, node)
    assert cluster.ssh("alice", node, "echo in").stdout == b"in\n"


def test_connections_of_a_user_count_over_all_hosts(place: Place) -> None:
    """The second one is refused on another node, with the number; the end of the first makes room.
    While auth is away, each host counts its own.
    """
    cluster, node = place
    other = cluster.node(name="web2")
    for each in (other, node):
        set_options(cluster, each, max_connections=1)
    process, ended = begin(cluster, *cluster.ssh_words("alice", node, "127.0.0.1", "sleep 300"))

    def log_in(at: SmallNode) -> subprocess.CompletedProcess[bytes]:
        alias = f"HostKeyAlias={at.member.identity.host.name}.small"
        return cluster.run(
            "ssh", "-o", alias, *cluster.ssh_words("alice", at, "127.0.0.1", "echo in")
        )

    refused = log_in(other)
    assert (refused.stdout, refused.returncode) == (b"", 255)
    assert b"1 connection is open for alice, and the roles allow 1" in refused.stderr
    cluster.reactor.until(
        lambda: any(each.fields.get("reason") == "connections" for each in denials(cluster))
    )
    cluster.stop_auth()
    assert log_in(other).stdout == b"in\n"
    assert b"open for alice on this node" in log_in(node).stderr
    cluster.start_auth()
    process.terminate()
    cluster.wait_event("session.end", ended + 2)
    cluster.reactor.until(lambda: not node.service.factory.present)
    assert log_in(other).stdout == b"in\n"
    cluster.stop_node(other)


def denials(cluster: SmallCluster) -> list[Any]:
    return [each for each in cluster.events() if not each.ok]


def test_a_session_at_a_recording_proxy_ends_there(tmp_path: Path) -> None:
    """The proxy ends the user's SSH and measures; the node behind it, whose certificate for the
    session is valid for minutes only, ends nothing by time.
    """
    with small_cluster(tmp_path) as cluster:
        cluster.person("alice", ME)
        proxied = Proxied(cluster)
        set_options(
            cluster,
            proxied.node,
            client_idle_timeout=3 * SECONDS,
            disconnect_expired_cert=True,
            max_connections=1,
        )
        done = proxied.ssh("sleep 300")
        assert done.returncode == 255
        assert b"idle for 3 s" in done.stderr
        proxied.ended()
        cluster.wait_event("session.end", 2)
        why = {each.server_id: each.fields.get("reason") for each in cluster.events("session.end")}
        assert why[proxied.proxy.member.host_id] == "idle"
        assert why[proxied.node.member.host_id] is None
        end_programs(cluster)
