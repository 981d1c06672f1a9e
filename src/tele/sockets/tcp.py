"""When is a TCP connection closed whose peer does not respond any more?

A machine that loses power or network sends nothing: without keepalive probes its connections would
stay open forever. The kernel sends probes and closes them (tcp(7)). Probes also keep the entries of
NAT gateways, which forget connections that are silent for some minutes.

Invariants:

* Connections between machines of the cluster, and to targets of forwards, are closed after
  :data:`MACHINE_SECONDS`, whether bytes wait to be sent or not.
* A user's connection survives a laptop that sleeps: it is closed after :data:`USER_SECONDS`. SSH
  keepalive may close it earlier, by the cluster's rules.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any, Final

#: Seconds after which the connection of a machine that does not respond is closed.
MACHINE_SECONDS: Final = 120
#: The same of a user's machine: as with OpenSSH's sshd on Linux.
USER_SECONDS: Final = 7200
#: Seconds of silence before the first probe, and between two probes.
IDLE_SECONDS: Final = 60
BETWEEN_SECONDS: Final = 15
#: The kernel accepts no more probes than this.
PROBES_LIMIT: Final = 127


def notice_dead_peer(connected: socket.socket, seconds: int = MACHINE_SECONDS) -> None:
    """Have the kernel close ``connected`` when its peer does not respond for ``seconds``.

    A socket that is not TCP, or is closed, is left alone.
    """
    if connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    idle = min(IDLE_SECONDS, seconds // 3)
    between = max(min(BETWEEN_SECONDS, idle), -(-(seconds - idle) // PROBES_LIMIT))
    wanted = {
        "TCP_KEEPIDLE": idle,
        "TCP_KEEPINTVL": between,
        "TCP_KEEPCNT": (seconds - idle) // between,
        "TCP_USER_TIMEOUT": seconds * 1000,  # unacknowledged data
    }
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in wanted.items():
            option = getattr(socket, name, None)  # not on every system
            if option is not None:
                connected.setsockopt(socket.IPPROTO_TCP, option, value)


def notice_dead_peer_below(transport: Any, seconds: int = MACHINE_SECONDS) -> None:
    """Do the same for the connection that carries the TLS of ``transport``, if it has a socket."""
    connected = getattr(getattr(transport, "transport", None), "socket", None)
    if isinstance(connected, socket.socket):
        notice_dead_peer(connected, seconds)


def connect_problem(error: BaseException) -> str:
    """Return why a connection was not made, in the system's words where it has some."""
    number = getattr(error, "osError", None) or getattr(error, "errno", None)
    if isinstance(number, int) and not isinstance(error, socket.gaierror):
        return os.strerror(number).lower()
    return str(error).rstrip(".") or type(error).__name__
