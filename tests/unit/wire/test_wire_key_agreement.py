"""Two ends come to the same secret, and hostile shares to none."""

from __future__ import annotations

from hashlib import sha256

import pytest

from tele.errors import ProtocolError
from tele.wire.ciphers import Secrets
from tele.wire.fields import mpint, string
from tele.wire.key_agreement import METHODS, exchange_hash, exchange_transcript, host_key_in


@pytest.mark.parametrize("name", METHODS)
def test_both_ends_know_the_same(name: bytes) -> None:
    """The client's secret is the server's, and another exchange has another one."""
    secrets = []
    for _ in range(2):
        initiation = METHODS[name].initiate()
        share, secret = METHODS[name].respond(initiation.share)
        assert initiation.finish(share) == secret
        secrets.append(secret)
    assert secrets[0] != secrets[1]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("change", ["empty", "short", "long", "zero"])
def test_hostile_shares(name: bytes, change: str) -> None:
    """Shares of a wrong size or with a point of small order are the peer's fault."""
    method = METHODS[name]
    ours = method.initiate()
    answer, _ = method.respond(ours.share)
    hostile = {"empty": lambda s: b"", "short": lambda s: s[:-1], "long": lambda s: s + b"\0"}
    for share, take in ((ours.share, method.respond), (answer, ours.finish)):
        bad = hostile[change](share) if change in hostile else share[:-32] + bytes(32)
        with pytest.raises(ProtocolError):
            take(bad)


def test_an_invalid_kem_key_is_refused() -> None:
    """ML-KEM public keys out of range are refused (FIPS 203, section 7.2)."""
    share = METHODS[b"mlkem768x25519-sha256"].initiate().share
    with pytest.raises(ProtocolError):
        METHODS[b"mlkem768x25519-sha256"].respond(b"\xff" * 1184 + share[1184:])


def test_exchange_hash_is_over_all_fields() -> None:
    """H is SHA-256 over the encoded fields in the order of RFC 5656, section 4."""
    transcript = exchange_transcript(
        client_version=b"1",
        server_version=b"2",
        client_kexinit=b"3",
        server_kexinit=b"4",
        host_key=b"5",
        client_share=b"6",
        server_share=b"7",
        secret=mpint(b"8"),
    )
    fields = b"".join(string(b"%d" % i) for i in range(1, 8)) + mpint(b"8")
    assert host_key_in(transcript) == b"5"
    assert exchange_hash(transcript) == sha256(fields).digest()


def test_keys_longer_than_a_hash() -> None:
    """Keys are stretched by hashing what there is so far (RFC 4253, section 7.2)."""
    secrets = Secrets(b"K", b"H", b"S")
    first = sha256(b"KHCS").digest()
    assert secrets.derive(b"C", 48) == (first + sha256(b"KH" + first).digest())[:48]
    assert "shared" not in repr(secrets)
