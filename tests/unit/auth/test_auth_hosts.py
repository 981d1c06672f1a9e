"""Identity of hosts: attacks by holders of tokens, by compromised hosts, and by time."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from auth_world import HOST_ID, OTHER_ID, PROXY_ID, World, result
from tele.auth.members import NAMES
from tele.auth.presence import RETURN_TIME, Hosts
from tele.auth.repository import Repository
from tele.certs.certificate import parse_certificate
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.rejoin import sign_rejoin
from tele.certs.x509 import TlsKey
from tele.errors import AccessDenied, Conflict, InvalidInput, NotFound, Unavailable
from tele.interfaces import Delete, Put
from tele.loop import now
from tele.model.api import audit, members, table
from tele.model.api.hosts import ListHosts
from tele.model.api.paging import ById, Paged
from tele.model.codec import decode, format_time
from tele.model.identity import Caller, HostRole
from tele.model.lifetimes import HOST_LIFETIME, REJOIN_LIMIT
from tele.model.presence import OFFLINE_AFTER, Presence, Status
from tele.model.resources import Lock, LockSpec, LockTarget, Metadata

SILENT = OFFLINE_AFTER.total_seconds()
SETTLED = RETURN_TIME.total_seconds()


def keys() -> members.PublicKeys:
    return members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)


def principals(certificates: Any) -> tuple[str, ...]:
    return parse_certificate(parse_line(certificates.ssh)).principals


def issued(certificates: Any) -> int:
    """When a certificate says that it was issued."""
    return parse_certificate(parse_line(certificates.ssh)).valid_after + 60


def live(world: World, host_id: str = HOST_ID, name: str = "web1", *addresses: str) -> None:
    """Let a host say that it lives."""
    said = Presence(name, HostRole.NODE, addresses)
    world.do(table.ANNOUNCE, said, world.host(host_id))


def rejoin(world: World, key: PrivateKey, host_id: str = HOST_ID, **words: Any) -> Any:
    """Ask for new certificates with a proof by ``key``."""
    role = words.get("role", HostRole.NODE)
    made = words.get("keys") or keys()
    cluster = words.get("cluster", "c")
    signature = sign_rejoin(key, cluster, host_id, role, made.ssh, made.tls)
    request = members.RejoinRequest(host_id, role, words.get("sent") or made, signature)
    return world.do(table.REJOIN, request, Caller(None, "192.0.2.9:1"))


# -- ids --------------------------------------------------------------------------------
def test_a_joining_host_cannot_name_its_id(world: World) -> None:
    """The id is not for the host to say: a request that names one is not understood."""
    body = b'{"token":"t","host_id":"%s","name":"web1","role":"node","keys":{"ssh":"","tls":""}}'
    with pytest.raises(InvalidInput, match="unknown key 'host_id'"):
        decode(members.JoinRequest, body % HOST_ID.encode())


def test_a_token_takes_over_no_host_that_is_online(world: World) -> None:
    """The holder of a token gets neither the name nor the place of a node that lives (attack)."""
    world.join(world.token())
    live(world, HOST_ID, "web1", "192.0.2.9:3022")
    token = world.token(replaces=("web1",))
    for name in ("web1", "WEB1"):
        with pytest.raises(Conflict, match="is online"):
            world.join(token, OTHER_ID, name=name)
    (host,) = world.do(table.LIST_HOSTS, ListHosts()).items
    assert (host.id, host.addresses) == (HOST_ID, ("192.0.2.9:3022",))
    live(world)


def test_a_host_that_has_just_joined_is_alive(world: World) -> None:
    """Between joining and the first announcement no other host can replace it."""
    world.join(world.token())
    with pytest.raises(Conflict, match="is online"):
        world.join(world.token(replaces=("web1",)), OTHER_ID, name="web1")


def test_each_join_makes_a_host_of_its_own(world: World) -> None:
    """Two machines with one token are two hosts; ids are random and auth's."""
    auth: Any = type(world.auth)(world.parts, world.clock)
    token = world.token()
    ids = set()
    for name in ("a", "b"):
        request = members.JoinRequest(token, name, HostRole.NODE, keys())
        answer = result(auth.handle(table.JOIN, request, Caller(None, "192.0.2.9:1")))
        ids.add(parse_certificate(parse_line(answer.ssh)).extensions["tele-host-id"])
    assert len(ids) == 2


