"""Addresses: one notation for each, and whom each is counted with."""

from __future__ import annotations

import pytest

from tele.errors import InvalidInput
from tele.model.addresses import (
    Address,
    host_of,
    plain_address,
    plain_host,
    plain_network,
    source_network,
)


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:207", "192.0.2.7"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("64:ff9b::9.9.9.9", "64:ff9b::909:909"),
        ("web1.example.com", "web1.example.com"),
        ("/run/socket", "/run/socket"),
        ("no:address", "no:address"),
        ("", ""),
    ],
)
def test_an_address_has_one_notation(host: str, plain: str) -> None:
    """What an address is shown and compared as does not depend on who wrote it."""
    assert plain_host(host) == plain
    assert plain_host(plain) == plain


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::2%eth0", "2001:db8::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("64:ff9b::9.9.9.9", "9.9.9.9"),
        ("2002:909:909:1::5", "9.9.9.9"),
        ("2002:909:909:2::5", "9.9.9.9"),
        ("2001:0:909:909:8000:63bf:f7f7:f7f6", "8.8.8.9"),
        # Any client may claim a private address inside.
        ("2002:7f00:1::1", "2002:7f00:1::/64"),
        ("64:ff9b::127.0.0.1", "64:ff9b::/64"),
        ("", ""),
        ("local", "local"),
    ],
)
def test_a_source_is_what_one_customer_has(host: str, source: str) -> None:
    """An IPv6 network counts as one source; a client behind a translator or a tunnel counts with
    the IPv4 address behind it, so that one neither shuts out all others nor has 65,536 sources.
    """
    assert source_network(host) == source


def test_no_client_is_trusted_for_an_address_inside_of_another() -> None:
    """A client that claims to be behind 6to4 or NAT64 is never taken for the machine itself."""
    for host in ("2002:7f00:1::1", "64:ff9b::7f00:1", "2001:0:1::80ff:fffe"):
        address = plain_address(host)
        assert address is not None
        assert address.version == 6
        assert not address.is_loopback


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_networks_have_one_notation_too(text: str, network: str) -> None:
    """A network of mapped addresses is the IPv4 network, which is what clients are in."""
    assert str(plain_network(text)) == network


@pytest.mark.parametrize(
    ("text", "address", "written"),
    [
        ("web1:22", ("web1", 22), "web1:22"),
        ("web1", ("web1", 3080), "web1:3080"),
        ("[::1]:22", ("::1", 22), "[::1]:22"),
        ("[::1]", ("::1", 3080), "[::1]:3080"),
        ("::1", ("::1", 3080), "[::1]:3080"),
        ("fe80::1%eth0", ("fe80::1%eth0", 3080), "[fe80::1%eth0]:3080"),
    ],
)
def test_an_address_is_read_and_written(text: str, address: tuple[str, int], written: str) -> None:
    """The port may be left out where it has a default; IPv6 addresses are written in brackets."""
    read = Address.parse(text, 3080)
    assert read == address
    assert str(read) == f"{read}" == written
    assert Address.parse(written, None) == read
    assert host_of(text) == host_of(written) == read.host


@pytest.mark.parametrize(
    "text", ["", ":", ":1", "a:", "a:0", "a:65536", "a:-1", "a:x", "a:\u0661", "a:" + "9" * 5000]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """A port is a number from 1 to 65535; the error does not repeat a long text."""
    with pytest.raises(InvalidInput, match="is not an address") as refused:
        Address.parse(text)
    assert len(str(refused.value)) < 400


def test_a_port_without_default_is_required() -> None:
    """Port 0, any free port, is for listeners only."""
    for text in ("web1", "[::1]", "::1"):
        with pytest.raises(InvalidInput):
            Address.parse(text, None)
    assert Address.parse("a:0", lowest_port=0) == ("a", 0)


@pytest.mark.parametrize("text", ["local", "a:b", "/run/socket", ""])
def test_the_host_of_what_is_no_address(text: str) -> None:
    """What has no port is its own host."""
    assert host_of(text) == text
