"""The fakes for embedders keep their interfaces, and the documented example works."""

from __future__ import annotations

import runpy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from tele import testing
from tele.errors import Unavailable
from tele.interfaces import IAuthority, IBackend, IRecorder, IRecording
from tele.model.session import RecordingStart
from tele.testing import FakeAuthority, MemoryBackend, MemoryRecorder, MemoryRecording, World

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "test_realm.py"
START = RecordingStart(
    "1", "ssh", "c", "alice", "root", (), "s", "web1", "h", "192.0.2.1:1",
    datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


@pytest.mark.parametrize("name", ["test_developers_get_in", "test_others_are_denied"])
def test_the_example(name: str) -> None:
    """The tests of the documentation pass."""
    runpy.run_path(str(EXAMPLE))[name]()


def test_all_names_are_there_and_described() -> None:
    """Each public name exists and has a docstring."""
    assert all(getattr(testing, name).__doc__ for name in testing.__all__)


def test_fakes_are_what_they_stand_for() -> None:
    """Each has the methods of its interface."""
    clock = World().clock
    for interface, fake in (
        (IBackend, MemoryBackend(clock)),
        (IAuthority, FakeAuthority(clock)),
        (IRecorder, MemoryRecorder()),
        (IRecording, MemoryRecording(START)),
    ):
        assert verifyObject(interface, fake)


def test_a_recorder_that_is_behind() -> None:
    """A callback is called once, when the recording has resumed."""
    recorder = MemoryRecorder()
    opened: list[MemoryRecording] = []
    opening: Any = recorder.open(START)
    opening.addCallback(opened.append)
    (recording,) = opened
    assert recorder.recordings == opened
    calls: list[str] = []
    recording.paused = True
    recording.when_resumed(lambda: calls.append("later"))
    assert calls == []
    recording.resume()
    recording.when_resumed(lambda: calls.append("now"))
    assert calls == ["later", "now"]
    recording.close("over")
    assert recording.closed == "over"


def test_a_recorder_that_refuses() -> None:
    """A refusal has its reason."""
    refused: Deferred[object] = MemoryRecorder(Unavailable("full")).open(START)  # type: ignore[assignment]
    texts: list[str] = []
    refused.addErrback(lambda failure: texts.append(str(failure.value)))
    assert texts == ["full"]
