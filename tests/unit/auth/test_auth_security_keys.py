"""Security keys: an answer is good once, for this cluster's pages, from the key that was set up."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from auth_world import World
from soft_key import SoftKey
from tele.auth.stored_factors import CHALLENGE_LIFE, CHALLENGES_LIMIT
from tele.certs.certificate import parse_certificate
from tele.certs.check import MFA
from tele.certs.keys import PrivateKey, parse_line
from tele.certs.x509 import TlsKey
from tele.errors import AccessDenied, Conflict, InvalidInput, SecondFactorNeeded
from tele.https.api_errors import decode_error, encode_error
from tele.model.api import members, mfa, table, users
from tele.model.api.cluster import PutCluster
from tele.model.cluster_settings import WebauthnSettings
from tele.model.identity import Caller, UserIdentity
from tele.model.resources import Cluster, ClusterSpec, Metadata
from tele.model.second_factors import SecondFactor, SecondFactorMode

PASSWORD = "correct horse"
RP_ID = "example.com"


def settings(world: World, rp_id: str = RP_ID, **words: Any) -> None:
    spec = ClusterSpec(webauthn=WebauthnSettings(rp_id), **words)
    world.do(table.PUT_CLUSTER, PutCluster(Cluster(Metadata("c"), spec)))


def caller(world: World, name: str = "alice", session: str = "s1") -> Caller:
    made = world.user(name, "access")
    assert isinstance(made.identity, UserIdentity)
    return evolve(made, identity=evolve(made.identity, login_session=session))


def begin(world: World, factor: SecondFactor | None = None, session: str = "s1") -> str:
    request = mfa.BeginWebauthn(PASSWORD, factor)
    options: str = world.do(table.BEGIN_WEBAUTHN, request, caller(world, session=session)).options
    return options


def add(world: World, answer: str, name: str = "key", session: str = "s1") -> Any:
    request = mfa.AddWebauthn(name, answer)
    return world.do(table.ADD_WEBAUTHN, request, caller(world, session=session))


def enrolled(world: World, key: SoftKey | None = None) -> SoftKey:
    settings(world)
    world.add_user("alice", "access")
    key = key or SoftKey()
    add(world, key.make(begin(world)))
    return key


def login(world: World, answer: str = "", address: str = "192.0.2.7") -> Any:
    keys = members.PublicKeys(PrivateKey.generate().public.line, TlsKey.generate().public_pem)
    factor = SecondFactor(webauthn=answer) if answer else None
    request = users.LoginRequest("alice", PASSWORD, keys, second_factor=factor)
    return world.do(table.LOGIN, request, Caller(None, f"{address}:9"))


def challenge(world: World) -> str:
    with pytest.raises(SecondFactorNeeded) as caught:
        login(world)
    return caught.value.webauthn


def refused(world: World, answer: str) -> None:
    with pytest.raises(AccessDenied):
        login(world, answer)


def test_a_login_with_a_security_key(world: World) -> None:
    """The key signs the challenge that comes with the error, and the event names it."""
    key = enrolled(world)
    made = login(world, key.sign(challenge(world)))
    assert MFA in parse_certificate(parse_line(made.ssh)).extensions
    event = world.events("user.login")[-1]
    assert (event.fields["second_factor"], event.fields["device"]) == ("webauthn", "key")
    shown = world.do(table.GET_MFA, mfa.GetMfa("alice"))
    assert [(each.name, each.type) for each in shown.devices] == [("key", "webauthn")]
    assert shown.recovery_codes == 8


def test_the_challenge_crosses_the_api() -> None:
    """A client of the API gets what the browser needs, with the error."""
    error = decode_error(403, encode_error(SecondFactorNeeded("needed", '{"challenge": "x"}')))
    assert isinstance(error, SecondFactorNeeded)
    assert error.webauthn == '{"challenge": "x"}'


def test_an_answer_is_good_once(world: World) -> None:
    """And not for another challenge, nor after its time."""
    key = enrolled(world)
    answer = key.sign(challenge(world))
    login(world, answer)
    refused(world, answer)
    late = key.sign(challenge(world))
    world.clock.advance(CHALLENGE_LIFE.total_seconds())
    refused(world, late)
    unknown = json.loads(challenge(world)) | {"challenge": "A" * 43}
    refused(world, key.sign(json.dumps(unknown)))


def test_a_false_page_gets_nothing(world: World) -> None:
    """A page of another domain that passes our challenge on, as phishing does: it is refused by
    the origin that the browser writes, and by the domain that the key signs.
    """
    key = enrolled(world)
    for origin in (
        "https://proxy.example.com.evil.test", "https://evilexample.com", "http://example.com",
        "https://evil.test", "null",
    ):  # fmt: skip
        key.origin = origin
        refused(world, key.sign(challenge(world)))
    key.origin = "https://example.com"
    refused(world, key.sign(challenge(world), "evil.test"))
    world.clock.advance(3600)
    login(world, key.sign(challenge(world)))


def test_another_key_is_refused(world: World) -> None:
    """One that was not set up, and one that claims the id of one that was."""
    key = enrolled(world)
    other = SoftKey()
    refused(world, other.sign(challenge(world)))
    other.credential = key.credential
    refused(world, other.sign(challenge(world)))


def test_a_copied_key_shows(world: World) -> None:
    """A counter that does not grow is refused."""
    key = enrolled(world)
    login(world, key.sign(challenge(world)))
    key.count -= 1
    refused(world, key.sign(challenge(world)))


@pytest.mark.parametrize(
    "answer",
    ["x", "[]", "{}", "[" * 5000, '{"rawId": 1, "response": {}}',
     '{"rawId": "AA", "response": {"clientDataJSON": "e30"}}',
     '{"rawId": "AA", "response": {"clientDataJSON": "!!"}}'],
)  # fmt: skip
def test_what_is_no_answer(world: World, answer: str) -> None:
    """Bytes of a client that is no browser are refused as a wrong code is."""
    enrolled(world)
    refused(world, answer)
    with pytest.raises(InvalidInput):
        add(world, answer, "another")


def test_a_key_is_set_up_by_the_session_that_began(world: World) -> None:
    """A challenge for setting up is good once, for one login session, and logs no user in."""
    settings(world)
    world.add_user("alice", "access")
    key = SoftKey()
    answer = key.make(begin(world))
    for session in ("s2", ""):
        with pytest.raises((InvalidInput, AccessDenied)):
            add(world, answer, session=session)
    add(world, key.make(begin(world)))
    with pytest.raises((Conflict, InvalidInput)):
        add(world, answer, "again")
    asked = challenge(world)
    with pytest.raises(InvalidInput):
        add(world, SoftKey().make(json.dumps(json.loads(asked) | {"rp": {"id": RP_ID}})), "x")
    with pytest.raises(SecondFactorNeeded):
        begin(world)
    second = begin(world, SecondFactor(webauthn=key.sign(challenge(world))))
    assert json.loads(second)["excludeCredentials"]
    signed = key.sign(json.dumps(json.loads(second) | {"rpId": RP_ID}))
    refused(world, signed)
    assert world.events("mfa.add")[0].fields["type"] == "webauthn"


def test_a_page_of_another_domain_sets_up_nothing(world: World) -> None:
    """Its event is kept, without a secret."""
    settings(world)
    world.add_user("alice", "access")
    with pytest.raises(InvalidInput, match="another page"):
        add(world, SoftKey("https://evil.test").make(begin(world)))
    (event,) = world.events("mfa.add")
    assert (event.ok, event.user) == (False, "alice")


def test_challenges_are_bounded(world: World) -> None:
    """One who has the password makes no more of them than that; the latest one is good."""
    key = enrolled(world)
    asked = [challenge(world) for _ in range(CHALLENGES_LIMIT + 3)]
    refused(world, key.sign(asked[0]))
    login(world, key.sign(asked[-1]))


def test_keys_need_a_domain(world: World) -> None:
    """Without one there are none; with another one those of before are not asked, and no good."""
    world.add_user("bob", "access")
    for bad in ("127.0.0.1", "Example.com", "a b", "-x.test", "https://example.com"):
        with pytest.raises(InvalidInput, match="rp_id"):
            settings(world, bad)
    world.add_user("carol", "access")
    with pytest.raises(AccessDenied, match="security keys are off"):
        world.do(table.BEGIN_WEBAUTHN, mfa.BeginWebauthn(PASSWORD), caller(world, "carol"))
    key = enrolled(world)
    asked = challenge(world)
    settings(world, "example.org")
    assert challenge(world) == ""
    refused(world, key.sign(asked))
    settings(world, second_factor=SecondFactorMode.OFF)
    with pytest.raises(AccessDenied, match="off in this cluster"):
        begin(world)
    assert timedelta(minutes=1) < CHALLENGE_LIFE
