"""A program that does what is hard to record, and a client with a terminal that follows it.

The client's output is a pipe: what arrives there is what the terminal at the other end gave out,
byte for byte, and what the node says on it when a busy auth lets output wait for seconds.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from hashlib import sha256
from pathlib import Path

from tele.recording.tee import RESUMED, WAITING
from three_processes import Cluster

#: Runs in the session. It begins each step when it reads a line, and tells when one is over.
PROGRAM = """\
import os, random, signal, sys, termios, tty
megabytes = int(sys.argv[1])
out = sys.stdout.buffer
def end(step):
    out.write(b"\\n-- %s\\n" % step)
    out.flush()
    sys.stdin.readline()
tty.setraw(0, termios.TCSANOW)
mode = termios.tcgetattr(0)
mode[0] |= termios.ICRNL
mode[3] |= termios.ICANON
termios.tcsetattr(0, termios.TCSANOW, mode)
end(b"begun")
out.write(b"x" * 10_000_000)
end(b"a long line")
out.write(bytes(range(256)) * 4096)
end(b"binary")
out.write(random.Random(1).randbytes(1 << 20))
for broken in (b"\\xc3", b"\\xed\\xa0\\x80", b"\\xf8\\x88\\x80\\x80\\x80", b"\\xff\\xfe", b"\\xc3"):
    out.write(broken)
end(b"invalid UTF-8")
line = b"%09d the quick brown fox jumps over it all\\r\\n"
text = b"".join(line % number for number in range(20_000))
left = megabytes << 20
while left > 0:
    out.write(text[:left])
    left -= len(text)
end(b"long")
def resized(*_):
    # Past the buffer: a signal may come while it is being flushed, and it cannot be entered twice.
    os.write(1, b"%d %d\\r\\n" % tuple(os.get_terminal_size()))
signal.signal(signal.SIGWINCH, resized)
end(b"resizes")
"""
STEPS = (b"begun", b"a long line", b"binary", b"invalid UTF-8", b"long")


#: What is shown, and is no output of the program.
NOTICES = tuple(f"\r\ntele: {text}\r\n".encode() for text in (WAITING, RESUMED))
_NOTICE = re.compile(b"|".join(map(re.escape, NOTICES)))


class WithoutNotices:
    """Takes what a terminal shows, and returns what the program wrote."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> bytes:
        """Return what is sure to be no part of a notice."""
        data = _NOTICE.sub(b"", self._kept + data)
        longest = max(map(len, NOTICES))
        begun = next(
            (
                at
                for at in range(max(0, len(data) - longest), len(data))
                if any(notice.startswith(data[at:]) for notice in NOTICES)
            ),
            len(data),
        )
        self._kept = data[begun:]
        return data[:begun]

    def end(self) -> bytes:
        """Return what is left."""
        return self._kept


class Following:
    """A client on a terminal, in which :data:`PROGRAM` runs; knows the digest of what it showed."""

    def __init__(self, cluster: Cluster, megabytes: int) -> None:
        program = cluster.folder / "program.py"
        program.write_text(PROGRAM)
        self._master, slave = pty.openpty()
        self._resize(80, 24)
        self._client = subprocess.Popen(
            ["ssh", "-tt", "-F", str(cluster.ssh_config), cluster.host,
             f"{sys.executable} {program} {megabytes}"],
            env=cluster.environment, stdin=slave, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(slave)
        self._digest = sha256()
        self._written = WithoutNotices()
        self._last = b""
        self.shown = 0

    def _resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, text: bytes) -> None:
        """Read what is shown until ``text`` was."""
        assert self._client.stdout is not None
        while text not in self._last + self._written.end():
            data = os.read(self._client.stdout.fileno(), 1 << 16)
            assert data, f"it ended before {text!r}: {self._last[-200:]!r}"
            self._note(data)
        self._last = self._last.partition(text)[2]

    def _note(self, data: bytes) -> None:
        self._take(self._written.feed(data))

    def _take(self, data: bytes) -> None:
        self.shown += len(data)
        self._digest.update(data)
        self._last = self._last[-200:] + data

    def next_step(self) -> None:
        """Let the program go on."""
        os.write(self._master, b"\n")

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal, and wait until the program has seen it."""
        self._resize(columns, rows)
        self._client.send_signal(signal.SIGWINCH)
        self.read_until(b"%d %d\r\n" % (columns, rows))

    def end(self) -> str:
        """Let the program end; return the SHA-256 of all that was shown, in hex."""
        self.next_step()
        assert self._client.stdout is not None
        while data := os.read(self._client.stdout.fileno(), 1 << 16):
            self._note(data)
        self._take(self._written.end())
        assert self._client.wait(60) == 0
        return self._digest.hexdigest()

    def close(self) -> None:
        """End everything."""
        self._client.kill()
        self._client.wait()
        assert self._client.stdout is not None
        self._client.stdout.close()
        os.close(self._master)


def captured(cluster: Cluster, file: Path) -> bytes:
    """Print a file by a command without a terminal; return what came."""
    return cluster.ssh(cluster.host, f"cat {file}", seconds=120).stdout
