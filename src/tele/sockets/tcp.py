"""When does a TCP connection end whose peer is gone without a word?

A machine that loses its power, or its network, says nothing: without questions its connections
would live for ever. The kernel asks, and ends them (tcp(7)); the questions also keep the entries of
NAT gateways alive, which forget connections that are silent for some minutes.

Invariants:

* Between machines of the cluster, and to targets of forwards, a dead peer is found within
  :data:`MACHINE_SECONDS`, whether bytes wait for it or not.
* A person's connection bears a laptop that sleeps: it ends after :data:`USER_SECONDS`. What asks
  on the level of SSH may end it earlier, as the cluster's rules say.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Final

#: How long a machine may be silent that is asked, in seconds.
MACHINE_SECONDS: Final = 120
#: The same of a person's machine: as with OpenSSH's sshd on Linux.
USER_SECONDS: Final = 7200
#: A silence of so many seconds is followed by a question; and so many are between two of these.
IDLE_SECONDS: Final = 60
BETWEEN_SECONDS: Final = 15
#: More questions than this the kernel does not take.
PROBES_LIMIT: Final = 127


def notice_dead_peer(connected: socket.socket, seconds: int = MACHINE_SECONDS) -> None:
    """Have the kernel end ``connected`` when its peer is gone for ``seconds``.

    Nothing happens to a socket that is not TCP, or that is closed already.
    """
    if connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    idle = min(IDLE_SECONDS, seconds // 3)
    between = max(min(BETWEEN_SECONDS, idle), -(-(seconds - idle) // PROBES_LIMIT))
    wanted = {
        "TCP_KEEPIDLE": idle,
        "TCP_KEEPINTVL": between,
        "TCP_KEEPCNT": (seconds - idle) // between,
        "TCP_USER_TIMEOUT": seconds * 1000,  # what was sent and is not acknowledged
    }
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in wanted.items():
            option = getattr(socket, name, None)  # other systems have fewer of them
            if option is not None:
                connected.setsockopt(socket.IPPROTO_TCP, option, value)


def notice_dead_peer_below(transport: Any, seconds: int = MACHINE_SECONDS) -> None:
    """Do the same for the connection that carries the TLS of ``transport``, if it has a socket."""
    connected = getattr(getattr(transport, "transport", None), "socket", None)
    if isinstance(connected, socket.socket):
        notice_dead_peer(connected, seconds)
