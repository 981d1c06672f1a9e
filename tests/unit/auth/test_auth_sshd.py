"""Certificates for machines that are no members: none of them reads like a member's."""

from __future__ import annotations

from datetime import timedelta

import pytest

from auth_world import HOST_ID, OTHER_ID, World
from tele.certs.certificate import parse_certificate
from tele.certs.check import check_member
from tele.certs.keys import PrivateKey, parse_line
from tele.errors import BadCertificate, Conflict, InvalidInput
from tele.loop import now
from tele.model.api import table
from tele.model.api.authorities import SignedKey, SignHost, SignUser
from tele.model.identity import HostRole
from tele.model.presence import Presence

LINE = PrivateKey.generate().public.line


def sign(world: World, *principals: str, name: str = "") -> SignedKey:
    signed: SignedKey = world.do(table.SIGN_HOST, SignHost(LINE, principals, name))
    return signed


@pytest.mark.parametrize(
    "name",
    [
        OTHER_ID,
        OTHER_ID.upper(),
        f"{OTHER_ID}.c",
        f"{OTHER_ID}.example",
        "proxy.c",
        "auth.c",
        "AUTH.C",
        "c",
        "c.",
        "web7.c",
        "web7.c.",
        "a.b.c",
        "[web7.c]:22",
        "proxy",
        "Auth",
        "node",
        "localhost",
        "*",
        "*.example",
        "web?",
        "",
        "a,b",
    ],
)
def test_no_name_of_a_member_for_an_sshd(world: World, name: str) -> None:
    """Nothing in the cluster's domain, no host id, no kept word, no pattern: alone or beside
    a good name.
    """
    for principals in ((name,), ("good.example", name)):
        with pytest.raises(InvalidInput):
            sign(world, *principals)


@pytest.mark.parametrize("name", [HOST_ID, f"{HOST_ID}.c", "web1.c", "auth.c", "a\nb", "x" * 300])
def test_no_name_of_a_member_in_the_key_id(world: World, name: str) -> None:
    """The key id, which others log, does not read like a member either."""
    with pytest.raises(InvalidInput):
        sign(world, "good.example", name=name)


@pytest.mark.parametrize("name", ["web1", "WEB1", "web1.", "gate", "10.9.8.7", "WEB1.example.org"])
def test_no_name_or_address_that_a_member_has(world: World, name: str) -> None:
    """What a member is called and reached by is taken, in whatever role, with or without case."""
    world.join(world.token())
    world.proxy()
    addresses = ("10.9.8.7:22", "web1.example.org:3022")
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE, addresses), world.host())
    with pytest.raises(Conflict):
        sign(world, name)


def test_an_sshds_certificate_is_no_members(world: World) -> None:
    """A check for a member refuses it; the audit has the caller and the key."""
    certificate = parse_certificate(parse_line(sign(world, "db.example").certificate))
    with pytest.raises(BadCertificate, match="does not name its host"):
        check_member(certificate, world.host_keys, "c", tuple(HostRole), now(world.clock))
    (event,) = [e for e in world.events("cert.issue") if e.fields["kind"] == "sshd"]
    assert event.fields["principals"] == ["db.example"]
    assert event.fields["key"] == certificate.key.fingerprint


def test_an_administrators_signature_for_a_user_is_on_record(world: World) -> None:
    """The event has the caller, the user, the key, the roles, and the login that it counts as."""
    world.add_user("alice", "access")
    signed = world.do(table.SIGN_USER, SignUser("alice", LINE, ttl=timedelta(hours=1)))
    certificate = parse_certificate(parse_line(signed.certificate))
    (event,) = [e for e in world.events("cert.issue") if e.fields["kind"] == "user"]
    assert (event.user, event.fields["name"]) == ("@local", "alice")
    assert event.fields["key"] == certificate.key.fingerprint
    assert event.fields["given_roles"] == ["access"]
    session = certificate.extensions["tele-login-session"].decode()
    assert event.fields["given_session"] == session
