"""What do a node and a proxy, made from their configuration, have in common?

Invariant: a service is stopped before those that it needs, the membership last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import shuffle
from typing import Any, Protocol

from twisted.application.service import IService, IServiceCollection, MultiService
from twisted.internet.defer import Deferred, maybeDeferred

from tele.admission.limits import PROXY_STARTUPS, STARTUPS, Limits, fitted
from tele.admission.penalties import LOOPBACK, PenaltyRules
from tele.capacity.descriptors import process_budget
from tele.conch.server.factory import ServerAlgorithms
from tele.conch.server.settings import ServerSettings
from tele.config.values import (
    JoinConfig,
    Keep,
    NodeConfig,
    PenaltiesConfig,
    ProxyConfig,
)
from tele.data_dir import DataDirLock
from tele.errors import InvalidInput
from tele.interfaces import IRecorder, NamedRecorder
from tele.membership.files import private_folder
from tele.membership.joining import JoinSettings
from tele.membership.kept_identity import check_kept_identity
from tele.membership.member import Member
from tele.membership.store import DirectoryStore, MemberStore, MemoryStore
from tele.model.identity import HostRole
from tele.private_files import read_secret


def join_settings(join: JoinConfig) -> JoinSettings:
    """Return how a host joins; its token file is read when it is needed."""
    addresses = [str(address) for address in join.auth or (join.proxy,) if address is not None]
    if not addresses:
        raise InvalidInput("join: give one of auth and proxy")
    # Each host keeps to the first one that answers: they spread over all.
    shuffle(addresses)
    return JoinSettings(
        tuple(addresses),
        join.ca_pin.values if join.ca_pin is not None else (),
        _token_reader(join.token_file),
    )


def _token_reader(path: Path | None) -> Callable[[], str | None]:
    def read() -> str | None:
        if path is None:
            return None
        try:
            return read_secret(path, "token_file").decode("utf-8").strip()
        except OSError as error:
            raise InvalidInput(f"token_file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidInput(f"token_file {path}: not a token") from None

    return read


class Serving(Protocol):
    """A service that serves clients, of a node or a proxy."""

    #: Fires with the port.
    ready: Deferred[int]
    running: int

    @property
    def problem(self) -> str:
        """Why it serves no clients now, or nothing."""

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """See ``IService``."""

    def stopService(self) -> object:
        """See ``IService``."""

    def force(self) -> None:
        """When it stops, or while it does: do not wait for sessions."""


class HostService(MultiService):
    """A node or a proxy with its membership. ``ready`` fires with the port.

    ``lock`` is released when everything has stopped.
    """

    def __init__(
        self,
        member: Member,
        serving: Serving,
        recorder: IRecorder | Sequence[NamedRecorder] | None = None,
        lock: DataDirLock | None = None,
    ) -> None:
        super().__init__()
        self.member = member
        self.serving = serving
        self.ready: Deferred[int] = serving.ready
        #: The recorders that are services, too.
        self._recorders = _services(recorder)
        self._lock = lock
        self._stopped = False

    @property
    def recorders(self) -> Sequence[IService]:
        """The recorders that are services, too."""
        return self._recorders

    def startService(self) -> None:
        """Start the membership and what serves; the recorder when there is an identity."""
        member_ready = self.member.ready()
        self.member.setServiceParent(self)
        self.serving.setServiceParent(self)
        super().startService()
        member_ready.addCallbacks(self._joined, lambda _: None)  # serving fails with it, too

    def _joined(self, _: object) -> None:
        for recorder in () if self._stopped else self._recorders:
            recorder.setServiceParent(self)

    def force(self) -> None:
        """When it stops, or while it does: do not wait for sessions."""
        self.serving.force()

    async def _stop(self) -> None:
        # Serving first: its last events and recordings still need the membership.
        services: tuple[Any, ...] = (self.serving, *self._recorders, self.member)
        for service in services:
            if service.running:
                await maybeDeferred(service.stopService)
        if self._lock is not None:
            self._lock.release()

    def stopService(self) -> Deferred[None]:
        """Stop what serves, then the recorders, then the membership."""
        self._stopped = True
        self.running = 0
        return Deferred.fromCoroutine(self._stop())


def _services(recorder: IRecorder | Sequence[NamedRecorder] | None) -> list[IService]:
    """Return the recorders that are services."""
    if isinstance(recorder, Sequence):
        return [service for each in recorder for service in _services(each.recorder)]
    service: IService | None = IService(recorder, None)
    return [] if service is None else [service]


def limits_of(config: NodeConfig | ProxyConfig) -> Limits:
    """Return the limits of connections, as the configuration and the descriptors set them."""
    startups = PROXY_STARTUPS if isinstance(config, ProxyConfig) else STARTUPS
    limits = Limits(
        startups=startups,
        keepalive_interval=config.keepalive.total_seconds(),
        penalties=penalty_rules(config.penalties),
    )
    return fitted(limits, process_budget().shares.unauthenticated)


def server_settings(config: NodeConfig | ProxyConfig) -> ServerSettings:
    """Return limits, algorithms and the time to drain of an SSH server."""
    return ServerSettings(
        limits_of(config), ssh_algorithms(config), config.shutdown_grace.total_seconds()
    )


def ssh_algorithms(config: NodeConfig | ProxyConfig) -> ServerAlgorithms:
    """Return what is offered to SSH clients."""
    return ServerAlgorithms(_encoded(config.key_exchanges), _encoded(config.ciphers))


def _encoded(names: Sequence[str] | None) -> tuple[bytes, ...] | None:
    return None if names is None else tuple(name.encode("ascii") for name in names)


def penalty_rules(config: PenaltiesConfig) -> PenaltyRules:
    """Return the penalties of the configuration."""
    return PenaltyRules(
        crash=config.crash.total_seconds(),
        authfail=config.authfail.total_seconds(),
        noauth=config.noauth.total_seconds(),
        refuseconnection=config.refuseconnection.total_seconds(),
        grace_exceeded=config.grace_exceeded.total_seconds(),
        max=config.max.total_seconds(),
        min=config.min.total_seconds(),
        max_sources=config.max_sources,
        overflow=config.overflow,
        ipv4_bits=config.ipv4_bits,
        ipv6_bits=config.ipv6_bits,
        exempt=(*LOOPBACK, *(network.value for network in config.exempt)),
    )


def open_store(config: NodeConfig | ProxyConfig, data_dir: Path) -> MemberStore:
    """Open the store of a host's membership, in ``data_dir`` or in memory."""
    if isinstance(config, NodeConfig):
        if config.state is Keep.MEMORY:
            return MemoryStore()
        return DirectoryStore(private_folder(data_dir), HostRole.NODE)
    return DirectoryStore(private_folder(data_dir), HostRole.PROXY)


def agreeing(store: MemberStore, join: JoinSettings, role: HostRole, data_dir: Path) -> MemberStore:
    """Return ``store`` if its identity is of the cluster that ``join`` names; else close it."""
    try:
        check_kept_identity(store, join.pins, role, data_dir)
    except InvalidInput as error:
        store.close()
        raise InvalidInput(f"{role.value}.join: {error}") from None
    return store
