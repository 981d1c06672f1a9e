"""Machines that run OpenSSH's sshd: how they are registered, listed, and seen online."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from auth_world import HOST_ID, OTHER_ID, World, result
from tele.auth.presence import Hosts
from tele.certs.keys import PrivateKey
from tele.certs.rejoin import sign_rejoin
from tele.certs.x509 import TlsKey
from tele.errors import AccessDenied, Conflict, InvalidInput, TeleError
from tele.loop import now
from tele.model.api import table
from tele.model.api.authorities import SignHost
from tele.model.api.hosts import AddHost, HostProbe, ListHosts, ReportHostProbes, WatchHosts
from tele.model.api.members import JoinRequest, PublicKeys, RejoinRequest
from tele.model.api.paging import ById
from tele.model.api.roles import PutRole
from tele.model.identity import Caller, HostRole
from tele.model.presence import NEVER, Host, Mode, Presence, Status
from tele.model.resources import Conditions, Metadata, Role, RoleSpec

LINE = PrivateKey.generate().public.line
LEGACY = AddHost("db-legacy", "10.0.0.9:22", {"env": "legacy"}, ("db.example.org",))


def add(world: World, request: AddHost = LEGACY, caller: Caller | None = None) -> Host:
    world.next_id = str(uuid.uuid4())
    host: Host = world.do(table.ADD_HOST, request, caller)
    return host


def person(world: World, name: str, *roles: str) -> Caller:
    """A user who exists."""
    if result(world.parts.users.find_user(name)) is None:
        world.add_user(name, *roles)
    return world.user(name, *roles)


def listed(world: World, caller: Caller | None = None, *labels: str) -> dict[str, Host]:
    found = world.do(table.LIST_HOSTS, ListHosts(labels=labels), caller)
    return {host.name: host for host in found.items}


def probe(world: World, proxy: Caller, *probes: HostProbe) -> None:
    world.do(table.REPORT_HOST_PROBES, ReportHostProbes(probes), proxy)


def test_a_machine_is_registered_and_listed(world: World) -> None:
    """It is a node with what the administrator said, and offline until a proxy has reached it."""
    host = add(world)
    assert listed(world) == {"db-legacy": host}
    assert (host.role, host.mode, host.status) == (HostRole.NODE, Mode.DIRECT, Status.OFFLINE)
    assert (host.addresses, host.labels, host.last_seen) == (
        ("10.0.0.9:22",), {"env": "legacy"}, NEVER,
    )  # fmt: skip
    assert (host.sshd, host.names) == (True, ("db.example.org",))
    (event,) = world.events("node.add")
    assert (event.server_id, event.server_name) == (host.id, "db-legacy")
    assert event.fields["address"] == "10.0.0.9:22"
    assert add(world, AddHost("two", "legacy2")).addresses == ("legacy2:22",)


def test_proxies_say_whether_it_is_online(world: World) -> None:
    """It is online while a proxy reaches it; why none does is shown, and gone when one does."""
    proxy, host = world.proxy(), add(world)
    told: list[Host] = []
    following = world.auth.follow(
        table.WATCH_HOSTS, WatchHosts(), proxy, lambda changes: told.extend(changes.items)
    )
    following.addErrback(lambda failure: None)
    probe(world, proxy, HostProbe(host.id, False, "connection refused"))
    assert listed(world)["db-legacy"].problem == "connection refused"
    assert listed(world)["db-legacy"].status is Status.OFFLINE
    world.clock.advance(30)
    probe(world, proxy, HostProbe(host.id, True), HostProbe(OTHER_ID, True))
    seen = listed(world)["db-legacy"]
    assert (seen.status, seen.problem, seen.last_seen) == (Status.ONLINE, "", now(world.clock))
    # Another proxy does not reach it.
    probe(world, proxy, HostProbe(host.id, False, "no route"))
    assert listed(world)["db-legacy"] == seen
    world.clock.advance(1)
    world.clock.advance(100)
    world.clock.advance(1)
    assert listed(world)["db-legacy"].status is Status.OFFLINE
    assert [each.status.value for each in told] == ["offline", "offline", "online", "offline"]
    following.cancel()


def test_a_probe_of_the_address_of_before_says_nothing(world: World) -> None:
    """One that was under way when the address changed does not make it appear online, for a minute
    and a half, at the new one.
    """
    proxy, host = world.proxy(), add(world)
    moved = add(world, evolve(LEGACY, address="10.0.0.10:22", replace=True))
    assert moved.id == host.id
    probe(world, proxy, HostProbe(host.id, True, address="10.0.0.9:22"))
    assert listed(world)["db-legacy"].status is Status.OFFLINE
    probe(world, proxy, HostProbe(host.id, False, "no route", "10.0.0.9:22"))
    assert listed(world)["db-legacy"].problem == ""
    probe(world, proxy, HostProbe(host.id, True, address="10.0.0.10:22"))
    assert listed(world)["db-legacy"].status is Status.ONLINE


def test_what_is_wrong_with_it_is_stored_when_it_changes(world: World) -> None:
    """A machine that no proxy reaches costs the store nothing, also when proxies find different
    problems, or each probe another text; what is wrong later is shown, too.
    """
    proxy, host = world.proxy(), add(world)
    probe(world, proxy, HostProbe(host.id, False, "connection refused"))
    stored: list[Any] = []
    watch = result(world.backend.watch("/hosts/", stored.append))
    for _ in range(100):
        world.clock.advance(0.25)
        probe(world, proxy, HostProbe(host.id, False, "connection refused"))
    assert stored == []
    for number in range(100):
        world.clock.advance(0.25)
        probe(world, proxy, HostProbe(host.id, False, f"it is {number} s"))
    assert 0 < len(stored) <= 4
    watch.stop()
    world.clock.advance(600)
    probe(world, proxy, HostProbe(host.id, False, "no route"))
    assert listed(world)["db-legacy"].problem == "no route"


def test_it_stays_registered(world: World) -> None:
    """Nothing of it expires, however long no proxy reaches it; another auth shows the same."""
    host = add(world)
    world.clock.advance(timedelta(days=300).total_seconds())
    assert listed(world)["db-legacy"].id == host.id
    other = Hosts(world.backend, world.clock)
    result(other.start())
    assert other.all(HostRole.NODE) == (host,)
    result(other.stop())
    with pytest.raises(Conflict, match="db-legacy"):
        world.join(world.token(), name="db-legacy")


def test_another_auth_shows_it_offline(world: World) -> None:
    """A registration at this auth is no sign of life at another one."""
    other = Hosts(world.backend, world.clock)
    result(other.start())
    host = add(world)
    assert other.all(HostRole.NODE) == (host,)
    result(other.stop())


def test_it_is_changed_and_keeps_its_id(world: World) -> None:
    """Names that it does not have any more are free; without ``replace`` nothing changes."""
    host = add(world)
    with pytest.raises(Conflict, match=r"or change that \(--replace\); tele nodes rm"):
        add(world)
    changed = add(world, AddHost("db-legacy", "10.0.0.10:2222", {"env": "old"}, replace=True))
    assert (changed.id, changed.addresses, changed.labels) == (
        host.id, ("10.0.0.10:2222",), {"env": "old"},
    )  # fmt: skip
    add(world, AddHost("db.example.org", "10.0.0.11:22"))
    world.join(world.token(), name="web1")
    with pytest.raises(Conflict, match="or remove that first; tele nodes rm"):
        add(world, AddHost("web1", "10.0.0.9:22", replace=True))


def test_it_is_removed(world: World) -> None:
    """By name or by id; its names are free then, and late probes bring nothing back."""
    proxy, host = world.proxy(), add(world)
    world.do(table.DELETE_HOST, ById("db-legacy"))
    assert listed(world) == {}
    probe(world, proxy, HostProbe(host.id, True), HostProbe(host.id, False, "x"))
    assert listed(world) == {}
    (event,) = world.events("node.delete")
    assert event.server_id == host.id
    world.do(table.DELETE_HOST, ById(add(world).id))


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (AddHost("proxy", "10.0.0.9:22"), "reserved"),
        (AddHost("db.c", "10.0.0.9:22"), "domain"),
        (AddHost(HOST_ID, "10.0.0.9:22"), "id of a host"),
        (AddHost("10.0.0.9", "10.0.0.9:22"), "address"),
        (AddHost("db", "10.0.0.9:22", names=("web7.c",)), "domain"),
        (AddHost("db", "10.0.0.9:22", names=("*",)), "not a host name"),
        (AddHost("db", "10.0.0.9:0"), "not an address"),
        (AddHost("db", "-oProxyCommand=x:22"), "not an address"),
        (AddHost("db", "10.0.0.9:22", {"": "x"}), "label"),
        (AddHost("db", "10.0.0.9:22", {"k": "x" * 2000}), "label"),
    ],
)
def test_what_would_mislead_is_refused(world: World, request_: AddHost, why: str) -> None:
    """No name that a member has or could have, and no address that is none."""
    with pytest.raises(InvalidInput, match=why):
        add(world, request_)
    assert listed(world) == {}


def test_names_are_in_one_namespace(world: World) -> None:
    """Neither takes the other's name, whichever is first, in upper or lower case."""
    world.join(world.token(), name="web1")
    for request in (AddHost("WEB1", "10.0.0.9:22"), AddHost("db", "10.0.0.9:22", names=("web1",))):
        with pytest.raises(Conflict):
            add(world, request)
    add(world)
    for name in ("db-legacy", "DB-Legacy", "db.example.org"):
        with pytest.raises(Conflict):
            world.join(world.token(), OTHER_ID, name=name)


