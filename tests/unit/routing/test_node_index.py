"""Names of nodes: found, unknown, ambiguous, offline."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from attrs import evolve

from tele.errors import InvalidInput, NotFound, Unreachable
from tele.model.api.hosts import HostChanges
from tele.model.identity import HostRole
from tele.model.presence import Host, Mode, Status
from tele.routing.index import CANDIDATES_LIMIT, SHOWN, NodeIndex, check_online

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
PROD = evolve(WEB, labels={"env": "prod", "role": "db"})
OTHER = evolve(WEB, id="0d9d28a3-4ff5-4b3b-8e5c-6ad0e0f1a222")


def index(*hosts: Host) -> NodeIndex:
    made = NodeIndex("Example")
    made.change(HostChanges(hosts, first=True, last=True))
    return made


@pytest.mark.parametrize("name", ["web1", "WEB1", "web1.example", "web1.EXAMPLE.", WEB.id])
def test_a_node_is_found_by_each_of_its_names(name: str) -> None:
    """Name, name.cluster and host id, in any case."""
    assert index(WEB).find(name) is WEB


@pytest.mark.parametrize("name", ["", "web", "web1.other", ".example", "example"])
def test_an_unknown_name(name: str) -> None:
    """A typing mistake is not taken for an offline node."""
    with pytest.raises(NotFound, match="no such node"):
        index(WEB).find(name)


def test_two_nodes_of_one_name_are_ambiguous() -> None:
    """The error says to use an id."""
    with pytest.raises(InvalidInput, match=WEB.id):
        index(WEB, OTHER).find("web1")


def test_a_replaced_machine_is_not_found() -> None:
    """Of two nodes with one name, the only one online is meant."""
    gone = evolve(OTHER, status=Status.OFFLINE)
    assert index(gone, WEB).find("web1") is WEB
    assert index(gone, WEB).find(OTHER.id) is gone


def test_offline_names_the_last_time() -> None:
    """Offline is its own answer."""
    with pytest.raises(Unreachable, match=r"offline since 2026-11-24T12:00:00\.000Z"):
        check_online(evolve(WEB, status=Status.OFFLINE))


def test_a_forgotten_node_is_gone() -> None:
    """Nothing old stays of what is gone, or of what was known before it began anew."""
    made = index(WEB, OTHER)
    made.change(HostChanges((), gone=(WEB.id,)))
    assert made.find("web1") is OTHER
    made.change(HostChanges((), first=True, last=True))
    assert len(made) == 0
    for name in (OTHER.id, "web1", "env=prod"):
        with pytest.raises(NotFound):
            made.find(name)


def test_known_nodes_stay_during_a_new_list() -> None:
    """After auth was away, no node is unknown for as long as a long list takes."""
    made = index(WEB, OTHER)
    made.change(HostChanges((evolve(OTHER, name="web2"),), first=True))
    assert made.find("web1") is WEB
    made.change(HostChanges((), last=True))
    assert made.find("web2").id == OTHER.id
    with pytest.raises(NotFound):
        made.find("web1")


def test_a_node_changes_name_and_labels() -> None:
    """It is found by what it is now, and by nothing that it was."""
    made = index(PROD)
    made.change(HostChanges((evolve(PROD, name="web9", labels={"env": "dev"}),)))
    assert made.find("web9") is made.find("env=dev") is made.get(PROD.id)
    for name in ("web1", "env=prod", "env=prod,role=db"):
        with pytest.raises(NotFound):
            made.find(name)


def test_a_node_is_found_by_labels() -> None:
    """All labels have to fit; case counts; the cluster's name may follow."""
    made = index(PROD, evolve(OTHER, labels={"env": "prod", "role": "web"}))
    assert made.find("env=prod,role=db") is PROD
    assert made.find("env=prod+role=db") is PROD
    assert made.find("role=db.Example") is PROD
    odd = evolve(PROD, id=OTHER.id, labels={"mail": "a+b,c"})
    assert index(PROD, odd).find("mail=a+b,c") is odd
    for none in ("env=Prod,role=db", "role=cache", "env=prod,role=db,zone=a"):
        with pytest.raises(NotFound):
            made.find(none)
    with pytest.raises(InvalidInput, match=rf"2 nodes match 'env=prod'.*{WEB.id}"):
        made.find("env=prod")


