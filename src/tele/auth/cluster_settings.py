"""What are the settings of the cluster, and who changed them?

Invariants:

* Until the resource is written, auth's configuration holds; from then on the resource does, for
  every auth on this store.
* A change based on an old revision is refused.
* What no part supports is refused here, before any part is told.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve

from tele.auth.repository import Repository
from tele.auth.state import SETTINGS, State
from tele.errors import Conflict, InvalidInput
from tele.interfaces import IBackend
from tele.log import make_logger
from tele.model.codec import encode
from tele.model.resources import Cluster, ClusterSpec, Metadata, RecordingSettings

log = make_logger(__name__)

#: The name under which they are stored: there is one cluster in a store.
OWN: Final = "cluster"


class ClusterSettings:
    """The resource of the cluster ``name``."""

    def __init__(self, backend: IBackend, name: str, state: State) -> None:
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
        if problem := cluster.spec.session_recording.problem:
            raise InvalidInput(f"spec.{problem}")
