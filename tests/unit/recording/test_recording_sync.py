"""What waits for auth to have a frame waits no longer than that."""

from __future__ import annotations

from functools import partial

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from spool_world import Auth, Place, output, place, start, uploading
from tele.errors import AccessDenied, Unavailable
from tele.interfaces import IReportingRecording, ISyncRecording
from tele.recording import tape_recording
from tele.recording.commit import FLUSH_SECONDS
from tele.recording.recorder import BUFFERED, LEAST_BUFFERED
from tele.recording.sync import Acknowledged
from tele.recording.upload import WAITED_FOR
from tele.tape.writer import CUT_AT

__all__ = ["place"]


def outcome(waiting: Deferred[None]) -> list[object]:
    found: list[object] = []
    waiting.addBoth(found.append)
    return found


def test_those_who_wait_are_told_in_order() -> None:
    """Each once, when its number is reached; one that is cancelled is forgotten."""
    known = Acknowledged()
    told: list[int] = []

    def note(number: int, _: None) -> None:
        told.append(number)

    for number in (3, 1, 2):
        known.wait(number).addCallback(partial(note, number))
    gone = known.wait(4)
    gone.addErrback(lambda failure: failure.trap(CancelledError) and None)
    assert known.newest == 4
    gone.cancel()
    assert known.newest == 3
    known.advance(2)
    assert told == [1, 2]
    known.advance(1)
    known.advance(9)
    assert told == [1, 2, 3]
    assert known.wait(9).called
    late = outcome(known.wait(10))
    known.fail(Unavailable("over"))
    assert isinstance(late[0], Failure)
    assert outcome(known.wait(11))[0].check(Unavailable)  # type: ignore[attr-defined]


def test_an_awaited_frame_is_sent_at_once(place: Place) -> None:
    """No period passes: the chunk is cut, written and sent, and its answer is waited for."""
    auth = Auth()
    uploading(place, auth).start()
    recording = place.open(start())
    assert verifyObject(ISyncRecording, recording)
    assert verifyObject(IReportingRecording, recording)
    recording.write(output(1, b"a"))
    assert len(auth.chunks) == 1
    first = outcome(recording.synced(1))
    assert first == [None]
    assert len(auth.chunks) == 2
    recording.write(output(2, b"b"))
    assert outcome(recording.synced(1)) == [None]
    assert len(auth.chunks) == 2
    recording.close("done", 2)
    assert auth.verify().complete


def test_nothing_is_called_synced_while_auth_is_away(place: Place) -> None:
    """Not what is on this disk either; when auth is back it is tried soon."""
    auth = Auth()
    uploading(place, auth).start()
    recording = place.open(start())
    auth.away = True
    recording.write(output(1, b"a"))
    waits = outcome(recording.synced(1))
    for _ in range(20):
        place.clock.advance(FLUSH_SECONDS)
    assert waits == []
    auth.away = False
    place.clock.advance(WAITED_FOR)
    assert waits == [None]


def test_a_recording_that_ends_ends_all_waits(place: Place) -> None:
    """Those who wait learn that it will not come."""
    auth = Auth()
    auth.away = True
    uploading(place, auth).start()
    recording = place.open(start())
    recording.write(output(1, b"a"))
    waits = outcome(recording.synced(1))
    recording.close("done", 1)
    place.clock.advance(FLUSH_SECONDS)
    assert waits[0].check(Unavailable)  # type: ignore[attr-defined]


def test_many_chunks_are_paced(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest names each chunk: after many of them some frames share one."""
    monkeypatch.setattr(tape_recording, "PACE", ((4, FLUSH_SECONDS), (2, 0.1)))
    auth = Auth()
    uploading(place, auth).start()
    recording = place.open(start())
    recording.write(output(1, b"a"))
    assert outcome(recording.synced(1)) == [None]
    for number, pace in ((2, 0.1), (4, 0.1), (6, FLUSH_SECONDS)):
        recording.write(output(number, b"b"))
        waits = outcome(recording.synced(number))
        recording.write(output(number + 1, b"c"))
        both = outcome(recording.synced(number + 1))
        assert waits == []
        place.clock.advance(pace)
        assert waits == both == [None]
    assert len(auth.chunks) == 5
    recording.close("done", 7)
    assert auth.verify().complete


def test_memory_is_shared_by_all_sessions(place: Place) -> None:
    """One session may keep a whole chunk, a thousand less each, and a flood of them a little."""
    assert place.recorder.cut_at == CUT_AT
    for count in (100, 1000, 100_000):
        place.recorder._open.update(dict.fromkeys(map(str, range(count))))  # type: ignore[arg-type]
        assert LEAST_BUFFERED <= place.recorder.cut_at <= CUT_AT
        assert place.recorder.cut_at * count <= max(BUFFERED, LEAST_BUFFERED * count)
    place.recorder._open.clear()


def test_what_is_lost_is_reported(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, when it begins, with the reason, whatever it is."""
    recording = place.open(start())
    said: list[str] = []
    recording.on_loss(said.append)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tele.recording.spool.SpoolFolder.write_chunk", full)
        recording.write(output(1, b"kept for now"))
        place.clock.advance(FLUSH_SECONDS)
        assert said == []
        recording.write(output(2, b"lost"))
        recording.write(output(3, b"lost"))
        assert said == ["the disk was full"]
    place.clock.advance(FLUSH_SECONDS)
    recording.limit("over the limit")
    assert said == ["the disk was full", "over the limit"]
    recording.close("done", 3)


@pytest.mark.parametrize("how", ["refused", "closed"])
def test_a_recording_that_auth_takes_no_more_is_reported(place: Place, how: str) -> None:
    """Once: a session that has to be recorded ends then. That auth is away is not reported."""
    auth = Auth()
    uploading(place, auth).start()
    recording = place.open(start())
    said: list[str] = []
    recording.on_loss(said.append)
    auth.away = True
    recording.write(output(1, b"a"))
    place.clock.advance(FLUSH_SECONDS)
    assert said == []
    auth.away = False
    if how == "refused":
        auth.refuse = AccessDenied("this is another host's recording", "host")
    else:
        auth.removed = True
    for _ in range(200):
        place.clock.advance(1)
    reasons = {
        "refused": "auth refuses it: this is another host's recording",
        "closed": "auth has closed its recording",
    }
    assert said == [reasons[how]]
