"""How does a program run parts of tele? The names for embedders.

Everything here takes values of :mod:`tele.config.values`, which a program may build by
itself as well as read from a file, and gives Twisted services. Their ``ready`` fires when
they serve.

Laws of this file:

* It composes and decides nothing: what a part does is in its own room.
* Nothing is opened before a service is started, so that twistd may fork first.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, succeed
from twisted.plugin import getPlugins
from zope.interface.interface import InterfaceClass

import tele.plugins
from tele.auth.service import AuthService
from tele.config.reading import Loaded, load
from tele.config.values import Address, AuthConfig, Chosen, JoinConfig
from tele.errors import InvalidInput, quoted
from tele.interfaces import (
    IArchiveFactory,
    IAuditSinkFactory,
    IBackendFactory,
    IRecorderFactory,
    Surroundings,
)
from tele.membership.files import private_folder
from tele.membership.joining import JoinSettings
from tele.membership.store import host_id_in

__all__ = [
    "AuthService",
    "ClusterService",
    "auth_service",
    "choose",
    "join_settings",
    "load_config",
]

#: Which interface the factory of each key's plugin provides.
_FACTORIES: Mapping[str, InterfaceClass] = {
    "auth.store": IBackendFactory,
    "auth.recordings": IArchiveFactory,
    "auth.audit": IAuditSinkFactory,
    "node.recorder": IRecorderFactory,
}
#: Longer paths do not fit into a socket's address (unix(7)).
_SOCKET_PATH_LIMIT = 107
LOCAL_SOCKET = "auth.sock"


def load_config(path: Path) -> Loaded:
    """Read a configuration file; raises :class:`tele.errors.ConfigError` with all problems."""
    return load(path, {key: [f.kind for f in _factories(i)] for key, i in _FACTORIES.items()})


def _factories(interface: InterfaceClass) -> list[Any]:
    return list(getPlugins(interface, tele.plugins))


def choose(interface: InterfaceClass, chosen: Chosen, surroundings: Surroundings) -> Any:
    """Return what the plugin of ``chosen`` makes; raises :class:`InvalidInput`.

    ``interface`` is one of the factory interfaces of :mod:`tele.interfaces`.
    """
    known = {factory.kind: factory for factory in _factories(interface)}
    if chosen.kind not in known:
        raise InvalidInput(
            f"no plugin for {quoted(chosen.kind)}; there are {', '.join(sorted(known))}"
        )
    return known[chosen.kind].make(chosen.arguments, surroundings)


def host_name() -> str:
    """Return what people call this machine: its host name without the domain."""
    return socket.gethostname().partition(".")[0] or "localhost"


def public_address(listen: Address, given: Address | None, port: int) -> str:
    """Return where others reach what listens at ``listen``, with the ``port`` it got.

    An address of all interfaces becomes the one that this machine uses to reach others.
    """
    if given is not None:
        return str(given)
    host = listen.host
    if host in ("", "0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
        family, other = (
            (socket.AF_INET6, "2001:db8::1") if host == "::" else (socket.AF_INET, "192.0.2.1")
        )
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((other, 9))  # sends nothing
                host = probe.getsockname()[0]
        except OSError:
            host = "127.0.0.1"
    return str(Address(host, port))


def join_settings(join: JoinConfig) -> JoinSettings:
    """Return how a host joins; its token file is read when it is needed."""
    address = join.auth or join.proxy
    if address is None:
        raise InvalidInput("join: give one of auth and proxy")
    return JoinSettings(
        (str(address),),
        join.ca_pin.values if join.ca_pin is not None else (),
        _token_reader(join.token_file),
    )


def _token_reader(path: Path | None) -> Callable[[], str | None]:
    def read() -> str | None:
        if path is None:
            return None
        try:
            return path.read_text("utf-8").strip()
        except OSError as error:
            raise InvalidInput(f"token_file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidInput(f"token_file {path}: this is no token") from None

    return read


def auth_service(reactor: Any, config: AuthConfig, data_dir: Path) -> AuthService:
    """Return auth on the store and archive that ``config`` chooses.

    Opens the store: call it when the process is the one that will serve.
    """
    folder = private_folder(data_dir)
    surroundings = Surroundings(reactor, folder)
    local = folder / LOCAL_SOCKET
    archive = choose(IArchiveFactory, config.recordings, surroundings)
    sinks = [choose(IAuditSinkFactory, each, surroundings) for each in config.audit]
    return AuthService(
        reactor,
        cluster=config.cluster_name,
        backend=choose(IBackendFactory, config.store, surroundings),
        archive=archive,
        host_id=host_id_in(folder),
        name=host_name(),
        listen=(config.listen.host, config.listen.port),
        recording=config.session_recording,
        sinks=sinks,
        local_socket=local if len(bytes(local)) <= _SOCKET_PATH_LIMIT else None,
    )


class ClusterService(MultiService):
    """The parts of one configuration, each started when those before it serve.

    ``ready`` fires with this service when all of them serve, or fails with the error of
    the first that cannot.
    """

    def __init__(self, reactor: Any, loaded: Loaded, parts: Sequence[str] = ()) -> None:
        super().__init__()
        self.ready: Deferred[ClusterService] = Deferred()
        self.auth: AuthService | None = None
        self._reactor = reactor
        self._loaded = loaded
        self._parts = parts or ("auth", "proxy", "node")
        self._starting: Deferred[None] | None = None

    def startService(self) -> None:
        """Start the parts, one after another."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addCallbacks(lambda _: self.ready.callback(self), self.ready.errback)

    def stopService(self) -> Deferred[Any]:
        """Stop all parts, the last first."""
        if self._starting is not None:
            self._starting.cancel()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            service.disownServiceParent()
        await succeed(None)

    async def _start(self) -> None:
        config = self._loaded.config
        if "auth" in self._parts and config.auth is not None:
            self.auth = auth_service(self._reactor, config.auth, config.data_dir)
            self.auth.setServiceParent(self)
            await self.auth.ready
