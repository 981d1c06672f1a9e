"""How is the terminal used in full-screen mode, and restored? Alternate screen, keys, signals.

Invariants:

* The terminal is restored at every end: by a key, an error, or a signal, and while the program is
  stopped (Ctrl-Z). Everything that is changed is restored.
* A terminal that takes no output does not delay the end.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

from tele.terminal.keys import KeyReader

#: The alternate screen; no wrapping, since each line is positioned. The modes of keys, mouse and
#: paste stay as they are: all are understood, and so there is nothing to put back.
_ENTER: Final = b"\x1b[?1049h\x1b[?7l\x1b[0m\x1b[2J"
_LEAVE: Final = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
#: Signals that end the program, and those that only wake it.
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_SEEN: Final = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
#: How long restoring waits for a terminal that takes no output.
_LEAVE_SECONDS: Final = 1.0


class Ended(Exception):
    """A signal asks this program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class Display:
    """The terminal in full-screen mode. ``keys`` is the descriptor of its input, if any."""

    def __init__(self, keys: int | None, output: int) -> None:
        self._keys = keys
        self._output = output
        self._reader = KeyReader()
        self._before: list[Any] | None = None
        self._taken = False
        self._wake, self._wakes = os.pipe()
        for descriptor in (self._wake, self._wakes):
            os.set_blocking(descriptor, False)

    @property
    def size(self) -> tuple[int, int]:
        """Return its columns and rows."""
        size = os.get_terminal_size(self._output)
        return size.columns or 80, size.lines or 24

    def write(self, data: bytes) -> None:
        """Write all of ``data``. A terminal that is closed ends the program as SIGHUP does."""
        try:
            while data:
                data = data[os.write(self._output, data) :]
        except OSError as error:
            if error.errno in (errno.EIO, errno.EPIPE, errno.ENXIO):
                raise Ended(signal.SIGHUP) from None
            raise

    def wait(self, seconds: float | None) -> tuple[list[str], bool]:
        """Wait for keys; return them, and whether the screen has to be redrawn.

        Returns earlier when the window's size changes or the program was continued.
        """
        watched = [self._wake] if self._keys is None else [self._wake, self._keys]
        ready, _, _ = select.select(watched, [], [], seconds)
        again = self._wake in ready and self._signals()
        if self._keys not in ready or self._keys is None:
            return [], again
        try:
            data = os.read(self._keys, 4096)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""  # the terminal was closed
        return (self._reader.feed(data) if data else ["q"]), again

    def _signals(self) -> bool:
        """Handle the signals that wake the program."""
        numbers = os.read(self._wake, 4096)
        if signal.SIGTSTP in numbers:
            self.stop()
        elif signal.SIGCONT in numbers:
            self.enter()  # after SIGSTOP: the shell may have changed the terminal
        return True

    def stop(self) -> None:
        """Restore the terminal, stop this job, and enter full-screen mode again when continued."""
        self.leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, _seen)
        with suppress(BlockingIOError):
            os.read(self._wake, 4096)  # discards SIGCONT
        self.enter()

    def enter(self) -> None:
        """Enter full-screen mode."""
        if self._keys is not None:
            if self._before is None:
                self._before = termios.tcgetattr(self._keys)
            changed = termios.tcgetattr(self._keys)
            changed[0] &= ~termios.IXON
            changed[3] &= ~(termios.ICANON | termios.ECHO)
            changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
            _set_attributes(self._keys, changed)
        self._taken = True
        self.write(_ENTER)

    def leave(self) -> None:
        """Restore the terminal, if it is in full-screen mode."""
        if not self._taken:
            return
        self._taken = False
        with suppress(OSError, termios.error, Ended):  # the terminal is gone
            if self._before is not None and self._keys is not None:
                _set_attributes(self._keys, self._before)
                self._before = None
            if select.select([], [self._output], [], _LEAVE_SECONDS)[1]:
                self.write(_LEAVE)

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self._wake)
        os.close(self._wakes)

    @property
    def wakes(self) -> int:
        """Return the descriptor that gets the number of each signal."""
        return self._wakes


def _end(number: int, _: FrameType | None) -> None:
    raise Ended(number)


def _seen(number: int, _: FrameType | None) -> None:
    """Do nothing: the number arrives at :attr:`Display.wakes`."""


def _set_attributes(descriptor: int, attributes: list[Any]) -> None:
    """Set the attributes of a terminal; retry after a stop (SIGTTOU)."""
    while True:
        try:
            termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
            return
        except termios.error as error:
            if error.args[0] != errno.EINTR:
                raise


@contextmanager
def taken_over(keys: int | None, output: int) -> Iterator[Display]:
    """Use full-screen mode inside of the block; a signal that ends it ends this process."""
    display = Display(keys, output)
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
        **{number: _end for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN},
        **dict.fromkeys(_SEEN, _seen),
    }
    before = {number: signal.getsignal(number) for number in handlers}
    before_wakes = signal.set_wakeup_fd(display.wakes, warn_on_full_buffer=False)
    ended: int | None = None
    try:
        try:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            display.enter()
            yield display
        finally:
            # A signal that arrives from here on waits until the terminal is restored.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            display.leave()
    except Ended as error:
        ended = error.number
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        display.leave()
        for number, was in before.items():
            signal.signal(number, was)
        signal.set_wakeup_fd(before_wakes)
        display.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    if ended == signal.SIGINT:
        raise KeyboardInterrupt
    if ended is not None:
        signal.signal(ended, signal.SIG_DFL)
        os.kill(os.getpid(), ended)
        time.sleep(1)  # until it arrives
