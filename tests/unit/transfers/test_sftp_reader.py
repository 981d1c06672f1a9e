"""What a reader of SFTP reports, beside the node's own file server."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import define, field

from tele.model.session import Launched
from tele.model.transfer import Transfer
from tele.spawner.sftp_server import Server
from tele.transfers import sftp
from tele.transfers.choosing import observer_of
from tele.transfers.observer import Observer

READING, WRITING, APPENDING, CREATING, TRUNCATING = 1, 2, 4, 8, 16
NO_ATTRIBUTES = bytes(4)


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


#: What a test has made, to be closed with it.
OPEN: list[Server] = []


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


@define
class World:
    """A client and a server whose streams are observed, in pieces of ``piece`` bytes."""

    piece: int = 1 << 20
    files: bool = True
    reported: list[Transfer] = field(factory=list)
    broken: list[str] = field(factory=list)
    replies: list[bytes] = field(factory=list)
    number: int = 0
    observer: Observer = field(init=False)
    server: Server = field(init=False)

    def __attrs_post_init__(self) -> None:
        launched = Launched("subsystem" if self.files else "exec", b"x", files=self.files)
        self.observer = observer_of(launched, self.reported.append, self.broken.append)
        self.server = Server(self._replied)
        OPEN.append(self.server)
        self.send(b"\1\0\0\0\3")

    def _replied(self, packet: bytes) -> None:
        self.replies.append(packet[4:])
        self.pieces(self.observer.output, packet)

    def pieces(self, take: Callable[[memoryview], None], data: bytes) -> None:
        for at in range(0, len(data), self.piece):
            take(memoryview(data)[at : at + self.piece])

    def send(self, packet: bytes) -> bytes:
        """Send one packet; return the reply."""
        self.pieces(self.observer.input, string(packet))
        self.server.received(packet)
        return self.replies[-1]

    def request(self, kind: int, rest: bytes) -> bytes:
        """Make a request; return what follows the number in the reply."""
        self.number += 1
        return self.send(bytes((kind,)) + struct.pack(">I", self.number) + rest)[5:]

    def extended(self, name: bytes, rest: bytes) -> bytes:
        return self.request(sftp.EXTENDED, string(name) + rest)

    def open(self, path: Path, flags: int) -> bytes:
        """Return the handle as it is in a request."""
        mode = struct.pack(">II", 4, 0o640) if flags & CREATING else NO_ATTRIBUTES
        return self.request(sftp.OPEN, string(bytes(path)) + struct.pack(">I", flags) + mode)

    def write(self, handle: bytes, offset: int, data: bytes) -> None:
        self.request(sftp.WRITE, handle + struct.pack(">Q", offset) + string(data))

    def read(self, handle: bytes, offset: int, size: int) -> None:
        self.request(sftp.READ, handle + struct.pack(">QI", offset, size))

    def close(self, handle: bytes) -> Transfer:
        self.request(sftp.CLOSE, handle)
        return self.reported[-1]


DATA = bytes(range(256)) * 300


@pytest.mark.parametrize("files", [True, False])
@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
def test_a_file_up_and_down(tmp_path: Path, piece: int, files: bool) -> None:
    """A file is reported when it is closed, with the SHA-256 of its content, whatever the pieces,
    and whether it is the file server or a command that speaks SFTP.
    """
    world, path = World(piece, files), tmp_path / "file"
    handle = world.open(path, WRITING | CREATING | TRUNCATING)
    for at in range(0, len(DATA), 30_000):
        world.write(handle, at, DATA[at : at + 30_000])
    assert world.reported == []
    sha256 = hashlib.sha256(DATA).hexdigest()
    assert world.close(handle) == Transfer(
        "sftp", "write", str(path), direction="upload", bytes=len(DATA), mode="0640", sha256=sha256
    )
    world.request(sftp.STAT, string(bytes(path)))
    handle = world.open(path, READING)
    for at in range(0, len(DATA) + 30_000, 30_000):
        world.read(handle, at, 30_000)
    assert world.close(handle) == Transfer(
        "sftp", "read", str(path), direction="download", bytes=len(DATA), mode="0640", sha256=sha256
    )
    assert (len(world.reported), world.broken) == (2, [])


UNHASHED = {
    "sparse": ([(0, 100), (200, 100)], TRUNCATING, "it was not written in order"),
    "backwards": ([(100, 100), (0, 100)], TRUNCATING, "it was not written in order"),
    "twice": ([(0, 100), (0, 100)], TRUNCATING, "it was not written in order"),
    "resumed": ([(100, 100)], 0, "it was not written in order"),
    "appended": ([(0, 100)], APPENDING, "it was appended to the file"),
    "not cut": ([(0, 100)], 0, "the file was not cut where the upload ended"),
}


@pytest.mark.parametrize("how", list(UNHASHED))
def test_a_hash_that_is_not_that_of_the_file_is_not_told(tmp_path: Path, how: str) -> None:
    """The reason is told in its place (attack: content under another content's SHA-256)."""
    writes, flags, reason = UNHASHED[how]
    world, path = World(), tmp_path / "file"
    path.write_bytes(bytes(1_000))
    handle = world.open(path, WRITING | flags)
    for offset, size in writes:
        world.write(handle, offset, b"x" * size)
    told = world.close(handle)
    assert (told.sha256, told.unhashed) == ("", reason)
    assert told.bytes == sum(size for _, size in writes)


@pytest.mark.parametrize(("size", "known"), [(100, True), (50, False), (200, False)])
def test_the_size_is_set(tmp_path: Path, size: int, known: bool) -> None:
    """OpenSSH's scp does not cut a file at first, but at the end of what it wrote."""
    world, path = World(), tmp_path / "file"
    path.write_bytes(bytes(1_000))
    handle = world.open(path, WRITING)
    world.write(handle, 0, b"x" * 100)
    world.request(sftp.FSETSTAT, handle + struct.pack(">IQ", 1, size))
    told = world.close(handle)
    assert (told.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()) is known
    assert bool(told.unhashed) is not known


def test_reading_and_writing_one_file(tmp_path: Path) -> None:
    """Both are told; what was read is known, what it was in between is not."""
    world, path = World(), tmp_path / "file"
    path.write_bytes(b"y" * 100)
    handle = world.open(path, READING | WRITING)
    world.read(handle, 0, 100)
    world.write(handle, 0, b"x" * 100)
    world.close(handle)
    written, read = world.reported
    assert (written.op, written.unhashed) == ("write", "it was read and written")
    assert (read.op, read.sha256) == ("read", hashlib.sha256(b"y" * 100).hexdigest())


def test_copied_on_the_host(tmp_path: Path) -> None:
    """What copy-data writes did not pass: its SHA-256 is not known."""
    world, source, target = World(), tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"y" * 100)
    one, other = world.open(source, READING), world.open(target, WRITING | CREATING | TRUNCATING)
    world.extended(b"copy-data", one + bytes(16) + other + bytes(8))
    assert world.reported == [Transfer("sftp", "copy", str(source), str(target))]
    assert world.close(other).unhashed == "it was copied on the host"


