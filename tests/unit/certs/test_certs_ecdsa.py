"""ECDSA on the curves of NIST: how numbers and points are written, and what is not one."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from tele.certs.algorithms import USER_ALGORITHMS
from tele.certs.check import check_host, check_user
from tele.certs.issue import (
    HostCertificateRequest,
    UserCertificateRequest,
    issue_host,
    issue_user,
)
from tele.certs.keys import PrivateKey, PublicKey, encode_public, parse_line, parse_public_key
from tele.certs.suites import SignatureSuite, suite_of
from tele.errors import BadCertificate, InvalidInput
from tele.model.identity import HostRole
from tele.wire.fields import Reader, mpint, string

KIND = b"ecdsa-sha2-nistp256"
#: The order of P-256.
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
KEY = PrivateKey.generate("ecdsa-sha2-nistp256")
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def number(value: int) -> bytes:
    return mpint(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def signature(r: bytes, s: bytes, kind: bytes = KIND, rest: bytes = b"") -> bytes:
    """An SSH signature blob of two encoded numbers."""
    return string(kind) + string(r + s + rest)


def parts(blob: bytes) -> tuple[bytes, bytes]:
    """The two numbers in a signature blob, without their lengths."""
    outer = Reader(blob)
    assert outer.string() == KIND
    inner = Reader(outer.string())
    r, s = inner.string(), inner.string()
    inner.end()
    outer.end()
    return r, s


def refused(blob: bytes, data: bytes = b"data", key: PublicKey = KEY.public) -> str:
    with pytest.raises(BadCertificate) as caught:
        key.verify(blob, data, (KIND,))
    assert caught.value.reason == "signature"
    return str(caught.value)


@given(st.binary(max_size=64))
def test_numbers_are_in_their_shortest_form(data: bytes) -> None:
    """R and s have a leading zero exactly where their first bit is set, and are then accepted."""
    blob = KEY.sign(data)
    for value in parts(blob):
        assert 0 < len(value) <= 33
        assert not value[0] & 0x80
        assert value[0] or value[1] & 0x80
    KEY.public.verify(blob, data, (KIND,))


def test_both_forms_come_up() -> None:
    """Among many signatures some numbers have 33 bytes, some fewer, and all are accepted."""
    lengths = set()
    for at in range(200):
        data = at.to_bytes(4, "big")
        blob = KEY.sign(data)
        lengths |= {len(value) for value in parts(blob)}
        KEY.public.verify(blob, data, (KIND,))
    assert {32, 33} <= lengths


def test_numbers_that_are_not_canonical_are_refused() -> None:
    """Zeros in front, a negative number, none at all: one signature has one encoding."""
    r, s = parts(KEY.sign(b"data"))
    KEY.public.verify(signature(string(r), string(s)), b"data", (KIND,))
    for bad in (b"\0" + r, b"\0\0" + r, b"", b"\0", b"\x80", b"\xff" * 32):
        assert "shortest form" in refused(signature(string(bad), string(s)))
        assert "shortest form" in refused(signature(string(r), string(bad)))


@pytest.mark.parametrize("value", [ORDER, ORDER + 1, 1 << 256, 1 << 1000])
def test_numbers_out_of_range_are_refused(value: int) -> None:
    """R and s are smaller than the order of the curve."""
    r, s = parts(KEY.sign(b"data"))
    refused(signature(number(value), string(s)))
    refused(signature(string(r), number(value)))
    shifted = ORDER + int.from_bytes(s, "big")
    refused(signature(string(r), number(shifted)))


def test_a_number_without_end_is_refused() -> None:
    """A signature's length is bounded before anything is computed with it."""
    r, s = parts(KEY.sign(b"data"))
    refused(signature(string(b"\x01" * 129), string(s)))
    refused(signature(string(r), string(s), rest=b"\0"))
    refused(signature(string(r), b""))
    refused(signature(string(r), string(s)) + b"\0")


def test_a_signature_of_another_curve_is_refused() -> None:
    """The name in the signature is the key's own, whatever the caller allows."""
    other = PrivateKey.generate("ecdsa-sha2-nistp256")
    r, s = parts(KEY.sign(b"data"))
    named = signature(string(r), string(s), kind=b"ecdsa-sha2-nistp384")
    with pytest.raises(BadCertificate, match="another kind"):
        KEY.public.verify(named, b"data", (b"ecdsa-sha2-nistp384",))
    assert "not allowed" in refused(named)
    refused(KEY.sign(b"data"), key=other.public)
    refused(KEY.sign(b"data"), b"other data")


