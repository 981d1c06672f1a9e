"""Output over a limit that auth set is not recorded, and the recording says so."""

from __future__ import annotations

import json
from typing import Any

from spool_world import Auth, Place, output, place, start, uploading
from tele.model.frame import Frame, FrameKind
from tele.recording.commit import FLUSH_SECONDS
from tele.recording.limit import HOLDS_SECONDS

__all__ = ["place"]

OVER = "over the limit of 1 MiB for one session"


def gaps(auth: Auth) -> list[Any]:
    return [json.loads(f.data) for f in auth.frames() if f.kind is FrameKind.GAP]


def test_output_over_the_limit_is_a_gap(place: Place) -> None:
    """What auth has no room for is left out from the next chunk on, counted, with the reason; the
    recording is whole and ends as any other.
    """
    auth = Auth()
    uploader = uploading(place, auth)
    uploader.start()
    recording = place.open(start())
    recording.write(output(1, b"before"))
    auth.over = OVER
    place.clock.advance(FLUSH_SECONDS)
    place.clock.advance(FLUSH_SECONDS)
    for number in range(1000):
        recording.write(output(2 + number, b"x" * 100))
    recording.write(Frame(1100, 1, FrameKind.RESIZE, b'{"columns": 80, "rows": 24}'))
    place.clock.advance(FLUSH_SECONDS)
    recording.close("the connection ended")
    place.clock.advance(FLUSH_SECONDS)
    auth.verify()
    assert auth.shown() == [b"before"]
    assert [f.kind for f in auth.frames()].count(FrameKind.RESIZE) == 1
    assert {gap["reason"] for gap in gaps(auth)} == {OVER}
    assert sum(gap["lost"]["output"] for gap in gaps(auth)) == 100_000
    assert len(gaps(auth)) == 2, "one when it begins, one at the end"


def test_the_node_does_not_send_chunks_all_the_time(place: Place) -> None:
    """Output over the limit makes no more chunks, however long it goes on."""
    auth = Auth()
    auth.over = OVER
    uploading(place, auth).start()
    recording = place.open(start())
    place.clock.advance(FLUSH_SECONDS)
    recording.write(output(1, b"x"))
    place.clock.advance(FLUSH_SECONDS)
    before = len(auth.chunks)
    for number in range(int(HOLDS_SECONDS) - 10):
        recording.write(output(2 + number, b"x" * 1000))
        place.clock.advance(FLUSH_SECONDS)
    assert len(auth.chunks) - before <= 1
    recording.close("done")
    place.clock.advance(FLUSH_SECONDS)


def test_it_is_recorded_again_when_auth_has_room(place: Place) -> None:
    """After a while some is recorded to learn whether the limit still holds; when it does not all
    is recorded again.
    """
    auth = Auth()
    auth.over = OVER
    uploading(place, auth).start()
    recording = place.open(start())
    place.clock.advance(FLUSH_SECONDS)
    recording.write(output(1, b"lost"))
    place.clock.advance(FLUSH_SECONDS)  # the gap is sent, and answered so, too
    place.clock.advance(HOLDS_SECONDS)
    auth.over = ""
    for number, text in enumerate((b"again", b"and again")):
        recording.write(output(2 + number, text))
        place.clock.advance(FLUSH_SECONDS)
    recording.close("done")
    place.clock.advance(FLUSH_SECONDS)
    auth.verify()
    assert auth.shown() == [b"again", b"and again"]
    assert [gap["lost"] for gap in gaps(auth)] == [{"output": 4}]