def test_operations_on_paths(tmp_path: Path) -> None:
    """Each is told with what became of it, extensions too."""
    world, (a, b, c) = World(), (tmp_path / name for name in "abc")
    names = [string(bytes(each)) for each in (a, b, c)]
    a.write_bytes(b"")
    mode = struct.pack(">II", 4, 0o700)
    world.request(sftp.MKDIR, string(bytes(tmp_path / "d")) + mode)
    world.request(sftp.OPENDIR, string(bytes(tmp_path)))
    world.request(sftp.SETSTAT, names[0] + mode)
    world.extended(b"lsetstat@openssh.com", names[0] + mode)
    world.request(sftp.RENAME, names[0] + names[1])
    world.extended(b"posix-rename@openssh.com", names[1] + names[2])
    world.extended(b"hardlink@openssh.com", names[2] + names[0])
    world.request(sftp.SYMLINK, string(b"target") + names[1])
    world.request(sftp.REMOVE, names[0])
    world.request(sftp.REMOVE, names[0])
    world.request(sftp.RMDIR, string(bytes(tmp_path / "d")))
    world.extended(b"magic@example.com", b"")
    world.request(sftp.OPEN, names[0] + struct.pack(">I", READING) + NO_ATTRIBUTES)
    a_, b_, c_ = map(str, (a, b, c))
    assert [(t.op, t.path, t.to, t.mode, t.result) for t in world.reported] == [
        ("mkdir", str(tmp_path / "d"), "", "0700", "ok"),
        ("list", str(tmp_path), "", "", "ok"),
        ("setstat", a_, "", "0700", "ok"),
        ("setstat", a_, "", "0700", "ok"),
        ("rename", a_, b_, "", "ok"),
        ("rename", b_, c_, "", "ok"),
        ("link", c_, a_, "", "ok"),
        ("symlink", b_, "target", "", "ok"),
        ("remove", a_, "", "", "ok"),
        ("remove", a_, "", "", "no such file"),
        ("rmdir", str(tmp_path / "d"), "", "", "ok"),
        ("magic@example.com", "", "", "", "operation unsupported"),
        ("read", a_, "", "", "no such file"),
    ]
    assert world.broken == []