def point(x: int, y: int, kind: bytes = KIND, curve: bytes = b"nistp256", head: int = 4) -> bytes:
    encoded = bytes((head,)) + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    return string(kind) + string(curve) + string(encoded)


def test_what_is_no_point_is_no_key() -> None:
    """A point that is not on the curve, at infinity, or written in another form is refused."""
    numbers = ec.derive_private_key(7, ec.SECP256R1()).public_key().public_numbers()
    x, y = numbers.x, numbers.y
    parse_public_key(point(x, y))
    for bad in (
        point(x, y + 1),
        point(0, 0),
        point(x, y, head=6),
        point(x, y, curve=b"nistp384"),
        point(x, y, kind=b"ecdsa-sha2-nistp384"),
        point(x, y, kind=b"ecdsa-sha2-nistp384", curve=b"nistp384"),
        point(x, y) + b"\0",
        string(KIND) + string(b"nistp256") + string(b"\0"),
        string(KIND) + string(b"nistp256") + string(b"\x03" + x.to_bytes(32, "big")),
        string(KIND) + string(b"nistp256") + string(b"\x04" + b"\xff" * 64),
        string(KIND) + string(b"nistp256") + string(b"\x04" + b"\xff" * 200),
        string(b"ecdsa-sha2-nistp224") + string(b"nistp224") + string(b"\x04" + bytes(56)),
    ):
        with pytest.raises(BadCertificate) as caught:
            parse_public_key(bad)
        assert caught.value.reason == "key"


def test_the_number_signed_is_the_one_verified() -> None:
    """What we write is what the library reads from its own encoding."""
    key = ec.derive_private_key(9, ec.SECP256R1())
    kind, blob = encode_public(key.public_key())
    for at in range(50):
        r, s = decode_dss_signature(key.sign(at.to_bytes(2, "big"), ec.ECDSA(hashes.SHA256())))
        made = signature(number(r), number(s))
        parse_public_key(blob).verify(made, at.to_bytes(2, "big"), (kind,))


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_the_larger_curves_are_accepted(curve: ec.EllipticCurve) -> None:
    """Users and sshds may bring keys of P-384 and P-521, though tele makes none."""
    _, blob = encode_public(ec.generate_private_key(curve).public_key())
    request = UserCertificateRequest("alice", "c", ("root",), ("access",), "s-1")
    made = issue_user(KEY, blob, request, NOW, os.urandom)
    check_user(made, made.type, {KEY.public.blob}, "root", "192.0.2.7", NOW, "c")


@pytest.mark.parametrize("authority", list(SignatureSuite))
@pytest.mark.parametrize("key", list(SignatureSuite))
def test_each_suite_checks_the_other(authority: SignatureSuite, key: SignatureSuite) -> None:
    """A suite says what is made; certificates of either, by CAs of either, are accepted."""
    ca, own = authority.generate(), key.generate()
    user = UserCertificateRequest("alice", "c", ("root",), ("access",), "s-1")
    made = issue_user(ca, own.public.blob, user, NOW, os.urandom)
    offered = next(n for n, each in USER_ALGORITHMS.items() if each.blob_type == made.type)
    check_user(made, offered, {ca.public.blob}, "root", "192.0.2.7", NOW, "c")
    host = HostCertificateRequest("h-1", "web1", "c", HostRole.NODE, (), timedelta(hours=1))
    check_host(
        issue_host(ca, own.public.blob, host, NOW, os.urandom), {ca.public.blob}, ("web1",), NOW
    )


@pytest.mark.parametrize("suite", list(SignatureSuite))
def test_the_suite_is_that_of_the_authority(suite: SignatureSuite) -> None:
    """A host derives the suite from the CA's keys, of which the first one signs."""
    line = suite.generate().public.line
    other = PrivateKey.generate("ssh-rsa").public.line
    assert suite_of((line,)) is suite_of((line, other)) is suite
    assert suite.generate().public.type.decode() == suite.key_type


def test_an_authority_of_no_suite_is_reported() -> None:
    """A CA of a kind that is not made here is an error that says what to do, not a guess."""
    with pytest.raises(InvalidInput, match="use the version that the cluster runs"):
        suite_of((PrivateKey._of(ec.generate_private_key(ec.SECP384R1())).public.line,))
    with pytest.raises(InvalidInput, match="no SSH key"):
        suite_of(())
    with pytest.raises(InvalidInput, match="not a public key"):
        suite_of(("ssh-ed25519",))
    assert parse_line(KEY.public.line) == KEY.public.blob
