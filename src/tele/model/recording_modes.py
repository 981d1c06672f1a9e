"""Where are sessions recorded, and what does a host have to be able to do for that?

A host announces its features (:class:`tele.model.presence.Presence`). Auth refuses a mode that a
host which is online cannot do; a host that is told one accepts no sessions.

Invariant: a mode is in :data:`MODES` only if hosts of this version can do all of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Final

from tele.model.identity import HostRole


class RecordingMode(str, Enum):
    """Where sessions are recorded.

    Only :data:`MODES` work. Others are refused where they are set, and a node or proxy that gets
    one accepts no logins; the same holds for ``UNKNOWN``, a mode of a newer auth.
    """

    NODE = "node"
    NODE_SYNC = "node-sync"
    PROXY = "proxy"
    PROXY_SYNC = "proxy-sync"
    OFF = "off"
    UNKNOWN = "unknown"

    @property
    def by_proxies(self) -> bool:
        """Whether proxies end users' SSH, and record sessions."""
        return self in (RecordingMode.PROXY, RecordingMode.PROXY_SYNC)


class ProxyLogin(str, Enum):
    """With what a proxy that ends users' SSH logs in to a host that runs OpenSSH's sshd.

    ``certificate``: one that auth makes for the session. ``agent``: the user's own certificate, by
    the agent that the client forwards.
    """

    CERTIFICATE = "certificate"
    AGENT = "agent"


#: What the name of a feature is.
FEATURE: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
#: A node pauses a session's output until auth has it; a proxy likewise.
NODE_SYNC: Final = "node-sync"
#: A proxy records; a node accepts only sessions that a proxy records, when the cluster says so.
PROXY: Final = "proxy"
PROXY_SYNC: Final = "proxy-sync"
#: The host shows the cluster's banner and message of the day.
TEXTS: Final = "texts"
#: The host offers only algorithms that the cluster allows.
ALGORITHMS: Final = "algorithms"
#: The host ends connections that are idle for too long, or whose certificate has expired.
TIME_LIMITS: Final = "time-limits"
#: The host renews certificates that last longer than the cluster allows.
HOST_LIFETIMES: Final = "host-lifetimes"
#: The host can verify keys of the suite mldsa44-ed25519.
COMPOSITE_KEYS: Final = "composite-keys"
#: Settings of the cluster that nodes and proxies of this version honour.
_SETTINGS: Final = (TEXTS, ALGORITHMS, TIME_LIMITS, HOST_LIFETIMES)

#: What nodes of this version can do.
NODE_FEATURES: Final[tuple[str, ...]] = (NODE_SYNC, PROXY, *_SETTINGS)
#: What proxies of this version can do.
PROXY_FEATURES: Final[tuple[str, ...]] = (PROXY, PROXY_SYNC, *_SETTINGS)
FEATURES: Final[Mapping[HostRole, tuple[str, ...]]] = {
    HostRole.NODE: NODE_FEATURES,
    HostRole.PROXY: PROXY_FEATURES,
    HostRole.AUTH: (),
}

#: What hosts in a role need for a mode; in all others nothing.
NEEDED: Final[Mapping[tuple[RecordingMode, HostRole], str]] = {
    (RecordingMode.NODE_SYNC, HostRole.NODE): NODE_SYNC,
    (RecordingMode.PROXY, HostRole.NODE): PROXY,
    (RecordingMode.PROXY, HostRole.PROXY): PROXY,
    (RecordingMode.PROXY_SYNC, HostRole.NODE): PROXY,
    (RecordingMode.PROXY_SYNC, HostRole.PROXY): PROXY_SYNC,
}


def needs(mode: RecordingMode, role: HostRole, features: Collection[str]) -> str:
    """Return what a host with ``features`` lacks for ``mode``, or nothing."""
    needed = NEEDED.get((mode, role), "")
    return "" if needed in features else needed


def _works(mode: RecordingMode) -> bool:
    return mode is not RecordingMode.UNKNOWN and not any(
        needs(mode, role, FEATURES[role]) for role in HostRole
    )


#: The modes that hosts of this version can do.
MODES: Final = tuple(mode for mode in RecordingMode if _works(mode))
