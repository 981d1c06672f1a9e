"""Which host and port, or which path of a socket, does a role let a user forward to?

A destination is ``HOST:PORT``. The host is a name, with ``*`` and ``?``, an address, or a network
as ``10.0.0.0/8`` and ``[fd00::/8]``; the port is a number, a range ``8000-8099``, or ``*``.

Invariants:

* Names are compared with what was asked for, addresses with what is connected to: a name that
  leads to a denied address reaches nothing, and an address is never taken for a name.
* Addresses that reach the same are the same: IPv4 within IPv6, and ``0.0.0.0``, which is loopback.
* A pattern with an error allows nothing and denies everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from attrs import frozen

from tele.errors import InvalidInput, quoted
from tele.model.patterns import matches

IPAddress = IPv4Address | IPv6Address
#: Characters of a destination: a name has at most 253.
DESTINATION_LIMIT: Final = 300
LOCALHOST: Final = "localhost"
MAX_PORT: Final = 65535
_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.*?")


@frozen
class Destination:
    """A destination, read. Exactly one of ``name`` and ``network`` is set."""

    name: str
    network: IPv4Network | IPv6Network | None
    ports: range

    def names(self, host: str) -> bool:
        """Whether it covers a name that was asked for (:func:`plain_name`)."""
        return self.name == "*" or (bool(self.name) and matches(self.name, host))

    def contains(self, address: IPAddress) -> bool:
        """Whether it covers an address that is connected to (:func:`plain_address`)."""
        if self.network is None:
            return self.name == "*"
        return address.version == self.network.version and address in self.network


def plain_address(text: str) -> IPAddress | None:
    """Return the address that ``text`` is and leads to; None if it is not the form of one."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or IPv6Address(int(address))  # without a scope
    if address.is_unspecified:
        return ip_address("127.0.0.1" if address.version == 4 else "::1")
    return address


def plain_name(host: str) -> str | None:
    """Return a name as name servers are asked for it; None if it cannot be one."""
    try:
        text = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return None
    return text.lower().removesuffix(".")


@lru_cache(4096)
def read_destination(text: str) -> Destination:
    """Read a pattern of destinations. Raises :class:`InvalidInput`, which says what is wrong."""
    shown = quoted(text)
    host, colon, port = text.rpartition(":")
    if len(text) > DESTINATION_LIMIT or not colon or not host:
        raise InvalidInput(
            f"{shown} is no destination: write HOST:PORT, such as db.internal:5432,"
            " 10.0.0.0/8:* or [fd00::/8]:443"
        )
    ports = _read_ports(port, shown)
    if host.startswith("[") and host.endswith("]"):
        return Destination("", _read_network(host[1:-1], shown), ports)
    if ":" in host:
        raise InvalidInput(f"{shown}: write an IPv6 address in brackets, as in [fd00::1]:443")
    if "/" in host or plain_address(host) is not None:
        return Destination("", _read_network(host, shown), ports)
    name = host.lower().removesuffix(".")
    if not name or not set(name) <= _NAME_CHARACTERS:
        raise InvalidInput(
            f"{shown}: {quoted(host)} is neither a name (with * and ?), nor an address, nor a"
            " network; a name with other letters is written as in DNS, xn--..."
        )
    if name != "*" and not any(each.isalpha() for each in name):
        raise InvalidInput(
            f"{shown}: {quoted(host)} has no letter, as a name has: write addresses as a network,"
            " such as 10.0.0.0/16"
        )
    return Destination(name, None, ports)


def _read_ports(text: str, shown: str) -> range:
    if text == "*":
        return range(MAX_PORT + 1)
    first, dash, last = text.partition("-")
    if all(len(each) <= 5 and each.isascii() and each.isdigit() for each in (first, last or "0")):
        low, high = int(first), int(last) if dash and last else int(first)
        if low <= high <= MAX_PORT and (bool(last) or not dash):
            return range(low, high + 1)
    raise InvalidInput(f"{shown}: {quoted(text)} is no port: write 443, 8000-8099 or *")


