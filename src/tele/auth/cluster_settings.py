"""What are the settings of the cluster, and who changed them?

Invariants:

* Until the resource is written, auth's configuration holds; from then on the resource does, for
  every auth on this store.
* A change based on an old revision is refused.
* What no part supports is refused here, before any part is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from attrs import evolve

from tele.auth.presence import Hosts
from tele.auth.repository import Repository
from tele.auth.state import SETTINGS, State
from tele.errors import Conflict, InvalidInput, quoted
from tele.interfaces import IBackend
from tele.log import make_logger
from tele.model.cluster_settings import PLACES, AllowedAlgorithms, changed, lacks
from tele.model.codec import encode
from tele.model.identity import HostRole
from tele.model.presence import Host, Status
from tele.model.recording_modes import RecordingMode, needs
from tele.model.resources import Cluster, ClusterSpec, Metadata, RecordingSettings
from tele.wire.ciphers import CIPHERS, MACS
from tele.wire.key_agreement import METHODS

log = make_logger(__name__)

#: The name under which they are stored: there is one cluster in a store.
OWN: Final = "cluster"
#: Hosts that an error names.
NAMED: Final = 5


class ClusterSettings:
    """The resource of the cluster ``name``."""

    def __init__(self, backend: IBackend, name: str, state: State, hosts: Hosts) -> None:
        self._hosts = hosts
        self._backend = backend
        self._name = name
        self._state = state
        self._stored = Repository(backend, SETTINGS, Cluster)

    def compare(self, configured: RecordingSettings | None) -> None:
        """Log it if ``configured``, what the configuration says, is not what holds."""
        present = self._state.recording
        if configured is not None and configured != present:
            log.warn(
                "session_recording of the configuration has no effect: the cluster's own holds",
                configured=encode(configured).decode(),
                cluster=encode(present).decode(),
                advice="tele get cluster prints it; remove the key from the configuration",
            )

    async def get(self) -> Cluster:
        """Return the settings; their revision is 0 while they are those of the configuration."""
        entry = await self._stored.get(OWN)
        if entry is None:
            return Cluster(
                Metadata(self._name), ClusterSpec(session_recording=self._state.configured)
            )
        cluster = entry.value
        return evolve(cluster, metadata=evolve(cluster.metadata, revision=entry.revision))

    async def put(self, cluster: Cluster) -> tuple[Cluster, Cluster]:
        """Replace the settings; returns those before and those after.

        Raises :class:`InvalidInput` for settings that are not supported, and :class:`Conflict` for
        an old revision.
        """
        self._check(cluster)
        before = await self.get()
        revision = cluster.metadata.revision or before.metadata.revision
        stored = evolve(cluster, metadata=evolve(cluster.metadata, revision=0))
        try:
            await self._backend.commit(self._stored.put(OWN, stored, revision))
        except Conflict:
            raise Conflict(
                f"cluster {self._name} has changed since it was read; read it again: tele get"
                " cluster"
            ) from None
        return before, await self.get()

    def _check(self, cluster: Cluster) -> None:
        metadata = cluster.metadata
        if metadata.name != self._name:
            raise InvalidInput(
                f"metadata.name: this cluster is {self._name}, and its name cannot be changed"
            )
        for name, given in (("labels", metadata.labels), ("expires", metadata.expires)):
            if given:
                raise InvalidInput(f"metadata.{name}: a cluster has none")
        recording = cluster.spec.session_recording
        if problem := cluster.spec.problem or _unknown_algorithms(cluster.spec.algorithms):
            raise InvalidInput(f"spec.{problem}")
        # A mode that holds already is not refused: other settings can be changed meanwhile.
        if recording.mode is not self._state.recording.mode and (
            problem := self._unable(recording.mode)
        ):
            raise InvalidInput(f"spec.session_recording.mode: {recording.mode.value}: {problem}")
        for name in changed(self._state.settings.for_hosts, cluster.spec.for_hosts):
            if problem := self._lacking(partial(lacks, name)):
                raise InvalidInput(f"spec.{PLACES.get(name, name)}: {problem}")

    def _unable(self, mode: RecordingMode) -> str:
        """Return which hosts that are online cannot do ``mode``, or nothing."""
        if problem := self._lacking(partial(needs, mode)):
            return problem
        role = HostRole.PROXY
        if needs(mode, role, ()) and not self._online(role):
            return "no proxy is online that could record"
        return ""

    def _online(self, role: HostRole) -> list[Host]:
        every = self._hosts.all(role)
        return [host for host in every if host.status is Status.ONLINE and not host.sshd]

    def _lacking(self, lacking: Callable[[HostRole, Collection[str]], object]) -> str:
        """Return which hosts that are online lack something, by their features; or nothing."""
        for role in (HostRole.NODE, HostRole.PROXY):
            features = partial(self._hosts.features, role)
            unable = [h.name for h in self._online(role) if lacking(role, features(h.id))]
            if unable:
                more = len(unable) - NAMED
                named = ", ".join(unable[:NAMED]) + (f" and {more} more" if more > 0 else "")
                return f"{role.value} {named} cannot do that: upgrade, or remove it (tele nodes rm)"
        return ""


def _unknown_algorithms(allowed: AllowedAlgorithms) -> str:
    """Return which of the names no host of this version knows, or nothing."""
    for key, names, known in (
        ("key_exchanges", allowed.key_exchanges, tuple(METHODS)),
        ("ciphers", allowed.ciphers, CIPHERS),
        ("macs", allowed.macs, MACS),
    ):
        unknown = [name for name in names if name.encode() not in known]
        if unknown:
            there = ", ".join(name.decode() for name in known)
            return f"algorithms.{key}: unknown {quoted(unknown[0])}; there are {there}"
    return ""
