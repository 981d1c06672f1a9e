"""What do the cluster's settings say about the SSH server of a member?

Invariant: they are asked for each connection; what is open goes on as it began.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tele.conch.server.factory import ServerAlgorithms
from tele.membership.member import Member


def allowed_by(member: Member) -> Callable[[], ServerAlgorithms]:
    """Return what tells the only algorithms that ``member`` may offer to clients now."""

    def allowed() -> ServerAlgorithms:
        names = member.settings.algorithms
        return ServerAlgorithms(
            _known(names.key_exchanges), _known(names.ciphers), _known(names.macs)
        )

    return allowed


def _known(names: Sequence[str]) -> tuple[bytes, ...] | None:
    """Return the names in a list; None for one that is not set."""
    return tuple(name.encode("ascii") for name in names) or None
