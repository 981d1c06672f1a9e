"""What does a client copy by the old protocol of scp (``scp -O``)?

One side sends, the other takes (rcp's protocol, OpenSSH's scp.c). The one that sends writes a line
for each file (``C0644 12 name``), times (``T``), and folders (``D0755 0 name``, left by ``E``); the
other confirms each with a zero byte, or refuses it (1 or 2, a text and a line feed). Then comes the
content, and a zero byte, or an error.

Invariants:

* A sender waits for each reply. One that does not cannot be read: whether content follows depends
  on the reply. Replies that are given in advance are: the sender goes on by them.
* Reading of a client that runs ahead ends with a report as soon as the program shows that it
  speaks scp.
* Lines, names and depth of folders are limited; beyond, reading ends.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from attrs import evolve

from tele.model.transfer import DOWNLOAD, OK, UPLOAD, Transfer
from tele.spawner.shells import split_words
from tele.transfers.content import Content
from tele.transfers.observer import TEXT_LIMIT, Report, Unreadable, text

#: Bytes of a line, and folders within folders.
LINE_LIMIT: Final = 4_096
DEPTH_LIMIT: Final = 256
#: Replies in advance that are counted. Who gives more gives one to all that follows.
EARLY_LIMIT: Final = 10_000
COMMAND_LIMIT: Final = 64 * 1024

AHEAD: Final = "the sender did not wait for a reply"

_FILE: Final = re.compile(rb"([CD])([0-7]{4}) ([0-9]{1,19}) ([^/\n]+)", re.DOTALL)
_TIMES: Final = re.compile(rb"T[0-9]{1,20} [0-9]{1,6} [0-9]{1,20} [0-9]{1,6}")


class _Phase(Enum):
    LINE = "the sender may send a line"
    REPLY = "it waits for the reply to a line"
    CONTENT = "it sends the content of a file"
    STATUS = "it says whether it could read the file"
    DONE = "it waits for the reply to a file"


def arguments(command: str) -> tuple[str, ...]:
    """Return the paths on the command line of ``scp -f`` or ``scp -t``, if it can be read."""
    if len(command) > COMMAND_LIMIT:
        return ()
    try:
        words = split_words(command)
    except ValueError:
        return ()
    return tuple(word[:TEXT_LIMIT] for word in words[1:] if not word.startswith("-"))


class ScpReader:
    """Reads both directions of scp; see :class:`tele.transfers.observer.Reader`.

    ``upload``: the client is the sender. ``paths`` are those on the command line: where a client
    uploads to, or what it downloads, if they are known.
    """

    def __init__(self, report: Report, *, upload: bool, paths: tuple[str, ...] = ()) -> None:
        self.recognized = False
        self._report = report
        self._upload = upload
        self._asked = paths
        #: The sender waits for a first zero byte.
        self._phase = _Phase.REPLY
        self._line = bytearray()
        self._reply = bytearray()
        self._folders: list[str] = []
        #: The kind of the line that waits for a reply, and what it is about.
        self._kind = b""
        self._name = ""
        self._pending: Transfer | None = None
        self._left = 0
        self._content = Content()
        self._error = ""
        #: Confirmations that a client gave in advance.
        self._early = 0
        #: Whether a client sent what would have had to wait, before the program said anything.
        self._ahead = False

    def input(self, view: memoryview) -> None:
        """See :class:`Reader`."""
        (self._sent if self._upload else self._replied)(view)

    def output(self, view: memoryview) -> None:
        """See :class:`Reader`."""
        (self._replied if self._upload else self._sent)(view)

    def ended(self, how: str) -> None:
        """See :class:`Reader`."""
        if self._pending is not None:
            self._content.spoil("it did not pass completely")
            self._done("the session ended before it was complete" if how == OK else how)

    def _done(self, result: str) -> None:
        """Report what waits for its result."""
        transfer, self._pending = self._pending, None
        if transfer is None:
            return
        if transfer.direction:
            content = self._content
            if result != OK:
                content.spoil("it did not succeed")
            transfer = evolve(
                transfer, bytes=content.count, sha256=content.sha256, unhashed=content.unhashed
            )
        self._report(evolve(transfer, result=result))

    # -- the sender -------------------------------------------------------------------
    def _sent(self, view: memoryview) -> None:
        at, end = 0, len(view)
        while at < end and not self._ahead:
            if self._phase is _Phase.CONTENT:
                size = min(self._left, end - at)
                self._content.update(view[at : at + size])
                self._left -= size
                at += size
                if not self._left:
                    self._phase = _Phase.STATUS
            elif self._phase is _Phase.STATUS and not self._line and view[at] == 0:
                self._awaits(_Phase.DONE)
                at += 1
            elif self._phase in (_Phase.LINE, _Phase.STATUS):
                line, at = _line(self._line, view, at)
                if line is not None:
                    self._read_line(line)
            elif self.recognized or not self._upload:
                raise Unreadable(AHEAD)
            elif self._kind:
                self._ahead = True
            else:
                line, at = _line(self._line, view, at)
                if line is not None:
                    self._runs_ahead(line)

    def _runs_ahead(self, line: bytes) -> None:
        """A client sent a line before the program did anything."""
        if not _FILE.fullmatch(line) and not _TIMES.fullmatch(line):
            raise Unreadable("a line that is none of scp's")
        self._ahead = True

    def _awaits(self, phase: _Phase) -> None:
        """The sender waits for a reply, or has it already."""
        self._phase = phase
        if self._early:
            self._early -= self._early < EARLY_LIMIT
            self._confirmed()

    def _read_line(self, line: bytes) -> None:
        if line[:1] in (b"\1", b"\2"):
            self._failed(line)
            return
        if self._phase is _Phase.STATUS:
            raise Unreadable("no status after a file")
        found = _FILE.fullmatch(line)
        if found is not None:
            self._begin(*found.groups())
        elif line == b"E":
            if not self._folders:
                raise Unreadable("a folder ends that did not begin")
            self._folders.pop()
        elif not _TIMES.fullmatch(line):
            raise Unreadable("a line that is none of scp's")
        self._kind = line[:1]
        self._awaits(_Phase.REPLY)

    def _failed(self, line: bytes) -> None:
        """The sender could not read a file: before its line, or within its content."""
        if self._upload and not self.recognized:
            raise Unreadable("an error before anything else")
        self.recognized = True
        error = text(line[1:])
        if self._phase is _Phase.STATUS:
            self._error = error
            self._awaits(_Phase.DONE)
            return
        path = self._asked[0] if len(self._asked) == 1 and not self._upload else ""
        op, direction = _file(self._upload)
        self._report(Transfer("scp", op, path, direction=direction, bytes=0, result=error))

    def _begin(self, kind: bytes, mode: bytes, size: bytes, name: bytes) -> None:
        if len(self._folders) >= DEPTH_LIMIT:
            raise Unreadable("too many folders within folders")
        self._name = text(name)
        self._content = Content()
        self._left = int(size) if kind == b"C" else 0
        self._error = ""
        op, direction = _file(self._upload)
        if kind == b"D":
            op, direction = ("mkdir" if self._upload else "list"), ""
        to = self._asked[-1] if self._upload and self._asked else ""
        path = self._path(self._name)
        self._pending = Transfer("scp", op, path, to, direction, mode=mode.decode())

    def _path(self, name: str) -> str:
        """Return the path of ``name``, with that on the command line if it is clear which."""
        path = "/".join((*self._folders, name))
        if self._upload or self._folders:
            return path
        asked = [each for each in self._asked if each.rstrip("/").rpartition("/")[2] == name]
        return asked[0].rstrip("/") if len(asked) == 1 else path

    # -- the other side ---------------------------------------------------------------
    def _replied(self, view: memoryview) -> None:
        at, end = 0, len(view)
        if self._ahead and end:
            self.recognized = view[0] in (0, 1, 2)
            raise Unreadable(AHEAD)
        while at < end and self._early < EARLY_LIMIT:
            if not self._reply and view[at] == 0:
                at += 1
                self._confirmed()
            elif not self._reply and view[at] not in (1, 2):
                raise Unreadable("a reply that is none of scp's")
            else:
                line, at = _line(self._reply, view, at)
                if line is not None:
                    self._refused(text(line[1:]))

    def _confirmed(self) -> None:
        if self._phase is _Phase.DONE:
            self._done(self._error or OK)
            self._phase = _Phase.LINE
            return
        if self._phase is not _Phase.REPLY:
            if self._upload:
                raise Unreadable("a reply to nothing")
            self._early += 1
            return
        self.recognized = self.recognized or bool(self._kind)
        self._phase = _Phase.LINE
        if self._kind == b"C":
            self._phase = _Phase.CONTENT if self._left else _Phase.STATUS
        elif self._kind == b"D":
            self._folders.append(self._path(self._name) if not self._folders else self._name)
            self._done(OK)

    def _refused(self, error: str) -> None:
        """A warning, or an error that ends it."""
        if self._phase not in (_Phase.REPLY, _Phase.DONE):
            return  # it told of more than one error
        if not self._kind:
            raise Unreadable("an error before anything else")
        self.recognized = True
        self._content.spoil("it did not pass completely")
        self._done(self._error or error)
        self._phase = _Phase.LINE


def _file(upload: bool) -> tuple[str, str]:
    return ("write", UPLOAD) if upload else ("read", DOWNLOAD)


def _line(kept: bytearray, view: memoryview, at: int) -> tuple[bytes | None, int]:
    """Return the line that ends in ``view``, if one does, and where it ends; keep a part."""
    piece = bytes(view[at : at + LINE_LIMIT])
    end = piece.find(b"\n")
    kept += piece if end < 0 else piece[:end]
    if len(kept) > LINE_LIMIT:
        raise Unreadable("a line that is too long")
    if end < 0:
        return None, at + len(piece)
    line = bytes(kept)
    kept.clear()
    return line, at + end + 1
