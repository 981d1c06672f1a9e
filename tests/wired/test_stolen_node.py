"""A stolen node, over real TLS with its own certificate: what it can make auth record."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from small_cluster import NAME, SmallCluster, SmallNode, small_cluster
from tele.audit.chain import event
from tele.errors import InvalidInput
from tele.model.api import audit, recordings, table
from tele.model.event import Event
from tele.model.session import Recording, RecordingStart


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """Auth without hosts."""
    with small_cluster(tmp_path) as made:
        yield made


def call(cluster: SmallCluster, node: SmallNode, operation: Any, request: Any) -> Any:
    """Call auth as the node, over the connection that it has."""
    authority = node.member.authority
    return cluster.reactor.wait(authority.perform(operation, request))


def forged(node: SmallNode, **fields: Any) -> Event:
    """Return an event of another node's name, from yesterday."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    fields = {"server_id": node.member.host_id, "server_name": "db-prod", "user": "alice", **fields}
    return event("exec", str(uuid.uuid4()), yesterday, NAME, command="rm -rf /", **fields)


def test_a_stolen_node_speaks_as_itself_and_today(cluster: SmallCluster) -> None:
    """Events and recordings with another node's name and yesterday's date come out as its own."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    thief, other = cluster.node(), cluster.node(name="db-prod")
    call(cluster, thief, table.EMIT_EVENTS, audit.EmitEvents((forged(thief),)))
    (kept,) = cluster.events("exec")
    assert (kept.server_id, kept.server_name) == (thief.member.host_id, "web1")
    assert kept.time > before > (kept.claimed or before)
    with pytest.raises(InvalidInput):
        as_other = forged(thief, server_id=other.member.host_id)
        call(cluster, thief, table.EMIT_EVENTS, audit.EmitEvents((as_other,)))

    name = str(uuid.uuid4())
    yesterday = datetime.now(UTC) - timedelta(days=1)
    start = RecordingStart(
        name, "ssh", NAME, "alice", "root", (), "", "db-prod", thief.member.host_id,
        "192.0.2.7:1", yesterday,
    )  # fmt: skip
    call(cluster, thief, table.START_RECORDING, recordings.StartRecording(name, start))
    row: Recording
    listed = cluster.admin.perform(table.LIST_RECORDINGS, recordings.ListRecordings())
    (row,) = cluster.reactor.wait(listed).items
    assert (row.node, row.node_id) == ("web1", thief.member.host_id)
    assert row.received is not None
    assert row.received > before
    # The other node adds nothing to it.
    with pytest.raises(InvalidInput):
        about = forged(other, server_id=other.member.host_id, session_id=name)
        call(cluster, other, table.EMIT_EVENTS, audit.EmitEvents((about,)))


def test_what_waited_while_auth_was_away_has_both_times(cluster: SmallCluster) -> None:
    """An honest event that arrives late keeps when it happened; its place is when it arrived."""
    node = cluster.node()
    cluster.stop_auth()
    emit = datetime.now(UTC)
    late = evolve(forged(node, server_name="web1"), time=emit)
    node.member.emit(late)
    back = datetime.now(UTC)
    cluster.start_auth()
    (stored,) = cluster.wait_event("exec")
    assert stored.claimed is not None
    assert abs(stored.claimed - emit) < timedelta(milliseconds=1)
    assert stored.time >= back - timedelta(milliseconds=1)  # stored in whole milliseconds
