"""What are the name and the address of this machine?"""

from __future__ import annotations

import re
import socket
from typing import Final

from tele.config.values import Address
from tele.model.names import HOST_NAME_PATTERN

_PROBES: Final = ((socket.AF_INET6, "2001:db8::1"), (socket.AF_INET, "192.0.2.1"))


def host_name() -> str:
    """Return the name of this machine, as ``hostname`` prints it."""
    name = socket.gethostname()
    return name if re.fullmatch(HOST_NAME_PATTERN, name, re.ASCII) else "localhost"


def is_wildcard(host: str) -> bool:
    """Whether ``host`` means all interfaces."""
    return host in ("", "0.0.0.0", "::")  # noqa: S104  (compared, not bound)


def public_address(listen: Address, given: Address | None, port: int) -> str:
    """Return the public address of a service that listens at ``listen``, on ``port``.

    All interfaces become the address that this machine uses to reach others.
    """
    if given is not None:
        return str(given)
    host = listen.host
    if is_wildcard(host):
        # A service on ``::`` is reached over IPv4, too.
        found = (_own_address(*probe) for probe in (_PROBES if host == "::" else _PROBES[1:]))
        host = next(filter(None, found), "127.0.0.1")
    return str(Address(host, port))


def _own_address(family: socket.AddressFamily, other: str) -> str:
    """Return the address of this machine from which it would reach ``other``, if it can."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return ""
