"""Chunks of a session that shows much: they go to auth together, unless one is waited for."""

from __future__ import annotations

import os
from typing import Any

from spool_world import Place, output, place, start
from tele.recording.commit import FLUSH_SECONDS
from tele.recording.upload import GATHER_SECONDS, Uploader
from test_upload_crowd import Auth

__all__ = ("place",)


class World:
    """A session whose first chunk is on its way to auth, and two more are written."""

    def __init__(self, place: Place) -> None:
        self.place, self.auth = place, Auth()
        self.uploader = Uploader(place.recorder, self.auth)
        self.uploader.start()
        self.recording: Any = place.open(start())
        self.number = 0
        for _ in range(3):
            self.show()

    def show(self) -> None:
        """Show something, and have it written."""
        self.number += 1
        self.recording.write(output(self.number, os.urandom(100)))
        self.place.clock.advance(FLUSH_SECONDS)

    def calls(self) -> list[int]:
        """Answer all calls; return how many chunks each had."""
        had = []
        while self.auth.chunks:
            had.append(len(self.auth.store()))
        return had


def test_chunks_of_a_session_gather(place: Place) -> None:
    """The first goes at once; what is written while it is on its way goes together, soon."""
    world = World(place)
    assert len(world.auth.chunks) == 1
    world.auth.store()
    assert world.calls() == []
    place.clock.advance(GATHER_SECONDS)
    assert world.calls() == [3]
    world.show()
    assert world.calls() == [1]


def test_the_end_of_a_session_does_not_wait(place: Place) -> None:
    """The recording of a session that ended is whole soon."""
    world = World(place)
    world.auth.store()
    world.recording.close("over", world.number)
    place.clock.advance(0)
    assert sum(world.calls()) >= 2


def test_output_that_waits_for_auth_does_not_wait_for_more(place: Place) -> None:
    """In a mode where output waits until auth has it, each piece of it goes at once."""
    world = World(place)
    world.auth.store()
    world.recording.write(output(world.number + 1, b"typed"))
    waiting = world.recording.synced(world.number + 1)
    assert sum(world.calls()) >= 2
    assert waiting.called


def test_nothing_is_left_of_the_pause(place: Place) -> None:
    """An uploader that stops while chunks gather leaves no timer."""
    world = World(place)
    world.auth.store()
    before = len(place.clock.getDelayedCalls())
    world.uploader.stop()
    assert len(place.clock.getDelayedCalls()) == before - 1