@pytest.mark.parametrize("name", ["192.0.2.1", "Gate1.example"])
def test_no_address_of_a_member_is_a_further_name(world: World, name: str) -> None:
    """Proxies would get a certificate for where a node is, or another proxy (attack)."""
    world.join(world.token())
    for role, address, caller in (
        (HostRole.NODE, "192.0.2.1:3022", world.host()),
        (HostRole.PROXY, "gate1.example:3023", world.proxy()),
    ):
        world.do(table.ANNOUNCE, Presence("any", role, (address,)), caller)
    with pytest.raises(TeleError, match=r"an address of|a proxy's name"):
        add(world, AddHost("db", "10.0.0.9:22", names=("db.example.org", name)))
    assert "db" not in listed(world)
    add(world)
    assert add(world, evolve(LEGACY, replace=True)).names == LEGACY.names


def test_its_host_key_is_signed_for_its_names(world: World) -> None:
    """Before and after it is registered; those of a member are refused as ever."""
    world.join(world.token(), name="web1")
    names = ("db-legacy", "db.example.org")
    for _ in range(2):
        assert world.do(table.SIGN_HOST, SignHost(LINE, names)).certificate
        if not listed(world):
            add(world)
    with pytest.raises(Conflict):
        world.do(table.SIGN_HOST, SignHost(LINE, ("web1",)))


