"""A log that is not read blocks no process, and says later what is missing."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import TextIO

import pytest
from attrs import define, field
from twisted.logger import LogLevel

from tele.log import LineObserver, LogFormat
from tele.log_stream import BACKLOG_LIMIT, LogStream


@define
class Pipe:
    """A pipe that is read now and then."""

    reading: int
    log: TextIO
    seen: bytes = field(default=b"")

    def read(self) -> bytes:
        """Return what is in it."""
        os.set_blocking(self.reading, False)
        found = b""
        while True:
            try:
                found += os.read(self.reading, 1 << 16)
            except BlockingIOError:
                return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as log:
        yield Pipe(reading, log)
    os.close(reading)


def test_lines_wait_for_the_reader(pipe: Pipe) -> None:
    """More than a pipe holds is written without waiting, and is there in order when it is read."""
    stream = LogStream(pipe.log)
    lines = [f"{number} {'x' * 6000}\n" for number in range(50)]
    for line in lines:
        stream.write(line)
    read = pipe.read()
    for _ in range(20):
        stream.write("more\n")
        read += pipe.read()
    assert read.decode() == "".join(lines) + "more\n" * 20


def test_what_is_lost_is_counted(pipe: Pipe) -> None:
    """The memory for a reader that never comes is bounded; the next line that is read follows the
    number of those that are not there.
    """
    observer = LineObserver(pipe.log, LogFormat.TEXT, "info")
    event = {"log_level": LogLevel.info, "log_namespace": "n", "log_time": 0.0}
    count = 2 * BACKLOG_LIMIT // 1000
    for number in range(count):
        observer({**event, "log_format": "{number} {text}", "number": number, "text": "x" * 1000})
    read = b""
    for _ in range(200):
        read += pipe.read()
        observer({**event, "log_format": "later"})
    read += pipe.read()
    text = read.decode()
    kept = text.count("x" * 1000)
    assert 0 < kept < count
    assert f"log lines lost: the log is not read fast enough count={count - kept}" in text
    assert text.endswith("later\n")


def test_a_reader_that_is_gone(pipe: Pipe) -> None:
    """A pipe that is closed at its other end raises, each time, and nothing piles up."""
    stream = LogStream(pipe.log)
    other = os.dup(pipe.reading)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, pipe.reading)
    os.close(null)
    os.close(other)
    for _ in range(3):
        with pytest.raises(BrokenPipeError):
            stream.write("x\n")
    assert stream._size == 0


def test_streams_in_memory() -> None:
    """What has no descriptor is written to as ever."""
    below = io.StringIO()
    LogStream(below).write("x\n")
    assert below.getvalue() == "x\n"
