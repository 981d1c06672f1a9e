"""Sockets that processes of the account make, and how many of these there may be."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from own_reactor import OwnReactor, own_reactor
from small_cluster import ME
from tele.errors import Unavailable
from tele.node import user_sockets
from tele.node.spawning import Spawning
from tele.node.user_sockets import UserSockets
from tele.spawner.program import PREPARED
from tele.spawner.socket_processes import PER_USER


@pytest.fixture
def spawning() -> Iterator[tuple[OwnReactor, Spawning]]:
    """A spawner that runs."""
    with own_reactor() as reactor:
        made = Spawning(reactor)
        made.open()
        try:
            yield reactor, made
        finally:
            reactor.wait(made.close())


def children(spawning: Spawning) -> list[int]:
    """The processes of the spawner."""
    pid = spawning.pid
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_user_with_too_many(spawning: tuple[OwnReactor, Spawning]) -> None:
    """Beyond the share nothing is started for the user; others have theirs; what ends counts no
    more (attack).
    """
    reactor, spawner = spawning
    sockets = UserSockets(spawner, ME, "mallory")
    made = [reactor.wait(sockets.listen_for_agent()) for _ in range(PER_USER)]
    with pytest.raises(Unavailable, match=f"'mallory' has {PER_USER} processes .* close some"):
        reactor.wait(sockets.listen_for_agent())
    other = reactor.wait(UserSockets(spawner, ME, "alice").listen_for_agent())
    for each in (*made, other):
        each.socket.close()
        each.close()
    reactor.until(lambda: len(children(spawner)) == PREPARED)
    again = reactor.wait(sockets.listen_for_agent())
    again.socket.close()
    again.close()
    reactor.until(lambda: len(children(spawner)) == PREPARED)
    assert not any(Path(os.fsdecode(each.path)).parent.exists() for each in (*made, other, again))


def test_one_that_is_stopped_is_killed(
    spawning: tuple[OwnReactor, Spawning], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account may stop its process: it is ended when its listener is closed (attack)."""
    monkeypatch.setattr(user_sockets, "LINGER", 0.1)
    reactor, spawner = spawning
    reactor.until(lambda: len(children(spawner)) == PREPARED)
    before = set(children(spawner))
    made = reactor.wait(UserSockets(spawner, ME, "mallory").listen_for_agent())
    (pid,) = set(children(spawner)) - before
    os.kill(pid, signal.SIGSTOP)
    made.socket.close()
    made.close()
    reactor.until(lambda: pid not in children(spawner))
    path = Path(os.fsdecode(made.path))
    path.unlink()
    path.parent.rmdir()
