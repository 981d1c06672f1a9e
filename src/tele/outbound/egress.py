"""Which egress proxy does a connection use?

An egress proxy is a network's HTTP or SOCKS proxy, not a proxy of the cluster. The configuration
names it, or the environment: ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, upper or lower case;
lower case has precedence, as in curl.

Invariants:

* No text and no error about an egress proxy contains its password.
* Destination names are compared, never resolved: the proxy resolves them.
* Connections to this machine never use an egress proxy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote

from attrs import evolve, field, frozen

from tele.errors import InvalidInput, quoted
from tele.model.addresses import Address, IPNetwork, plain_address, plain_network

_LOGIN_LIMIT: Final = 255
_URL = re.compile(
    r"(?:(?P<kind>[A-Za-z][A-Za-z0-9+.-]*)://)?(?:(?P<login>.*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII,
)


class ProxyKind(str, Enum):
    """The protocol of an egress proxy."""

    HTTP = "http"
    HTTPS = "https"
    SOCKS5 = "socks5"


#: ``socks5h`` is curl's name for SOCKS 5 with names resolved by the proxy, as here always.
_KINDS: Final = {**{kind.value: kind for kind in ProxyKind}, "socks5h": ProxyKind.SOCKS5}
_PORTS: Final = {ProxyKind.HTTP: 80, ProxyKind.HTTPS: 443, ProxyKind.SOCKS5: 1080}


@frozen
class ProxyLogin:
    """User and password at an egress proxy."""

    user: str
    password: str = field(repr=False)


@frozen
class EgressProxy:
    """An egress proxy. ``login`` is the one that its address contains, if any."""

    kind: ProxyKind
    host: str
    port: int
    login: ProxyLogin | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.kind.value}://{Address(self.host, self.port)}"


#: Returns the egress proxy for a connection to (host, port), or None for a direct connection.
ProxyChoice = Callable[[str, int], EgressProxy | None]


def no_proxy(host: str, port: int) -> None:
    """Connect directly (a :data:`ProxyChoice`)."""


def always(via: EgressProxy) -> ProxyChoice:
    """Return the choice of ``via`` for every connection."""
    return lambda host, port: via  # noqa: ARG005  (the signature of Choose)


def parse_proxy(text: str) -> EgressProxy:
    """Read ``[kind://][user:password@]host[:port]``. Raises :class:`InvalidInput`."""
    match = _URL.fullmatch(text)
    if match is None:
        # The text may contain a password: it is not quoted.
        raise InvalidInput("this is not an address such as http://proxy.example.com:3128")
    kind = _KINDS.get((match["kind"] or "http").lower())
    if kind is None:
        raise InvalidInput(
            f"unknown kind of proxy: {quoted(match['kind'])}; use http, https or socks5"
        )
    port = int(match["port"]) if match["port"] else _PORTS[kind]
    if not 0 < port < 65536:
        raise InvalidInput(f"{port} is not a port")
    login = None
    if match["login"] is not None:
        user, _, password = match["login"].partition(":")
        login = make_login(unquote(user), unquote(password))
    host = match["host"].removeprefix("[").removesuffix("]")
    if ":" in host:
        try:
            host = str(ip_address(host))
        except ValueError:
            raise InvalidInput(f"{quoted(host)} is not an address") from None
    return EgressProxy(kind, host, port, login)


def make_login(user: str, password: str) -> ProxyLogin:
    """Return a login that fits a header and SOCKS. Raises :class:`InvalidInput`."""
    for text in (user, password):
        if len(text.encode("utf-8", "surrogateescape")) > _LOGIN_LIMIT or not text.isprintable():
            raise InvalidInput("user and password: at most 255 bytes of printable text each")
    if not user or ":" in user:
        raise InvalidInput("the user is missing, or contains a colon")
    return ProxyLogin(user, password)


def parse_login(text: str) -> ProxyLogin:
    """Read ``user:password``, the content of a file. Raises :class:`InvalidInput`."""
    user, colon, password = text.strip("\r\n").partition(":")
    if not colon:
        raise InvalidInput("expected user:password")
    return make_login(user, password)


def from_environment(environ: Mapping[str, str]) -> ProxyChoice:
    """Return the choice that the variables of ``environ`` make. Raises :class:`InvalidInput`."""
    via = None
    for name in ("https_proxy", "all_proxy"):
        given = environ.get(name) or environ.get(name.upper())
        if given:
            try:
                via = parse_proxy(given)
            except InvalidInput as error:
                raise InvalidInput(f"{name.upper()}: {error}") from None
            break
    if via is None:
        return no_proxy
    found = via
    exceptions = _parse_no_proxy(environ.get("no_proxy") or environ.get("NO_PROXY") or "")

    def proxy_for(host: str, port: int) -> EgressProxy | None:
        name = host.lower().rstrip(".").partition("%")[0]
        if _is_local(name) or any(each.matches(name, port) for each in exceptions):
            return None
        return found

    return proxy_for


def _is_local(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = plain_address(name)
    return address is not None and address.is_loopback


@frozen
class _NoProxyEntry:
    """One entry of ``NO_PROXY``; ``port`` 0 is any port."""

    name: str
    network: IPNetwork | None = None
    port: int = 0

    def matches(self, host: str, port: int) -> bool:
        """Whether the entry covers this destination."""
        if self.port not in (0, port):
            return False
        if self.network is not None:
            address = plain_address(host)
            return address is not None and address in self.network
        return self.name == "*" or host == self.name or host.endswith(f".{self.name}")


def _parse_no_proxy(text: str) -> tuple[_NoProxyEntry, ...]:
    """Parse ``NO_PROXY``: host names, domains (all names in them), addresses, networks, ``*``."""
    entries = (each.strip().lower() for each in text.split(","))
    return tuple(_parse_entry(entry) for entry in entries if entry.strip(".*") or entry == "*")


def _parse_entry(text: str) -> _NoProxyEntry:
    try:
        return _NoProxyEntry("", plain_network(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        name, _, number = text.rpartition(":")
    if name and number.isascii() and number.isdigit():
        return evolve(_parse_entry(name), port=int(number))
    if text == "*":
        return _NoProxyEntry("*")
    return _NoProxyEntry(text.removeprefix("*").removeprefix(".").rstrip("."))
