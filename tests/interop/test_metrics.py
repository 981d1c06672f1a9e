"""The numbers of three real parts: names, values that follow what happens, readiness."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tele.measures.catalogue import CATALOGUE
from three_processes import Cluster, make_cluster, wait_for

PARTS = ("auth", "proxy", "node")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose parts serve their numbers on ports of the kernel's choice."""
    running = make_cluster(tmp_path_factory.mktemp("metrics"), metrics="127.0.0.1:0")
    try:
        yield running
    finally:
        running.stop()


def get(cluster: Cluster, part: str, path: str) -> tuple[int, str]:
    """Ask a part, at the address that its log says."""
    log = (cluster.folder / f"{part}.log").read_text()
    port = re.findall(rf"metrics are served part={part} address=127\.0\.0\.1:(\d+)", log)[-1]
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def numbers(cluster: Cluster, part: str) -> dict[str, float]:
    """Return what ``part`` says: by name, and ``key=value`` of the labels that are not empty."""
    status, text = get(cluster, part, "/metrics")
    assert status == 200
    return {
        " ".join([sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()) if v)]): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_numbers_follow_what_happens(cluster: Cluster) -> None:
    """Logins that succeed and that are refused, bytes, dials, heartbeats, hosts, the store."""
    before = {part: numbers(cluster, part) for part in PARTS}
    for part in PARTS:
        assert get(cluster, part, "/healthz") == (200, "ok\n")
        assert get(cluster, part, "/readyz") == (200, "ready\n")
    assert cluster.ssh(cluster.host, "head -c 300000 /dev/zero").stdout == bytes(300_000)
    assert cluster.ssh(f"nologin@{cluster.host}", "true", check=False).returncode == 255

    def gained(part: str, name: str, least: float) -> bool:
        return numbers(cluster, part).get(name, 0) - before[part].get(name, 0) >= least

    for part, name, least in (
        ("node", "tele_logins_total result=accepted", 1),
        ("node", "tele_network_bytes_total direction=sent", 300_000),
        ("proxy", "tele_network_bytes_total direction=sent", 300_000),
        ("proxy", "tele_node_dials_total result=made", 1),
        ("proxy", "tele_node_dial_seconds_count", 1),
        ("auth", "tele_audit_events_total", 2),
        ("auth", "tele_store_seconds_count operation=commit", 1),
        ("auth", "tele_api_requests_total result=ok", 1),
        ("auth", "tele_announcements_total role=node", 0),
    ):
        wait_for(lambda p=part, n=name, m=least: gained(p, n, m), f"{name} of the {part}")
    refused = [
        name
        for part in ("node", "proxy")
        for name in numbers(cluster, part)
        if name.startswith("tele_logins_total reason=") and name.endswith("result=refused")
    ]
    assert refused, "the refused login is counted with its reason"
    auth = numbers(cluster, "auth")
    assert auth["tele_hosts role=node status=online"] == 1
    assert auth["tele_ca_rotation_phase ca=host phase=standby"] == 1
    assert numbers(cluster, "node")["tele_heartbeats_total result=ok"] >= 1


def test_every_name_is_in_the_catalogue(cluster: Cluster) -> None:
    """Families are those of the reference, with the same labels; the others are the process's."""
    seen = set()
    for part in PARTS:
        for family in text_string_to_metric_families(get(cluster, part, "/metrics")[1]):
            if family.name.startswith("process_"):
                continue
            name = f"{family.name}_total" if family.type == "counter" else family.name
            seen.add(name)
            metric = CATALOGUE[name]
            assert family.type == metric.kind.value
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(metric.labels)
    # What these parts never had: a refused connection, a denied call, a bucket, a measured disk.
    absent = {
        "tele_connections_refused_total", "tele_denials_total", "tele_archive_uploads_stuck",
        "tele_archive_upload_bytes", "tele_recording_spool_free_bytes",
    }  # fmt: skip
    assert set(CATALOGUE) - seen <= absent


def test_a_node_without_auth_is_ready_and_says_so(cluster: Cluster) -> None:
    """It serves by what it knows; monitoring sees that auth is away, and events that wait."""
    cluster.kill("auth")
    try:
        assert cluster.ssh(cluster.host, "true").returncode == 0
        wait_for(
            lambda: (
                numbers(cluster, "node")["tele_auth_reachable"] == 0
                and numbers(cluster, "node")["tele_audit_spool_bytes"] > 0
            ),
            "the node to say that auth is away",
        )
        assert get(cluster, "node", "/readyz") == (200, "ready\n")
    finally:
        cluster.start("auth")
    wait_for(lambda: numbers(cluster, "node")["tele_audit_spool_bytes"] == 0, "the events", 60)
