"""The CAs' keys are sealed in the store: who has only the store signs nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from attrs import evolve

from auth_world import World, result
from tele.auth.authorities import PREFIX, Authorities, StoredAuthority
from tele.auth.repository import Repository
from tele.auth.signing_keys import KEYRING, SigningKeys, StoredKeyring, open_seal
from tele.auth.successions import away_of
from tele.auth.target_keys import STORED, TargetKeys
from tele.certs.key_sealing import KeySeal, is_sealed, wrap_secret
from tele.certs.suites import SignatureSuite
from tele.errors import InvalidInput, Unavailable
from tele.interfaces import Put
from tele.loop import now
from tele.model.authority import AuthorityKind
from tele.model.cluster_settings import HostCertificates
from tele.model.rotation import Phase, RotatingCa
from tele.tape.sealing import public_key

OURS, OTHERS, ATTACKERS = (bytes([n]) * 32 for n in (1, 2, 3))

AWAY = away_of(HostCertificates())


def start(world: World, keys: SigningKeys | None) -> Authorities:
    """The authorities, as an auth with ``keys`` has them when it starts on this store."""
    seal = result(open_seal(world.backend, "c", keys, os.urandom))
    moment = now(world.clock)
    return result(Authorities.load(world.backend, "c", moment, os.urandom, seal=seal))


def stored(world: World) -> bytes:
    """All that is in the store, in one."""
    items = result(world.backend.range("/", "0"))
    return b"\n".join(item.key.encode() + b" " + item.value for item in items)


def authority(world: World, kind: AuthorityKind) -> StoredAuthority:
    entry = result(Repository(world.backend, PREFIX, StoredAuthority).get(kind.value))
    assert entry is not None
    return entry.value


def replace(world: World, value: StoredAuthority) -> None:
    """What one who can write to the store can do."""
    repository = Repository(world.backend, PREFIX, StoredAuthority)
    result(world.backend.commit(repository.put(value.kind.value, value)))


def target_secret(world: World) -> bytes:
    item = result(world.backend.get(STORED))
    assert item is not None
    return item.value


def keyring(world: World) -> Sequence[bytes]:
    entry = result(Repository(world.backend, KEYRING, StoredKeyring).get("self"))
    assert entry is not None
    return [each.recipient for each in entry.value.wrapped]


def test_keys_of_an_older_version_are_sealed(world: World) -> None:
    """With the first key: also those of a rotation that runs, and the secret of plain host keys."""
    moment = now(world.clock)
    result(
        world.backend.commit(
            *world.authorities.step(list(RotatingCa), Phase.INIT, moment, away=AWAY)
        )
    )
    before = world.authorities.trusted
    targets = TargetKeys(world.backend)
    suite = SignatureSuite.ED25519
    plain = result(targets.key("p", "h", suite, KeySeal()))
    result(world.authorities.refresh())
    assert stored(world).count(b"LS0tLS1CRUdJTiB") == 8  # '-----BEGIN ', in base64
    secret = target_secret(world)
    after = start(world, SigningKeys(OURS))
    assert [t.ssh_public_keys for t in after.trusted] != [t.ssh_public_keys for t in before]
    assert {k for t in before for k in t.ssh_public_keys} <= {
        k for t in after.trusted for k in t.ssh_public_keys
    }
    assert b"LS0tLS1CRUdJTiB" not in stored(world)
    sealed = target_secret(world)
    assert secret not in sealed
    assert is_sealed(sealed)
    again = result(TargetKeys(world.backend).key("p", "h", suite, after.seal))
    assert again.public == plain.public
    assert start(world, SigningKeys(OURS)).trusted == after.trusted


def test_new_keys_are_sealed_from_the_start(world: World) -> None:
    """Those of a new cluster, and those that a rotation makes; another auth follows them."""
    for kind in AuthorityKind:
        result(world.backend.commit(world.authorities._repository.delete(kind.value)))
    one, other = start(world, SigningKeys(OURS)), start(world, SigningKeys(OURS))
    result(other.follow())
    for phase in (Phase.INIT, Phase.UPDATE_CLIENTS, Phase.UPDATE_SERVERS, Phase.STANDBY):
        result(
            world.backend.commit(*one.step(list(RotatingCa), phase, now(world.clock), away=AWAY))
        )
        result(one.refresh())
        assert b"LS0tLS1CRUdJTiB" not in stored(world)
        assert other.trusted == one.trusted
    user = AuthorityKind.USER
    assert other[user].ssh.public == one[user].ssh.public
    assert "PRIVATE" not in repr([one[kind] for kind in AuthorityKind])
    other.stop()


def test_it_opens_with_each_key_that_is_configured(world: World) -> None:
    """An auth is added and removed without a rotation; one that is not named does not start."""
    first = start(world, SigningKeys(OURS, (public_key(OTHERS),)))
    assert keyring(world) == [public_key(OURS), public_key(OTHERS)]
    second = start(world, SigningKeys(OTHERS, (public_key(OURS),)))
    assert second.trusted == first.trusted
    start(world, SigningKeys(OURS))
    assert keyring(world) == [public_key(OURS)]
    with pytest.raises(InvalidInput, match="do not open with file:/k, which is x25519:") as refused:
        start(world, SigningKeys(OTHERS, source="file:/k"))
    assert "set auth.signing_keys.sealed_by" in str(refused.value)
    with pytest.raises(Unavailable, match="sealed, and this auth was given no key"):
        start(world, None)


def test_attack_a_key_in_clear_is_put_into_the_store(world: World) -> None:
    """Who can write to the store cannot give the cluster a CA key of his own: not while auth runs,
    and not before it starts.
    """
    mine = World()
    try:
        forged = mine.authorities[AuthorityKind.USER].stored
    finally:
        mine.stop()
    running = start(world, SigningKeys(OURS))
    result(running.follow())
    trusted = running.trusted
    replace(world, forged)
    assert running.trusted == trusted
    running.stop()
    with pytest.raises(Unavailable, match="it is not sealed"):
        start(world, SigningKeys(OURS))


def test_attack_a_sealed_key_is_put_in_the_place_of_another(world: World) -> None:
    """The host CA does not sign users; nor is a key accepted that is sealed by another secret."""
    start(world, SigningKeys(OURS))
    host, user = (authority(world, k) for k in (AuthorityKind.HOST, AuthorityKind.USER))
    foreign = KeySeal(ATTACKERS, os.urandom).seal("user/ssh", b"key")
    for key in (host.ssh_key, user.tls_key, foreign, user.ssh_key[:-1], user.ssh_key[:20]):
        replace(world, evolve(user, ssh_key=key))
        with pytest.raises(Unavailable, match="for another purpose, or changed"):
            start(world, SigningKeys(OURS))
    replace(world, user)
    start(world, SigningKeys(OURS))


def test_attack_a_recipient_is_added_in_the_store(world: World) -> None:
    """A row of the store gives nobody the secret; the next start removes it."""
    start(world, SigningKeys(OURS))
    repository = Repository(world.backend, KEYRING, StoredKeyring)
    entry = result(repository.get("self"))
    assert entry is not None
    added = wrap_secret(ATTACKERS, public_key(ATTACKERS), "c")
    changed = StoredKeyring((*entry.value.wrapped, added))
    result(world.backend.commit(repository.put("self", changed)))
    start(world, SigningKeys(OURS))
    assert keyring(world) == [public_key(OURS)]


def test_a_damaged_secret_is_said(world: World) -> None:
    """It is not made anew: the keys would be lost."""
    start(world, SigningKeys(OURS))
    repository = Repository(world.backend, KEYRING, StoredKeyring)
    entry = result(repository.get("self"))
    assert entry is not None
    (whole,) = entry.value.wrapped
    broken = StoredKeyring((evolve(whole, data=bytes(len(whole.data))),))
    result(world.backend.commit(repository.put("self", broken)))
    with pytest.raises(InvalidInput, match="is damaged"):
        start(world, SigningKeys(OURS))
    secret = result(world.backend.get(STORED))
    assert secret is None
    result(world.backend.commit(Put(STORED, bytes(32), 0)))
    with pytest.raises(Unavailable, match="not sealed"):
        result(
            TargetKeys(world.backend).key(
                "p", "h", SignatureSuite.ED25519, KeySeal(OURS, os.urandom)
            )
        )
