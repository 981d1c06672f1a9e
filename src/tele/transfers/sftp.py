"""What does a client do to files by SFTP?

SFTP version 3, draft-ietf-secsh-filexfer-02, with the extensions of OpenSSH (PROTOCOL, section 4).

Invariants:

* Each request has one reply. Servers reply in order; a reply that is out of order is found by its
  number.
* An operation is reported when its reply is known, a file when it is closed. What has no reply at
  the end is reported as such: it may have been done.
* Content is of the file that its handle named at the server. A client that names a handle before
  it was given guesses it: then it is not known which file that is, and reading ends. So it does
  when content passes of a file that is not known.
* Requests without a reply, open files and their paths are limited; beyond, reading ends.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from attrs import evolve

from tele.model.transfer import DOWNLOAD, OK, UPLOAD, Transfer
from tele.transfers.observer import Report, Unreadable, text
from tele.transfers.sftp_files import WRITING, File, Request
from tele.transfers.sftp_packets import NUMBERED, TYPED, Fields, Packets, ReadHead

#: Requests that wait for a reply, and files that are open.
REQUESTS_LIMIT: Final = 4_096
FILES_LIMIT: Final = 2_048
#: Replies that may be behind one that was given early.
EARLY_LIMIT: Final = 64
#: Bytes of paths of both.
PATHS_LIMIT: Final = 1024 * 1024
#: OpenSSH's handles have 4 bytes, the draft allows 256.
HANDLE_LIMIT: Final = 256
#: The longest head that is of interest: two paths.
HEAD_LIMIT: Final = 16 * 1024

INIT, VERSION = 1, 2
READ_VERSION: Final = 3
OPEN, CLOSE, READ, WRITE, LSTAT, SETSTAT, FSETSTAT, OPENDIR = 3, 4, 5, 6, 7, 9, 10, 11
REMOVE, MKDIR, RMDIR, STAT, RENAME, SYMLINK, EXTENDED = 13, 14, 15, 17, 18, 20, 200
STATUS, HANDLE, DATA, ATTRS = 101, 102, 103, 105

_APPENDING, _CREATING, _TRUNCATING, _NEW = 4, 8, 16, 32
_RESULTS: Final = {
    0: OK, 1: "end of file", 2: "no such file", 3: "permission denied", 4: "failure",
    5: "bad message", 6: "no connection", 7: "connection lost", 8: "operation unsupported",
}  # fmt: skip
_CLOSE: Final = struct.Struct(">IBII4s")
_CONTENT: Final = struct.Struct(">IBII4sQI")
_REPLY: Final = struct.Struct(">IBII")
#: Bytes of a whole request to close a file, of one to read or write before its content, and of a
#: reply before its text or content.
CLOSE_SIZE, CONTENT_SIZE, REPLY_SIZE = _CLOSE.size, _CONTENT.size, _REPLY.size
#: Takes the content of a file.
Sink = Callable[[memoryview], None]
#: Extensions that change nothing.
_HARMLESS: Final = frozenset((
    b"statvfs@openssh.com", b"fstatvfs@openssh.com", b"fsync@openssh.com", b"limits@openssh.com",
    b"expand-path@openssh.com", b"home-directory", b"users-groups-by-id@openssh.com",
    b"check-file-handle", b"check-file-name", b"check-file", b"space-available",
))  # fmt: skip


class SftpReader:
    """Reads both directions of SFTP; see :class:`tele.transfers.observer.Reader`."""

    def __init__(
        self, report: Report, opened: Report | None = None, *, certain: bool = False
    ) -> None:
        """``opened`` is told of files when they are opened, too: before their content passes.

        ``certain``: the program is known to speak SFTP.
        """
        self.recognized = False
        self._certain = certain
        #: Why a client cannot be read whose server has not said anything yet.
        self._unreadable: Unreadable | None = None
        self._report = report
        self._opened = opened
        self._begun = False
        self._requests: deque[Request] = deque()
        #: How many of them ask for a handle.
        self._opening = 0
        self._files: dict[bytes, File] = {}
        self._paths = 0
        #: The last path whose attributes were read, and its mode.
        self._seen = ("", "")
        self._from_client = Packets(self._request, self._whole_request)
        self._from_server = Packets(self._reply, self._whole_reply)

    def input(self, view: memoryview) -> None:
        """See :class:`Reader`."""
        if self._unreadable is not None:
            return
        try:
            self._from_client.feed(view)
        except Unreadable as error:
            if self.recognized or self._certain or not self._begun:
                raise
            self._unreadable = error

    def output(self, view: memoryview) -> None:
        """See :class:`Reader`."""
        try:
            self._from_server.feed(view)
        except Unreadable as error:
            raise (self._unreadable or error) from None
        if self._unreadable is not None and self.recognized:
            raise self._unreadable

    def ended(self, how: str) -> None:
        """See :class:`Reader`."""
        result = "the session ended before the reply" if how == OK else how
        files = list(self._files.values())
        for request in self._requests:
            if request.transfer is not None:
                self._report(evolve(request.transfer, result=result))
            if request.closed is not None:
                files.append(request.closed)
        for file in files:
            for transfer in file.transfers("the session ended before it was closed"):
                self._report(transfer)
        self._requests.clear()
        self._files.clear()

    # -- packets in one piece, of the kinds that most are --------------------------------
    def _whole_request(self, kind: int, packet: memoryview) -> bool:
        """Read a request, with a handle as OpenSSH's servers give; see :data:`ReadWhole`."""
        if not self.recognized or len(packet) < CLOSE_SIZE:
            return False
        if kind == CLOSE:
            _, _, number, size, handle = _CLOSE.unpack_from(packet)
            if size != 4:
                return False
            self._closes(number, handle)
            return True
        if (kind != READ and kind != WRITE) or len(packet) < CONTENT_SIZE:
            return False
        _, _, number, size, handle, offset, count = _CONTENT.unpack_from(packet)
        if size != 4:
            return False
        if kind == READ:
            self._expect(Request(number, file=self._named(handle), offset=offset))
            return True
        if count > len(packet) - CONTENT_SIZE:
            return False
        if (sink := self._writes(number, handle, offset, count)) is not None:
            sink(packet[CONTENT_SIZE : CONTENT_SIZE + count])
        return True

    def _whole_reply(self, kind: int, packet: memoryview) -> bool:
        """See :data:`ReadWhole`."""
        if not self.recognized or len(packet) < REPLY_SIZE:
            return False
        if kind == STATUS:
            _, _, number, status = _REPLY.unpack_from(packet)
            request = self._of(number)
            if request.replied is not None:
                request.replied(status, None)
            return True
        if kind != DATA:
            return False
        _, _, number, count = _REPLY.unpack_from(packet)
        if count > len(packet) - REPLY_SIZE:
            return False
        self._reads(number)(packet[REPLY_SIZE : REPLY_SIZE + count])
        return True

    # -- requests ---------------------------------------------------------------------
    def _request(self, kind: int, length: int) -> tuple[int, ReadHead]:
        if not self._begun:
            if kind != INIT:
                raise Unreadable("it does not begin with INIT")
            self._begun = True
            return TYPED, _nothing
        if kind == WRITE:
            return NUMBERED + 4, self._write_begins
        read = self._READS.get(kind)
        if read is None:
            return NUMBERED, self._other
        is_whole = length + 4 <= HEAD_LIMIT
        return min(length + 4, HEAD_LIMIT), lambda head: self._read_head(read, head, is_whole)

    def _read_head(
        self, read: Callable[[SftpReader, Fields], None], head: bytes | bytearray, is_whole: bool
    ) -> None:
        try:
            read(self, Fields(head))
        except Unreadable:
            if is_whole:
                raise
            self._other(head)  # no server does anything with so long a path

    def _expect(self, request: Request) -> None:
        if len(self._requests) >= REQUESTS_LIMIT:
            raise Unreadable("more requests without a reply than are kept")
        if request.transfer is not None:
            self._keep(request.transfer.path, request.transfer.to)
        self._requests.append(request)
        self._opening += request.opens

    def _keep(self, *paths: str) -> None:
        self._paths += sum(map(len, paths))
        if self._paths > PATHS_LIMIT:
            raise Unreadable("more paths of open files than are kept")

    def _named(self, handle: bytes) -> File | None:
        """Return the file of a handle in a request; None if no server can know the handle."""
        file = self._files.get(handle)
        if file is None and self._opening:
            raise Unreadable("a handle before the server gave it")
        return file

    def _other(self, head: bytes | bytearray) -> None:
        self._expect(Request(Fields(head).u32()))

    def _open(self, fields: Fields) -> None:
        number, path, flags = fields.u32(), text(fields.string()), fields.u32()
        _, mode = fields.attributes()
        if path == self._seen[0] and not flags & WRITING:
            mode = self._seen[1]
        file = File(path, flags, mode)
        file.cut = bool(flags & _TRUNCATING or (flags & _CREATING and flags & _NEW))
        if flags & _APPENDING:
            file.written.spoil("it was appended to the file")

        op, direction = ("write", UPLOAD) if flags & WRITING else ("read", DOWNLOAD)

        def replied(status: int | None, rest: Fields | None) -> None:
            if rest is None:
                for transfer in file.transfers(_result(status)):
                    self._report(evolve(transfer, sha256="", unhashed=""))
                return
            handle = rest.string()
            if handle in self._files:
                twice = self._files.pop(handle)
                twice.read.spoil("its handle was given twice")
                twice.written.spoil("its handle was given twice")
                self._closed(twice, "it was not closed")
            if len(self._files) >= FILES_LIMIT:
                raise Unreadable("more open files than are kept")
            self._keep(file.path)
            self._files[handle] = file
            if self._opened is not None:
                self._opened(Transfer("sftp", "open", path, direction=direction, mode=mode))

        transfer = Transfer("sftp", op, path, direction=direction, bytes=0, mode=mode)
        self._expect(Request(number, replied, transfer, opens=True))

    def _close(self, fields: Fields) -> None:
        """From here on the handle may be that of another file, which the server opens next."""
        self._closes(fields.u32(), fields.string())

    def _closes(self, number: int, handle: bytes) -> None:
        file = self._named(handle)
        if file is None:
            self._expect(Request(number))
            return
        closed = self._files.pop(handle)

        def replied(status: int | None, _: Fields | None) -> None:
            self._closed(closed, _result(status))

        self._expect(Request(number, replied, closed=closed))

    def _closed(self, file: File, result: str) -> None:
        self._paths -= len(file.path)
        for transfer in file.transfers(result):
            self._report(transfer)

    def _read(self, fields: Fields) -> None:
        number, handle, offset = fields.u32(), fields.string(), fields.u64()
        self._expect(Request(number, file=self._named(handle), offset=offset))

    def _write_begins(self, head: bytes | bytearray) -> None:
        size = int.from_bytes(head[NUMBERED:], "big")
        if size > HANDLE_LIMIT:
            raise Unreadable(f"a handle of {size} bytes")
        self._from_client.more(size + 12, self._write)

    def _write(self, head: bytes | bytearray) -> None:
        fields = Fields(head)
        number, handle, offset, size = fields.u32(), fields.string(), fields.u64(), fields.u32()
        self._from_client.content(size, self._writes(number, handle, offset, size))

    def _writes(self, number: int, handle: bytes, offset: int, size: int) -> Sink | None:
        """Return what takes the content of a request."""
        file = self._named(handle)
        if file is None:
            self._expect(Request(number, _refused))
            return None
        written = file.written
        if size:
            written.at(offset, "it was not written in order")
        if file.read.count:
            written.spoil("it was read and written")

        def replied(status: int | None, _: Fields | None) -> None:
            if status:
                file.error = file.error or _result(status)

        self._expect(Request(number, replied))
        return written.update

    def _fsetstat(self, fields: Fields) -> None:
        number, handle = fields.u32(), fields.string()
        size, mode = fields.attributes()
        file = self._named(handle)
        if file is None:
            self._expect(Request(number, _refused))
            return
        fits = size is not None and size == file.written.position
        before = file.cut
        if fits:
            file.cut = True

        def replied(status: int | None, _: Fields | None) -> None:
            if status:
                file.cut = file.cut and (before or not fits)
            elif size is not None and not fits:
                file.written.spoil("its size was set")
            if not status and mode:
                file.mode = mode

        self._expect(Request(number, replied))

    def _simply(self, number: int, transfer: Transfer) -> None:
        """Report ``transfer`` with its result, when that is known."""

        def replied(status: int | None, _: Fields | None) -> None:
            self._report(evolve(transfer, result=_result(status or 0)))

        self._expect(Request(number, replied, transfer))

    def _setstat(self, fields: Fields) -> None:
        number, path = fields.u32(), text(fields.string())
        size, mode = fields.attributes()
        self._simply(number, Transfer("sftp", "setstat", path, bytes=size, mode=mode))

    def _mkdir(self, fields: Fields) -> None:
        number, path = fields.u32(), text(fields.string())
        self._simply(number, Transfer("sftp", "mkdir", path, mode=fields.attributes()[1]))

    def _opendir(self, fields: Fields) -> None:
        self._simply(fields.u32(), Transfer("sftp", "list", text(fields.string())))

    def _remove(self, fields: Fields) -> None:
        self._simply(fields.u32(), Transfer("sftp", "remove", text(fields.string())))

    def _rmdir(self, fields: Fields) -> None:
        self._simply(fields.u32(), Transfer("sftp", "rmdir", text(fields.string())))

    def _rename(self, fields: Fields) -> None:
        self._two_paths(fields.u32(), "rename", fields)

    def _two_paths(self, number: int, op: str, fields: Fields) -> None:
        path, to = text(fields.string()), text(fields.string())
        self._simply(number, Transfer("sftp", op, path, to))

    def _symlink(self, fields: Fields) -> None:
        """OpenSSH's clients and servers have the target first (PROTOCOL, section 4.1)."""
        number, to, path = fields.u32(), text(fields.string()), text(fields.string())
        self._simply(number, Transfer("sftp", "symlink", path, to))

    def _stat(self, fields: Fields) -> None:
        number, path = fields.u32(), text(fields.string())

        def replied(_: int | None, rest: Fields | None) -> None:
            if rest is not None:
                self._seen = path, rest.attributes()[1]

        self._expect(Request(number, replied))

    def _extended(self, fields: Fields) -> None:
        number, name = fields.u32(), fields.string()
        if name == b"posix-rename@openssh.com":
            self._two_paths(number, "rename", fields)
        elif name == b"hardlink@openssh.com":
            self._two_paths(number, "link", fields)
        elif name == b"lsetstat@openssh.com":
            path = text(fields.string())
            size, mode = fields.attributes()
            self._simply(number, Transfer("sftp", "setstat", path, bytes=size, mode=mode))
        elif name == b"copy-data":
            self._copy(number, fields)
        elif name == b"version-select":
            raise Unreadable("another version of SFTP")
        elif name in _HARMLESS:
            self._expect(Request(number))
        else:
            self._simply(number, Transfer("sftp", text(name), ""))

    def _copy(self, number: int, fields: Fields) -> None:
        source, _, size = self._named(fields.string()), fields.u64(), fields.u64()
        target = self._named(fields.string())
        if source is None or target is None:
            self._expect(Request(number, _refused))
            return
        target.written.spoil("it was copied on the host")
        transfer = Transfer("sftp", "copy", source.path, target.path, bytes=size or None)
        self._simply(number, transfer)

    # -- replies ----------------------------------------------------------------------
    def _reply(self, kind: int, length: int) -> tuple[int, ReadHead]:
        if not self.recognized:
            if kind != VERSION or not self._begun:
                raise Unreadable("the server does not begin with VERSION")
            self.recognized = True
            return NUMBERED, self._version
        if kind == STATUS:
            return NUMBERED + 4, self._status
        if kind == DATA:
            return NUMBERED + 4, self._data
        if kind == HANDLE:
            if length > HANDLE_LIMIT + TYPED + 4:
                raise Unreadable("a handle that is too long")
            return length + 4, self._other_reply
        return NUMBERED + 32 if kind == ATTRS else NUMBERED, self._other_reply

    def _version(self, head: bytes | bytearray) -> None:
        """Others have other fields, as a client and a server may agree."""
        if (version := Fields(head).u32()) != READ_VERSION:
            raise Unreadable(f"version {version} of SFTP")

    def _of(self, number: int) -> Request:
        """Return the request of a reply."""
        requests = self._requests
        if requests and requests[0].number == number:
            request = requests.popleft()
        else:
            early = range(min(len(requests), EARLY_LIMIT))
            found = next((at for at in early if requests[at].number == number), None)
            if found is None:
                raise Unreadable("a reply to no request, or out of order")
            request = requests[found]
            del requests[found]
        self._opening -= request.opens
        if request.transfer is not None:
            self._paths -= len(request.transfer.path) + len(request.transfer.to)
        return request

    def _status(self, head: bytes | bytearray) -> None:
        fields = Fields(head)
        request, status = self._of(fields.u32()), fields.u32()
        if request.replied is not None:
            request.replied(status, None)

    def _other_reply(self, head: bytes | bytearray) -> None:
        fields = Fields(head)
        request = self._of(fields.u32())
        if request.replied is not None:
            request.replied(None, fields)

    def _data(self, head: bytes | bytearray) -> None:
        fields = Fields(head)
        take, size = self._reads(fields.u32()), fields.u32()
        self._from_server.content(size, take)

    def _reads(self, number: int) -> Sink:
        """Return what takes the content of a reply."""
        request = self._of(number)
        file = request.file
        if file is None or file.done:
            raise Unreadable("content of a file that is not known")
        file.read.at(request.offset, "it was not read in order")
        if file.written.count:
            file.read.spoil("it was read and written")
        return file.read.update

    _READS: Final[dict[int, Callable[[SftpReader, Fields], None]]] = {
        OPEN: _open, CLOSE: _close, READ: _read, LSTAT: _stat, SETSTAT: _setstat,
        FSETSTAT: _fsetstat, OPENDIR: _opendir, REMOVE: _remove, MKDIR: _mkdir, RMDIR: _rmdir,
        STAT: _stat, RENAME: _rename, SYMLINK: _symlink, EXTENDED: _extended,
    }  # fmt: skip


def _nothing(_: bytes | bytearray) -> None:
    """There is nothing to read in a packet."""


def _refused(status: int | None, _: Fields | None) -> None:
    """What named a handle that no server gave has to fail."""
    if not status:
        raise Unreadable("something was done to a file that is not known")


def _result(status: int | None) -> str:
    return _RESULTS.get(status or 0, f"error {status}")
