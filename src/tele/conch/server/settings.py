"""How does a server bound, offer and drain: what nodes and proxies are configured with alike."""

from __future__ import annotations

from attrs import Factory, frozen

from tele.admission.limits import Limits
from tele.conch.server.factory import ServerAlgorithms


@frozen
class ServerSettings:
    """Settings of one SSH server.

    ``shutdown_grace`` is how many seconds connections have to end by themselves when it stops.
    """

    limits: Limits = Factory(Limits)
    algorithms: ServerAlgorithms = Factory(ServerAlgorithms)
    shutdown_grace: float = 0.0