def test_a_token_for_an_id_replaces_that_host_when_it_is_gone(world: World) -> None:
    """A token that is bound to an id brings it back, with other keys, and says whom it replaced."""
    world.join(world.token())
    live(world)
    before = world.host()
    token = world.token(host_id=HOST_ID)
    with pytest.raises(Conflict, match="is online"):
        world.join(token, OTHER_ID)
    world.clock.advance(max(SETTLED, SILENT))
    joined = world.join(token, OTHER_ID)
    assert HOST_ID in principals(joined)
    assert [e.fields["replaced"] for e in world.events("node.join")] == [[], [HOST_ID]]
    world.clock.advance(1)
    after = world.host()
    for operation, request in (
        (table.ANNOUNCE, Presence("web1", HostRole.NODE)),
        (table.RENEW, members.RenewRequest("web1", keys())),
        (table.EMIT_EVENTS, audit.EmitEvents(())),
    ):
        with pytest.raises(AccessDenied, match="replaced"):
            world.do(operation, request, before)
        world.do(operation, request, after)


def test_what_replaces_a_host_is_not_revoked_with_it(world: World) -> None:
    """The certificate of the new host counts from the first moment, that of the old no more."""
    old = world.join(world.token())
    world.clock.advance(SETTLED)
    new = world.join(world.token(host_id=HOST_ID))
    (revoked,) = world.parts.state.revoked_hosts.values()
    assert revoked.host_id == HOST_ID
    assert issued(old) < revoked.before.timestamp() <= issued(new)
    assert world.parts.state.present.revoked_hosts == (revoked,)


def test_a_token_for_an_id_is_checked(world: World) -> None:
    """What a token permits is understood when it is made, or refused."""
    for bad in (
        {"host_id": "web1"},
        {"host_id": HOST_ID.upper()},
        {"addresses": ("*.example.com",)},
        {"addresses": ("web1.c",)},
        {"addresses": (f"{OTHER_ID}.c",)},
        {"addresses": ("proxy",)},
        {"addresses": ("a b.example.com",)},
    ):
        with pytest.raises(InvalidInput):
            world.token(**bad)
    for bad_name in ("a b", "", "-x", "a/b"):
        with pytest.raises(InvalidInput, match="is not a host name"):
            world.token(replaces=(bad_name,))
    with pytest.raises(InvalidInput, match="only nodes have labels"):
        world.token((HostRole.PROXY,), labels={"env": "prod"})
    with pytest.raises(InvalidInput, match="one role"):
        world.token((HostRole.NODE, HostRole.PROXY), host_id=HOST_ID)
    with pytest.raises(InvalidInput, match="role node"):
        world.token((HostRole.PROXY,), addresses=("192.0.2.1",))


# -- coming back ------------------------------------------------------------------------
@pytest.mark.parametrize("away", [timedelta(hours=26), timedelta(days=3), timedelta(days=29)])
def test_a_host_rejoins_by_its_key(world: World, away: timedelta) -> None:
    """An expired certificate is renewed by proof of the registered key, without a token."""
    world.join(world.token())
    world.clock.advance(HOST_LIFETIME.total_seconds() + away.total_seconds())
    assert {HOST_ID, "web1.c"} <= set(principals(rejoin(world, world.joined[HOST_ID][1])))
    live(world)
    assert [e.server_id for e in world.events("node.rejoin")] == [HOST_ID]


def test_after_the_limit_it_takes_a_token(world: World) -> None:
    """Rejoining ends 30 days after the certificate has expired, also if the record is there."""
    world.join(world.token())
    world.clock.advance((HOST_LIFETIME + REJOIN_LIMIT).total_seconds() + 1)
    with pytest.raises(AccessDenied, match="join with a token") as caught:
        rejoin(world, world.joined[HOST_ID][1])
    assert caught.value.reason == "expired"
    world.clock.advance(timedelta(days=2).total_seconds())
    with pytest.raises(AccessDenied) as caught:
        rejoin(world, world.joined[HOST_ID][1])
    assert caught.value.reason == "removed"


def test_no_host_rejoins_by_another_key(world: World) -> None:
    """A proof by another key, for other keys, another cluster or role, is none (attack)."""
    world.join(world.token())
    world.join(world.token(), OTHER_ID)
    world.clock.advance(HOST_LIFETIME.total_seconds() + 1)
    key, others = world.joined[HOST_ID][1], world.joined[OTHER_ID][1]
    for attempt in (
        lambda: rejoin(world, PrivateKey.generate()),
        lambda: rejoin(world, others),
        lambda: rejoin(world, key, sent=keys()),
        lambda: rejoin(world, key, cluster="d"),
        lambda: rejoin(world, key, role=HostRole.PROXY),
        lambda: rejoin(world, key, "22222222-2222-4222-8222-222222222222"),
    ):
        with pytest.raises(AccessDenied, match="not a member"):
            attempt()
    assert rejoin(world, key)


