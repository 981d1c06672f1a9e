"""Which plain host keys proxies show, who learns them, and what replaces one."""

from __future__ import annotations

import pytest

from auth_world import HOST_ID, OTHER_ID, PROXY_ID, World
from tele.certs.keys import PrivateKey
from tele.errors import AccessDenied, Conflict, InvalidInput, NotFound
from tele.model.api import proxying, table
from tele.model.api.hosts import AddHost
from tele.model.api.plain_keys import ListPlainKeys, PlainKeyList, ReplacePlainKey
from tele.model.api.roles import PutRole
from tele.model.identity import Caller, HostRole
from tele.model.presence import Presence
from tele.model.resources import (
    Conditions,
    Metadata,
    RecordingMode,
    RecordingSettings,
    Role,
    RoleSpec,
)

THIRD_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a44"


def record(world: World, mode: RecordingMode, *, plain: bool = True) -> None:
    """Record sessions like this from now on."""
    world.parts.state.configured = RecordingSettings(mode, proxy_plain_keys=plain)


def announce(world: World, caller: Caller, name: str, role: HostRole, env: str = "prod") -> None:
    """A member says that it is there."""
    world.do(table.ANNOUNCE, Presence(name, role, ("192.0.2.1:3022",), {"env": env}), caller)


@pytest.fixture
def proxy(world: World) -> Caller:
    """A proxy of a cluster with two nodes and plain keys, and a role for one of the nodes."""
    record(world, RecordingMode.PROXY)
    for host_id, name, env in ((HOST_ID, "web1", "prod"), (OTHER_ID, "web2", "test")):
        world.join(world.token(), host_id, name=name)
        announce(world, world.host(host_id), name, HostRole.NODE, env)
    role = Role(Metadata("dev"), RoleSpec(Conditions(("root",), {"env": ("prod",)})))
    world.do(table.PUT_ROLE, PutRole("dev", role))
    found = world.proxy()
    announce(world, found, "gate", HostRole.PROXY)
    return found


def listed(world: World, host: str, caller: Caller | None = None) -> PlainKeyList:
    answer: PlainKeyList = world.do(table.LIST_PLAIN_KEYS, ListPlainKeys(host), caller)
    return answer


def used(world: World, proxy: Caller, host_id: str = HOST_ID) -> str:
    """The public key of the one that a proxy gets for a host."""
    made = world.do(table.CERTIFY_TARGET, proxying.CertifyTarget(host_id), proxy)
    return PrivateKey.from_openssh(made.private_key).public.line


def test_the_listed_keys_are_those_of_the_proxies(world: World, proxy: Caller) -> None:
    """Each proxy shows the key that is listed for it, under all names of the host; a host is found
    by its name and by its id.
    """
    world.join(world.token((HostRole.PROXY,)), THIRD_ID, name="east", role=HostRole.PROXY)
    east = world.host(THIRD_ID, HostRole.PROXY)
    announce(world, east, "east", HostRole.PROXY)
    found = listed(world, "web1")
    assert found == listed(world, HOST_ID)
    assert [(key.proxy, key.proxy_id) for key in found.keys] == [
        ("east", THIRD_ID), ("gate", PROXY_ID),
    ]  # fmt: skip
    assert [key.key for key in found.keys] == [used(world, east), used(world, proxy)]
    assert found.names == ("web1", "web1.c", f"{HOST_ID}.c")
    assert "PRIVATE" not in repr(found)


def test_keys_of_a_machine_with_sshd(world: World, proxy: Caller) -> None:
    """Its sessions end at proxies in every mode; further names are listed, too."""
    record(world, RecordingMode.NODE)
    world.do(table.ADD_HOST, AddHost("db", "192.0.2.3", names=("db.example",)))
    found = listed(world, "db")
    assert found.names == ("db", "db.c", f"{found.node_id}.c", "db.example")
    assert found.keys[0].key == used(world, proxy, found.node_id)
    with pytest.raises(Conflict, match="do not end at proxies"):
        listed(world, "web1")


def test_attack_keys_of_hosts_that_a_user_may_not_see(world: World, proxy: Caller) -> None:
    """A user learns keys of hosts that their roles allow; a hidden one is as unknown as none."""
    world.add_user("alice", "dev")
    dev = world.user("alice", "dev")
    assert listed(world, "web1", dev).node_id == HOST_ID
    for hidden in ("web2", OTHER_ID, "nothing"):
        with pytest.raises(NotFound, match="no such node"):
            listed(world, hidden, dev)
    for caller in (proxy, world.host()):
        with pytest.raises(AccessDenied):
            listed(world, "web1", caller)


def test_without_plain_keys_none_is_listed(world: World, proxy: Caller) -> None:
    """The error names the setting."""
    record(world, RecordingMode.PROXY, plain=False)
    with pytest.raises(Conflict, match="proxy_plain_keys"):
        listed(world, "web1")
    with pytest.raises(Conflict, match="proxy_plain_keys"):
        world.do(table.REPLACE_PLAIN_KEY, ReplacePlainKey("web1", "gate", "a test"))


def test_a_key_is_replaced(world: World, proxy: Caller) -> None:
    """One proxy has another key for one host, again and again; all others stay. Proxies learn that
    a key was replaced by the state that they follow, and the audit says who did it and why.
    """
    other = used(world, proxy, OTHER_ID)
    keys = {used(world, proxy)}
    for times, (host, gate) in enumerate((("web1", "gate"), (HOST_ID, PROXY_ID)), 1):
        world.do(table.REPLACE_PLAIN_KEY, ReplacePlainKey(host, gate, "the proxy was taken over"))
        assert world.parts.state.present.replaced_plain_keys == times
        keys.add(used(world, proxy))
        assert listed(world, "web1").keys[0].key == used(world, proxy)
    assert len(keys) == 3
    assert used(world, proxy, OTHER_ID) == other
    (event, _) = world.events("node.key_replace")
    assert (event.user, event.fields["proxy"]) == ("@local", "gate")
    assert event.fields["reason"] == "the proxy was taken over"


def test_attack_a_key_is_replaced_by_administrators_only(world: World, proxy: Caller) -> None:
    """Users and hosts replace none; a reason is needed, a node and a proxy."""
    world.add_user("alice", "dev")
    for caller in (world.user("alice", "dev"), proxy, world.host()):
        with pytest.raises(AccessDenied):
            world.do(table.REPLACE_PLAIN_KEY, ReplacePlainKey("web1", "gate", "x"), caller)
    for host, gate, reason, error in (
        ("web1", "gate", " ", InvalidInput),
        ("web1", "gate", "a\nb", InvalidInput),
        ("web1", "web1", "x", NotFound),
        ("gate", "gate", "x", NotFound),
    ):
        with pytest.raises(error):
            world.do(table.REPLACE_PLAIN_KEY, ReplacePlainKey(host, gate, reason))
    assert world.parts.state.present.replaced_plain_keys == 0
    assert not world.events("node.key_replace")
