"""How is an address written, compared and counted? One notation for each, and one value.

A listener on ``[::]`` reports IPv4 clients as ``::ffff:192.0.2.7`` (RFC 4291, section 2.5.5.2).
Everything that compares, counts, shows or records an address uses this module.

Invariants:

* An address in two notations is the same address, everywhere.
* What an address is (:func:`plain_address`) and what it counts as (:func:`source_address`) are
  different questions: an address that a translator made, or that contains another one, is counted
  with that other one, but never trusted for it.
* A text that is no address is returned as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import zip_longest
from typing import Final, NamedTuple, TypeVar

from tele.errors import InvalidInput, quoted

T = TypeVar("T")

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

#: Addresses of one name that are tried, whatever a name server answers.
ADDRESSES_LIMIT: Final = 16
#: Seconds after which the next address of a name is tried beside the one before (RFC 8305).
ATTEMPT_DELAY: Final = 0.25
#: Digits of a port: Python refuses to read thousands of them, with an error of its own.
PORT_DIGITS: Final = 5
#: The port of auth's API.
AUTH_PORT: Final = 3025
#: How much of an IPv6 address one customer has.
SOURCE_BITS: Final = 64

#: IPv4 clients of a server that is reached over IPv6 only (RFC 6052, section 2.1; RFC 7755).
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")
_MAPPED_BITS: Final = 96


class Address(NamedTuple):
    """A host, which is a name or an IP address, and a port; sockets take it as the pair it is."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(
        cls, text: str, default_port: int | None = AUTH_PORT, *, lowest_port: int = 1
    ) -> Address:
        """Read ``host:port``, ``[v6]:port`` or, unless ``default_port`` is None, ``host``.

        Raises :class:`InvalidInput`.
        """
        host, digits = _split(text)
        if digits is None:
            port = default_port
        else:
            is_number = digits.isascii() and digits.isdigit() and len(digits) <= PORT_DIGITS
            port = int(digits) if is_number else None
        if not host or port is None or not lowest_port <= port < 65536:
            raise InvalidInput(f"{quoted(text)} is not an address such as example.com:3080")
        return cls(host, port)


def host_of(text: str) -> str:
    """Return the host of ``host:port``, ``[v6]:port`` or ``host``, without brackets."""
    host, digits = _split(text)
    return host if digits is None or digits.isdigit() else text.strip("[]")


def _split(text: str) -> tuple[str, str | None]:
    """Return the host without brackets, and what stands for the port, if anything does."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.startswith("[")):
        return text.removeprefix("[").removesuffix("]"), None
    return host.removeprefix("[").removesuffix("]"), port


def plain_address(host: str) -> IPAddress | None:
    """Return the IP address that ``host`` is, or None.

    A mapped IPv4 address is the IPv4 address; the zone of a link-local one (``%eth0``) is dropped.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def plain_host(host: str) -> str:
    """Return ``host`` in the one notation of its address, with its zone if it has one."""
    if ":" not in host:
        return host  # a name, or an IPv4 address, which has one notation only
    address = plain_address(host)
    if address is None:
        return host
    _, percent, zone = host.partition("%")
    return str(address) if address.version == 4 else f"{address}{percent}{zone}"


def plain_network(text: str) -> IPNetwork:
    """Read a network, one of mapped IPv4 addresses as the IPv4 network. Raises ValueError."""
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def source_address(host: str) -> IPAddress | None:
    """Return the address that ``host`` is counted with, None if it is no address.

    NAT64, 6to4 and Teredo addresses are counted with the IPv4 address that they contain: all
    clients of a translator or a Teredo server share a /64, and a 6to4 client has 65,536 of them.
    """
    address = plain_address(host)
    if not isinstance(address, IPv6Address):
        return address
    inner: IPv4Address | None = address.sixtofour
    if address in _TRANSLATED:
        inner = IPv4Address(int(address) & 0xFFFF_FFFF)
    elif address.teredo is not None:
        inner = address.teredo[1]
    # Anyone can claim a private one: it is counted as the IPv6 address that it is.
    return address if inner is None or not inner.is_global else inner


def source_network(host: str) -> str:
    """Return the network that ``host`` is counted with: an IPv4 address, or a /64 of IPv6."""
    address = source_address(host)
    if address is None:
        return host
    return str(address) if address.version == 4 else str(ip_network((address, SOURCE_BITS), False))


def alternate(addresses: Iterable[T], family: Callable[[T], object]) -> list[T]:
    """Return ``addresses`` with alternating families, the first one's first (RFC 8305, section 4).

    Each family keeps its order.
    """
    families: dict[object, list[T]] = {}
    for each in addresses:
        families.setdefault(family(each), []).append(each)
    return [each for turn in zip_longest(*families.values()) for each in turn if each is not None]