def test_a_removed_or_locked_host_does_not_rejoin(world: World) -> None:
    """Removal and locks hold for proofs, too (attack)."""
    world.join(world.token())
    world.clock.advance(SETTLED)
    key = world.joined[HOST_ID][1]
    lock = Lock(Metadata("stolen"), LockSpec(LockTarget(host_id=HOST_ID)))
    put = world.backend.commit
    repository = Repository(world.backend, "/locks/", Lock)
    result(put(repository.put("stolen", lock)))
    with pytest.raises(AccessDenied, match="locked by stolen"):
        rejoin(world, key)
    result(put(repository.delete("stolen")))
    rejoin(world, key, keys=members.PublicKeys(key.public.line, TlsKey.generate().public_pem))
    world.do(table.DELETE_HOST, ById(HOST_ID))
    with pytest.raises(AccessDenied, match="not a member"):
        rejoin(world, key)


def test_the_key_of_before_is_worth_nothing(world: World) -> None:
    """Once another key is registered the one before proves nothing (attack)."""
    world.join(world.token())
    old, new = world.joined[HOST_ID][1], PrivateKey.generate()
    made = members.PublicKeys(new.public.line, TlsKey.generate().public_pem)
    world.do(table.RENEW, members.RenewRequest("web1", made), world.host())
    world.clock.advance(SETTLED)
    with pytest.raises(AccessDenied):
        rejoin(world, old)
    assert rejoin(world, new)


def test_a_copy_of_a_disk_does_not_rejoin_beside_the_host(world: World) -> None:
    """An old copy of a host's disk gives no certificate while the host itself lives, or may be on
    its way back to an auth that has just started (attack).
    """
    world.join(world.token())
    key = world.joined[HOST_ID][1]
    with pytest.raises(Unavailable, match="try again when it is offline"):
        rejoin(world, key)
    world.clock.advance(SETTLED)
    live(world)
    with pytest.raises(Unavailable, match="try again when it is offline"):
        rejoin(world, key)
    world.clock.advance(SILENT)
    result(world.parts.hosts.stop())
    result(world.parts.hosts.start())
    with pytest.raises(Unavailable, match="auth has just started"):
        rejoin(world, key)
    assert world.events("node.rejoin") == []
    world.clock.advance(SETTLED)
    assert rejoin(world, key)


def test_a_host_that_lost_its_certificate_need_not_wait(world: World) -> None:
    """A host whose certificate has expired rejoins, however recent its last announcement."""
    world.join(world.token())
    world.clock.advance(HOST_LIFETIME.total_seconds() - 1)
    live(world)
    world.clock.advance(1)
    assert rejoin(world, world.joined[HOST_ID][1])


# -- names ------------------------------------------------------------------------------
def test_a_member_cannot_take_anothers_name(world: World) -> None:
    """Certificates for a name in use go to no other host: not by renewing, nor by joining."""
    world.join(world.token(), name="db1")
    live(world, name="db1")
    world.join(world.token(), OTHER_ID, name="low")
    thief = world.host(OTHER_ID)
    for name in ("db1", "DB1"):
        with pytest.raises(Conflict, match="the name"):
            world.do(table.RENEW, members.RenewRequest(name, keys()), thief)
        with pytest.raises(Conflict):
            world.join(world.token(), PROXY_ID, name=name)
    world.do(table.RENEW, members.RenewRequest("db1", keys()), world.host())


def test_one_namespace_for_all_roles(world: World) -> None:
    """A node and a proxy cannot have one name, in any case of letters (attack)."""
    world.proxy()
    for name in ("gate", "GATE"):
        with pytest.raises(Conflict, match="the name gate belongs to proxy gate"):
            world.join(world.token(), name=name)
    world.join(world.token(), name="web1")
    with pytest.raises(Conflict, match="node web1"):
        world.join(world.token((HostRole.PROXY,)), OTHER_ID, name="Web1", role=HostRole.PROXY)


