"""A second factor for each session: asked for where a role says so, and good for one host."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from auth_world import HOST_ID, World
from tele.auth.totp import code_of, step_of
from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.check import MFA, check_user
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey
from tele.errors import AccessDenied, BadCertificate, SecondFactorNeeded, SecondFactorUnset
from tele.loop import now
from tele.model.access import Denied, Grant, Reason
from tele.model.api import members, mfa, table, users
from tele.model.api.cluster import PutCluster
from tele.model.api.locks import PutLock
from tele.model.api.roles import PutRole
from tele.model.authority import AuthorityKind
from tele.model.identity import Caller, HostRole, UserIdentity
from tele.model.presence import Presence
from tele.model.resources import (
    Cluster,
    ClusterSpec,
    Conditions,
    Lock,
    LockSpec,
    LockTarget,
    Metadata,
    Role,
    RoleOptions,
    RoleSpec,
)
from tele.model.second_factors import STEP_SECONDS, NewDevice, SecondFactor, SecondFactorMode

PASSWORD = "correct horse"
SECRET = b"12345678901234567890"
SESSION = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a44"


def code(world: World) -> SecondFactor:
    return SecondFactor(code_of(SECRET, step_of(now(world.clock))))


def prepared(world: World, *, device: bool = True) -> None:
    """A node, a role that asks for a second factor on it, and a user with an app."""
    world.join(world.token())
    world.do(table.ANNOUNCE, Presence("web1", HostRole.NODE), world.host())
    allow = Conditions(("root",), {"*": ("*",)})
    careful = Role(Metadata("careful"), RoleSpec(allow, options=RoleOptions(require_mfa=True)))
    world.do(table.PUT_ROLE, PutRole("careful", careful))
    world.add_user("alice", "careful")
    if device:
        new = NewDevice("phone", base64.b32encode(SECRET).decode(), code(world).code)
        world.do(table.ADD_MFA, mfa.AddMfa(new, PASSWORD), caller(world))
        world.clock.advance(STEP_SECONDS)


def caller(world: World, *roles: str) -> Caller:
    made = world.user("alice", *(roles or ("careful",)))
    assert isinstance(made.identity, UserIdentity)
    return evolve(made, identity=evolve(made.identity, login_session=SESSION, serial=7))


def ask(world: World, factor: SecondFactor | None = None, node: str = "web1") -> Any:
    key = PrivateKey.generate().public.line
    request = mfa.CertifyMfaSession(node, key, factor)
    return world.do(table.CERTIFY_MFA_SESSION, request, caller(world))


def decided(world: World, certificate: Certificate, host_id: str = HOST_ID) -> Grant | Denied:
    """What a node decides about a login with this certificate."""
    trusted = world.authorities[AuthorityKind.USER].trusted.ssh_public_keys
    keys = [parse_line(each) for each in trusted]
    checked = check_user(
        certificate, certificate.type, keys, "root", "192.0.2.7", now(world.clock), "c"
    )
    return world.parts.state.policy.decide(
        checked.identity, "root", {}, now(world.clock), host_id, checked.limits
    )


def test_a_certificate_for_one_session_on_one_host(world: World) -> None:
    """It logs in there, and nowhere else, and soon not there either; its event names the host."""
    prepared(world)
    with pytest.raises(SecondFactorNeeded):
        ask(world)
    made = ask(world, code(world))
    assert made.host_id == HOST_ID
    certificate = parse_certificate(parse_line(made.certificate))
    assert MFA in certificate.extensions
    assert isinstance(decided(world, certificate), Grant)
    for other in ("", "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22"):
        refused = decided(world, certificate, other)
        assert isinstance(refused, Denied)
        assert refused.reason is Reason.MFA
    event = world.events("cert.issue")[-1]
    assert (event.fields["kind"], event.fields["node_id"]) == ("mfa_session", HOST_ID)
    assert (event.user, event.fields["second_factor"]) == ("alice", "totp")
    assert made.expires - now(world.clock) == timedelta(minutes=1)
    world.clock.advance(60)
    with pytest.raises(BadCertificate):
        decided(world, certificate)


def test_the_certificate_of_a_login_is_not_enough(world: World) -> None:
    """Neither is one that was issued after a second factor; the client is told to ask."""
    prepared(world)
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    request = users.LoginRequest("alice", PASSWORD, keys, second_factor=code(world))
    got = world.do(table.LOGIN, request, Caller(None, "192.0.2.7:9"))
    assert got.session_mfa
    refused = decided(world, parse_certificate(parse_line(got.ssh)))
    assert isinstance(refused, Denied)
    assert (refused.reason, "tele ssh" in refused.message) == (Reason.MFA, True)


def test_a_code_is_not_used_for_two_sessions(world: World) -> None:
    """Each session has a code of its own, and wrong ones are events."""
    prepared(world)
    shown = code(world)
    ask(world, shown)
    for wrong in (shown, SecondFactor("000000")):
        with pytest.raises(AccessDenied):
            ask(world, wrong)
    refused = world.events("mfa.session")
    assert [(each.user, each.ok) for each in refused] == [("alice", False)] * 2


@pytest.mark.parametrize("mode", [SecondFactorMode.OFF, SecondFactorMode.OPTIONAL])
def test_no_factor_is_no_certificate(world: World, mode: SecondFactorMode) -> None:
    """Where second factors are off, or the user has none, the role still refuses (attack)."""
    prepared(world, device=False)
    spec = ClusterSpec(second_factor=mode)
    world.do(table.PUT_CLUSTER, PutCluster(Cluster(Metadata("c"), spec)))
    for factor in (None, code(world)):
        with pytest.raises(SecondFactorUnset):
            ask(world, factor)
    assert [e for e in world.events("cert.issue") if e.fields["kind"] == "mfa_session"] == []


@pytest.mark.parametrize("target", [LockTarget(login_session=SESSION), LockTarget(certificate="7")])
def test_what_locks_the_login_locks_the_session(world: World, target: LockTarget) -> None:
    """The certificate has the login session of the user's own one, and names its serial."""
    prepared(world)
    made = ask(world, code(world))
    lock = Lock(Metadata("k"), LockSpec(target))
    world.do(table.PUT_LOCK, PutLock("k", lock))
    refused = decided(world, parse_certificate(parse_line(made.certificate)))
    assert isinstance(refused, Denied)
    assert refused.reason is Reason.LOCKED


def test_where_none_is_needed(world: World) -> None:
    """A node that is not known, or whose role does not ask: nothing is issued, nothing used up."""
    prepared(world)
    allow = Conditions(("root",), {"*": ("*",)})
    world.do(table.PUT_ROLE, PutRole("careful", Role(Metadata("careful"), RoleSpec(allow))))
    for node in ("web1", HOST_ID, "web9"):
        assert ask(world, code(world), node) == mfa.MfaSession()
