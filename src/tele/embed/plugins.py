"""Which plugin does ``kind:arguments`` choose, and which kinds may a configuration name?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.plugin import getPlugins
from zope.interface.interface import InterfaceClass

import tele.plugins
from tele.config.reading import Loaded, load
from tele.config.values import Chosen
from tele.errors import InvalidInput, TeleError, quoted
from tele.interfaces import (
    IArchiveFactory,
    IAuditSinkFactory,
    IBackendFactory,
    IHostUsersFactory,
    IJoinMethodFactory,
    IRecorderFactory,
    ISessionTracerFactory,
    ISubsystemFactory,
    Surroundings,
)
from tele.log import make_logger

_log = make_logger(__name__)

#: Which interface the factory of each key's plugin provides.
_FACTORIES: Mapping[str, InterfaceClass] = {
    "auth.store": IBackendFactory,
    "auth.recordings": IArchiveFactory,
    "auth.audit": IAuditSinkFactory,
    "auth.join_methods": IJoinMethodFactory,
    "node.recorder": IRecorderFactory,
    "node.tracer": ISessionTracerFactory,
    "node.host_users.accounts": IHostUsersFactory,
    "node.subsystems": ISubsystemFactory,
}


def load_config(path: Path) -> Loaded:
    """Read a configuration file; raises :class:`tele.errors.ConfigError` with all problems."""
    return load(path, {key: [f.kind for f in _factories(i)] for key, i in _FACTORIES.items()})


def _factories(interface: InterfaceClass) -> list[Any]:
    found: Any = getPlugins(interface, tele.plugins)
    return list(found)


def choose(interface: InterfaceClass, chosen: Chosen, surroundings: Surroundings) -> Any:
    """Return what the plugin of ``chosen`` makes; raises :class:`InvalidInput`.

    ``interface`` is one of the factory interfaces of :mod:`tele.interfaces`.
    """
    known = {factory.kind: factory for factory in _factories(interface)}
    if chosen.kind not in known:
        raise InvalidInput(
            f"no plugin for {quoted(chosen.kind)}; there are {', '.join(sorted(known))}"
        )
    try:
        return known[chosen.kind].make(chosen.arguments, surroundings)
    except TeleError:
        raise
    except Exception as error:
        _log.failure("plugin failed", kind=chosen.kind)
        raise TeleError(
            f"the plugin {chosen.kind} cannot be made: {type(error).__name__}; the log has more"
        ) from error
