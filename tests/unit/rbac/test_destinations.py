"""Destinations of forwards: names, addresses and ports, and what gets around none of them."""

from __future__ import annotations

import pytest

from tele.errors import InvalidInput
from tele.rbac.destinations import (
    allows,
    allows_listening,
    allows_unresolved,
    check_listening,
    may_lead,
    plain_address,
    read_destination,
)


def reaches(allow: list[str], deny: list[str], host: str, address: str, port: int) -> bool:
    """Whether ``host``, which has ``address``, may be connected to."""
    found = plain_address(address)
    assert found is not None
    lead = may_lead(allow, deny, host, port)
    reached = allows(allow, deny, host, found, port)
    assert lead or not reached  # what is refused at first stays refused
    return lead and reached


@pytest.mark.parametrize(
    ("pattern", "host", "address", "port"),
    [
        ("*:*", "anything.example", "192.0.2.1", 1),
        ("db.internal:5432", "DB.internal.", "10.0.0.5", 5432),
        ("db-*.internal:5432", "db-1.internal", "10.0.0.5", 5432),
        ("db?:80-90", "db1", "10.0.0.5", 90),
        ("10.0.0.0/8:*", "10.1.2.3", "10.1.2.3", 22),
        ("10.0.0.0/8:*", "db.internal", "10.1.2.3", 22),
        ("10.0.0.0/8:*", "::ffff:10.1.2.3", "::ffff:10.1.2.3", 22),
        ("10.1.2.3:22", "10.1.2.3", "10.1.2.3", 22),
        ("[fd00::/8]:443", "fd00::1", "fd00::1", 443),
        ("[fe80::/10]:443", "fe80::1%1", "fe80::1%1", 443),
        ("127.0.0.0/8:80", "0.0.0.0", "0.0.0.0", 80),
    ],
)
def test_an_allowed_destination_is_reached(
    pattern: str, host: str, address: str, port: int
) -> None:
    """By its name or its address; and not if the same pattern denies it."""
    assert reaches([pattern], [], host, address, port)
    assert not reaches(["*:*", pattern], [pattern], host, address, port)


@pytest.mark.parametrize(
    ("pattern", "host", "address", "port"),
    [
        ("db.internal:5432", "db.internal", "10.0.0.5", 5433),
        ("db.internal:5432", "db.internal.example", "10.0.0.5", 5432),
        ("db.internal:5432", "10.0.0.5", "10.0.0.5", 5432),  # a name is not its address
        ("10.0.0.0/8:*", "db.internal", "11.0.0.1", 22),
        ("0.0.0.0/0:*", "::1", "::1", 22),
        ("*.internal:*", "10.0.0.5", "10.0.0.5", 22),
        ("*a*:*", "127.1", "127.0.0.1", 22),
    ],
)
def test_another_destination_is_not(pattern: str, host: str, address: str, port: int) -> None:
    """Other ports, names that only begin like it, other families."""
    assert not reaches([pattern], [], host, address, port)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),  # getaddrinfo reads it as an address
        ("0x7f000001", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("0", "0.0.0.0"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ("::ffff:0.0.0.0", "::ffff:0.0.0.0"),
        ("rebound.attacker.example", "127.0.0.1"),
    ],
)
def test_attack_a_denied_address_is_not_reached_by_another_name(host: str, address: str) -> None:
    """What counts is what is connected to, in whatever form it was asked for."""
    assert not reaches(["*:*"], ["127.0.0.0/8:*"], host, address, 80)


@pytest.mark.parametrize("host", ["db.internal", "DB.INTERNAL", "db.internal.", "ⓓb.internal"])
def test_attack_a_denied_name_is_denied_however_it_is_written(host: str) -> None:
    """Name servers do not tell upper from lower case, and letters have other forms."""
    assert not reaches(["*:*"], ["db.internal:*"], host, "10.0.0.5", 80)


def test_a_name_that_cannot_be_one_is_refused() -> None:
    """No rule is compared with it."""
    assert not may_lead(["*:*"], [], "ö" * 200, 80)


def test_an_unresolved_name_is_refused_beside_a_denied_network() -> None:
    """A proxy sees no address of what an sshd connects to."""
    assert allows_unresolved(["*:*"], ["db:22"], "web", 80)
    assert not allows_unresolved(["*:*"], ["10.0.0.0/8:*"], "web", 80)
    assert not allows_unresolved(["10.0.0.0/8:*"], [], "web", 80)
    assert allows_unresolved(["10.0.0.0/8:*"], [], "10.0.0.1", 80)
    assert not allows_unresolved(["*:*"], ["10.0.0.0/8:*"], "10.0.0.1", 80)


@pytest.mark.parametrize(
    ("allow", "deny", "addresses", "port", "may"),
    [
        (["localhost:8080"], [], ["127.0.0.1", "::1"], 8080, True),
        (["localhost:8080"], [], ["127.0.0.1", "::1"], 8081, False),
        (["localhost:8080"], [], ["0.0.0.0"], 8080, False),
        (["localhost:*"], [], ["127.0.0.1"], 0, True),
        (["localhost:8000-9000"], [], ["127.0.0.1"], 0, False),
        (["10.0.0.0/8:*"], [], ["0.0.0.0"], 80, False),
        (["0.0.0.0/0:*"], [], ["0.0.0.0", "::"], 80, False),
        (["*:*"], [], ["0.0.0.0", "::"], 80, True),
        (["*:*"], ["10.0.0.0/8:*"], ["0.0.0.0"], 80, False),
        (["*:*"], ["localhost:*"], ["0.0.0.0"], 80, False),
        (["*:*"], ["*:8080"], ["127.0.0.1"], 0, False),
        (["*:*"], ["10.0.0.0/8:*"], ["127.0.0.1"], 80, True),
    ],
)
def test_what_may_be_listened_on(
    allow: list[str], deny: list[str], addresses: list[str], port: int, may: bool
) -> None:
    """All addresses of a listener have to be allowed, and none denied."""
    assert allows_listening(allow, deny, addresses, port) is may


@pytest.mark.parametrize(
    "pattern",
    [
        "db.internal", ":80", "db:", "db:0x50", "db:70000", "db:90-80", "db:80-", "db:-80",
        "fd00::1:443", "[fd00::1:443", "10.0.0.1/8:*", "10.0.0.0/33:*", "10.0.*:22", "0.0.0.0:80",
        "[::]:80", "[::ffff:10.0.0.0/104]:*", "a b:80", "däb:80", "[db]:80", "db:８０",
        "x" * 400 + ":1",
    ],
)  # fmt: skip
def test_a_malformed_pattern_is_refused_and_denies(pattern: str) -> None:
    """When a role is written; one that is there nevertheless allows nothing and denies all."""
    with pytest.raises(InvalidInput):
        read_destination(pattern)
    assert not reaches([pattern], [], "10.0.0.1", "10.0.0.1", 80)
    assert not reaches(["*:*"], [pattern], "10.0.0.1", "10.0.0.1", 80)


def test_names_are_not_listened_on() -> None:
    """But localhost, and every address."""
    check_listening(["localhost:80", "*:80", "10.0.0.0/8:80"])
    with pytest.raises(InvalidInput, match="not on names"):
        check_listening(["web1:80"])