def test_a_session_that_ends_in_the_middle(tmp_path: Path) -> None:
    """A file that is open, and a request without a reply, are told all the same: it may have been
    done.
    """
    world, path = World(), tmp_path / "file"
    handle = world.open(path, WRITING | CREATING | TRUNCATING)
    world.write(handle, 0, b"x")
    lone = string(bytes((sftp.REMOVE,)) + struct.pack(">I", 99) + string(bytes(path)))
    world.observer.input(memoryview(lone))
    world.observer.ended("signal HUP")
    removed, written = world.reported
    assert (removed.op, removed.result) == ("remove", "signal HUP")
    assert (written.op, written.sha256) == ("write", "")
    assert written.result == "the session ended before it was closed"


def test_numbers_that_are_used_twice(tmp_path: Path) -> None:
    """Replies belong to requests in their order, whatever their numbers (attack: a file that is
    opened under the number of a request that fails).
    """
    world, path = World(), tmp_path / "file"
    path.write_bytes(b"secret")
    nowhere = string(bytes(tmp_path / "nowhere"))
    requests = [
        bytes((sftp.LSTAT,)) + bytes(4) + nowhere,
        bytes((sftp.OPEN,)) + bytes(4) + string(bytes(path)) + struct.pack(">II", READING, 0),
    ]
    for request in requests:
        world.observer.input(memoryview(string(request)))
    for request in requests:
        world.server.received(request)
    handle = world.replies[-1][5:]
    world.read(handle, 0, 100)
    assert world.close(handle).sha256 == hashlib.sha256(b"secret").hexdigest()


def test_a_long_request_hides_nothing(tmp_path: Path) -> None:
    """Servers ignore what follows the fields of a request, so that much may follow (attack)."""
    world, path = World(), tmp_path / "file"
    path.write_bytes(b"secret")
    rest = string(bytes(path)) + struct.pack(">II", READING, 0) + bytes(100_000)
    handle = world.request(sftp.OPEN, rest)
    world.request(sftp.LSTAT, string(b"x" * 100_000))
    world.read(handle, 0, 100)
    assert world.close(handle).bytes == 6


