"""The program that forks a process for each index: what one recording does harms no other."""

from __future__ import annotations

import json
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from attrs import evolve

from recorded_sessions import chunks_of, frame, opened, read_all
from tele.errors import BadRecording
from tele.model.frame import FrameKind
from tele.recording.index_program import IndexProcess, IndexProgram, _read_result
from tele.snapshots.program import RESULT_HEAD
from tele.tape.index import (
    _HEAD,
    COUNTS_LIMIT,
    HEAD_SIZE,
    Index,
    Mark,
    MarkKind,
    _compress,
    _unpack,
    pack_index,
    read_index,
)
from tele.tape.layout import Chunk


@pytest.fixture
def program() -> Iterator[IndexProgram]:
    program = IndexProgram("own")
    yield program
    program.close()
    assert not program.is_running


def chunks(text: bytes) -> list[Chunk]:
    """A recording of one line."""
    return read_all(chunks_of([opened(), frame(20, FrameKind.OUTPUT, text)]))


def lines(process: IndexProcess, text: bytes) -> list[str]:
    """Have the index of a recording made; return the lines to search in."""
    try:
        for chunk in chunks(text):
            process.write(chunk)
        return [line.text for line in process.result().lines]
    finally:
        process.close()


def children(program: IndexProgram) -> list[int]:
    """The processes that the program has."""
    pid = program._program.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def the_child(program: IndexProgram) -> int:
    """Wait until the program has a process that has given up its other descriptors."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in children(program):
            if {each.name for each in Path(f"/proc/{child}/fd").iterdir()} == {"0", "1", "2"}:
                return child
        time.sleep(0.01)
    raise AssertionError("no process, or one with more descriptors")


def test_one_program_makes_many_indexes(program: IndexProgram) -> None:
    """Each has the lines of its recording, and no process stays."""
    for number in range(5):
        text = f"line {number}"
        assert lines(program.start(60), text.encode() + b"\r\n") == [text]
    assert not children(program)


def test_a_bad_recording_harms_no_other(program: IndexProgram) -> None:
    """Its process ends with its error; the next recording has an index."""
    process = program.start(60)
    (chunk,) = chunks(b"x")
    process.write(Chunk(chunk.number, True, b"", chunk.digest, b"\xff" * 50, chunk.facts))
    with pytest.raises(BadRecording, match="cannot be read"):
        process.result()
    process.close()
    assert lines(program.start(60), b"good\r\n") == ["good"]


def test_a_process_that_takes_too_long_is_killed(program: IndexProgram) -> None:
    """From another thread, while it waits; the program goes on."""
    process = program.start(60)
    process.write(chunks(b"x")[0])
    killer = threading.Thread(target=process.kill)
    killer.start()
    killer.join()
    with pytest.raises(OSError, match="status -9"):
        process.result()
    process.kill()  # too late, without effect
    process.close()
    assert lines(program.start(60), b"next\r\n") == ["next"]


def test_a_process_that_is_not_needed_is_ended(program: IndexProgram) -> None:
    """What is closed before its result takes no more time."""
    process = program.start(60)
    process.write(chunks(b"x")[0])
    process.close()
    assert not children(program)


def test_no_process_outlives_the_program() -> None:
    """When who started it ends, by whatever, the socket is closed."""
    program = IndexProgram("own")
    process = program.start(60)
    process.write(chunks(b"x")[0])
    child = the_child(program)
    program.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    process._input.close()
    process._result.close()


def test_a_program_that_was_killed_is_an_error(program: IndexProgram) -> None:
    """The recording gets another attempt."""
    process = program.start(60)
    os.kill(program._program.pid, signal.SIGKILL)
    program._program.wait()
    with pytest.raises(OSError, match=r"reset by peer|status -1"):
        process.result()
    process.close()
    with pytest.raises(OSError, match="Broken pipe"):
        program.start(60)


def test_attack_a_recording_gets_no_descriptor_of_another(program: IndexProgram) -> None:
    """A process has its input, its output and /dev/null, and no way to start another one."""
    process = program.start(60)
    process.write(chunks(b"x")[0])
    targets = [os.readlink(f"/proc/{the_child(program)}/fd/{number}") for number in range(3)]
    assert targets[0].startswith("pipe:")
    assert targets[2] == os.devnull
    process.close()


#: An index of nothing.
EMPTY = Index(True, 0, 0, 0, bytes(32), (), (), (), (), ())


def made(*lines: object, times: int = 1) -> bytes:
    """A result as the process writes it, with these lines so many times."""
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines) * times
    blob, packed = pack_index(EMPTY, []), zstandard.ZstdCompressor().compress(text)
    return RESULT_HEAD.pack(len(blob), len(packed), 0) + blob + packed


def test_attack_a_process_that_was_taken_over_fills_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lines that are tiny on the wire and large in memory, or more text than is ever made, are
    refused; so are numbers that no recording has.
    """
    assert [line.text for line in _read_result(made([1, 2, "text"])).lines] == ["text"]
    monkeypatch.setattr("tele.recording.index_program.TEXT_LIMIT", limit := 1 << 16)
    few = limit // 32 - 1
    assert len(_read_result(made([0, 0, ""], times=few)).lines) == few
    with pytest.raises(BadRecording, match="more lines"):
        _read_result(made([0, 0, ""], times=few + 2))
    with pytest.raises(BadRecording, match="too long"):
        _read_result(made([0, 0, "x" * 1000], times=limit // 1000))
    for at, channel in ((1 << 63, 1), (-1, 1), (1, -1), (10**400, 1), (True, 1), (1, 1 << 53)):
        with pytest.raises(BadRecording):
            _read_result(made([at, channel, "x"]))


def test_attack_marks_that_share_their_text() -> None:
    """A blob of some kilobytes that would be gigabytes when it is read is refused, and so is one
    with more entries than any index has.
    """
    text = "x" * 1000
    marks = tuple(Mark(0, 1, MarkKind.EXEC, text) for _ in range(3))
    blob = pack_index(evolve(EMPTY, marks=marks), [])
    assert len(read_index(blob).marks) == 3
    third = struct.calcsize(">QIBII") * 2 + struct.calcsize(">QIB")
    shared = _changed(blob, third, struct.pack(">II", 0, 1000))
    with pytest.raises(BadRecording, match="no text is"):
        read_index(shared)
    many = Mark(0, 1, MarkKind.EXEC, "")
    with pytest.raises(BadRecording, match="more entries"):
        read_index(pack_index(evolve(EMPTY, marks=(many,) * (COUNTS_LIMIT[-1] + 1)), []))


def _changed(blob: bytes, at: int, data: bytes) -> bytes:
    """A blob whose tables have other bytes at a place."""
    head = list(_HEAD.unpack_from(blob))
    tables = bytearray(_unpack(blob[HEAD_SIZE:], head[9], "tables"))
    tables[at : at + len(data)] = data
    packed = _compress(bytes(tables))
    head[10] = len(packed)
    return _HEAD.pack(*head) + packed
