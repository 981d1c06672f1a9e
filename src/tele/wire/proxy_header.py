"""Which client address does a load balancer report?

The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): the balancer sends the
address before the first byte of its client.

Invariants:

* Pure parsing: the result is a value, None for "incomplete", or a ProtocolError at the first
  invalid byte.
* Every length has a bound; addresses and numbers have one accepted form each.
* Additions (TLVs), checksums among them, are skipped: the balancer is trusted or it is not.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from attrs import frozen

from tele.errors import ProtocolError
from tele.model.addresses import plain_host

#: A header of version 1 has at most so many bytes, with its end of line (section 2.1).
LINE_LIMIT: Final = 107
#: Most bytes after the fixed part of a header of version 2; real ones are below 600.
BLOCK_LIMIT: Final = 4096
SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
#: The header of a connection that the balancer, or a proxy, makes for itself.
LOCAL: Final = SIGNATURE + b"\x20\0\0\0"

_LINE: Final = b"PROXY "
_HEAD: Final = len(SIGNATURE) + 4
_PORT = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
_FAMILIES: Final = {"TCP4": 4, "TCP6": 6}
#: Sizes of both addresses and ports, by family and transport (section 2.2).
_UNSPECIFIED: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_UNIX: Final = 0x31
_SIZES: Final = {_UNSPECIFIED: 0, _TCP4: 12, _TCP6: 36, _UNIX: 216}


@frozen
class ProxyHeader:
    """``source`` is (host, port), or None: the address of the TCP connection is the client's.

    ``size`` is the length of the header in bytes.
    """

    source: tuple[str, int] | None
    size: int


def looks_like_header(data: bytes) -> bool:
    """Whether ``data`` begins as a header, unlike any other protocol that is served."""
    return data.startswith((_LINE, SIGNATURE))


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """Read the header at the start of ``data``; None means that more bytes are needed.

    Raises :class:`ProtocolError`.
    """
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return _read_block(data)
    if data[: len(_LINE)] == _LINE[: len(data)]:
        return _read_line(data)
    raise ProtocolError("no PROXY protocol header")


def _read_line(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:LINE_LIMIT].partition(b"\r\n")
    if not end:
        if len(data) >= LINE_LIMIT:
            raise ProtocolError("PROXY header: the line is too long")
        return None
    size = len(line) + len(end)
    try:
        words = line.decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise ProtocolError("PROXY header: not ASCII") from None
    if words[1] == "UNKNOWN":  # the rest is to be ignored
        return ProxyHeader(None, size)
    if len(words) != 6 or words[1] not in _FAMILIES:
        raise ProtocolError("PROXY header: not a family, two addresses and two ports")
    version = _FAMILIES[words[1]]
    source, _ = _address(words[2], version), _address(words[3], version)
    port, _ = _port(words[4]), _port(words[5])
    return ProxyHeader((source, port), size)


def _address(text: str, version: int) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        raise ProtocolError("PROXY header: that is no address") from None
    if address.version != version or "%" in text:
        raise ProtocolError("PROXY header: an address of another family")
    return plain_host(text)


def _port(text: str) -> int:
    if _PORT.fullmatch(text) is None or int(text) > 0xFFFF:
        raise ProtocolError("PROXY header: that is no port")
    return int(text)


def _read_block(data: bytes) -> ProxyHeader | None:
    if len(data) > len(SIGNATURE) and data[len(SIGNATURE)] not in (0x20, 0x21):
        raise ProtocolError("PROXY header: another version, or an unknown command")
    if len(data) < _HEAD:
        return None
    command, family = data[len(SIGNATURE)], data[len(SIGNATURE) + 1]
    length = int.from_bytes(data[_HEAD - 2 : _HEAD], "big")
    if length > BLOCK_LIMIT:
        raise ProtocolError("PROXY header: it is too long")
    if command == 0x21 and (family not in _SIZES or length < _SIZES[family]):
        raise ProtocolError("PROXY header: no addresses of a TCP connection")
    if len(data) < _HEAD + length:
        return None
    source = None
    if command == 0x21 and family in (_TCP4, _TCP6):
        each = 4 if family == _TCP4 else 16
        address = ip_address(data[_HEAD : _HEAD + each])
        at = _HEAD + 2 * each
        source = (plain_host(str(address)), int.from_bytes(data[at : at + 2], "big"))
    return ProxyHeader(source, _HEAD + length)
