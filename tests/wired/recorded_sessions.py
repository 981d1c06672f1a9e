"""Recorded sessions for tests of indexes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tele.model.codec import encode
from tele.model.frame import UNNUMBERED, Frame, FrameKind
from tele.model.session import RecordingStart
from tele.snapshots.builder import IndexBuilder
from tele.snapshots.terminals import MakeTerminal
from tele.tape.index import Index, read_index, read_state
from tele.tape.layout import (
    NO_CHUNK,
    Chunk,
    Seal,
    digest,
    pack_chunk_2,
    pack_frames,
    read_chunk,
)

SECOND = 1_000_000_000


def frame(at: float, kind: FrameKind, data: bytes | dict[str, Any], channel: int = 1) -> Frame:
    """A frame ``at`` seconds into the session; numbers come later."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return Frame(int(at * SECOND), channel, kind, body)


def opened(at: float = 0.0, channel: int = 1, **fields: Any) -> Frame:
    """A frame that opens a shell with a terminal of 80 columns and 24 rows."""
    pty = {"columns": 80, "rows": 24}
    return frame(at, FrameKind.OPEN, {"kind": "shell", "pty": pty} | fields, channel)


def chunks_of(
    frames: Iterable[Frame],
    each: int = 1000,
    start: RecordingStart | None = None,
    seal: Seal | None = None,
) -> list[bytes]:
    """The chunks of a whole session with these frames, ``each`` frames in one."""
    first = b"{}" if start is None else encode(start)
    numbered, number = [Frame(0, 0, FrameKind.START, first)], 0
    for one in [*frames, Frame(0, 0, FrameKind.END, b"{}")]:
        number += one.kind not in UNNUMBERED
        time = max(one.time, numbered[-1].time)
        numbered.append(Frame(time, one.channel, one.kind, one.data, number))
    made: list[bytes] = []
    previous = NO_CHUNK
    for at in range(0, len(numbered), each):
        raw, facts = pack_frames(numbered[at : at + each])
        last = at + each >= len(numbered)
        made.append(pack_chunk_2(raw, facts, len(made), previous, last=last, seal=seal))
        previous = digest(made[-1])
    return made


def read_all(chunks: Sequence[bytes]) -> list[Chunk]:
    """These chunks, read."""
    return [read_chunk(data, number) for number, data in enumerate(chunks)]


class Built:
    """The index of a session, and the lines to search in."""

    def __init__(self, chunks: Sequence[Chunk], make: MakeTerminal) -> None:
        self.lines: list[tuple[float, int, str]] = []
        builder = IndexBuilder(
            make, lambda time, channel, line: self.lines.append((time / SECOND, channel, line))
        )
        for chunk in chunks:
            builder.add(chunk)
        self.blob = builder.pack()
        self.index: Index = read_index(self.blob)

    def state(self, number: int) -> bytes:
        """The state of a keyframe."""
        keyframe = self.index.keyframes[number]
        start = self.index.states + keyframe.offset
        return read_state(keyframe, self.blob[start : start + keyframe.packed])

    @property
    def text(self) -> list[str]:
        """The lines alone."""
        return [line for _, _, line in self.lines]
