"""How does a program run parts of tele? The names for embedders.

Functions take values of :mod:`tele.config.values`, which a program builds or reads from a file, and
return Twisted services. Their ``ready`` fires when they serve.

Invariants:

* It only composes: what a part does is in its own package.
* Nothing is opened before a service is made or started, so that twistd may fork first.
* A name is imported when it is used: a process that runs a node does not import auth.
* A clock that is set back holds up no timer: what makes a service also calls
  :func:`make_monotonic` with its reactor. A program that uses :mod:`tele.embed.ssh` only, or
  has timers of its own before that, calls it first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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
    from tele.embed.hosts import HostService, join_settings
    from tele.embed.node import node_service
    from tele.embed.plugins import choose, load_config
    from tele.embed.proxy import proxy_service
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

#: Where each name is defined, as the imports above say it to type checkers.
_MODULES: Final = {
    "tele.auth.service": ("AuthService",),
    "tele.config.reading": ("Loaded", "parse", "read_address"),
    "tele.config.values": (
        "Address",
        "AuthConfig",
        "Chosen",
        "JoinConfig",
        "Keep",
        "NodeConfig",
        "Pins",
        "ProxyConfig",
    ),
    "tele.embed.auth": ("auth_service",),
    "tele.embed.cluster": ("ClusterService",),
    "tele.embed.hosts": ("HostService", "join_settings"),
    "tele.embed.node": ("node_service",),
    "tele.embed.plugins": ("choose", "load_config"),
    "tele.embed.proxy": ("proxy_service",),
    "tele.loop": ("make_monotonic",),
    "tele.membership.joining": ("JoinSettings",),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # a type checker would believe it of every name

    def __getattr__(name: str) -> object:
        """Import a name when it is first used (PEP 562)."""
        module = _MODULE_OF.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(module), name)
        globals()[name] = value
        return value
