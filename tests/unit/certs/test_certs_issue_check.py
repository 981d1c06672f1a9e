"""Certificates: what is issued is read and accepted; everything else is refused with a reason."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from tele.certs.certificate import Certificate, parse_certificate
from tele.certs.check import check_host, check_user
from tele.certs.issue import (
    HostCertificateRequest,
    UserCertificateRequest,
    issue_host,
    issue_sshd,
    issue_user,
)
from tele.certs.keys import PrivateKey, parse_line, parse_public_key
from tele.certs.known_hosts import cert_authority_lines
from tele.certs.pins import check_pins, pin
from tele.certs.x509 import TlsKey, issue_tls, issued_by, make_authority, read_identity
from tele.errors import AccessDenied, BadCertificate, InvalidInput
from tele.model.authority import AuthorityKind
from tele.model.identity import HostIdentity, HostRole, UserIdentity

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CA = PrivateKey.generate()
OTHER_CA = PrivateKey.generate()
TYPES = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]
KEYS = {name: PrivateKey.generate(name) for name in TYPES}
ALGORITHMS = {
    "ssh-ed25519": b"ssh-ed25519-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256": b"ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ssh-rsa": b"rsa-sha2-256-cert-v01@openssh.com",
}
REQUEST = UserCertificateRequest(
    user="alice",
    cluster="example",
    logins=("root", "alice"),
    roles=("access", "editor"),
    login_session="s-1",
    traits={"logins": ("root", "alice"), "team": ("ü",)},
    port_forwarding=True,
)
HOST_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11"
HOST = HostCertificateRequest(
    HOST_ID, "web1", "example", HostRole.NODE, addresses=("127.0.0.1", "web1.internal")
)


def user(key: str = "ssh-ed25519", ca: PrivateKey = CA, **changes: Any) -> Certificate:
    request = evolve(REQUEST, **changes)
    return issue_user(ca, KEYS[key].public.blob, request, NOW, os.urandom)


def check(
    certificate: Certificate,
    algorithm: bytes = ALGORITHMS["ssh-ed25519"],
    login: str | None = "root",
    addr: str = "192.0.2.7",
    now: datetime = NOW,
    cluster: str | None = "example",
) -> object:
    return check_user(certificate, algorithm, {CA.public.blob}, login, addr, now, cluster)


def reason(certificate: Certificate, **words: Any) -> str:
    with pytest.raises(BadCertificate) as caught:
        check(certificate, **words)
    return caught.value.reason


@pytest.mark.parametrize("key", TYPES)
def test_what_is_issued_is_accepted(key: str) -> None:
    """The identity comes out of the certificate as it went in."""
    certificate = user(key)
    assert parse_certificate(parse_line(certificate.line)) == certificate
    checked = check_user(
        certificate, ALGORITHMS[key], {CA.public.blob}, "root", "192.0.2.7", NOW, "example"
    )
    assert checked.identity == UserIdentity(
        user="alice",
        cluster="example",
        expires=NOW + timedelta(hours=12),
        roles=("access", "editor"),
        logins=("root", "alice"),
        traits={"logins": ("root", "alice"), "team": ("ü",)},
        login_session="s-1",
        issued=NOW,
        serial=certificate.serial,
    )
    assert "permit-port-forwarding" in checked.extensions
    assert "permit-agent-forwarding" not in checked.extensions


@pytest.mark.parametrize("key", TYPES)
def test_each_kind_of_authority_signs(key: str) -> None:
    """The cluster's CA may be of any supported type."""
    certificate = user(ca=KEYS[key])
    trusted = {KEYS[key].public.blob}
    check_user(certificate, ALGORITHMS["ssh-ed25519"], trusted, "root", "192.0.2.7", NOW)


def test_each_refusal_has_its_reason() -> None:
    """One thing wrong at a time, and the reason code says which."""
    assert reason(user(ca=OTHER_CA)) == "authority"
    assert reason(user(), login="mallory") == "principal"
    assert reason(user(), now=NOW + timedelta(hours=12)) == "validity"
    assert reason(user(), now=NOW - timedelta(minutes=2)) == "validity"
    assert reason(user(), cluster="other") == "cluster"
    assert reason(user(), algorithm=b"ssh-ed25519") == "algorithm"
    assert reason(user("ssh-rsa"), algorithm=b"ssh-rsa-cert-v01@openssh.com") == "algorithm"
    assert reason(user("ssh-rsa")) == "algorithm"
    host = issue_host(CA, KEYS["ssh-ed25519"].public.blob, HOST, NOW, os.urandom)
    assert reason(host) == "kind"