@pytest.mark.parametrize(
    "name", ["web2.c", OTHER_ID, f"{OTHER_ID}.c", "proxy.c", "proxy", "10.0.0.7"]
)
def test_a_name_that_reads_as_another_principal(world: World, name: str) -> None:
    """It is refused at joining and at renewing, and costs no use of the token (attack)."""
    token = world.token(max_uses=1)
    with pytest.raises(InvalidInput):
        world.join(token, name=name)
    world.join(token)
    with pytest.raises(InvalidInput):
        world.do(table.RENEW, members.RenewRequest(name, keys()), world.host())


def test_a_proxys_certificate_has_no_name_of_its_own(world: World) -> None:
    """A proxy that renews under another name gets no principal of it (attack)."""
    proxy = world.proxy()
    renewed = world.do(
        table.RENEW, members.RenewRequest("vm", keys(), ("192.0.2.9:1", "bank.com:1")), proxy
    )
    assert set(principals(renewed)) == {PROXY_ID, f"{PROXY_ID}.c", "proxy.c"}


def test_an_offline_hosts_name_takes_permission(world: World) -> None:
    """The name of a host that is silent goes to one whose token may replace it, and to no other."""
    world.join(world.token(), name="db1")
    live(world, name="db1")
    world.clock.advance(max(SETTLED, SILENT))
    with pytest.raises(Conflict, match="tele tokens add --replace db1"):
        world.join(world.token(), OTHER_ID, name="db1")
    with pytest.raises(Conflict):
        world.join(world.token(replaces=("db2",)), OTHER_ID, name="db1")
    world.join(world.token(replaces=("DB1",)), OTHER_ID, name="db1")
    (event,) = [e for e in world.events("node.join") if e.fields["replaced"]]
    assert (event.server_id, event.server_name) == (OTHER_ID, "db1")
    assert (event.fields["replaced"], event.fields["replaced_names"]) == ([HOST_ID], ["db1"])
    live(world, OTHER_ID, "db1")
    (shown,) = world.do(table.LIST_HOSTS, ListHosts()).items
    assert shown.id == OTHER_ID
    for operation, request in (
        (table.RENEW, members.RenewRequest("db1", keys())),
        (table.ANNOUNCE, Presence("db1", HostRole.NODE)),
    ):
        with pytest.raises(AccessDenied, match="removed"):
            world.do(operation, request, world.host())
    with pytest.raises(AccessDenied):
        rejoin(world, world.joined[HOST_ID][1])


def test_after_a_start_of_auth_no_name_is_free(world: World) -> None:
    """Auth was away: who is silent may be on the way back, and is not replaced at once (attack)."""
    world.join(world.token())
    live(world)
    token = world.token(replaces=("web1",), ttl=timedelta(days=2))
    result(world.parts.hosts.stop())
    world.clock.advance(26 * 3600)
    hosts = Hosts(world.backend, world.clock)
    result(hosts.start())
    world.parts.members._hosts = hosts
    assert not hosts.is_online(HostRole.NODE, HOST_ID)
    with pytest.raises(Unavailable, match="auth has just started"):
        world.join(token, OTHER_ID, name="web1")
    rejoin(world, world.joined[HOST_ID][1])
    world.clock.advance(SETTLED)
    world.join(token, OTHER_ID, name="web1")
    result(hosts.stop())


def meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch, prefix: str, work: Callable[[], Any]
) -> None:
    """Do ``work`` once, just after the next read of a key with ``prefix``."""
    get = world.backend.get

    def get_and_work(key: str) -> Any:
        found = get(key)
        if key.startswith(prefix):
            monkeypatch.setattr(world.backend, "get", get)
            work()
        return found

    monkeypatch.setattr(world.backend, "get", get_and_work)


