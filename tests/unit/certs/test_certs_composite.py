"""Composite keys of ML-DSA-44 and Ed25519: their forms, and what is no signature of theirs."""

from __future__ import annotations

import base64
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa
from hypothesis import given
from hypothesis import strategies as st

from tele.certs import composite
from tele.certs.check import check_host, check_user
from tele.certs.composite import MLDSA_SIGNATURE_SIZE, PUBLIC_SIZE, SIGNATURE_SIZE, is_offered
from tele.certs.issue import (
    HostCertificateRequest,
    UserCertificateRequest,
    issue_host,
    issue_user,
)
from tele.certs.keys import PrivateKey, PublicKey, parse_line, parse_public_key
from tele.certs.suites import SignatureSuite, suite_of, suite_problem
from tele.errors import BadCertificate, InvalidInput
from tele.model.identity import HostRole
from tele.wire.fields import Reader, string

pytestmark = pytest.mark.skipif(not is_offered(), reason="cryptography offers no ML-DSA")

SUITE = SignatureSuite.MLDSA44_ED25519
KIND = b"ssh-mldsa44-ed25519@openssh.com"
CERTIFICATE = b"ssh-mldsa44-ed25519-cert-v01@openssh.com"
HOST_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return SUITE.generate()


def raw(signature: bytes) -> bytes:
    reader = Reader(signature)
    assert reader.string() == KIND
    value = reader.string()
    reader.end()
    return value


def refused(public: PublicKey, value: bytes, data: bytes = b"data") -> None:
    with pytest.raises(BadCertificate) as caught:
        public.verify(string(KIND) + string(value), data, (KIND,))
    assert caught.value.reason == "signature"


def test_the_forms_of_openssh(key: PrivateKey) -> None:
    """Sizes and order of both halves, as OpenSSH 10.4 has them; a key is what its two seeds are."""
    reader = Reader(key.public.blob)
    assert reader.string() == KIND
    public = reader.string()
    reader.end()
    assert (len(public), len(raw(key.sign(b"data")))) == (PUBLIC_SIZE, SIGNATURE_SIZE)
    seeds = bytes(range(64))
    made = PrivateKey.derived(SUITE.key_type, seeds)
    first = mldsa.MLDSA44PrivateKey.from_seed_bytes(seeds[:32]).public_key().public_bytes_raw()
    second = ed25519.Ed25519PrivateKey.from_private_bytes(seeds[32:]).public_key()
    assert made.public.blob == string(KIND) + string(first + second.public_bytes_raw())


def test_both_halves_sign_the_representative_of_the_draft(key: PrivateKey) -> None:
    """Prefix, label, an empty context and the SHA-512; ML-DSA has the label as its context, too."""
    value = raw(key.sign(b"data"))
    label = b"COMPSIG-MLDSA44-Ed25519-SHA512"
    signed = b"CompositeAlgorithmSignatures2025" + label + b"\0" + hashlib.sha512(b"data").digest()
    reader = Reader(key.public.blob)
    reader.string()
    public = reader.string()
    first = mldsa.MLDSA44PublicKey.from_public_bytes(public[:1312])
    first.verify(value[:MLDSA_SIGNATURE_SIZE], signed, label)
    with pytest.raises(InvalidSignature):
        first.verify(value[:MLDSA_SIGNATURE_SIZE], signed)
    ed25519.Ed25519PublicKey.from_public_bytes(public[1312:]).verify(
        value[MLDSA_SIGNATURE_SIZE:], signed
    )


def test_one_good_half_is_no_signature(key: PrivateKey) -> None:
    """A forger who breaks one of both can sign nothing: half of another signature, of another key,
    or nothing at all.
    """
    value, other = raw(key.sign(b"data")), raw(key.sign(b"other"))
    key.public.verify(string(KIND) + string(value), b"data", (KIND,))
    cut = MLDSA_SIGNATURE_SIZE
    refused(key.public, value[:cut] + other[cut:])
    refused(key.public, other[:cut] + value[cut:])
    refused(key.public, value[:cut])
    refused(key.public, value[cut:])
    refused(key.public, value + b"\0")
    refused(key.public, value, b"data.")
    another = SUITE.generate()
    refused(another.public, value)
    refused(key.public, value[:cut] + raw(another.sign(b"data"))[cut:])