def test_roles_apply_to_it_by_its_labels(world: World) -> None:
    """Users see it who may log in to it, as any node."""
    add(world)
    role = Role(Metadata("dba"), RoleSpec(Conditions(("root",), {"env": ("legacy",)})))
    world.do(table.PUT_ROLE, PutRole("dba", role))
    other = Role(Metadata("web"), RoleSpec(Conditions(("root",), {"env": ("web",)})))
    world.do(table.PUT_ROLE, PutRole("web", other))
    assert list(listed(world, person(world, "alice", "dba"))) == ["db-legacy"]
    assert listed(world, person(world, "bob", "web")) == {}
    assert list(listed(world, None, "env=legacy")) == ["db-legacy"]


def test_only_administrators_register(world: World) -> None:
    """A user without the rule, a node and a proxy do not; only proxies report probes."""
    world.join(world.token())
    proxy = world.proxy()
    host = add(world, caller=person(world, "eve", "editor"))
    for caller in (person(world, "alice", "access"), world.host(), proxy, Caller(None, "x")):
        with pytest.raises(TeleError):
            add(world, AddHost("other", "10.0.0.8:22"), caller)
    for caller in (person(world, "eve", "editor"), world.host(), Caller(None, "x")):
        with pytest.raises(TeleError):
            probe(world, caller, HostProbe(host.id, True))
    assert listed(world)["db-legacy"].status is Status.OFFLINE


def test_probes_are_of_such_machines_only(world: World) -> None:
    """A proxy that was taken over makes no node appear online that is not, or offline (attack)."""
    world.join(world.token())
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    proxy = world.proxy()
    probe(world, proxy, HostProbe(HOST_ID, False, "broken"))
    assert listed(world)["web1"].problem == ""
    world.clock.advance(100)
    probe(world, proxy, HostProbe(HOST_ID, True))
    assert listed(world)["web1"].status is Status.OFFLINE


def test_it_is_no_member(world: World) -> None:
    """No peer gets a member's certificates as such a machine: it has no key to prove (attack)."""
    host = add(world)
    key = PrivateKey.generate()
    keys = PublicKeys(key.public.line, TlsKey.generate().public_pem)
    signature = sign_rejoin(key, "c", host.id, HostRole.NODE, keys.ssh, keys.tls)
    with pytest.raises(AccessDenied, match="not a member"):
        world.do(
            table.REJOIN, RejoinRequest(host.id, HostRole.NODE, keys, signature), Caller(None, "x")
        )
    with pytest.raises(AccessDenied, match="not a member"):
        world.do(table.ANNOUNCE, Presence("db-legacy", HostRole.NODE), world.host(host.id))
    with pytest.raises(TeleError):
        world.do(
            table.JOIN,
            JoinRequest(world.token(replaces=("db-legacy",)), "db-legacy", HostRole.NODE, keys),
            Caller(None, "192.0.2.1:1"),
        )


def test_a_host_does_not_announce_itself_as_such(world: World) -> None:
    """A node cannot have proxies record in its place, or take further names (attack)."""
    world.join(world.token())
    said: dict[str, Any] = {"sshd": True, "names": ("db.example.org",), "problem": "none"}
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE, **said), world.host())
    host = listed(world)["web1"]
    assert (host.sshd, host.names, host.problem) == (False, (), "")
