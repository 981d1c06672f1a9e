"""What does this node report to auth about itself?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import define

from tele._version import VERSION
from tele.model.identity import HostRole
from tele.model.presence import PROBLEM_LIMIT, Mode, Presence
from tele.model.recording_modes import NODE_FEATURES
from tele.model.trace import TraceKind
from tele.node.labels import Labels


def _all_missing() -> Mapping[TraceKind, str]:
    """Nothing is traced, and nothing is said of it."""
    return dict.fromkeys(TraceKind, "")


@define
class NodePresence:
    """Makes the presence of the node; ``addresses`` are set once it listens, ``tunnels`` when
    tunnels are opened or closed. ``missing`` returns what cannot be traced, and why.
    """

    name: str
    labels: Labels
    addresses: tuple[str, ...] = ()
    mode: Mode = Mode.DIRECT
    tunnels: tuple[str, ...] = ()
    features: tuple[str, ...] = NODE_FEATURES
    missing: Callable[[], Mapping[TraceKind, str]] = _all_missing

    def __call__(self) -> Presence:
        """Return what is true now."""
        missing = self.missing()
        return Presence(
            name=self.name,
            role=HostRole.NODE,
            addresses=self.addresses,
            labels=self.labels.current,
            mode=self.mode,
            version=VERSION,
            tunnels=self.tunnels,
            features=self.features,
            tracing=tuple(kind for kind in TraceKind if kind not in missing),
            untraced=next(iter(missing.values()), "")[:PROBLEM_LIMIT],
        )
