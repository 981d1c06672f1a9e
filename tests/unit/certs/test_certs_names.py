"""No host gets a certificate with a name that can be confused with another's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from tele.certs.issue import HostCertificateRequest, host_principals
from tele.certs.names import own_addresses
from tele.certs.x509 import TlsKey, issue_tls, make_authority
from tele.errors import InvalidInput
from tele.model.authority import AuthorityKind
from tele.model.identity import HostIdentity, HostRole

HOST_ID = "3b241101-e2bb-4255-8caf-4136c566a962"
OTHER_ID = "5f64f2e4-9b0b-4a5d-a1b7-6f2b8f6b2a11"
NOW = datetime(2026, 11, 24, tzinfo=UTC)
CLAIMED = (
    "auth.example",
    "AUTH.Example",
    "auth.example.",
    "proxy.example",
    "web2.example",
    f"{OTHER_ID}.example",
    OTHER_ID,
    "web2",
    "example",
    "a.b.example",
    "*",
    "*.com",
    "*.exampl?",
)
TRUE = ("192.0.2.7", "2001:db8::7", "web1.internal", "notexample", "web1.notexample")


def zeros(count: int) -> bytes:
    return b"\x01" * count


def test_names_of_the_cluster_are_not_addresses() -> None:
    """What a host may not claim is left out; addresses and foreign names stay."""
    assert own_addresses(CLAIMED, "example") == ()
    assert own_addresses((*TRUE, *TRUE), "example") == (*TRUE[:3], "web1.notexample")


def test_a_node_cannot_pose_as_auth_or_another_node() -> None:
    """Neither its SSH nor its TLS certificate holds a claimed name."""
    request = HostCertificateRequest(HOST_ID, "web1", "example", HostRole.NODE, CLAIMED)
    assert set(host_principals(request)) == {
        HOST_ID, f"{HOST_ID}.example", "web1", "web1.example",
    }  # fmt: skip
    key = TlsKey.generate()
    ca = make_authority("example", AuthorityKind.HOST, key, NOW, zeros)
    identity = HostIdentity(HOST_ID, "web1", "example", HostRole.NODE, NOW + timedelta(hours=1))
    pem = issue_tls(ca, key, key.public_pem, identity, NOW, zeros, CLAIMED)
    names = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == [f"{HOST_ID}.example"]


@pytest.mark.parametrize(
    "name",
    [
        "auth", "proxy", "Auth", "PROXY", OTHER_ID, OTHER_ID.upper(), f"{OTHER_ID}.example",
        f"{OTHER_ID}.Example", f"{OTHER_ID}.elsewhere", f"x.{OTHER_ID}", HOST_ID,
        "web2.example", "WEB2.EXAMPLE", "proxy.example", "a.b.example", "10.0.0.7",
        "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
    ],
)  # fmt: skip
def test_some_names_are_not_to_be_had(name: str) -> None:
    """Whatever is, ends in, or can be read as a principal or an address of another host."""
    with pytest.raises(InvalidInput):
        host_principals(HostCertificateRequest(HOST_ID, name, "example", HostRole.NODE))


@pytest.mark.parametrize(
    "name", ["web1", "db.internal", "auth1", "my-proxy", "9front", "99999999999", "example"]
)
def test_other_names_are(name: str) -> None:
    """Unused names are free, whatever they resemble; they are in lower case."""
    request = HostCertificateRequest(HOST_ID, name.upper(), "example", HostRole.NODE)
    assert f"{name}.example" in host_principals(request)


def test_a_name_with_a_dot_stands_in_the_cluster_only() -> None:
    """It could be the DNS name of another machine, and localhost is every machine."""
    for name in ("www.bank.com", "localhost"):
        request = HostCertificateRequest(HOST_ID, name, "example", HostRole.NODE)
        assert set(host_principals(request)) == {HOST_ID, f"{HOST_ID}.example", f"{name}.example"}


def test_a_proxy_has_its_id_and_no_name() -> None:
    """No name or address that it gives itself is in its certificates."""
    request = HostCertificateRequest(HOST_ID, "vm", "example", HostRole.PROXY, TRUE)
    assert set(host_principals(request)) == {HOST_ID, f"{HOST_ID}.example", "proxy.example"}
    key = TlsKey.generate()
    ca = make_authority("example", AuthorityKind.HOST, key, NOW, zeros)
    identity = HostIdentity(HOST_ID, "vm", "example", HostRole.PROXY, NOW + timedelta(hours=1))
    pem = issue_tls(ca, key, key.public_pem, identity, NOW, zeros, TRUE)
    names = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert set(names.value.get_values_for_type(x509.DNSName)) == {
        f"{HOST_ID}.example", "proxy.example",
    }  # fmt: skip
    assert names.value.get_values_for_type(x509.IPAddress) == []


def test_the_cluster_may_use_its_own_names() -> None:
    """Auth may be called auth, and the proxy proxy."""
    for name, role in (("auth", HostRole.AUTH), ("proxy", HostRole.PROXY)):
        assert f"{name}.example" in host_principals(
            HostCertificateRequest(HOST_ID, name, "example", role)
        )