def test_valid_before_is_exclusive() -> None:
    """A certificate is good in its last second and not in the next."""
    check(user(), now=NOW + timedelta(hours=12, seconds=-1))
    assert reason(user(), now=NOW + timedelta(hours=12)) == "validity"


@pytest.mark.parametrize(
    ("listed", "addr", "good"),
    [
        ("192.0.2.7/32", "192.0.2.7", True),
        ("192.0.2.0/24,2001:db8::/32", "2001:db8::1", True),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("192.0.2.7/32", "192.0.2.8", False),
        ("nonsense", "192.0.2.7", False),
        ("0.0.0.0/0", "not an address", False),
    ],
)
def test_source_address_pins(listed: str, addr: str, good: bool) -> None:
    """A pinned certificate works from its addresses only, and a bad list from none."""
    certificate = user(source_address=listed)
    if good:
        check(certificate, addr=addr)
    else:
        assert reason(certificate, addr=addr) == "address"


def test_a_changed_signature_is_refused() -> None:
    """Nothing but the authority's own signature will do."""
    blob = bytearray(user().blob)
    blob[-1] ^= 1
    assert reason(parse_certificate(bytes(blob))) == "signature"


@given(st.data())
def test_no_mutation_passes(data: st.DataObject) -> None:
    """Any change to any byte is refused, and never with another exception."""
    blob = bytearray(BLOB)
    place = data.draw(st.integers(0, len(blob) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda v: v != blob[place]))
    blob[place] = value
    with pytest.raises(BadCertificate):
        check(parse_certificate(bytes(blob)))


@given(st.binary(max_size=400))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    """Random bytes, with and without a valid beginning, are refused as certificates."""
    for blob in (data, BLOB[:80] + data):
        with pytest.raises(BadCertificate):
            parse_certificate(blob)
        with pytest.raises(BadCertificate):
            parse_public_key(blob)


def test_host_names_are_checked() -> None:
    """A host certificate is good for its names and addresses, in any case, and no others."""
    host = issue_host(CA, KEYS["ssh-ed25519"].public.blob, HOST, NOW, os.urandom)
    trusted = {CA.public.blob}
    for name in ("web1", "WEB1.example", HOST_ID, f"{HOST_ID}.example", "127.0.0.1"):
        identity = check_host(host, trusted, [name], NOW).identity
        assert identity is not None
        assert (identity.host_id, identity.role) == (HOST_ID, HostRole.NODE)
    with pytest.raises(BadCertificate, match="not for"):
        check_host(host, trusted, ["web2"], NOW)
    with pytest.raises(BadCertificate, match="expired"):
        check_host(host, trusted, ["web1"], NOW + timedelta(hours=24))


@pytest.mark.parametrize(
    ("pattern", "name", "good"),
    [
        ("*.example", "web1.example", True),
        ("web?.example", "web1.example", True),
        ("*", "anything", True),
        ("*.example", "example", False),
        ("web?", "web", False),
        ("*a*b*c*", "xaybzc", True),
        ("*a*b*c*", "xaybz", False),
    ],
)
def test_host_wildcards(pattern: str, name: str, good: bool) -> None:
    """Wildcards in host principals mean what they mean to OpenSSH."""
    blob = KEYS["ssh-ed25519"].public.blob
    host = issue_sshd(CA, blob, "sshd", (pattern,), timedelta(hours=1), NOW, os.urandom)
    if good:
        check_host(host, {CA.public.blob}, [name], NOW)
    else:
        with pytest.raises(BadCertificate):
            check_host(host, {CA.public.blob}, [name], NOW)


