"""What does this node report to auth about itself?"""

from __future__ import annotations

from attrs import define

from tele._version import VERSION
from tele.model.identity import HostRole
from tele.model.presence import Mode, Presence
from tele.model.recording_modes import NODE_FEATURES
from tele.node.labels import Labels


@define
class NodePresence:
    """Makes the presence of the node; ``addresses`` are set once it listens, ``tunnels`` when
    tunnels are opened or closed.
    """

    name: str
    labels: Labels
    addresses: tuple[str, ...] = ()
    mode: Mode = Mode.DIRECT
    tunnels: tuple[str, ...] = ()
    features: tuple[str, ...] = NODE_FEATURES

    def __call__(self) -> Presence:
        """Return what is true now."""
        return Presence(
            name=self.name,
            role=HostRole.NODE,
            addresses=self.addresses,
            labels=self.labels.current,
            mode=self.mode,
            version=VERSION,
            tunnels=self.tunnels,
            features=self.features,
        )
