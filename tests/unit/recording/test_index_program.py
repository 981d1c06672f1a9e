"""The program that forks a process for each index: what one recording does harms no other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recorded_sessions import chunks_of, frame, opened, read_all
from tele.errors import BadRecording
from tele.model.frame import FrameKind
from tele.recording.index_program import IndexProcess, IndexProgram
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
