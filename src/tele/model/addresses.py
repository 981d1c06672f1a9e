"""Which address is it? One notation for each address, and the source that it is counted with.

A listener on ``[::]`` is told of IPv4 clients as ``::ffff:192.0.2.7`` (RFC 4291, section 2.5.5.2).
Everything that compares, counts, shows or records an address takes it from here.

Invariants:

* An address in two notations is the same address, everywhere.
* Whom somebody is (:func:`plain_address`) and whom they are counted with (:func:`source_address`)
  are different questions: an address that a translator made, or that contains another one, is
  counted with that other one, but never trusted for it.
* What is no address comes back as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import zip_longest
from typing import Final, TypeVar

from tele.errors import InvalidInput

T = TypeVar("T")

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

#: Addresses of one name that are tried, whatever a name server answers.
ADDRESSES_LIMIT: Final = 16
#: Seconds after which the next address of a name is tried beside the one before (RFC 8305).
ATTEMPT_DELAY: Final = 0.25
#: Digits that the number of a port may have.
PORT_DIGITS: Final = 5
#: How much of an IPv6 address one customer has.
SOURCE_BITS: Final = 64

#: IPv4 clients of a server that is reached over IPv6 only (RFC 6052, section 2.1; RFC 7755).
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")
_MAPPED_BITS: Final = 96


def plain_address(host: str) -> IPAddress | None:
    """Return the address that ``host`` is, None if it is none.

    A mapped IPv4 address is the IPv4 address; the zone of a link-local one (``%eth0``) is left out.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def plain_host(host: str) -> str:
    """Return ``host`` in the one notation that its address has, with its zone if it has one."""
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

    Behind addresses of NAT64, 6to4 and Teredo are the IPv4 addresses that they contain: all
    clients of one translator or Teredo server share a /64, and who has 6to4 has 65,536 of them.
    """
    address = plain_address(host)
    if not isinstance(address, IPv6Address):
        return address
    inner: IPv4Address | None = address.sixtofour
    if address in _TRANSLATED:
        inner = IPv4Address(int(address) & 0xFFFF_FFFF)
    elif address.teredo is not None:
        inner = address.teredo[1]
    # A private one is anybody's to claim: it is counted as the IPv6 address that it is.
    return address if inner is None or not inner.is_global else inner


def source_network(host: str) -> str:
    """Return whom ``host`` is counted with: an IPv4 address, or the /64 of an IPv6 address."""
    address = source_address(host)
    if address is None:
        return host
    return str(address) if address.version == 4 else str(ip_network((address, SOURCE_BITS), False))


def alternate(addresses: Iterable[T], family: Callable[[T], object]) -> list[T]:
    """Return ``addresses`` so that families take turns, each in its own order, that of the first
    one first (RFC 8305, section 4).
    """
    families: dict[object, list[T]] = {}
    for each in addresses:
        families.setdefault(family(each), []).append(each)
    return [each for turn in zip_longest(*families.values()) for each in turn if each is not None]


def split_address(address: str, default_port: int = 3025) -> tuple[str, int]:
    """Read ``host``, ``host:port``, ``[v6]:port``; raises :class:`InvalidInput`."""
    host, colon, port = address.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")) or address.endswith("]"):
        host, port = address, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    # Python refuses to read thousands of digits, in an error of its own.
    is_number = port.isascii() and port.isdigit() and len(port) <= PORT_DIGITS
    if not host or not is_number or not 0 < int(port) < 65536:
        raise InvalidInput(f"{address[:256]!r} is not an address such as example.com:3080")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Return ``host:port``, or ``[v6]:port``: what :func:`split_address` reads."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
