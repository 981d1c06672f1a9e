"""Names of nodes: found, unknown, ambiguous, offline."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from attrs import evolve

from tele.errors import InvalidInput, NotFound, Unreachable
from tele.model.identity import HostRole
from tele.model.presence import Host, Mode, Status
from tele.proxy.index import NodeIndex, check_online

WEB = Host(
    id="0d9d28a3-4ff5-4b3b-8e5c-6ad0e0f1a111",
    name="web1",
    role=HostRole.NODE,
    addresses=("127.0.0.1:3022",),
    labels={},
    mode=Mode.DIRECT,
    status=Status.ONLINE,
    last_seen=datetime(2026, 11, 24, 12, tzinfo=UTC),
)
OTHER = evolve(WEB, id="0d9d28a3-4ff5-4b3b-8e5c-6ad0e0f1a222")


def index(*hosts: Host) -> NodeIndex:
    made = NodeIndex("Example")
    made.replace(hosts)
    return made


@pytest.mark.parametrize("name", ["web1", "WEB1", "web1.example", "web1.EXAMPLE.", WEB.id])
def test_a_node_is_found_by_each_of_its_names(name: str) -> None:
    """Name, name.cluster and host id, in any case."""
    assert index(WEB).find(name) is WEB


@pytest.mark.parametrize("name", ["", "web", "web1.other", ".example", "example"])
def test_an_unknown_name_says_so(name: str) -> None:
    """A typing mistake is not taken for an offline node."""
    with pytest.raises(NotFound, match="no such node"):
        index(WEB).find(name)


def test_two_nodes_of_one_name_are_ambiguous() -> None:
    """The visitor is told to say which."""
    with pytest.raises(InvalidInput, match=WEB.id):
        index(WEB, OTHER).find("web1")


def test_a_replaced_machine_does_not_stand_in_the_way() -> None:
    """Of two nodes with one name, the only one online is meant."""
    gone = evolve(OTHER, status=Status.OFFLINE)
    assert index(gone, WEB).find("web1") is WEB
    assert index(gone, WEB).find(OTHER.id) is gone


def test_offline_says_since_when() -> None:
    """Offline is its own answer."""
    with pytest.raises(Unreachable, match=r"offline since 2026-11-24T12:00:00\.000Z"):
        check_online(evolve(WEB, status=Status.OFFLINE))


def test_a_forgotten_node_is_gone() -> None:
    """The index is replaced as a whole: nothing old stays."""
    made = index(WEB)
    made.replace([])
    assert len(made) == 0
    with pytest.raises(NotFound):
        made.find(WEB.id)