def test_a_name_is_not_taken_between_two_reads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that takes a name while another one does gets it, or is refused: never both."""
    world.join(world.token())
    other = world.token()
    meanwhile(world, monkeypatch, f"{NAMES}db1", lambda: world.join(other, OTHER_ID, name="db1"))
    with pytest.raises(Conflict, match="the name db1 belongs to"):
        world.do(table.RENEW, members.RenewRequest("db1", keys()), world.host())
    holder = result(world.parts.members.named("db1"))
    assert holder is not None
    assert holder.host_id == OTHER_ID


def test_a_name_is_free_when_its_host_is_removed(world: World) -> None:
    """Removal, by id or by name, frees the name at once and is on record."""
    world.join(world.token(), name="db1")
    live(world, name="db1")
    world.do(table.DELETE_HOST, ById("DB1"))
    (event,) = world.events("node.delete")
    assert (event.server_id, event.server_name, event.user) == (HOST_ID, "db1", "@local")
    world.join(world.token(), OTHER_ID, name="db1")
    world.do(table.DELETE_HOST, ById(OTHER_ID))
    with pytest.raises(NotFound, match="no such node"):
        world.do(table.DELETE_HOST, ById("db1"))


def test_a_host_that_is_not_shown_any_more_can_be_removed(world: World) -> None:
    """A member that has been silent for weeks keeps its name; its name is enough to remove it."""
    world.join(world.token())
    live(world)
    world.clock.advance(timedelta(days=8).total_seconds())
    assert world.do(table.LIST_HOSTS, ListHosts()).items == ()
    with pytest.raises(Conflict):
        world.join(world.token(), OTHER_ID, name="web1")
    world.do(table.DELETE_HOST, ById("web1"))
    world.join(world.token(), OTHER_ID, name="web1")


def test_what_a_removed_host_has_is_revoked(world: World) -> None:
    """Nodes and proxies get the revoked certificates, for as long as these last."""
    world.join(world.token())
    received: list[Any] = []
    watching = world.auth.follow(
        table.WATCH_STATE, members.WatchState(), world.proxy(), received.append
    )
    watching.addErrback(lambda _: None)
    world.do(table.DELETE_HOST, ById(HOST_ID))
    (revoked,) = received[-1].revoked_hosts
    assert (revoked.host_id, revoked.role) == (HOST_ID, HostRole.NODE)
    assert revoked.before > now(world.clock)
    watching.cancel()
    world.clock.advance(timedelta(hours=26).total_seconds())
    result(world.backend.get("/"))
    assert world.parts.state.present.revoked_hosts == ()


# -- addresses --------------------------------------------------------------------------
def test_what_is_renewed_while_a_host_is_removed_is_revoked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that renews at the moment of its removal has no certificate that counts (attack)."""
    world.join(world.token())
    got: list[Any] = []

    def renew() -> None:
        world.clock.advance(2)
        got.append(world.do(table.RENEW, members.RenewRequest("web1", keys()), world.host()))

    meanwhile(world, monkeypatch, NAMES, renew)
    world.do(table.DELETE_HOST, ById(HOST_ID))
    (revoked,) = world.parts.state.revoked_hosts.values()
    assert issued(got[0]) < revoked.before.timestamp()
    with pytest.raises(AccessDenied):
        world.do(table.RENEW, members.RenewRequest("web1", keys()), world.host())


def test_a_host_does_not_put_off_its_removal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a host renews, it is removed (attack)."""
    world.join(world.token())
    commit = world.backend.commit
    refused: list[str] = []

    def committed(*changes: Any) -> Any:
        if any(isinstance(change, Delete) for change in changes) and not refused:
            try:
                world.do(table.RENEW, members.RenewRequest("web1", keys()), world.host())
            except Unavailable as error:
                refused.append(str(error))
        return commit(*changes)

    monkeypatch.setattr(world.backend, "commit", committed)
    world.do(table.DELETE_HOST, ById(HOST_ID))
    assert refused == ["node web1 is being removed"]
    assert result(world.parts.members.find(HostRole.NODE, HOST_ID)) is None


def test_a_clock_that_was_set_back_revokes_what_was_issued_before(world: World) -> None:
    """What auth issued while its clock was ahead is revoked with the host, too."""
    certificates = world.join(world.token())
    world.clock.rightNow -= 3600
    world.do(table.DELETE_HOST, ById(HOST_ID))
    (revoked,) = world.parts.state.revoked_hosts.values()
    assert issued(certificates) < revoked.before.timestamp()


def test_an_address_is_tied_to_its_host(world: World) -> None:
    """A certificate is for the address that the host calls from, and no other that it claims."""
    claimed = ("192.0.2.9:3022", "10.0.0.7:3022", "web1.example.com:3022", "db1:22", "db1")
    joined = world.join(world.token(), addresses=claimed)
    assert set(principals(joined)) == {HOST_ID, f"{HOST_ID}.c", "web1", "web1.c", "192.0.2.9"}
    renewed = world.do(table.RENEW, members.RenewRequest("web1", keys(), claimed), world.host())
    assert set(principals(renewed)) == set(principals(joined))


def test_no_address_is_two_hosts(world: World) -> None:
    """A host behind the same address as another gets no certificate for it (attack)."""
    world.join(world.token(), addresses=("192.0.2.9:3022",))
    second = world.join(world.token(), OTHER_ID, addresses=("192.0.2.9:3023",))
    assert "192.0.2.9" not in principals(second)
    world.do(table.DELETE_HOST, ById(HOST_ID))
    request = members.RenewRequest("web-22", keys(), ("192.0.2.9:3023",))
    assert "192.0.2.9" in principals(world.do(table.RENEW, request, world.host(OTHER_ID)))


def test_a_proxys_address_is_no_nodes(world: World) -> None:
    """Calls through a proxy come from its address: no host behind it has it (attack)."""
    proxy = world.proxy()
    world.do(table.ANNOUNCE, Presence("gate", HostRole.PROXY), proxy)
    joined = world.join(world.token(), addresses=("192.0.2.9:3022",))
    assert "192.0.2.9" not in principals(joined)


def test_a_token_gives_addresses(world: World) -> None:
    """Addresses that the token gives are in each certificate, and are no other host's then."""
    token = world.token(addresses=("Web1.example.com", "203.0.113.5"))
    joined = world.join(token)
    assert {"web1.example.com", "203.0.113.5"} <= set(principals(joined))
    with pytest.raises(Conflict, match=r"the name web1\.example\.com belongs to node web1"):
        world.join(token, OTHER_ID)
    with pytest.raises(Conflict):
        world.join(world.token(), OTHER_ID, name="web1.example.com")
    world.clock.advance(SETTLED)
    again = rejoin(world, world.joined[HOST_ID][1])
    renewed = world.do(table.RENEW, members.RenewRequest("web1", keys()), world.host())
    for certificates in (again, renewed):
        assert {"web1.example.com", "203.0.113.5"} <= set(principals(certificates))