def test_a_key_that_is_given_twice_means_any_of_its_values() -> None:
    """Neither value is dropped, in whatever order they come; other keys have to fit as well."""
    web = evolve(OTHER, labels={"env": "test", "role": "web"})
    made = index(PROD, web)
    for either in ("env=prod,env=lab", "env=lab+env=prod", "env=prod,env=test,role=db"):
        assert made.find(either) is PROD
    with pytest.raises(InvalidInput, match="2 nodes match"):
        made.find("env=prod,env=test")
    for none in ("env=lab,env=dev", "env=prod,env=lab,role=web"):
        with pytest.raises(NotFound):
            made.find(none)


@pytest.mark.parametrize("text", ["env=prod,", "=prod", ",".join(["a=1"] * 17)])
def test_a_selector_that_cannot_be_read(text: str) -> None:
    """The error shows the form."""
    with pytest.raises(InvalidInput, match="key=value"):
        index(PROD).find(text)


def test_a_selector_that_fits_too_many() -> None:
    """Each node that fits costs a decision: a loop of such questions stops no proxy (attack)."""
    crowd = [evolve(PROD, id=f"n-{number}") for number in range(CANDIDATES_LIMIT + 1)]
    made = index(*crowd, evolve(OTHER, labels={"env": "prod", "zone": "a"}))
    asked: list[str] = []

    def visible(host: Host) -> bool:
        asked.append(host.id)
        return False

    with pytest.raises(InvalidInput, match="too many"):
        made.find("env=prod", visible)
    assert len(asked) <= CANDIDATES_LIMIT
    assert made.find("env=prod+zone=a").id == OTHER.id


def test_no_more_nodes_are_checked_than_needed() -> None:
    """A selector that fits thousands is answered as soon as it is known to fit several (attack)."""
    crowd = [evolve(PROD, id=f"n-{number:05}", name=f"n{number}") for number in range(4000)]
    asked: list[str] = []

    def visible(host: Host) -> bool:
        asked.append(host.id)
        return True

    with pytest.raises(InvalidInput, match=r"more than 5 nodes match 'env=prod'.* and more$"):
        index(*crowd).find("env=prod", visible)
    assert len(asked) == SHOWN + 1
    with pytest.raises(InvalidInput, match=r"^5 nodes match.*n4 \(n-00004\)$"):
        index(*crowd[:5]).find("env=prod", visible)


def test_what_a_selector_costs_is_what_its_rarest_label_has() -> None:
    """Twice as many nodes of the rarest label are twice the decisions; of others, none more."""

    def cost(rare: int, others: int) -> int:
        asked: list[str] = []
        some = [evolve(PROD, id=f"r{n}", labels={"a": "1", "b": "1"}) for n in range(rare)]
        more = [evolve(PROD, id=f"o{n}", labels={"a": "1"}) for n in range(others)]

        def visible(host: Host) -> bool:
            asked.append(host.id)
            return False

        with pytest.raises(NotFound):
            index(*some, *more).find("a=1,b=1", visible)
        return len(asked)

    assert (cost(100, 100), cost(200, 100), cost(100, 1000)) == (100, 200, 100)


def test_a_proxy_without_a_list_of_nodes() -> None:
    """Started while auth is unreachable, no name is unknown."""
    with pytest.raises(Unreachable, match="auth is unreachable"):
        NodeIndex("example").find("web1")


def test_labels_show_nothing_that_one_may_not_see() -> None:
    """Only matching nodes that the user may reach count (attack)."""
    made = index(PROD, evolve(OTHER, labels={"env": "prod"}))
    assert made.find("env=prod", lambda host: host.id == OTHER.id).id == OTHER.id
    with pytest.raises(NotFound):
        made.find("env=prod", lambda _: False)


def test_nodes_of_before_a_restart() -> None:
    """They are found until auth sends the list; before that, no other name is unknown. The list
    replaces them as a whole.
    """
    later = evolve(OTHER, name="web2")
    made = NodeIndex("Example")
    made.restore([WEB, later])
    assert made.find("web1") is WEB
    with pytest.raises(Unreachable, match="auth is unreachable"):
        made.find("web3")
    assert (made.is_loaded, made.is_complete) == (False, False)
    made.change(HostChanges((WEB,), first=True))
    assert made.find("web2") is later
    made.change(HostChanges((), last=True))
    assert (made.is_loaded, made.is_complete) == (True, True)
    with pytest.raises(NotFound):
        made.find("web2")
