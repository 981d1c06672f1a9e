"""Our SFTP server does what OpenSSH's does, request by request, and what clients need."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import paramiko
import pytest
from attrs import define, field

from tele.spawner import session_child, sftp_server
from test_client_sshd import LOGIN, SSHD, Sshd, sshd

PROGRAM = Path(sftp_server.__file__)
OURS = (sys.executable, "-I", "-S", str(PROGRAM))
THEIRS = next(filter(os.path.exists, session_child.SFTP_SERVERS), "")

needs_sshd = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")
needs_openssh = pytest.mark.skipif(not THEIRS, reason="OpenSSH's sftp-server is not installed")

STATUS, HANDLE, DATA, NAME, ATTRS, REPLY = 101, 102, 103, 104, 105, 201


def text(data: bytes | str) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    return struct.pack(">I", len(raw)) + raw


def u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def u64(*values: int) -> bytes:
    return struct.pack(f">{len(values)}Q", *values)


@define
class Conversation:
    """A server that runs in a folder; its answers in a form that two servers share."""

    process: subprocess.Popen[bytes]
    handles: dict[str, bytes] = field(factory=dict)
    number: int = 0

    def send(self, kind: int, rest: bytes) -> bytes:
        assert self.process.stdin is not None
        self.process.stdin.write(struct.pack(">IB", len(rest) + 1, kind) + rest)
        self.process.stdin.flush()
        return self.receive()

    def receive(self) -> bytes:
        assert self.process.stdout is not None
        size = int.from_bytes(self.process.stdout.read(4), "big")
        return self.process.stdout.read(size)

    def begin(self) -> dict[bytes, bytes]:
        """Greet; return the extensions that are announced."""
        answer = self.send(1, u32(3))
        assert answer[:5] == b"\x02" + u32(3)
        names = strings(answer[5:])
        return dict(zip(names[::2], names[1::2], strict=True))

    def ask(self, kind: int, rest: bytes) -> tuple[int, bytes]:
        """Send a request; return the type of the answer and what is in it."""
        self.number += 1
        answer = self.send(kind, u32(self.number) + rest)
        assert answer[1:5] == u32(self.number)
        return answer[0], answer[5:]

    def open(self, name: str, path: str, flags: int, attributes: bytes = u32(0)) -> str:
        return self.keep(name, 3, text(path) + u32(flags) + attributes)

    def keep(self, name: str, kind: int, rest: bytes) -> str:
        """Ask for a handle, and keep it under ``name``."""
        found, answer = self.ask(kind, rest)
        if found != HANDLE:
            return readable(found, answer)
        (self.handles[name],) = strings(answer)
        return "handle"

    def on(self, name: str) -> bytes:
        return text(self.handles.get(name, b"no such handle"))

    def asked(self, kind: int, rest: bytes) -> str:
        return readable(*self.ask(kind, rest))

    def extended(self, name: str, rest: bytes) -> str:
        return self.asked(200, text(name) + rest)


def strings(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def readable(kind: int, answer: bytes) -> str:
    """Return an answer in readable form, without what differs (times, text of errors)."""
    if kind == STATUS:
        return f"status {int.from_bytes(answer[:4], 'big')}"
    if kind == NAME:
        return f"names {names(answer)}"
    if kind == ATTRS:
        return f"attributes {answer[:4].hex()} {answer[12:24].hex()} size {answer[4:12].hex()}"
    return f"{kind} {answer.hex()}"


def names(answer: bytes) -> list[tuple[bytes, bytes]]:
    """Names and long names of an answer, in order of names."""
    count, data = int.from_bytes(answer[:4], "big"), answer[4:]
    found = []
    for _ in range(count):
        pair = []
        for _ in range(2):
            size = int.from_bytes(data[:4], "big")
            pair.append(data[4 : 4 + size])
            data = data[4 + size :]
        flags = int.from_bytes(data[:4], "big")
        data = data[4 + (28 if flags == 15 else 0) :]
        found.append((pair[0], pair[1]))
    assert not data
    return sorted(found)


@contextmanager
def talking(command: tuple[str, ...], folder: Path) -> Iterator[Conversation]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder,
        env={"HOME": pwd.getpwuid(os.getuid()).pw_dir},
    )  # fmt: skip
    talk = Conversation(process)
    try:
        yield talk
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def prepare(folder: Path) -> None:
    """The same things for both servers, with the same names and times."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "file").write_bytes(b"0123456789")
    (folder / "file").chmod(0o640)
    (folder / "empty").touch()
    (folder / "new").touch()
    (folder / "folder").mkdir()
    (folder / "folder" / "inside").touch()
    (folder / "link").symlink_to("file")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    for name in ("file", "empty", "folder/inside", "folder", "fifo"):
        os.utime(folder / name, (1_000_000_000, 1_000_000_000))
    for name in ("link", "dangling", "loop"):
        os.utime(folder / name, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
    os.utime(folder / "new", (4_000_000_000, 4_000_000_000))
    os.utime(folder, (1_000_000_000, 1_000_000_000))


def opened(talk: Conversation) -> Iterator[str]:
    """Opening, and what each flag means."""
    yield talk.open("r", "file", 1)
    yield talk.open("w", "written", 2 | 8, u32(4, 0o600))
    yield talk.open("a", "file", 2 | 4)
    yield talk.open("x", "file", 2 | 8 | 32)
    yield talk.open("t", "empty", 3 | 16)
    yield talk.open("none", "file", 0)
    yield talk.open("d", "folder", 2)
    yield talk.open("missing", "nothing", 1)
    yield talk.open("loop", "loop", 1)
    yield talk.open("through", "file/x", 1)
    yield talk.open("long", "x" * 300, 1)
    yield talk.open("dir-read", "folder", 1)
    yield talk.asked(5, talk.on("dir-read") + u64(0) + u32(10))
    yield talk.asked(8, talk.on("w"))


def read_and_written(talk: Conversation) -> Iterator[str]:
    """Reading and writing at offsets, at ends, and with handles of another kind."""
    talk.open("r", "file", 1)
    talk.open("w", "made", 2 | 8, u32(4, 0o644))
    talk.open("a", "file", 2 | 4)
    talk.keep("l", 11, text("."))
    yield talk.asked(5, talk.on("r") + u64(3) + u32(4))
    yield talk.asked(5, talk.on("r") + u64(8) + u32(100))
    yield talk.asked(5, talk.on("r") + u64(10) + u32(100))
    yield talk.asked(5, talk.on("r") + u64(0) + u32(0))
    yield talk.asked(5, talk.on("w") + u64(0) + u32(1))
    yield talk.asked(6, talk.on("w") + u64(5) + text("abc"))
    yield talk.asked(6, talk.on("w") + u64(0) + text(""))
    yield talk.asked(6, talk.on("a") + u64(0) + text("END"))
    yield talk.asked(6, talk.on("r") + u64(0) + text("x"))
    yield talk.asked(5, talk.on("r") + u64(0) + u32(100))
    yield talk.asked(4, talk.on("w"))
    yield talk.asked(4, talk.on("w"))
    yield talk.asked(17, text("made"))


def attributes_changed(talk: Conversation) -> Iterator[str]:
    """Sizes, modes, times and owners of paths, handles and links, singly and together."""
    everything = u32(1 | 2 | 4 | 8) + u64(3) + u32(os.getuid(), os.getgid(), 0o604, 5, 6)
    yield talk.asked(9, text("file") + everything)
    yield talk.asked(7, text("file"))
    yield talk.asked(9, text("link") + u32(4, 0o600))
    yield talk.asked(7, text("file"))
    yield talk.asked(9, text("nothing") + u32(4, 0o600))
    yield talk.asked(9, text("folder") + u32(1) + u64(5))
    yield talk.asked(9, text("folder") + u32(1 | 4) + u64(5) + u32(0o700))
    yield talk.asked(7, text("folder"))
    talk.open("w", "file", 2)
    yield talk.asked(10, talk.on("w") + u32(1 | 4) + u64(20) + u32(0o751))
    yield talk.asked(8, talk.on("w"))
    yield talk.asked(9, text("file") + u32(1) + u64(1 << 63))
    yield talk.asked(9, text("file") + u32(2, 0xFFFFFFFF, 0xFFFFFFFF))
    yield talk.asked(9, text("file") + u32(0))
    yield talk.asked(9, text("file") + u32(1 << 31, 1) + text("a@b") + text("c"))
    lsetstat = "lsetstat@openssh.com"
    yield talk.extended(lsetstat, text("file") + u32(4, 0o644))
    yield talk.asked(7, text("file"))
    yield talk.extended(lsetstat, text("link") + u32(8, 7, 8))
    yield talk.extended(lsetstat, text("link") + u32(4, 0o600))
    yield talk.extended(lsetstat, text("file") + u32(1) + u64(2))
    yield talk.extended(lsetstat, text("link") + u32(2, os.getuid(), os.getgid()))
    yield talk.extended(lsetstat, text("nothing") + u32(4, 0o600))
    yield talk.asked(7, text("file"))


def listed(talk: Conversation) -> Iterator[str]:
    """A folder with ``.`` and ``..``, links, old and future times; not what is no folder."""
    for path in (".", "folder"):
        yield talk.keep("l", 11, text(path))
        yield talk.asked(12, talk.on("l"))
        yield talk.asked(12, talk.on("l"))
        yield talk.asked(4, talk.on("l"))
    yield talk.keep("l", 11, text("file"))
    yield talk.keep("l", 11, text("nothing"))
    talk.open("r", "file", 1)
    yield talk.asked(12, talk.on("r"))
    yield talk.asked(12, talk.on("nothing"))
    yield talk.asked(4, talk.on("nothing"))
    talk.keep("l", 11, text("."))
    for name in ("nothing", "l"):
        yield talk.asked(5, talk.on(name) + u64(0) + u32(1))
        yield talk.asked(6, talk.on(name) + u64(0) + text("x"))
        yield talk.asked(8, talk.on(name))
        yield talk.asked(10, talk.on(name) + u32(4, 0o600))


def moved(talk: Conversation) -> Iterator[str]:
    """Renames, links and removals, onto what is there and onto what is not."""
    yield talk.asked(18, text("file") + text("empty"))
    yield talk.asked(18, text("file") + text("moved"))
    yield talk.asked(18, text("folder") + text("empty"))
    yield talk.asked(18, text("folder") + text("folder2"))
    yield talk.asked(18, text("nothing") + text("x"))
    yield talk.asked(18, text("link") + text("link2"))
    yield talk.extended("posix-rename@openssh.com", text("moved") + text("empty"))
    yield talk.asked(7, text("empty"))
    yield talk.asked(20, text("target/of") + text("soft"))
    yield talk.asked(19, text("soft"))
    yield talk.asked(20, text("x") + text("soft"))
    yield talk.asked(19, text("empty"))
    yield talk.extended("hardlink@openssh.com", text("empty") + text("hard"))
    yield talk.extended("hardlink@openssh.com", text("empty") + text("hard"))
    yield talk.extended("hardlink@openssh.com", text("link2") + text("hard2"))
    yield talk.asked(7, text("hard2"))
    yield talk.asked(13, text("hard"))
    yield talk.asked(13, text("folder2"))
    yield talk.asked(15, text("folder2"))
    yield talk.asked(15, text("empty"))
    yield talk.asked(14, text("made") + u32(4, 0o2750))
    yield talk.asked(14, text("made") + u32(0))
    yield talk.asked(7, text("made"))
    yield talk.asked(15, text("made"))


def extended(talk: Conversation) -> Iterator[str]:
    """The other extensions, and one that there is not."""
    talk.open("r", "file", 1)
    yield talk.extended("fsync@openssh.com", talk.on("r"))
    yield talk.extended("no-such@example.com", b"")
    users = u32(0, os.getuid(), 4_000_000_000)
    yield talk.extended("users-groups-by-id@openssh.com", text(users) + text(u32(0, 3_999_999_999)))
    yield talk.extended("users-groups-by-id@openssh.com", text(b"") + text(b""))
    for user in ("root", "no-such-user-here"):
        yield talk.extended("home-directory", text(user))
    for path in ("~root", "~/x/..", "~no-such-user-here/x", "/", "/usr/../etc", "/nothing/x"):
        yield talk.extended("expand-path@openssh.com", text(path))
    for path in ("/", "/usr/../etc", "/nothing", "/nothing/x", "/etc/passwd/x"):
        yield talk.asked(16, text(path))
    for path in ("loop", "dangling", "file/../dangling", "file/..", "nothing/..", "folder/nothing"):
        yield talk.asked(16, text(path))
    yield talk.asked(17, text("loop"))
    yield talk.asked(17, text("dangling"))
    yield talk.asked(7, text("dangling"))


def copied(talk: Conversation) -> Iterator[str]:
    """``copy-data``: parts, ends, appending, and what cannot be copied."""
    talk.open("r", "file", 1)
    talk.open("w", "copy", 3 | 8, u32(4, 0o644))
    talk.open("a", "empty", 2 | 4)
    talk.open("both", "file", 3)

    def copy(source: str, at: int, length: int, target: str, to: int) -> str:
        return talk.extended(
            "copy-data", talk.on(source) + u64(at, length) + talk.on(target) + u64(to)
        )

    yield copy("r", 0, 0, "w", 0)
    yield talk.asked(5, talk.on("w") + u64(0) + u32(100))
    yield copy("r", 2, 3, "w", 20)
    yield talk.asked(5, talk.on("w") + u64(0) + u32(100))
    yield copy("r", 100, 0, "w", 0)
    yield copy("r", 0, 4, "a", 100)
    yield talk.asked(7, text("empty"))
    yield copy("r", 0, 0, "r", 0)
    yield copy("r", 0, 0, "both", 50)
    yield copy("nothing", 0, 0, "w", 0)
    yield copy("r", 0, 0, "nothing", 0)


STORIES: list[Callable[[Conversation], Iterator[str]]] = [
    opened, read_and_written, attributes_changed, listed, moved, extended, copied,
]  # fmt: skip


def shared(answer: str, folder: Path) -> str:
    """An answer without what two folders differ in."""
    return answer.replace(str(folder), "FOLDER")


@needs_openssh
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_answers_are_openssh_s(
    story: Callable[[Conversation], Iterator[str]], tmp_path: Path
) -> None:
    """The same requests have the same answers, and leave the same files."""
    results, left = [], []
    for name, command in (("ours", OURS), ("theirs", (THEIRS,))):
        folder = tmp_path / name / "home"
        prepare(folder)
        with talking(command, folder) as talk:
            talk.begin()
            results.append([shared(answer, folder) for answer in story(talk)])
        left.append(
            sorted(
                (str(path.relative_to(folder)), oct(path.lstat().st_mode),
                 path.read_bytes() if path.is_file() and not path.is_symlink() else b"")
                for path in folder.rglob("*")
            )
        )  # fmt: skip
    assert results[0] == results[1]
    assert left[0] == left[1]


def test_a_short_copy_is_reported(tmp_path: Path) -> None:
    """A file that ends early is the status for that, and a target that is not open is an error."""
    prepare(tmp_path / "home")
    with talking(OURS, tmp_path / "home") as talk:
        talk.begin()
        talk.open("r", "file", 1)
        talk.open("w", "copy", 3 | 8)
        both = talk.on("r") + u64(8, 100) + talk.on("w") + u64(0)
        assert talk.extended("copy-data", both) == "status 1"
        assert (tmp_path / "home" / "copy").read_bytes() == b"89"
        back = talk.on("w") + u64(0, 1) + talk.on("r") + u64(0)
        assert talk.extended("copy-data", back) == "status 2"
        assert talk.extended("home-directory", text("")) == readable(
            NAME, u32(1) + text(pwd.getpwuid(os.getuid()).pw_dir) * 2 + u32(0)
        )


@needs_openssh
def test_every_extension_of_openssh_is_there(tmp_path: Path) -> None:
    """Whatever the installed OpenSSH announces is announced here, in the same version."""
    found = []
    for command in (OURS, (THEIRS,)):
        with talking(command, tmp_path) as talk:
            found.append(talk.begin())
    ours, theirs = found
    assert theirs.items() <= ours.items()
    assert set(ours) == {
        b"posix-rename@openssh.com", b"statvfs@openssh.com", b"fstatvfs@openssh.com",
        b"hardlink@openssh.com", b"fsync@openssh.com", b"lsetstat@openssh.com",
        b"limits@openssh.com", b"expand-path@openssh.com", b"copy-data", b"home-directory",
        b"users-groups-by-id@openssh.com",
    }  # fmt: skip


def test_a_copy_ends_with_its_client(tmp_path: Path) -> None:
    """A copy without end does not fill the disk after its client disconnected (attack)."""
    with talking(OURS, tmp_path) as talk:
        talk.begin()
        talk.open("zero", "/dev/zero", 1)
        talk.open("null", "/dev/null", 2)
        rest = text("copy-data") + talk.on("zero") + u64(0, 0) + talk.on("null") + u64(0)
        packet = u32(99) + rest
        assert talk.process.stdin is not None
        assert talk.process.stdout is not None
        talk.process.stdin.write(struct.pack(">IB", len(packet) + 1, 200) + packet)
        talk.process.stdin.flush()
        talk.process.stdout.close()
        assert talk.process.wait(20) == 255


def test_openssh_s_client_uses_them(tmp_path: Path) -> None:
    """``cp`` copies on the server, ``ls -l`` shows names of the server, ``ls -a`` the dots."""
    if shutil.which("sftp") is None:
        pytest.skip("OpenSSH's sftp is not installed")
    (tmp_path / "a").write_bytes(os.urandom(700_001))
    (tmp_path / "link").symlink_to("a")
    batch = [
        "cp a b", "ls -l", "ls -la", f"chown {os.getuid()} b", f"chgrp {os.getgid()} b",
        f"chown -h {os.getuid()} link", "ln -s a soft", "ln a hard", "chmod 640 b", "lls",
    ]  # fmt: skip
    done = subprocess.run(
        ["sftp", "-q", "-b", "-", "-D", " ".join(OURS)],
        input="\n".join(batch) + "\n", cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    assert re.search(rf"-rw-\S+ +1? *\S* *{user} +{group} .* a\n", done.stdout), done.stdout
    assert {"./.", "./.."} & set(done.stdout.split()) or re.search(r" \.\.\n", done.stdout)


@contextmanager
def served(folder: Path) -> Iterator[tuple[Sshd, Path]]:
    """An sshd with our file server, and the file of a key that it accepts."""
    with sshd(folder, f"Subsystem sftp {' '.join(OURS)}") as server:
        identity = server.identity()
        key = folder / "key"
        key.touch(0o600)
        key.write_bytes(identity.private.to_openssh())
        (folder / "key-cert.pub").write_text(identity.certificate.line + "\n")
        yield server, key


@needs_sshd
def test_asyncssh_s_client(tmp_path: Path) -> None:
    """Asyncssh copies on the server, lists with the dots, and changes owners, modes and links."""
    (tmp_path / "a").write_bytes(os.urandom(300_001))

    async def session(server: Sshd, key: Path) -> None:
        made = asyncssh.connect(
            "127.0.0.1", server.port, username=LOGIN, known_hosts=None,
            client_keys=[(str(key), f"{key}-cert.pub")], config=None,
        )  # fmt: skip
        async with made as connection, connection.start_sftp_client() as client:
            assert client.supports_remote_copy
            await client.chdir(str(tmp_path))
            await client.remote_copy("a", "b")
            await client.chown("b", os.getuid(), os.getgid())
            await client.chmod("b", 0o640)
            await client.symlink("b", "soft")
            await client.link("b", "hard")
            assert await client.readlink("soft") == "b"
            assert (await client.lstat("b")).size == 300_001
            assert {".", "..", "a", "b", "soft", "hard"} <= set(await client.listdir("."))
            long = [each.longname for each in await client.readdir(".")]
            user = pwd.getpwuid(os.getuid()).pw_name
            assert any(str(line).endswith(" b") and f" {user} " in str(line) for line in long)
            assert (await client.statvfs(".")).bsize > 0
            async with client.open("b", "ab") as file:
                await file.write(b"end")
                await file.fsync()

    with served(tmp_path) as (server, key):
        asyncio.run(session(server, key))
    data = (tmp_path / "a").read_bytes()
    assert (tmp_path / "b").read_bytes() == data + b"end"
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640


@needs_sshd
def test_paramiko_s_client(tmp_path: Path) -> None:
    """Paramiko reads, writes, appends, lists without dots, renames and truncates."""
    transport_key = paramiko.Ed25519Key.from_private_key_file
    with served(tmp_path) as (server, key):
        pkey = transport_key(str(key))
        pkey.load_certificate(f"{key}-cert.pub")
        transport = paramiko.Transport(("127.0.0.1", server.port))
        try:
            transport.connect(username=LOGIN, pkey=pkey)
            client = paramiko.SFTPClient.from_transport(transport)
            assert client is not None
            client.chdir(str(tmp_path))
            with client.open("made", "w") as file:
                file.write(b"x" * 100_000)
            with client.open("made", "a") as file:
                file.write(b"end")
            client.truncate("made", 99_999)
            client.chmod("made", 0o600)
            client.utime("made", (5, 6))
            client.chown("made", os.getuid(), os.getgid())
            client.symlink("made", "soft")
            client.rename("made", "moved")
            with pytest.raises(OSError, match="Failure"):
                client.rename("soft", "moved")
            client.posix_rename("soft", "over")
            assert client.readlink("over") == "made"
            names = client.listdir(".")
            assert "moved" in names
            assert not {".", ".."} & set(names)
            assert client.normalize("moved/../over") == f"{tmp_path}/made"
        except OSError as error:
            pytest.fail(f"{error}\n{server.log()}")
        finally:
            transport.close()
    found = (tmp_path / "moved").stat()
    assert (found.st_size, found.st_mode & 0o777, found.st_mtime) == (99_999, 0o600, 6)
