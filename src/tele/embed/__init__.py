"""How does a program run parts of tele? The names for embedders.

Functions take values of :mod:`tele.config.values`, which a program builds or reads from a file, and
return Twisted services. Their ``ready`` fires when they serve.

Invariants:

* It only composes: what a part does is in its own package.
* Nothing is opened before a service is made or started, so that twistd may fork first.
* A clock that is set back delays no timer: making a service calls :func:`make_monotonic` with its
  reactor. A program that uses :mod:`tele.embed.ssh` only, or has earlier timers, calls it first.
"""

from __future__ import annotations

from tele.auth.service import AuthService
from tele.config.reading import Loaded, parse, read_address
from tele.config.values import (
    Address,
    AuthConfig,
    Chosen,
    JoinConfig,
    Keep,
    NodeConfig,
    Pins,
    ProxyConfig,
)
from tele.embed.auth import auth_service
from tele.embed.cluster import ClusterService
from tele.embed.hosts import HostService, join_settings, node_service, proxy_service
from tele.embed.plugins import choose, load_config
from tele.loop import make_monotonic
from tele.membership.joining import JoinSettings

__all__ = [
    "Address",
    "AuthConfig",
    "AuthService",
    "Chosen",
    "ClusterService",
    "HostService",
    "JoinConfig",
    "JoinSettings",
    "Keep",
    "Loaded",
    "NodeConfig",
    "Pins",
    "ProxyConfig",
    "auth_service",
    "choose",
    "join_settings",
    "load_config",
    "make_monotonic",
    "node_service",
    "parse",
    "proxy_service",
    "read_address",
]
