"""A user at a terminal: a client program on a pseudo terminal, typed to and read from."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from contextlib import suppress
from types import TracebackType

SECONDS = 60.0


class Screen:
    """A program on a terminal of its own. ``shown`` is all that it wrote so far."""

    def __init__(self, command: list[str], rows: int = 24, columns: int = 80) -> None:
        self._primary, secondary = os.openpty()
        self.shown = b""
        self._seen = 0
        self._resize(rows, columns)
        self.client = subprocess.Popen(
            command,
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=os.environ | {"TERM": "xterm"},
        )
        os.close(secondary)
        os.set_blocking(self._primary, False)

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.kill()
        self.client.wait()
        os.close(self._primary)

    def _resize(self, rows: int, columns: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._primary, termios.TIOCSWINSZ, size)

    def resize(self, rows: int, columns: int) -> None:
        """The user drags the window's corner."""
        self._resize(rows, columns)
        self.client.send_signal(signal.SIGWINCH)

    def type(self, text: bytes) -> None:
        """Type, or paste, while reading what is shown meanwhile."""
        deadline = time.monotonic() + SECONDS
        while text:
            assert time.monotonic() < deadline, "what is typed is not read"
            with suppress(BlockingIOError):
                text = text[os.write(self._primary, text) :]
            self._read(0 if text else None)

    def _read(self, wait: float | None) -> bool:
        """Read what is there, after waiting for it; False at the end."""
        if wait is None:
            return True
        if select.select([self._primary], [], [], wait)[0]:
            try:
                data = os.read(self._primary, 65536)
            except OSError:
                return False
            self.shown += data
            return bool(data)
        return True

    def until(self, wanted: bytes) -> bytes:
        """Wait until ``wanted`` is shown, from where the last wait ended; return all till then."""
        deadline = time.monotonic() + SECONDS
        while (place := self.shown.find(wanted, self._seen)) < 0:
            assert time.monotonic() < deadline, f"not {wanted!r}: {self.shown[self._seen :]!r}"
            assert self._read(0.1), f"it ended before {wanted!r}: {self.shown[self._seen :]!r}"
        found, self._seen = self.shown[self._seen : place], place + len(wanted)
        return found

    def ends(self) -> int:
        """Wait for its end; return its status."""
        deadline = time.monotonic() + SECONDS
        while self._read(0.1):
            assert time.monotonic() < deadline, f"it does not end: {self.shown[self._seen :]!r}"
        return self.client.wait(SECONDS)
