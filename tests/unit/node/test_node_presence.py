"""What a node announces, and when."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

from twisted.internet.task import Clock

from tele.conch.server.settings import ServerSettings
from tele.node.presence import NodePresence
from tele.node.service import NodeService
from tele.node.settings import Ingress, SessionSettings


def announced_at_first(port: int) -> tuple[str, ...]:
    """Return the addresses of the first announcement: the member starts before the node."""
    labels, member, spawning = MagicMock(), MagicMock(), MagicMock()
    labels.current = {}
    presence = NodePresence("web1", labels)
    ingress = Ingress(("127.0.0.1", port), lambda bound: f"web1.example:{bound}")
    clock: Any = Clock()
    NodeService(
        clock,
        member=member,
        presence=presence,
        sessions=SessionSettings(spawning),
        ingress=ingress,
        server=ServerSettings(),
    )
    return presence().addresses


def test_a_restarted_node_announces_its_address_at_once() -> None:
    """Without it the proxies would have no route to the node until the next announcement."""
    assert announced_at_first(3022) == ("web1.example:3022",)


def test_a_port_that_is_not_known_yet_is_not_announced() -> None:
    """The kernel chooses it when the node listens."""
    assert announced_at_first(0) == ()
