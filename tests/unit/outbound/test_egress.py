"""Egress proxies in the configuration and in the environment."""

from __future__ import annotations

import pytest

from tele.errors import InvalidInput
from tele.outbound.egress import (
    EgressProxy,
    ProxyKind,
    ProxyLogin,
    from_environment,
    parse_login,
    parse_proxy,
)


@pytest.mark.parametrize(
    ("text", "via"),
    [
        ("http://proxy:3128", EgressProxy(ProxyKind.HTTP, "proxy", 3128)),
        ("proxy.example.com:8080", EgressProxy(ProxyKind.HTTP, "proxy.example.com", 8080)),
        ("HTTP://proxy/", EgressProxy(ProxyKind.HTTP, "proxy", 80)),
        ("https://proxy", EgressProxy(ProxyKind.HTTPS, "proxy", 443)),
        ("socks5://10.0.0.1", EgressProxy(ProxyKind.SOCKS5, "10.0.0.1", 1080)),
        ("socks5h://[fd00::1]:99", EgressProxy(ProxyKind.SOCKS5, "fd00::1", 99)),
        ("http://a:b%40%3A@p:1", EgressProxy(ProxyKind.HTTP, "p", 1, ProxyLogin("a", "b@:"))),
        ("http://a:b@c@p:1", EgressProxy(ProxyKind.HTTP, "p", 1, ProxyLogin("a", "b@c"))),
    ],
)
def test_an_address_is_read(text: str, via: EgressProxy) -> None:
    """Scheme, port and login may be left out; the login is percent-decoded."""
    assert parse_proxy(text) == via


@pytest.mark.parametrize(
    "text",
    [
        "", "http://", "socks4://p:1", "http://p:0", "http://p:70000", "http://[::g]:1",
        "http://p:1/path", "http://a b:1", "http://u:a%0d%0ab@p:1", f"http://u:{'x' * 256}@p:1",
        "http://:secret@p:1", "http://p:1\r\nX: y",
    ],
)  # fmt: skip
def test_other_text_is_refused_and_not_quoted(text: str) -> None:
    """The error does not contain the password."""
    with pytest.raises(InvalidInput) as caught:
        parse_proxy(text)
    assert "secret" not in str(caught.value)


def test_a_password_shows_nowhere() -> None:
    """Neither the text nor the repr of an egress proxy has its password."""
    via = parse_proxy("http://user:secret@proxy:3128")
    assert str(via) == "http://proxy:3128"
    assert "secret" not in repr(via) + repr(via.login)
    with pytest.raises(InvalidInput) as caught:
        from_environment({"HTTPS_PROXY": "gopher://user:secret@proxy"})
    assert "secret" not in str(caught.value)
    assert "HTTPS_PROXY" in str(caught.value)


def test_a_login_is_read_from_the_content_of_a_file() -> None:
    """The first colon ends the user; the end of the line is no part of the password."""
    assert parse_login("user:a:b c\n") == ProxyLogin("user", "a:b c")
    for bad in ("", "user", ":x", "a:b\nc:d", "a:\0"):
        with pytest.raises(InvalidInput):
            parse_login(bad)


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({}, None),
        ({"http_proxy": "http://no"}, None),
        ({"HTTPS_PROXY": "http://a"}, "a"),
        ({"https_proxy": "http://b", "HTTPS_PROXY": "http://a"}, "b"),
        ({"ALL_PROXY": "socks5://c"}, "c"),
        ({"all_proxy": "socks5://c", "HTTPS_PROXY": "http://a"}, "a"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://a"}, "a"),
    ],
)
def test_which_variable_counts(environ: dict[str, str], host: str | None) -> None:
    """The one for HTTPS before the one for all, lower case before upper case."""
    via = from_environment(environ)("example.com", 443)
    assert (via and via.host) == host


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "out"),
    [
        ("*", "example.com", 443, False),
        ("example.com", "example.com", 443, False),
        ("example.com", "EXAMPLE.com.", 443, False),
        ("example.com", "a.example.com", 443, False),
        ("example.com", "notexample.com", 443, True),
        (".example.com", "a.example.com", 443, False),
        ("*.example.com", "a.example.com", 443, False),
        ("example.com:443", "example.com", 443, False),
        ("example.com:443", "example.com", 444, True),
        ("10.0.0.0/8, fd00::/8", "10.200.0.1", 1, False),
        ("10.0.0.0/8, fd00::/8", "fd12::1", 1, False),
        ("10.0.0.0/8", "11.0.0.1", 1, True),
        ("10.0.0.0/8", "ten.example.com", 1, True),
        ("10.0.0.1", "10.0.0.1", 1, False),
        ("[fd00::1]:80", "fd00::1", 80, False),
        ("[fd00::1]:80", "fd00::1", 81, True),
        (" , ,.", "example.com", 1, True),
        ("", "localhost", 1, False),
        ("", "127.9.9.9", 1, False),
        ("", "::1", 1, False),
    ],
)
def test_no_proxy(no_proxy: str, host: str, port: int, out: bool) -> None:
    """Names with all names in them, addresses, networks, ports; this machine always."""
    proxy_for = from_environment({"https_proxy": "http://p", "no_proxy": no_proxy})
    assert (proxy_for(host, port) is not None) == out
