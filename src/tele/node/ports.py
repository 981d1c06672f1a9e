"""Where does the node listen when a client asks for a port, and may it?

Invariants:

* A requested address is read as sshd reads it (channels.c, GatewayPorts): unless the
  configuration permits more, listeners are on loopback.
* Addresses are numbers: no name is looked up for a client.
* A port below 1024 is root's, though the node may be root for other reasons.
"""

from __future__ import annotations

import errno
import ipaddress
import socket as sockets
from collections.abc import Sequence
from typing import Final

from tele.conch.forwarding.listening import BACKLOG
from tele.errors import AccessDenied, InvalidInput, TeleError, Unavailable, quoted
from tele.model.access import GatewayPorts
from tele.model.addresses import plain_host

LOOPBACK: Final = ("127.0.0.1", "::1")
_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - only if the configuration says so
RESERVED: Final = 1024
#: Displays begin at 6000 + 10, as sshd's do, and there are so many.
FIRST_DISPLAY: Final = 10
DISPLAYS: Final = 1000
DISPLAY_PORT: Final = 6000


def addresses_for(asked: str, gateway: GatewayPorts) -> tuple[str, ...]:
    """Return where to listen for a client that asks for ``asked``.

    Raises :class:`InvalidInput` for what is no address.
    """
    if gateway is GatewayPorts.YES:
        return _EVERYWHERE
    if asked in LOOPBACK:
        return (asked,)
    if gateway is GatewayPorts.NO or asked == "localhost":
        return LOOPBACK
    if asked in ("", "*"):
        return _EVERYWHERE
    try:
        return (str(ipaddress.ip_address(plain_host(asked))),)
    except ValueError:
        raise InvalidInput(f"{quoted(asked)} is no address of this node") from None


def listen_on(addresses: Sequence[str], port: int, login: str) -> list[sockets.socket]:
    """Return sockets that listen on one port of all those ``addresses`` that are usable.

    Port 0 is a free one. Raises :class:`AccessDenied`, or :class:`Unavailable` with the
    system's reason if there is no usable address.
    """
    if 0 < port < RESERVED and login != "root":
        raise AccessDenied(f"port {port} is for root only", "port")
    made: list[sockets.socket] = []
    problem = "no address"
    for address in addresses:
        try:
            made.append(_listen(address, port))
        except OSError as error:
            problem = f"{address} port {port}: {error.strerror}"
        else:
            port = port or made[0].getsockname()[1]
    if not made:
        raise Unavailable(f"the node cannot listen on {problem}")
    return made


def listen_for_display() -> tuple[int, list[sockets.socket]]:
    """Return the first free display and what listens for it, on loopback."""
    for number in range(FIRST_DISPLAY, FIRST_DISPLAY + DISPLAYS):
        made: list[sockets.socket] = []
        for address in LOOPBACK:
            try:
                made.append(_listen(address, DISPLAY_PORT + number))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    break  # a program that knows one address only would reach another server
        else:
            if not made:
                break
            return number, made
        for each in made:
            each.close()
    raise TeleError("there is no free display")


def _listen(address: str, port: int) -> sockets.socket:
    family = sockets.AF_INET6 if ":" in address else sockets.AF_INET
    made = sockets.socket(family, sockets.SOCK_STREAM)
    try:
        made.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        if family == sockets.AF_INET6:
            made.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made
