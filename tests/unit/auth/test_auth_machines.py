"""Machines: joining, presence, leaving, and what a machine may not claim to be."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from auth_world import HOST_ID, OTHER_ID, World, result
from tele.auth.authorities import Authorities
from tele.auth.cluster_claim import claim
from tele.auth.presence import (
    CHECK_SECONDS,
    FLUSH_SECONDS,
    NOTIFY_SECONDS,
    PAGE,
    PAGE_SECONDS,
    Announcement,
    Hosts,
)
from tele.certs.certificate import parse_certificate
from tele.certs.check import check_host
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey
from tele.errors import AccessDenied, InvalidInput
from tele.loop import now
from tele.model.api import members, roles, table
from tele.model.api.hosts import ListHosts, WatchHosts
from tele.model.api.paging import ById, ByName, Paged
from tele.model.api.tokens import NewToken
from tele.model.codec import encode
from tele.model.identity import HostRole
from tele.model.presence import OFFLINE_AFTER, Presence, Status
from tele.model.resources import Metadata, Role


def test_a_store_belongs_to_one_cluster(world: World) -> None:
    """A second start resumes; another name is refused before anything is changed."""
    moment = now(world.clock)
    assert result(claim(world.backend, "c", moment)) is True
    assert result(claim(world.backend, "c", moment)) is False
    with pytest.raises(InvalidInput, match="holds the cluster c"):
        result(claim(world.backend, "d", moment))


def test_authorities_are_made_once(world: World) -> None:
    """A restart finds the keys that the first start made, and their reprs hide them."""
    again = result(Authorities.load(world.backend, "c", now(world.clock), os.urandom))
    assert again.trusted == world.authorities.trusted
    assert "PRIVATE" not in repr(vars(again))


def test_a_node_joins(world: World) -> None:
    """A token gets certificates that name the host, its role and the address that it calls from."""
    certificates = world.join(world.token(), addresses=("0.0.0.0:3022", "web1.internal:3022"))
    certificate = parse_certificate(parse_line(certificates.ssh))
    for name in (HOST_ID, "web1.c", "192.0.2.9"):
        checked = check_host(certificate, world.host_keys, [name], now(world.clock))
        assert checked.identity is not None
        assert checked.identity.role is HostRole.NODE
    assert not {"0.0.0.0", "web1.internal"} & set(certificate.principals)
    assert [e.fields["replaced"] for e in world.events("node.join")] == [[]]


def test_one_answer_for_every_bad_token(world: World) -> None:
    """Unknown, expired, used up and for another role give the same answer."""
    used, short = world.token(max_uses=1), world.token(ttl=timedelta(seconds=5))
    proxy = world.do(table.ADD_TOKEN, NewToken((HostRole.PROXY,))).token
    world.join(used)
    world.clock.advance(6)
    answers = set()
    for token in (used, short, proxy, "guess", ""):
        with pytest.raises(AccessDenied) as caught:
            world.join(token)
        answers.add(str(caught.value))
    assert len(answers) == 1
    assert len(world.events("auth.denied")) == 5
    assert not any(t in str(e) for e in world.events("auth.denied") for t in (used, short, proxy))


def test_tokens_are_not_shown_again(world: World) -> None:
    """A list shows no secret, and neither does the store."""
    secret = world.token()
    listed = world.do(table.LIST_TOKENS, Paged())
    assert secret not in repr(listed)
    items = result(world.backend.range("/", "0"))
    assert not any(secret.encode() in item.value or secret in item.key for item in items)
    world.do(table.DELETE_TOKEN, ById(listed.items[0].id))
    with pytest.raises(AccessDenied):
        world.join(secret)


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "a/b"},
        {"name": "-x"},
        {"name": "a\nb"},
        {"addresses": ("*:22",)},
        {"addresses": ("a,b:22",)},
        {"addresses": tuple(f"h{n}:22" for n in range(40))},
    ],
)
def test_claims_of_a_joining_host_that_are_refused(world: World, bad: dict[str, Any]) -> None:
    """Names that would be paths, options or wildcards cost no use of the token."""
    token = world.token(max_uses=1)
    with pytest.raises((InvalidInput, ValueError)):
        world.join(token, **bad)
    world.join(token)


def test_bound_labels_win(world: World) -> None:
    """A host cannot talk itself out of the labels that its token bound."""
    world.join(world.token(labels={"env": "prod"}))
    said = Presence("web1", HostRole.NODE, labels={"env": "dev", "zone": "a"})
    world.do(table.ANNOUNCE, said, world.host())
    (host,) = world.do(table.LIST_HOSTS, ListHosts()).items
    assert host.labels == {"env": "prod", "zone": "a"}


def test_presence(world: World) -> None:
    """Online, then offline after 90 seconds, watched; forgotten after a week."""
    world.join(world.token())
    received: list[Any] = []
    watching = world.auth.follow(table.WATCH_HOSTS, WatchHosts(), world.proxy(), received.append)
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    world.clock.advance(30)
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    world.clock.advance(NOTIFY_SECONDS)
    assert [h.status for h in received[-1].items] == [Status.ONLINE]
    assert len(received) == 2, "a heartbeat alone is no news"
    world.clock.pump([CHECK_SECONDS] * (int(OFFLINE_AFTER.total_seconds() / CHECK_SECONDS) + 1))
    assert [h.status for h in received[-1].items] == [Status.OFFLINE]
    watching.addErrback(lambda _: None)
    watching.cancel()
    world.clock.advance(timedelta(days=7).total_seconds())
    result(world.backend.get("/"))
    assert world.do(table.LIST_HOSTS, ListHosts()).items == ()


def test_a_removed_node_is_out(world: World) -> None:
    """It can neither announce itself nor renew; a new token makes it another host."""
    world.join(world.token())
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    world.do(table.DELETE_HOST, ById(HOST_ID))
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    for operation, request in (
        (table.ANNOUNCE, Presence("web1", HostRole.NODE)),
        (table.RENEW, members.RenewRequest("web1", keys)),
    ):
        with pytest.raises(AccessDenied, match="removed"):
            world.do(operation, request, world.host())
    world.join(world.token(), OTHER_ID, name="web1")
    renewed = world.do(table.RENEW, members.RenewRequest("web2", keys), world.host(OTHER_ID))
    assert renewed.ssh


def test_the_state_is_published_at_each_change(world: World) -> None:
    """Nodes get roles and authorities at once, and every change after it."""
    received: list[Any] = []
    world.join(world.token())
    watching = world.auth.follow(
        table.WATCH_STATE, members.WatchState(), world.host(), received.append
    )
    world.do(table.PUT_ROLE, roles.PutRole("ops", Role(Metadata("ops"))))
    assert [r.metadata.name for r in received[0].roles] == ["access", "auditor", "editor"]
    assert "ops" in [r.metadata.name for r in received[-1].roles]
    assert received[-1].revision > received[0].revision
    watching.addErrback(lambda _: None)
    watching.cancel()
    world.do(table.DELETE_ROLE, ByName("ops"))
    assert "ops" in [r.metadata.name for r in received[-1].roles]


def test_a_fleet_that_reconnects_shares_one_value(world: World) -> None:
    """Callers within a second get the same value, which is made into bytes once; a change,
    or a second, makes another.
    """
    received: list[Any] = []
    world.join(world.token())

    def follow() -> Any:
        request = members.WatchState()
        following = world.auth.follow(table.WATCH_STATE, request, world.host(), received.append)
        following.addErrback(lambda _: None)
        return following

    watching = [follow(), follow()]
    assert received[0] is received[1]
    world.do(table.PUT_ROLE, roles.PutRole("ops", Role(Metadata("ops"))))
    assert received[-1] is received[-2]
    watching.append(follow())
    assert "ops" in [r.metadata.name for r in received[-1].roles]
    world.clock.advance(1)
    watching.append(follow())
    assert received[-1] is not received[-2]
    assert received[-1].issued > received[-2].issued
    for each in watching:
        each.cancel()


def test_a_user_sees_the_nodes_that_they_may_log_in_to(world: World) -> None:
    """Listing follows the same decision as logging in."""
    world.join(world.token())
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    world.add_user("alice", "access")
    world.add_user("nina", "auditor")
    request = ListHosts()
    assert len(world.do(table.LIST_HOSTS, request, world.user("alice", "access")).items) == 1
    assert world.do(table.LIST_HOSTS, request, world.user("nina", "auditor")).items == ()
    assert world.do(table.LIST_HOSTS, ListHosts(labels=("a=b",))).items == ()
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE, labels={"a": "b"}), world.host())
    for labels in (("a=b", "a=c"), ("a=c", "a=b")):
        assert len(world.do(table.LIST_HOSTS, ListHosts(labels=labels)).items) == 1
    with pytest.raises(InvalidInput):
        world.do(table.LIST_HOSTS, ListHosts(labels=("nonsense",)))


def test_heartbeats_are_stored_together(world: World) -> None:
    """A fleet that has nothing new to say costs a commit now and then, not one each."""
    ids = [f"{HOST_ID[:-2]}{number:02d}" for number in range(20)]
    for host_id in ids:
        world.join(world.token(), host_id, name=f"web{host_id[-2:]}")
        world.do(table.ANNOUNCE, Presence("x", HostRole.NODE), world.host(host_id))
    commits = 0
    backend: Any = world.backend
    plain = backend.commit

    def counted(*changes: Any) -> Any:
        nonlocal commits
        commits += 1
        return plain(*changes)

    backend.commit = counted
    world.clock.advance(30)
    for host_id in ids:
        world.do(table.ANNOUNCE, Presence("x", HostRole.NODE), world.host(host_id))
    assert commits == 0
    world.clock.advance(FLUSH_SECONDS)
    assert commits == 1
    stored = result(backend.range("/hosts/", "/hosts0"))
    moment = encode(now(world.clock) - timedelta(seconds=FLUSH_SECONDS))
    assert all(moment in item.value for item in stored), "the last announcement is stored"
    listed = world.do(table.LIST_HOSTS, ListHosts())
    assert {host.status for host in listed.items} == {Status.ONLINE}


def test_the_last_announcements_are_stored_at_the_end(world: World) -> None:
    """Auth that stops stores pending announcements, so that no host is shown offline after its
    restart.
    """
    world.join(world.token())
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    world.clock.advance(60)
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    result(world.parts.hosts.stop())
    world.clock.advance(60)
    again = Hosts(world.backend, world.clock)
    result(again.start())
    assert again.is_online(HostRole.NODE, HOST_ID)
    result(again.stop())


def test_many_changes_are_one_message(world: World) -> None:
    """Ten nodes that come at once are one message to each proxy, not ten."""
    received: list[Any] = []
    watching = world.auth.follow(table.WATCH_HOSTS, WatchHosts(), world.proxy(), received.append)
    watching.addErrback(lambda _: None)
    for number in range(10):
        host_id = f"{HOST_ID[:-2]}{number:02d}"
        world.join(world.token(), host_id, name=f"web{number}")
        world.do(table.ANNOUNCE, Presence("x", HostRole.NODE), world.host(host_id))
    world.clock.advance(NOTIFY_SECONDS)
    assert [(len(each.items), each.first) for each in received] == [(0, True), (10, False)]
    watching.cancel()


def test_only_changes_are_sent(world: World) -> None:
    """A proxy is notified of the one node of many that changes, or is removed."""
    received: list[Any] = []
    for number in range(3):
        host_id = f"{HOST_ID[:-2]}{number:02d}"
        world.join(world.token(), host_id, name=f"web{number}")
        world.do(table.ANNOUNCE, Presence("x", HostRole.NODE), world.host(host_id))
    watching = world.auth.follow(table.WATCH_HOSTS, WatchHosts(), world.proxy(), received.append)
    watching.addErrback(lambda _: None)
    changed = f"{HOST_ID[:-2]}01"
    world.do(table.ANNOUNCE, Presence("x", HostRole.NODE, labels={"a": "b"}), world.host(changed))
    world.clock.advance(NOTIFY_SECONDS)
    world.do(table.DELETE_HOST, ById(changed))
    world.clock.advance(NOTIFY_SECONDS)
    assert [([h.name for h in each.items], each.gone, each.first) for each in received] == [
        (["web0", "web1", "web2"], (), True),
        (["web1"], (), False),
        ([], (changed,), False),
    ]
    watching.cancel()


def test_a_large_fleet_is_sent_in_pages(world: World) -> None:
    """A proxy that begins to watch gets all of it, some hundred nodes at a time."""
    hosts = world.parts.hosts
    moment = now(world.clock)
    for number in range(2 * PAGE + 1):
        said = Presence(f"web{number}", HostRole.NODE)
        result(hosts.observe(HostRole.NODE, Announcement(f"id-{number}", said, moment)))
    received: list[Any] = []
    watching = hosts.watch(HostRole.NODE, received.append)
    watching.addErrback(lambda _: None)
    world.clock.pump([PAGE_SECONDS] * 3)
    assert [(len(each.items), each.first, each.last) for each in received] == [
        (PAGE, True, False),
        (PAGE, False, False),
        (1, False, True),
    ]
    watching.cancel()


def test_hosts_are_listed_in_pages(world: World) -> None:
    """Each host is listed once, also where two have one name."""
    for number in range(5):
        host_id = f"{HOST_ID[:-2]}{number:02d}"
        world.join(world.token(), host_id, name=f"web{number}")
        world.do(table.ANNOUNCE, Presence("x", HostRole.NODE), world.host(host_id))
    seen: list[str] = []
    after = ""
    while True:
        page = world.do(table.LIST_HOSTS, ListHosts(limit=2, after=after))
        seen += [host.name for host in page.items]
        after = page.next
        if not after:
            break
    assert seen == [f"web{number}" for number in range(5)]
