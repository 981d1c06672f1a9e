"""How is a session watched that still runs? Chunk by chunk, as auth gets them from its node.

Invariants:

* Every chunk follows the one before, and every frame is of the session that was requested.
* Auth is asked at most every :data:`POLL_SECONDS`, however often a reader asks for more.
* It ends with the session: when all of a closed recording was read, or nothing more will come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tele.errors import BadRecording, NotFound
from tele.model.api.paging import ById
from tele.model.api.recordings import GET_CHUNK, GET_RECORDING, GetChunk, RecordingDetails
from tele.model.frame import Frame, FrameKind
from tele.model.session import RecordingState
from tele.recording.playback import Perform, Source, Step, schedule
from tele.tape.layout import NO_CHUNK
from tele.tape.order import SequenceCheck
from tele.tape.verify import read_start

POLL_SECONDS: Final = 0.5
#: Polls of the next chunk between two looks at the state of the recording.
POLLS_OF_STATE: Final = 4
_RUNS: Final = (RecordingState.RUNNING, RecordingState.ENDED)


class Following:
    """The frames of the session ``source``, which runs. ``clock`` returns seconds."""

    def __init__(
        self,
        source: Source,
        perform: Perform,
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._perform = perform
        self._clock = clock
        self._open_chunk = source.open_chunk

    def edge(self) -> float:
        """Return the time of the last frame that auth has, in seconds."""
        details = self._source.details
        number = details.available - 1 if details is not None else -1
        if number < 0:
            return 0.0
        try:
            data = self._chunk(number)
        except NotFound:
            return 0.0
        last = 0
        for frame in self._open_chunk(data, number, None).frames():
            last = frame.time
        return last / 1e9

    def frames(self) -> Iterator[Frame | None]:
        """Yield frames from the beginning on, and None while there is nothing new."""
        number, previous, polls, due = 0, NO_CHUNK, 0, 0.0
        order, last = SequenceCheck(), 0
        while True:
            if self._clock() < due:
                yield None
                continue
            try:
                data = self._chunk(number)
            except NotFound:
                due = self._clock() + POLL_SECONDS
                polls += 1
                if polls % POLLS_OF_STATE == 0 and self._is_over(number):
                    return
                yield None
                continue
            chunk = self._open_chunk(data, number, previous)
            for frame in chunk.all_frames():
                if not isinstance(frame, Frame):
                    order.number(frame)
                    continue
                if frame.kind is FrameKind.START and read_start(frame) != self._source.start:
                    raise BadRecording("its first frame is the start of another session")
                if frame.time < last:
                    raise BadRecording(f"time runs backwards in chunk {number}")
                if chunk.facts is not None:
                    order.take(frame)
                last = frame.time
                yield frame
            if chunk.last:
                return
            number, previous, polls = number + 1, chunk.digest, 0

    def _chunk(self, number: int) -> bytes:
        data: bytes = self._perform(GET_CHUNK, GetChunk(self._source.id, number)).data
        return data

    def _is_over(self, number: int) -> bool:
        """Whether no chunk with this number will come."""
        try:
            details: RecordingDetails = self._perform(GET_RECORDING, ById(self._source.id))
        except NotFound:
            return True
        if details.manifest is not None:
            return number >= len(details.manifest.chunks)
        return details.state not in _RUNS and details.available <= number

    def steps(self, channel: int) -> Iterator[Step]:
        """Yield what a replay shows, and steps at the edge while nothing new is there."""
        return schedule(self.frames(), channel, None)