def test_a_node_cannot_be_called_as_the_proxy_is_reached(world: World) -> None:
    """A name of a proxy's address is no node's."""
    said = Presence("gate", HostRole.PROXY, ("proxy.example.com:3080",))
    world.do(table.ANNOUNCE, said, world.proxy())
    for name in ("proxy.example.com", "PROXY.example.com"):
        with pytest.raises(InvalidInput, match="proxy"):
            world.join(world.token(), name=name)


def test_only_a_token_binds_labels(world: World) -> None:
    """The cluster does not vouch for labels that a host announces."""
    world.join(world.token(labels={"env": "prod"}))
    said = Presence("web1", HostRole.NODE, labels={"zone": "a", "env": "dev"})
    answer = world.do(table.ANNOUNCE, said, world.host())
    assert dict(answer.labels) == {"env": "prod"}
    (shown,) = world.do(table.LIST_HOSTS, ListHosts()).items
    assert (dict(shown.labels), shown.status) == ({"env": "prod", "zone": "a"}, Status.ONLINE)


def test_tokens_show_what_they_permit(world: World) -> None:
    """The list of tokens shows what a machine may take over with them."""
    world.token(replaces=("web1",), addresses=("203.0.113.5",))
    world.token(host_id=HOST_ID)
    listed = world.do(table.LIST_TOKENS, Paged()).items
    assert {(t.replaces, t.addresses, t.host_id) for t in listed} == {
        (("web1",), ("203.0.113.5",), ""),
        ((), (), HOST_ID),
    }


# -- an older version's store -----------------------------------------------------------
def test_members_of_an_older_store_stay(world: World) -> None:
    """Records and names of older versions: no host loses a membership or a name, and a
    host whose certificate has expired meanwhile rejoins.
    """
    key = PrivateKey.generate()
    moment = now(world.clock)
    for role, host_id in (("proxy", PROXY_ID), ("node", HOST_ID)):
        record = {
            "host_id": host_id, "role": role, "name": "Web1", "ssh_public_key": key.public.line,
            "joined": format_time(moment), "valid_from": format_time(moment + HOST_LIFETIME),
            "labels": {"env": "prod"},
        }  # fmt: skip
        result(
            world.backend.commit(
                Put(f"/members/{role}/{host_id}", json.dumps(record).encode()),
                Put(f"/member-names/{role}/web1", b'{"host_id":"%s"}' % host_id.encode()),
            )
        )
    for _ in range(2):  # the second start finds nothing to do
        result(world.parts.members.start())
    with pytest.raises(Conflict, match="node Web1"):
        world.join(world.token(), OTHER_ID, name="web1")
    proxy = world.host(PROXY_ID, HostRole.PROXY)
    world.do(table.RENEW, members.RenewRequest("web1-proxy", keys()), proxy)
    world.clock.advance(timedelta(days=3).total_seconds())
    assert "web1.c" in principals(rejoin(world, key))
