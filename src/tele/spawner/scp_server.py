"""What copies files by the old protocol of scp (``scp -O``) where a role restricts the paths?

rcp's protocol, as in OpenSSH's scp.c: a line for each file (``C0644 12 name``), times (``T``) and
folders (``D0755 0 name``, left by ``E``), each confirmed by a zero byte or refused by 1, a text and
a line feed; then the content, and a zero byte. It runs as the account, as the file server does.

Invariants:

* Standard library only. Every path is used by way of :mod:`tele.spawner.restricted_files`.
* A name that a client sends is one name, in the folder that it is sent to.
* Lines, depth of folders and what is read at once are bounded. A line that is none ends it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Final

from tele.spawner.path_patterns import fits
from tele.spawner.restricted_files import AnyFiles
from tele.spawner.scp_request import ScpRequest
from tele.spawner.sftp_fields import Listing

LINE_LIMIT: Final = 4096
DEPTH_LIMIT: Final = 128
AT_ONCE: Final = 64 * 1024
_FILE: Final = re.compile(rb"([CD])([0-7]{4}) ([0-9]{1,18}) ([^/\n\0]+)", re.DOTALL)
_TIMES: Final = re.compile(rb"T([0-9]{1,12}) [0-9]{1,6} ([0-9]{1,12}) [0-9]{1,6}")


class _Ended(Exception):
    """The client has gone, or does not speak the protocol."""


class ScpServer:
    """One copy. ``read(size)`` returns at most so many bytes, none at the end."""

    def __init__(
        self,
        request: ScpRequest,
        files: AnyFiles,
        home: bytes,
        read: Callable[[int], bytes],
        write: Callable[[bytes], None],
    ) -> None:
        self._options = request.options
        self._paths = [_from_home(path, home) for path in request.paths]
        self._files = files
        self._read = read
        self._write = write
        self._failed = False

    def run(self) -> int:
        """Copy; return an exit status."""
        try:
            if "t" in self._options:
                self._take(self._paths[0])
            else:
                self._confirmed()
                for path in self._paths:
                    for found in self._expanded(path):
                        self._send(found, 0)
        except _Ended:
            return 1
        return 1 if self._failed else 0

    # -- both -------------------------------------------------------------------------
    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._read(size - len(data))
            if not more:
                raise _Ended
            data += more
        return data

    def _line(self, first: bytes) -> bytes:
        line = bytearray(first)
        while not line.endswith(b"\n"):
            if len(line) > LINE_LIMIT:
                raise _Ended
            line += self._exactly(1)
        return bytes(line[:-1])

    def _refuse(self, path: bytes, error: OSError | str) -> None:
        self._failed = True
        why = error if isinstance(error, str) else error.strerror or str(error)
        shown = path.replace(b"\n", b"?")
        self._write(b"\x01scp: " + shown + b": " + os.fsencode(why) + b"\n")

    def _confirmed(self) -> bool:
        """Read a reply; whether it is none of 1, and raise for 2 and the end."""
        reply = self._exactly(1)
        if reply == b"\0":
            return True
        self._failed = True
        if reply != b"\x01":
            raise _Ended
        self._line(b"")
        return False

    # -- from here --------------------------------------------------------------------
    def _expanded(self, path: bytes) -> Iterator[bytes]:
        """Return what a path with ``*`` and ``?`` in its last name stands for, as a shell would."""
        folder, name = os.path.split(path)
        if not set(name) & set(b"*?"):
            yield path
            return
        found = []
        with contextlib.suppress(OSError):
            found = sorted(n for n in self._names(folder or b".") if fits(name, n))
        shown = [each for each in found if each[:1] != b"." or name[:1] == b"."]
        yield from (os.path.join(folder, each) for each in shown or [name])

    def _names(self, folder: bytes) -> list[bytes]:
        held = self._files.seen(folder)
        listing = Listing(held, lambda name: self._files.shows(held, name))
        try:
            names = []
            while page := listing.page(100):
                names += [name for name, _ in page if name not in (b".", b"..")]
            return names
        finally:
            listing.close()

    def _send(self, path: bytes, depth: int) -> None:
        try:
            with self._files.seen(path) as held:
                found = os.stat(held.path)
            if stat.S_ISDIR(found.st_mode):
                if "r" not in self._options:
                    self._refuse(path, "not a regular file")
                elif depth > DEPTH_LIMIT:
                    self._refuse(path, "too many folders within folders")
                else:
                    self._send_folder(path, found, self._names(path), depth)
                return
            file = self._files.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, 0)
        except OSError as error:
            self._refuse(path, error)
            return
        try:
            self._send_file(path, file)
        finally:
            os.close(file)

    def _send_times(self, found: os.stat_result) -> bool:
        if "p" not in self._options:
            return True
        self._write(b"T%d 0 %d 0\n" % (int(found.st_mtime), int(found.st_atime)))
        return self._confirmed()

    def _send_folder(
        self, path: bytes, found: os.stat_result, names: list[bytes], depth: int
    ) -> None:
        name = os.path.basename(os.path.normpath(path))
        if not self._send_times(found):
            return
        self._write(b"D%04o 0 %s\n" % (found.st_mode & 0o7777, name))
        if not self._confirmed():
            return
        for each in names:
            self._send(os.path.join(path, each), depth + 1)
        self._write(b"E\n")
        self._confirmed()

    def _send_file(self, path: bytes, file: int) -> None:
        found, name = os.fstat(file), os.path.basename(path)
        if not stat.S_ISREG(found.st_mode) or b"\n" in name:
            self._refuse(path, "not a regular file")
            return
        if not self._send_times(found):
            return
        self._write(b"C%04o %d %s\n" % (found.st_mode & 0o7777, found.st_size, name))
        if not self._confirmed():
            return
        left, failure = found.st_size, ""
        while left:
            try:
                data = os.read(file, min(left, AT_ONCE))
            except OSError as error:
                data, failure = b"", error.strerror or "cannot be read"
            if not data:  # it has become shorter: what was announced is sent nevertheless
                failure = failure or "it was cut off meanwhile"
                data = bytes(min(left, AT_ONCE))
            self._write(data)
            left -= len(data)
        if failure:
            self._refuse(path, failure)
        else:
            self._write(b"\0")
        self._confirmed()

    # -- to here ----------------------------------------------------------------------
    def _take(self, target: bytes) -> None:
        if not self._is_folder(target) and "d" in self._options:
            self._refuse(target, "not a directory")
            return
        self._write(b"\0")
        self._take_into(target, 0)

    def _is_folder(self, path: bytes) -> bool:
        try:
            with self._files.seen(path) as held:
                return stat.S_ISDIR(os.stat(held.path).st_mode)
        except OSError:
            return False

    def _take_into(self, target: bytes, depth: int) -> None:
        times: tuple[int, int] | None = None
        while first := self._read(1):
            line = self._line(first)
            if line[:1] in (b"\x01", b"\x02"):
                self._failed = True
                if line[:1] == b"\x02":
                    raise _Ended
                continue
            if line == b"E" and depth:
                self._write(b"\0")
                return
            given = _TIMES.fullmatch(line)
            if given is not None:
                times = int(given[2]), int(given[1])
                self._write(b"\0")
                continue
            found = _FILE.fullmatch(line)
            if found is None or found[4] in (b".", b".."):
                self._write(b"\x02scp: protocol error\n")
                raise _Ended
            mode, size, name = int(found[2], 8), int(found[3]), found[4]
            inside = depth or self._is_folder(target)
            path = os.path.join(target, name) if inside else target
            if found[1] == b"D":
                self._take_folder(path, mode, times, depth)
            else:
                self._take_file(path, mode, size, times)
            times = None
        if depth:
            raise _Ended

    def _take_folder(
        self, path: bytes, mode: int, times: tuple[int, int] | None, depth: int
    ) -> None:
        try:
            if "r" not in self._options or depth > DEPTH_LIMIT:
                raise PermissionError(1, "no folder is expected here")
            if not self._is_folder(path):
                with self._files.changed_entry(path) as held:
                    os.mkdir(held.path, mode | stat.S_IRWXU)
        except OSError as error:
            self._refuse(path, error)
            return
        self._write(b"\0")
        self._take_into(path, depth + 1)
        with contextlib.suppress(OSError), self._files.changed(path) as held:
            if times is not None:
                os.utime(held.path, times)
            if "p" in self._options:
                os.chmod(held.path, mode)

    def _take_file(self, path: bytes, mode: int, size: int, times: tuple[int, int] | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            file = self._files.open(path, flags, mode & 0o777)
        except OSError as error:
            self._refuse(path, error)
            return
        failure: OSError | None = None
        try:
            self._write(b"\0")
            left = size
            while left:
                data = self._exactly(min(left, AT_ONCE))
                left -= len(data)
                if failure is None:
                    failure = _written(file, data)
            try:
                os.ftruncate(file, size)
                if "p" in self._options:
                    os.fchmod(file, mode)
                if times is not None:
                    os.utime(file, times)
            except OSError as error:
                failure = failure or error
        finally:
            os.close(file)
        self._confirmed()
        if failure is None:
            self._write(b"\0")
        else:
            self._refuse(path, failure)


def _written(file: int, data: bytes) -> OSError | None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(file, view) :]
    except OSError as error:
        return error
    return None


def _from_home(path: bytes, home: bytes) -> bytes:
    if path == b"~" or path.startswith(b"~/"):
        return os.path.join(home, path[2:]) if path[2:] else home
    return path or b"."


def serve(request: ScpRequest, files: AnyFiles, home: bytes) -> int:
    """Serve descriptors 0 and 1; return an exit status."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]

    try:
        return ScpServer(request, files, home, lambda size: os.read(0, size), write).run()
    except BrokenPipeError:
        return 255