@pytest.mark.parametrize("algorithm", ["ssh-ed25519", "ssh-rsa"])
def test_it_signs_as_nothing_else(key: PrivateKey, algorithm: str) -> None:
    """Its Ed25519 half is no key of its own, and its type is only what the caller allows."""
    value = raw(key.sign(b"data"))
    plain = string(b"ssh-ed25519") + string(value[MLDSA_SIGNATURE_SIZE:])
    with pytest.raises(BadCertificate):
        key.public.verify(plain, b"data", (b"ssh-ed25519", KIND))
    with pytest.raises(BadCertificate):
        key.public.verify(key.sign(b"data"), b"data", (algorithm.encode(),))
    with pytest.raises(InvalidInput):
        key.sign(b"data", algorithm.encode())


def test_a_private_key_is_kept_in_a_file(key: PrivateKey, tmp_path: Path) -> None:
    """In OpenSSH's form; nothing shows it, and other keys are read as ever."""
    text = key.to_openssh()
    assert PrivateKey.from_openssh(text).public == key.public
    assert PrivateKey.from_openssh(b"a line before\n" + text).public == key.public
    assert max(map(len, text.splitlines())) <= 70
    assert "seed" not in repr(key).lower()
    assert repr(key._key).count("CompositePrivateKey") == 1
    assert len(repr(key._key)) < 100
    plain = PrivateKey.generate()
    assert PrivateKey.from_openssh(plain.to_openssh()).public == plain.public


def changed(text: bytes, old: bytes, new: bytes) -> bytes:
    """The same private key with other bytes inside."""
    lines = text.split(b"\n")
    body = base64.b64decode(b"".join(lines[1:-2]))
    assert old in body
    return b"\n".join((lines[0], base64.b64encode(body.replace(old, new)), *lines[-2:]))


def test_private_keys_that_are_none(key: PrivateKey) -> None:
    """Damaged, encrypted, or with a public half of another key: an error, nothing of the key."""
    text = key.to_openssh()
    public = Reader(key.public.blob)
    public.string()
    half = public.string()
    for bad in (
        text[: len(text) // 2],
        text[:-400] + text[-36:],
        changed(text, b"none", b"some"),
        changed(text, half[:40], half[1:41]),
        b"",
    ):
        with pytest.raises(InvalidInput) as caught:
            PrivateKey.from_openssh(bad)
        assert "BEGIN" not in str(caught.value)


@given(st.binary(max_size=200), st.integers(0, 3000))
def test_any_bytes_are_refused(noise: bytes, at: int) -> None:
    """No bytes in a file or in a blob do anything but fail."""
    text = composite.CompositePrivateKey.from_seeds(bytes(64))
    form = PrivateKey._of(text).to_openssh()
    for bad in (noise, form[:at] + noise + form[at + 1 :]):
        try:
            PrivateKey.from_openssh(bad)
        except InvalidInput:
            continue
    with pytest.raises(BadCertificate):
        parse_public_key(string(KIND) + string(noise))


def test_certificates_of_users_and_hosts(key: PrivateKey) -> None:
    """A CA of this kind certifies keys of this kind, and others."""
    trusted = {key.public.blob}
    for holder in (SUITE.generate(), PrivateKey.generate()):
        user = issue_user(
            key, holder.public.blob,
            UserCertificateRequest("alice", "c", ("root",), ("access",), "s", timedelta(hours=1)),
            NOW, os.urandom,
        )  # fmt: skip
        assert user.type in (CERTIFICATE, b"ssh-ed25519-cert-v01@openssh.com")
        checked = check_user(user, user.type, trusted, "root", "192.0.2.7", NOW, "c")
        assert checked.identity.user == "alice"
        with pytest.raises(BadCertificate):
            check_user(user, user.type, {SUITE.generate().public.blob}, None, "::1", NOW)
        host = issue_host(
            key, holder.public.blob,
            HostCertificateRequest(HOST_ID, "web1", "c", HostRole.NODE),
            NOW, os.urandom,
        )  # fmt: skip
        assert check_host(host, trusted, ("web1.c",), NOW)


def test_the_suite_of_a_cluster(key: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """It follows from the CA's key; where there is no ML-DSA it cannot be configured."""
    assert suite_of((key.public.line,)) is SUITE
    assert parse_public_key(parse_line(key.public.line)) == key.public
    assert suite_problem(SUITE) == ""
    monkeypatch.setattr(composite, "is_offered", lambda: False)
    assert "offers no ML-DSA" in suite_problem(SUITE)
    assert suite_problem(SignatureSuite.RSA) == ""


def test_keys_of_which_many_are_made() -> None:
    """A proxy makes one for each session: none of them is RSA, which takes a second."""
    assert SignatureSuite.RSA.generate_quick().public.type == b"ecdsa-sha2-nistp256"
    assert SUITE.generate_quick().public.type == KIND