@pytest.mark.parametrize("application", [b"ssh:", b""])
@pytest.mark.parametrize("flags", [0x01, 0x05, 0x00])
def test_security_keys_need_a_touch(application: bytes, flags: int) -> None:
    """A security key's signature without user presence is refused."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tele.wire.fields import string

    private = Ed25519PrivateKey.generate()
    kind = b"sk-ssh-ed25519@openssh.com"
    raw = private.public_key().public_bytes_raw()
    public = parse_public_key(string(kind) + string(raw) + string(application))
    certificate = issue_user(CA, public.blob, REQUEST, NOW, os.urandom)
    assert certificate.key == public
    check(certificate, algorithm=b"sk-ssh-ed25519-cert-v01@openssh.com")
    tail = bytes((flags,)) + b"\0\0\0\1"
    data = b"challenge"
    message = hashlib.sha256(application).digest() + tail + hashlib.sha256(data).digest()
    signature = string(kind) + string(private.sign(message)) + tail
    if flags & 1:
        certificate.key.verify(signature, data, (kind,))
    else:
        with pytest.raises(BadCertificate, match="touched"):
            certificate.key.verify(signature, data, (kind,))
    if flags != 0x05:
        with pytest.raises(BadCertificate):
            certificate.key.verify(signature, data, (kind,), user_verified=True)


def test_sha1_signatures_are_refused() -> None:
    """``ssh-rsa`` as a signature type is SHA-1, and no caller gets it."""
    key = KEYS["ssh-rsa"]
    with pytest.raises(InvalidInput):
        key.sign(b"data", b"ssh-rsa")
    signature = key.sign(b"data", b"rsa-sha2-256")
    with pytest.raises(BadCertificate):
        key.public.verify(signature, b"data", (b"rsa-sha2-512",))
    key.public.verify(signature, b"data", (b"rsa-sha2-256",))


def test_private_keys_do_not_show_themselves() -> None:
    """A key in a log or a traceback is its fingerprint."""
    shown = repr(CA) + str(CA) + repr(TlsKey.generate())
    assert "PRIVATE" not in shown
    assert CA.public.fingerprint in shown
    assert PrivateKey.from_openssh(CA.to_openssh()).public == CA.public


def test_a_certificate_needs_a_principal() -> None:
    """A certificate without a principal would be valid for every account."""
    with pytest.raises(InvalidInput):
        user(logins=())


TLS_CA_KEY = TlsKey.generate()
TLS_CA = make_authority("example", AuthorityKind.USER, TLS_CA_KEY, NOW, os.urandom)
IDENTITIES = [
    UserIdentity("alice", "example", NOW + timedelta(hours=1), ("a", "b"), ("root",),
                 {"t": ("1", "2"), "empty": ()}, "s", True, NOW, 2**64 - 1),
    UserIdentity("bob", "example", NOW + timedelta(hours=1), issued=NOW, serial=7),
    HostIdentity(HOST_ID, "web1", "example", HostRole.PROXY, NOW + timedelta(hours=1), NOW, 9),
]  # fmt: skip


@pytest.mark.parametrize("identity", IDENTITIES, ids=["user", "bare-user", "host"])
def test_identities_travel_in_x509(identity: UserIdentity | HostIdentity) -> None:
    """The X.509 certificate says the same of its holder as the SSH one."""
    key = TlsKey.generate()
    text = issue_tls(TLS_CA, TLS_CA_KEY, key.public_pem, identity, NOW, os.urandom, ["127.0.0.1"])
    certificate = x509.load_pem_x509_certificate(text.encode())
    assert read_identity(certificate) == identity
    assert issued_by(certificate, [TLS_CA])
    assert not issued_by(
        certificate, [make_authority("example", AuthorityKind.USER, key, NOW, os.urandom)]
    )
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (x509.OID_SERVER_AUTH in usage) is isinstance(identity, HostIdentity)


def test_a_certificate_without_identity_is_refused() -> None:
    """Any other certificate, the CA's own included, gives no identity."""
    with pytest.raises(BadCertificate):
        read_identity(x509.load_pem_x509_certificate(TLS_CA.encode()))


def test_pins_name_one_authority() -> None:
    """The pin of the CA passes, any other is refused; a typing mistake has its own error."""
    assert check_pins([TLS_CA], [pin(TLS_CA).upper().replace("SHA256", "sha256")]) == [TLS_CA]
    with pytest.raises(AccessDenied):
        check_pins([TLS_CA], ["sha256:" + "0" * 64])
    with pytest.raises(InvalidInput):
        check_pins([TLS_CA], ["sha256:abc"])


def test_known_hosts_lines() -> None:
    """OpenSSH's own form."""
    line = cert_authority_lines(["*.example", "proxy.example"], [CA.public.line])
    assert line == f"@cert-authority *.example,proxy.example {CA.public.line}\n"


BLOB = user().blob
