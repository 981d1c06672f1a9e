"""Through which proxy of the network does a connection leave?

A company's way out, which has nothing to do with the proxies of a cluster. It is given in a
configuration, or by the variables that programs of such networks know: ``HTTPS_PROXY``,
``ALL_PROXY`` and ``NO_PROXY``, in capitals or not; small ones count first, as with curl.

Invariants:

* Neither a text nor an error about a way out has its password.
* Names of destinations are for the proxy to resolve: they are compared, never looked up.
* What this machine says to itself does not leave it, whatever the variables say.
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


class Kind(str, Enum):
    """What a proxy of the network speaks."""

    HTTP = "http"
    HTTPS = "https"
    SOCKS5 = "socks5"


#: ``socks5h`` is curl's word for what we always do: the proxy resolves names.
_KINDS: Final = {**{kind.value: kind for kind in Kind}, "socks5h": Kind.SOCKS5}
_PORTS: Final = {Kind.HTTP: 80, Kind.HTTPS: 443, Kind.SOCKS5: 1080}


@frozen
class Login:
    """Who we are to a proxy of the network."""

    user: str
    password: str = field(repr=False)


@frozen
class EgressProxy:
    """A way out. ``login`` is what its address said, if anything."""

    kind: Kind
    host: str
    port: int
    login: Login | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.kind.value}://{Address(self.host, self.port)}"


#: Tells the way out of a connection to (host, port); None: there is no need of one.
Choose = Callable[[str, int], EgressProxy | None]


def direct(host: str, port: int) -> None:
    """Choose no way out (a :data:`Choose`)."""


def always(via: EgressProxy) -> Choose:
    """Choose ``via`` for every connection."""
    return lambda host, port: via  # noqa: ARG005  (the signature of Choose)


def read_via(text: str) -> EgressProxy:
    """Read ``[kind://][user:password@]host[:port]``. Raises :class:`InvalidInput`."""
    match = _URL.fullmatch(text)
    if match is None:
        # What was given may have a password in it.
        raise InvalidInput("this is not an address such as http://proxy.example.com:3128")
    kind = _KINDS.get((match["kind"] or "http").lower())
    if kind is None:
        raise InvalidInput(
            f"{quoted(match['kind'])} is no way out; there are http, https and socks5"
        )
    port = int(match["port"]) if match["port"] else _PORTS[kind]
    if not 0 < port < 65536:
        raise InvalidInput(f"{port} is no port")
    login = None
    if match["login"] is not None:
        user, _, password = match["login"].partition(":")
        login = make_login(unquote(user), unquote(password))
    host = match["host"].removeprefix("[").removesuffix("]")
    if ":" in host:
        try:
            host = str(ip_address(host))
        except ValueError:
            raise InvalidInput(f"{quoted(host)} is no address") from None
    return EgressProxy(kind, host, port, login)


def make_login(user: str, password: str) -> Login:
    """Check what goes into a header and into SOCKS. Raises :class:`InvalidInput`."""
    for text in (user, password):
        if len(text.encode("utf-8", "surrogateescape")) > _LOGIN_LIMIT or not text.isprintable():
            raise InvalidInput("user and password: at most 255 bytes of printable text each")
    if not user or ":" in user:
        raise InvalidInput("the user is missing, or has a colon")
    return Login(user, password)


def read_login(text: str) -> Login:
    """Read ``user:password``, the content of a file. Raises :class:`InvalidInput`."""
    user, colon, password = text.strip("\r\n").partition(":")
    if not colon:
        raise InvalidInput("expected user:password")
    return make_login(user, password)


def from_environment(environ: Mapping[str, str]) -> Choose:
    """Return what the variables say. Raises :class:`InvalidInput` for what cannot be read."""
    via = None
    for name in ("https_proxy", "all_proxy"):
        given = environ.get(name) or environ.get(name.upper())
        if given:
            try:
                via = read_via(given)
            except InvalidInput as error:
                raise InvalidInput(f"{name.upper()}: {error}") from None
            break
    if via is None:
        return direct
    found = via
    near = _read_near(environ.get("no_proxy") or environ.get("NO_PROXY") or "")

    def choose(host: str, port: int) -> EgressProxy | None:
        name = host.lower().rstrip(".").partition("%")[0]
        if _is_own(name) or any(each.has(name, port) for each in near):
            return None
        return found

    return choose


def _is_own(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = plain_address(name)
    return address is not None and address.is_loopback


@frozen
class _Near:
    """One entry of ``NO_PROXY``; ``port`` 0 is any."""

    name: str
    network: IPNetwork | None = None
    port: int = 0

    def has(self, host: str, port: int) -> bool:
        """Whether it means this destination."""
        if self.port not in (0, port):
            return False
        if self.network is not None:
            address = plain_address(host)
            return address is not None and address in self.network
        return self.name == "*" or host == self.name or host.endswith(f".{self.name}")


def _read_near(text: str) -> tuple[_Near, ...]:
    """Read ``NO_PROXY``: names, of domains with all in them, addresses, networks, ``*``."""
    words = (each.strip().lower() for each in text.split(","))
    return tuple(_read_entry(word) for word in words if word.strip(".*") or word == "*")


def _read_entry(text: str) -> _Near:
    try:
        return _Near("", plain_network(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        name, _, number = text.rpartition(":")
    if name and number.isascii() and number.isdigit():
        return evolve(_read_entry(name), port=int(number))
    if text == "*":
        return _Near("*")
    return _Near(text.removeprefix("*").removeprefix(".").rstrip("."))
