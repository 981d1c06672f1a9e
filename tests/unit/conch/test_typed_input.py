"""Which input a terminal showed."""

from __future__ import annotations

import os
import pty
import termios
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from tele.conch.session.echo import SETTLE_SECONDS, EchoFilter

PASSWORD = b"hunter2-secret"


class Terminal:
    """A real terminal, with the filter on its master."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.clock = Clock()
        self.typed: list[bytes] = []
        self.hidden = 0
        self.filter = EchoFilter(self.clock, self.master, self.typed.append, self._hid)

    def _hid(self) -> None:
        self.hidden += 1

    def echo(self, on: bool) -> None:
        """Switch echo as ``stty`` does."""
        modes = termios.tcgetattr(self.slave)
        modes[3] = modes[3] | termios.ECHO if on else modes[3] & ~termios.ECHO
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)

    def type(self, data: bytes) -> None:
        self.filter.write(self.master, (memoryview(data),))

    def settle(self) -> None:
        self.clock.advance(SETTLE_SECONDS)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal that echoes."""
    made = Terminal()
    yield made
    made.filter.end()
    os.close(made.master)
    os.close(made.slave)


def test_what_is_echoed_is_told(terminal: Terminal) -> None:
    """After a moment in which echo stays."""
    terminal.type(b"ls\n")
    assert terminal.typed == []
    terminal.settle()
    assert (terminal.typed, terminal.hidden) == ([b"ls\n"], 0)


def test_nothing_is_told_without_echo(terminal: Terminal) -> None:
    """A password, and what follows once it echoes again."""
    terminal.echo(False)
    terminal.type(PASSWORD)
    terminal.settle()
    terminal.echo(True)
    terminal.type(b"ls\n")
    terminal.settle()
    assert (terminal.typed, terminal.hidden) == ([b"ls\n"], 1)


def test_typed_just_before_echo_goes(terminal: Terminal) -> None:
    """The kernel may take it after echo was switched off: it is not told (attack on a race)."""
    terminal.type(PASSWORD)
    terminal.echo(False)
    terminal.settle()
    terminal.echo(True)
    terminal.settle()
    assert (terminal.typed, terminal.hidden) == ([], 1)


def test_switched_off_between_two_keys(terminal: Terminal) -> None:
    """Keys that came when it did not echo hide those that came right before."""
    terminal.type(b"h")
    terminal.echo(False)
    terminal.type(b"unter2")
    terminal.echo(True)
    terminal.settle()
    assert terminal.typed == []


def test_each_piece_settles_for_itself(terminal: Terminal) -> None:
    """What is typed later waits as long."""
    terminal.type(b"a")
    terminal.clock.advance(SETTLE_SECONDS * 0.75)
    terminal.type(b"b")
    terminal.clock.advance(SETTLE_SECONDS * 0.5)
    assert terminal.typed == [b"a"]
    terminal.echo(False)
    terminal.settle()
    assert terminal.typed == [b"a"]


def test_the_end(terminal: Terminal) -> None:
    """What waits is told if it still echoes, and nothing is told after that."""
    terminal.type(b"exit\n")
    terminal.filter.end()
    terminal.type(b"more\n")
    terminal.settle()
    assert terminal.typed == [b"exit\n"]


def test_a_terminal_that_is_gone_does_not_echo() -> None:
    """What cannot be known is not told."""
    reading, writing = os.pipe()
    told: list[bytes] = []
    clock = Clock()
    made = EchoFilter(clock, writing, told.append, lambda: None)
    made.write(writing, (memoryview(b"x"),))
    clock.advance(1)
    os.close(reading)
    os.close(writing)
    assert told == []
