"""What serves files by SFTP where OpenSSH's sftp-server is not installed?

SFTP version 3 (draft-ietf-secsh-filexfer-02) with OpenSSH's extensions (PROTOCOL, section 4)
over two descriptors. It runs in a child of the spawner that has become the account already,
so that the kernel decides what may be done, as it does for OpenSSH's.

Invariants:

* Standard library only; no privileges. The kernel decides what is allowed, and so do the rules of
  paths that a role has (:mod:`tele.spawner.restricted_files`): every path is used by way of them.
* A packet is answered exactly once, or it ends us: too long, torn or before INIT.
* The memory of this process is no file: writing /proc/self/mem would run anything.
* Packets, reads, listings and open handles are bounded; a copy ends with its client.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import stat
import struct
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Final

if __name__ == "__main__":
    # Without site there is no tele; its name stands for this folder and nothing else.
    for _name, _folders in (("tele", []), ("tele.spawner", [os.path.dirname(__file__)])):
        _package = ModuleType(_name)
        _package.__path__ = _folders
        sys.modules[_name] = _package

from tele.spawner.restricted_files import AnyFiles
from tele.spawner.sftp_fields import (
    BadPacket,
    Fields,
    Listing,
    Names,
    encode,
    home_of,
    real_path,
    string,
)

PACKET_LIMIT: Final = 256 * 1024
READ_LIMIT: Final = PACKET_LIMIT - 1024
HANDLES_LIMIT: Final = 1024
#: Descriptors that are not for handles.
OTHER_FILES: Final = 16
#: Bytes that are copied from file to file at once.
COPIED_AT_ONCE: Final = 256 * 1024
LISTED_AT_ONCE: Final = 100

INIT, VERSION, STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED, EXTENDED_REPLY = (
    1, 2, 101, 102, 103, 104, 105, 200, 201,
)  # fmt: skip
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, UNSUPPORTED = (
    0, 1, 2, 3, 4, 5, 8,
)  # fmt: skip
_TEXTS: Final = {
    OK: "Success", EOF: "End of file", NO_SUCH_FILE: "No such file",
    PERMISSION_DENIED: "Permission denied", FAILURE: "Failure", BAD_MESSAGE: "Bad message",
    UNSUPPORTED: "Operation unsupported",
}  # fmt: skip
_CODES: Final = {
    errno.ENOENT: NO_SUCH_FILE, errno.ENOTDIR: NO_SUCH_FILE, errno.ELOOP: NO_SUCH_FILE,
    errno.EBADF: NO_SUCH_FILE, errno.EPERM: PERMISSION_DENIED, errno.EACCES: PERMISSION_DENIED,
    errno.EINVAL: BAD_MESSAGE, errno.ENAMETOOLONG: BAD_MESSAGE, errno.ENOSYS: UNSUPPORTED,
}  # fmt: skip
#: Section 6.3: SSH_FXF_*; reading is 1, writing 2.
_OPEN_FLAGS: Final = {4: os.O_APPEND, 8: os.O_CREAT, 16: os.O_TRUNC, 32: os.O_EXCL}
#: <linux/prctl.h>
_PR_SET_DUMPABLE: Final = 4
_LIBC: Final = ctypes.CDLL(None, use_errno=True)

EXTENSIONS: Final = (
    b"posix-rename@openssh.com", b"1", b"statvfs@openssh.com", b"2", b"fstatvfs@openssh.com", b"2",
    b"hardlink@openssh.com", b"1", b"fsync@openssh.com", b"1", b"lsetstat@openssh.com", b"1",
    b"limits@openssh.com", b"1", b"expand-path@openssh.com", b"1", b"copy-data", b"1",
    b"home-directory", b"1", b"users-groups-by-id@openssh.com", b"1",
)  # fmt: skip


class Server:
    """Answers the packets of one client. ``write`` takes whole packets.

    ``gone()`` returns whether the client has gone, so that no reply is read.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        gone: Callable[[], bool] = lambda: False,
        files: AnyFiles | None = None,
    ) -> None:
        self._files = files or AnyFiles()
        self._write = write
        self._gone = gone
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        allowed = HANDLES_LIMIT if soft == resource.RLIM_INFINITY else soft - OTHER_FILES
        self._handles_limit = max(1, min(HANDLES_LIMIT, allowed))
        self._names = Names()
        self._handles: dict[bytes, int | Listing] = {}
        self._next = 0
        self._begun = False

    # -- packets ----------------------------------------------------------------------
    def received(self, packet: bytes) -> None:
        """Answer one packet. Raises BadPacket."""
        if not packet:
            raise BadPacket("an empty packet")
        kind, fields = packet[0], Fields(packet[1:])
        if not self._begun:
            if kind != INIT:
                raise BadPacket("not begun")
            fields.u32()
            self._begun = True
            self._send(VERSION, struct.pack(">I", 3) + b"".join(map(string, EXTENSIONS)))
            return
        number = fields.u32()
        perform = self._KINDS.get(kind)
        try:
            answer, rest = (STATUS, UNSUPPORTED) if perform is None else perform(self, fields)
        except OSError as error:
            answer, rest = STATUS, _CODES.get(error.errno or 0, FAILURE)
        except (ValueError, OverflowError):
            answer, rest = STATUS, BAD_MESSAGE
        if isinstance(rest, int):
            text = _TEXTS[rest].encode()
            rest = struct.pack(">I", rest) + string(text) + string(b"")
        self._send(answer, struct.pack(">I", number) + rest)

    def _send(self, kind: int, rest: bytes) -> None:
        self._write(struct.pack(">IB", len(rest) + 1, kind) + rest)

    def close(self) -> None:
        """Close all handles."""
        for handle in list(self._handles):
            self._forget(handle)

    # -- handles ----------------------------------------------------------------------
    def _keep(self, what: int | Listing) -> tuple[int, bytes]:
        self._next += 1
        handle = struct.pack(">I", self._next & 0xFFFFFFFF)
        self._handles[handle] = what
        return HANDLE, string(handle)

    def _room(self) -> None:
        if len(self._handles) >= self._handles_limit:
            raise OSError(errno.EMFILE, "too many open files")

    def _file(self, fields: Fields) -> int:
        found = self._handles.get(fields.string())
        if not isinstance(found, int):
            raise OSError(errno.ESTALE, "no such handle")
        return found

    def _forget(self, handle: bytes) -> None:
        found = self._handles.pop(handle, None)
        if found is None:
            raise OSError(errno.EBADF, "no such handle")
        if isinstance(found, int):
            os.close(found)
        else:
            found.close()

    # -- operations -------------------------------------------------------------------
    def _open(self, fields: Fields) -> tuple[int, bytes]:
        path, wanted, attributes = fields.path(), fields.u32(), fields.attributes()
        self._room()
        flags = {1: os.O_RDONLY, 2: os.O_WRONLY, 3: os.O_RDWR}.get(wanted & 3, os.O_RDONLY)
        for bit, flag in _OPEN_FLAGS.items():
            if wanted & bit:
                flags |= flag
        mode = 0o666 if attributes.mode is None else attributes.mode
        return self._keep(self._files.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY, mode))

    def _close(self, fields: Fields) -> tuple[int, int]:
        self._forget(fields.string())
        return STATUS, OK

    def _read(self, fields: Fields) -> tuple[int, bytes | int]:
        file, offset, length = self._file(fields), fields.u64(), fields.u32()
        data = os.pread(file, min(length, READ_LIMIT), offset)
        return (DATA, string(data)) if data or not length else (STATUS, EOF)

    def _write_file(self, fields: Fields) -> tuple[int, int]:
        file, offset, data = self._file(fields), fields.u64(), fields.string()
        _write_all(file, data, offset)
        return STATUS, OK

    def _stat(self, fields: Fields) -> tuple[int, bytes]:
        with self._files.seen(fields.path()) as held:
            return ATTRS, encode(os.stat(held.path))

    def _lstat(self, fields: Fields) -> tuple[int, bytes]:
        with self._files.seen_entry(fields.path()) as held:
            return ATTRS, encode(os.lstat(held.path))

    def _fstat(self, fields: Fields) -> tuple[int, bytes]:
        return ATTRS, encode(os.fstat(self._file(fields)))

    def _setstat(self, fields: Fields) -> tuple[int, int]:
        path, attributes = fields.path(), fields.attributes()
        with self._files.changed(path) as held:
            attributes.apply(held.path)
        return STATUS, OK

    def _lsetstat(self, fields: Fields) -> tuple[int, int]:
        path, attributes = fields.path(), fields.attributes()
        with self._files.changed_entry(path) as held:
            attributes.apply(held.path, follow=False)
        return STATUS, OK

    def _fsetstat(self, fields: Fields) -> tuple[int, int]:
        file = self._file(fields)
        self._files.check_changed(file)
        fields.attributes().apply(file)
        return STATUS, OK

    def _opendir(self, fields: Fields) -> tuple[int, bytes]:
        self._room()
        held = self._files.seen(fields.path())
        return self._keep(Listing(held, lambda name: self._files.shows(held, name)))

    def _readdir(self, fields: Fields) -> tuple[int, bytes | int]:
        listing = self._handles.get(fields.string())
        if not isinstance(listing, Listing):
            raise OSError(errno.ESTALE, "no such handle")
        names = [
            string(name) + string(self._names.line(name, found)) + encode(found)
            for name, found in listing.page(LISTED_AT_ONCE)
        ]
        if not names:
            return STATUS, EOF
        return NAME, struct.pack(">I", len(names)) + b"".join(names)

    def _remove(self, fields: Fields) -> tuple[int, int]:
        with self._files.changed_entry(fields.path()) as held:
            os.unlink(held.path)
        return STATUS, OK

    def _mkdir(self, fields: Fields) -> tuple[int, int]:
        path, attributes = fields.path(), fields.attributes()
        mode = 0o777 if attributes.mode is None else attributes.mode & 0o777
        with self._files.changed_entry(path) as held:
            os.mkdir(held.path, mode)
        return STATUS, OK

    def _rmdir(self, fields: Fields) -> tuple[int, int]:
        with self._files.changed_entry(fields.path()) as held:
            os.rmdir(held.path)
        return STATUS, OK

    def _realpath(self, fields: Fields) -> tuple[int, bytes]:
        return self._one_name(self._files.real(fields.path(), real_path))

    def _expand_path(self, fields: Fields) -> tuple[int, bytes | int]:
        path = fields.path()
        if path.startswith(b"~"):
            user, _, rest = path[1:].partition(b"/")
            home = home_of(user)
            if home is None:
                return STATUS, NO_SUCH_FILE
            path = os.path.join(home, rest.lstrip(b"/"))
        return self._one_name(self._files.real(path, real_path))

    def _home_directory(self, fields: Fields) -> tuple[int, bytes | int]:
        home = home_of(fields.text())
        return (STATUS, FAILURE) if home is None else self._one_name(home)

    def _one_name(self, path: bytes) -> tuple[int, bytes]:
        return NAME, struct.pack(">I", 1) + string(path) * 2 + struct.pack(">I", 0)

    def _rename(self, fields: Fields) -> tuple[int, int]:
        """Section 6.5: an existing target is an error."""
        held, to = self._files.moved(fields.path(), fields.path())
        with held, to:
            self._rename_to_new(held.path, to.path)
        return STATUS, OK

    def _rename_to_new(self, old: bytes, new: bytes) -> None:
        if stat.S_ISREG(os.lstat(old).st_mode):
            try:
                os.link(old, new, follow_symlinks=False)
            except OSError as error:
                # A file system without links, or a kernel that forbids them.
                if error.errno == errno.EEXIST or os.path.lexists(new):
                    raise
                os.rename(old, new)
            else:
                os.unlink(old)
        elif os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, "it exists")
        else:
            os.rename(old, new)

    def _posix_rename(self, fields: Fields) -> tuple[int, int]:
        held, to = self._files.moved(fields.path(), fields.path())
        with held, to:
            os.rename(held.path, to.path)
        return STATUS, OK

    def _readlink(self, fields: Fields) -> tuple[int, bytes]:
        with self._files.seen_entry(fields.path()) as held:
            return self._one_name(os.readlink(held.path))

    def _symlink(self, fields: Fields) -> tuple[int, int]:
        # Everybody sends the target first, unlike the draft (OpenSSH PROTOCOL, 4.1).
        target, path = fields.text(), fields.path()
        with self._files.link_made(target, path) as held:
            os.symlink(target, held.path)
        return STATUS, OK

    def _hardlink(self, fields: Fields) -> tuple[int, int]:
        held, to = self._files.linked(fields.path(), fields.path())
        with held, to:
            os.link(held.path, to.path, follow_symlinks=False)
        return STATUS, OK

    def _fsync(self, fields: Fields) -> tuple[int, int]:
        os.fsync(self._file(fields))
        return STATUS, OK

    def _statvfs(self, fields: Fields) -> tuple[int, bytes]:
        with self._files.seen(fields.path()) as held:
            return self._space(held.path)

    def _fstatvfs(self, fields: Fields) -> tuple[int, bytes]:
        return self._space(self._file(fields))

    def _space(self, where: int | bytes) -> tuple[int, bytes]:
        found = os.statvfs(where)
        flags = (1 if found.f_flag & os.ST_RDONLY else 0) | (
            2 if found.f_flag & os.ST_NOSUID else 0
        )
        values = (
            found.f_bsize, found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail,
            found.f_files, found.f_ffree, found.f_favail, found.f_fsid, flags, found.f_namemax,
        )  # fmt: skip
        return EXTENDED_REPLY, struct.pack(">11Q", *(value & (1 << 64) - 1 for value in values))

    def _copy_data(self, fields: Fields) -> tuple[int, int]:
        """PROTOCOL, section 4.10 (draft-ietf-secsh-filexfer-extensions-00, section 7)."""
        source, at, length = self._file(fields), fields.u64(), fields.u64()
        target, to = self._file(fields), fields.u64()
        if os.path.sameopenfile(source, target):
            raise OSError(errno.ETXTBSY, "a file is not copied into itself")
        left = length
        while left or not length:
            if self._gone():
                raise BrokenPipeError(errno.EPIPE, "the client has gone")
            wanted = COPIED_AT_ONCE if not length else min(left, COPIED_AT_ONCE)
            data = os.pread(source, wanted, at)
            if not data:
                return STATUS, EOF if length else OK
            _write_all(target, data, to)
            at, to, left = at + len(data), to + len(data), left - len(data)
        return STATUS, OK

    def _users_groups_by_id(self, fields: Fields) -> tuple[int, bytes]:
        users, groups = (
            b"".join(string(os.fsencode(look(number) or "")) for number in fields.numbers())
            for look in (self._names.user, self._names.group)
        )
        if len(users) + len(groups) > READ_LIMIT:
            raise OSError(errno.E2BIG, "the names do not fit into a packet")
        return EXTENDED_REPLY, string(users) + string(groups)

    def _limits(self, fields: Fields) -> tuple[int, bytes]:
        limits = (PACKET_LIMIT, READ_LIMIT, READ_LIMIT, self._handles_limit)
        return EXTENDED_REPLY, struct.pack(">4Q", *limits)

    def _extended(self, fields: Fields) -> tuple[int, bytes | int]:
        perform = self._EXTENSIONS.get(fields.string())
        return (STATUS, UNSUPPORTED) if perform is None else perform(self, fields)

    _Operation = Callable[["Server", Fields], tuple[int, bytes | int]]
    _KINDS: Final[dict[int, _Operation]] = {
        3: _open, 4: _close, 5: _read, 6: _write_file, 7: _lstat, 8: _fstat, 9: _setstat,
        10: _fsetstat, 11: _opendir, 12: _readdir, 13: _remove, 14: _mkdir, 15: _rmdir,
        16: _realpath, 17: _stat, 18: _rename, 19: _readlink, 20: _symlink, EXTENDED: _extended,
    }  # fmt: skip
    _EXTENSIONS: Final[dict[bytes, _Operation]] = {
        b"posix-rename@openssh.com": _posix_rename, b"statvfs@openssh.com": _statvfs,
        b"fstatvfs@openssh.com": _fstatvfs, b"hardlink@openssh.com": _hardlink,
        b"fsync@openssh.com": _fsync, b"lsetstat@openssh.com": _lsetstat,
        b"limits@openssh.com": _limits, b"expand-path@openssh.com": _expand_path,
        b"copy-data": _copy_data, b"home-directory": _home_directory,
        b"users-groups-by-id@openssh.com": _users_groups_by_id,
    }  # fmt: skip


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        offset += written
        view = view[written:]


def protect_memory() -> None:
    """Make what /proc has of this process root's, as OpenSSH's server does. Raises OSError."""
    if _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the memory of the file server cannot be protected")


def serve(source: int, target: int, files: AnyFiles | None = None) -> int:
    """Serve packets from ``source`` to ``target`` until the end; return an exit status."""
    protect_memory()

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]

    hung_up = select.poll()
    hung_up.register(target, 0)  # a hang-up is always reported
    server = Server(write, lambda: bool(hung_up.poll(0)), files)
    waiting = bytearray()
    try:
        while data := os.read(source, PACKET_LIMIT):
            waiting += data
            start = 0
            while len(waiting) - start >= 4:
                size = int.from_bytes(waiting[start : start + 4], "big")
                if size > PACKET_LIMIT:
                    raise BadPacket("too long a packet")
                if len(waiting) - start - 4 < size:
                    break
                server.received(bytes(waiting[start + 4 : start + 4 + size]))
                start += 4 + size
            del waiting[:start]
    except BadPacket as error:
        os.write(2, f"sftp: {error}\n".encode())
        return 11
    except BrokenPipeError:
        return 255
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(serve(0, 1))