def _read_network(text: str, shown: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise InvalidInput(f"{shown}: {error}") from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise InvalidInput(f"{shown}: write an IPv4 network as one")
    if network.network_address.is_unspecified and network.prefixlen == network.max_prefixlen:
        raise InvalidInput(
            f"{shown}: {text} is no destination: write 127.0.0.1 or [::1] for this machine,"
            " 0.0.0.0/0 and [::]/0 for all addresses"
        )
    return network


def check_destinations(patterns: Iterable[str]) -> None:
    """Raise :class:`InvalidInput` for a pattern that is not one."""
    for pattern in patterns:
        read_destination(pattern)


def _read(patterns: Iterable[str], port: int) -> list[Destination | None]:
    """Return those that cover ``port``; None is one with an error."""
    found: list[Destination | None] = []
    for pattern in patterns:
        try:
            read = read_destination(pattern)
        except InvalidInput:
            found.append(None)
        else:
            if port in read.ports:
                found.append(read)
    return found


def may_lead(allow: Iterable[str], deny: Iterable[str], host: str, port: int) -> bool:
    """Whether a destination may be allowed, before its addresses are known.

    True for a name that only its addresses can tell.
    """
    address = plain_address(host)
    if address is not None:
        return allows(allow, deny, host, address, port)
    name = plain_name(host)
    if name is None or any(each is None or each.names(name) for each in _read(deny, port)):
        return False
    return any(
        each is not None and (each.network is not None or each.names(name))
        for each in _read(allow, port)
    )


def allows(
    allow: Iterable[str], deny: Iterable[str], host: str, address: IPAddress, port: int
) -> bool:
    """Whether ``address``, which ``host`` leads to, may be connected to at ``port``."""
    name = plain_name(host) if plain_address(host) is None else ""
    if name is None:
        return False

    def covers(each: Destination) -> bool:
        return each.contains(address) or (bool(name) and each.names(name))

    if any(each is None or covers(each) for each in _read(deny, port)):
        return False
    return any(each is not None and covers(each) for each in _read(allow, port))


def allows_unresolved(allow: Iterable[str], deny: Iterable[str], host: str, port: int) -> bool:
    """Whether a destination is allowed whatever addresses its name has: for those who see the name
    only, and not what another machine connects to.
    """
    address = plain_address(host)
    if address is not None:
        return allows(allow, deny, host, address, port)
    name = plain_name(host)
    if name is None:
        return False
    if any(each is None or each.network or each.names(name) for each in _read(deny, port)):
        return False
    return any(each is not None and each.names(name) for each in _read(allow, port))


def allows_listening(
    allow: Iterable[str], deny: Iterable[str], addresses: Iterable[str], port: int
) -> bool:
    """Whether all of ``addresses`` may be listened on; port 0 is any free one.

    ``0.0.0.0`` and ``::`` are all addresses of their family: all of them have to be allowed, and
    none denied.
    """
    denying, allowing = _read(deny, port), _read(allow, port)
    if not port:  # the kernel chooses: every port has to be allowed, and none denied
        denying = [each for pattern in deny for each in (_or_none(pattern),)]
        allowing = [each for each in allowing if each is not None and len(each.ports) > MAX_PORT]
    found = [ip_address(each) for each in addresses]
    return all(
        any(each is not None and _listens(each, address) for each in allowing)
        and not any(each is None or _hears(each, address) for each in denying)
        for address in found
    )


def check_listening(patterns: Iterable[str]) -> None:
    """Raise :class:`InvalidInput` for a pattern of what may be listened on that is none."""
    for pattern in patterns:
        if read_destination(pattern).name not in ("", "*", LOCALHOST):
            raise InvalidInput(
                f"{quoted(pattern)}: a node listens on addresses, not on names: write"
                f" {LOCALHOST}, * or a network"
            )


def _or_none(pattern: str) -> Destination | None:
    try:
        return read_destination(pattern)
    except InvalidInput:
        return None


def _listens(each: Destination, address: IPAddress) -> bool:
    """Whether it covers all addresses that listening on ``address`` means."""
    if each.name == LOCALHOST:
        return address.is_loopback
    if address.is_unspecified and each.network is not None:
        return each.network.version == address.version and each.network.prefixlen == 0
    return each.contains(address)


def _hears(each: Destination, address: IPAddress) -> bool:
    """Whether it covers any address that listening on ``address`` means."""
    if each.name == LOCALHOST:
        return address.is_loopback or address.is_unspecified
    if address.is_unspecified and each.network is not None:
        return each.network.version == address.version
    return each.contains(address)