LIMITS = {
    "requests": (sftp.LSTAT, string(b"x"), sftp.REQUESTS_LIMIT),
    "paths": (sftp.REMOVE, string(b"x" * 4_000), sftp.PATHS_LIMIT // 4_000),
}


@pytest.mark.parametrize("what", list(LIMITS))
def test_what_is_kept_is_limited(what: str) -> None:
    """A client that sends without reading replies ends the reading, and that is told (attack)."""
    kind, rest, most = LIMITS[what]
    world = World()
    packet = memoryview(string(bytes((kind,)) + bytes(4) + rest))
    for _ in range(most):
        world.observer.input(packet)
    assert world.broken == []
    world.observer.input(packet)
    (reason,) = world.broken
    assert "than are kept" in reason
    world.observer.input(packet)
    world.observer.output(packet)
    assert len(world.broken) == 1


@pytest.mark.parametrize("junk", [b"\xff" * 9, bytes(9), b"\0\0\0\1\3", b"GET / HTTP/1.1"])
def test_what_is_no_sftp(junk: bytes) -> None:
    """From the file server it is told; of any other program that never was it is not."""
    world = World()
    world.observer.input(memoryview(junk))
    assert len(world.broken) == 1
    told: list[str] = []
    other = observer_of(Launched("exec", b"cat"), lambda _: None, told.append)
    other.input(memoryview(junk))
    other.output(memoryview(junk))
    other.ended("ok")
    assert told == []


def numbered(kind: int, number: int, rest: bytes) -> bytes:
    return bytes((kind,)) + struct.pack(">I", number) + rest


def opening(path: Path, flags: int) -> bytes:
    return string(bytes(path)) + struct.pack(">II", flags, 0)


def at_once(world: World, packets: list[bytes]) -> None:
    """Send requests without waiting for a reply: all are observed before one is served."""
    for packet in packets:
        world.pieces(world.observer.input, string(packet))
    for packet in packets:
        world.server.received(packet)


NEW = WRITING | CREATING | TRUNCATING


@pytest.mark.parametrize("op", ["write", "read", "fsetstat", "copy", "close"])
def test_attack_a_handle_is_guessed(tmp_path: Path, op: str) -> None:
    """Servers count their handles. A client that names the next one before it was given would have
    content that is of no file for us, and a file of 0 bytes reported: reading ends instead.
    """
    world = World()
    first = world.open(tmp_path / "first", NEW)
    guess = string(struct.pack(">I", int.from_bytes(first[4:], "big") + 1))
    named = {
        "write": (sftp.WRITE, guess + bytes(8) + string(b"malware")),
        "read": (sftp.READ, guess + struct.pack(">QI", 0, 100)),
        "fsetstat": (sftp.FSETSTAT, guess + struct.pack(">IQ", 1, 7)),
        "copy": (sftp.EXTENDED, string(b"copy-data") + first + bytes(16) + guess + bytes(8)),
        "close": (sftp.CLOSE, guess),
    }
    evil = tmp_path / "evil"
    kind, rest = named[op]
    at_once(world, [
        numbered(sftp.OPEN, 10, opening(evil, NEW | READING)), numbered(kind, 11, rest),
    ])  # fmt: skip
    assert world.broken == ["a handle before the server gave it"]
    told = [each for each in world.reported if each.path == str(evil)]
    assert [(each.result, each.sha256) for each in told] == [("what follows cannot be read", "")]
    assert op != "write" or evil.read_bytes() == b"malware"  # the server did it


def test_attack_a_handle_is_used_after_its_file(tmp_path: Path) -> None:
    """Between the request that closes a file and the reply its handle is nothing's: what is written
    to it may go into the next file, and is not counted to the one before.
    """
    world = World()
    handle = world.open(tmp_path / "good", NEW)
    world.write(handle, 0, b"good")
    at_once(world, [
        numbered(sftp.CLOSE, 10, handle),
        numbered(sftp.OPEN, 11, opening(tmp_path / "evil", NEW)),
        numbered(sftp.WRITE, 12, handle + bytes(8) + string(b"malware")),
    ])  # fmt: skip
    assert world.broken == ["a handle before the server gave it"]
    assert all(hashlib.sha256(b"goodmalware").hexdigest() != t.sha256 for t in world.reported)
    assert {t.path: t.bytes for t in world.reported}[str(tmp_path / "good")] == 4


@pytest.mark.parametrize("closing", [False, True])
def test_attack_content_of_no_file(tmp_path: Path, closing: bool) -> None:
    """A server that serves a handle that it never gave, or requests in another order than they
    came, passes content that is of no file: it is told.
    """
    world = World()
    handle = world.open(tmp_path / "file", NEW | READING)
    world.pieces(world.observer.input, string(numbered(sftp.CLOSE, 8, handle)))
    if closing:
        late = numbered(sftp.WRITE, 9, handle + bytes(8) + string(b"late"))
        reply = numbered(sftp.STATUS, 9, bytes(12))
    else:
        late = numbered(sftp.READ, 9, handle + struct.pack(">QI", 0, 9))
        reply = numbered(sftp.DATA, 9, string(b"late"))
    world.pieces(world.observer.input, string(late))
    world.pieces(world.observer.output, string(reply))
    (reason,) = world.broken
    assert "a file that is not known" in reason


def test_files_that_are_closed_and_opened_at_once(tmp_path: Path) -> None:
    """A client may send the next request before the reply to the last one, as sshfs does."""
    world = World()
    handle = world.open(tmp_path / "one", NEW)
    at_once(world, [
        numbered(sftp.WRITE, 10, handle + bytes(8) + string(b"one")),
        numbered(sftp.CLOSE, 11, handle),
        numbered(sftp.OPEN, 12, opening(tmp_path / "two", NEW)),
        numbered(sftp.STAT, 13, string(bytes(tmp_path / "one"))),
    ])  # fmt: skip
    second = string(world.replies[-2][9:13])
    assert second != handle
    world.write(second, 0, b"two")
    world.close(second)
    assert world.broken == []
    assert [(t.path, t.bytes, t.result) for t in world.reported] == [
        (str(tmp_path / name), 3, "ok") for name in ("one", "two")
    ]


def test_a_session_that_ends_while_a_file_is_closed(tmp_path: Path) -> None:
    """The file is reported as not closed, although its handle is gone."""
    world = World()
    handle = world.open(tmp_path / "file", NEW)
    world.pieces(world.observer.input, string(numbered(sftp.CLOSE, 8, handle)))
    world.observer.ended("ok")
    (told,) = world.reported
    assert told.result == "the session ended before it was closed"


@pytest.mark.parametrize("select", [False, True])
def test_attack_another_version(select: bool) -> None:
    """Of other versions, which a client can agree on with some servers, flags mean something else:
    what cannot be read is told, and is not read as what it is not.
    """
    world = World()
    told: list[str] = []
    observer = observer_of(Launched("subsystem", b"x", files=True), lambda _: None, told.append)
    if select:
        world.extended(b"version-select", string(b"6"))
        assert world.broken == ["another version of SFTP"]
        return
    observer.input(memoryview(string(b"\1\0\0\0\6")))
    observer.output(memoryview(string(b"\2\0\0\0\6")))
    assert told == ["version 6 of SFTP"]
