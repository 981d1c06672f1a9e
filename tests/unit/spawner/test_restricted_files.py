"""A file server that is restricted to paths: what it serves, and what gets around no rule."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tele.spawner.restricted_files import read_files
from tele.spawner.sftp_server import Server

READ, WRITE, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 8, 16, 32
OK, NO_SUCH_FILE, DENIED, FAILURE = 0, 2, 3, 4
STATUS, HANDLE, NAME, ATTRS = 101, 102, 104, 105


def text(data: str | bytes) -> bytes:
    raw = os.fsencode(data)
    return struct.pack(">I", len(raw)) + raw


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


class Client:
    """Speaks to a restricted server without a process. Paths are below ``folder``."""

    def __init__(self, folder: Path, upload: list[str], download: list[str], deny: list[str]):
        self.folder = folder
        self.answers: list[bytes] = []

        def rules(patterns: list[str]) -> dict[str, list[str]]:
            return {
                "allow": [f"{folder}{each}" for each in patterns],
                "deny": [f"{folder}{each}" for each in deny],
            }

        given = json.dumps({"upload": rules(upload), "download": rules(download)}).encode()
        self.server = Server(self.answers.append, files=read_files(given, os.fsencode(folder)))
        self.server.received(b"\x01" + u32(3))

    def ask(self, kind: int, rest: bytes) -> tuple[int, bytes]:
        self.server.received(struct.pack(">BI", kind, 7) + rest)
        answer = self.answers.pop()
        return answer[4], answer[9:]

    def status(self, kind: int, *paths: str, rest: bytes = b"") -> int:
        """Return the status of an answer; OK also for what is no status."""
        found, answer = self.ask(kind, b"".join(map(self.path, paths)) + rest)
        return int.from_bytes(answer[:4], "big") if found == STATUS else OK

    def path(self, path: str) -> bytes:
        return text(f"{self.folder}/{path}")

    def open(self, path: str, flags: int) -> tuple[int, bytes]:
        """Return a status, or OK and a handle."""
        found, answer = self.ask(3, self.path(path) + u32(flags) + u32(0))
        if found == STATUS:
            return int.from_bytes(answer[:4], "big"), b""
        return OK, answer[4:]

    def read(self, path: str) -> bytes | int:
        """Return the content, or why not."""
        status, handle = self.open(path, READ)
        if status != OK:
            return status
        found, answer = self.ask(5, text(handle) + struct.pack(">QI", 0, 1000))
        self.ask(4, text(handle))
        return answer[4:] if found == 103 else b""

    def write(self, path: str, flags: int = WRITE | CREATE | TRUNCATE) -> int:
        """Write ``new``."""
        status, handle = self.open(path, flags)
        if status == OK:
            self.ask(6, text(handle) + struct.pack(">Q", 0) + text(b"new"))
            self.ask(4, text(handle))
        return status

    def list(self, path: str) -> set[str] | int:
        """Return the names in a folder, or why not."""
        found, answer = self.ask(11, self.path(path))
        if found == STATUS:
            return int.from_bytes(answer[:4], "big")
        handle = answer[4:]
        names: set[str] = set()
        while True:
            found, answer = self.ask(12, text(handle))
            if found == STATUS:
                self.ask(4, text(handle))
                return names
            at = 4
            for _ in range(int.from_bytes(answer[:4], "big")):
                parts = []
                for _ in range(2):
                    size = int.from_bytes(answer[at : at + 4], "big")
                    parts.append(answer[at + 4 : at + 4 + size])
                    at += 4 + size
                names.add(parts[0].decode())
                at += 4 + 8 + 8 + 4 + 8  # flags, size, owners, mode, times


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """In may be written, out may be read; the rest neither."""
    folder = Path(os.path.realpath(tmp_path))
    for each in ("in", "out", "secret"):
        (folder / each).mkdir()
        (folder / each / "file").write_bytes(each.encode())
    return folder


@pytest.fixture
def client(place: Path) -> Iterator[Client]:
    """A client that may upload to ``in`` and download from ``out``, but no keys."""
    made = Client(place, ["/in/**"], ["/out/**"], ["/in/*.key", "/out/*.key"])
    yield made
    made.server.close()


def test_what_is_allowed(client: Client, place: Path) -> None:
    """Uploads and downloads, new files and folders, names and modes."""
    assert client.read("out/file") == b"out"
    assert client.write("in/file") == OK
    assert (place / "in/file").read_bytes() == b"new"
    assert client.status(14, "in/folder", rest=u32(0)) == OK
    assert client.write("in/folder/x", WRITE | CREATE | EXCLUSIVE) == OK
    assert client.status(18, "in/folder/x", "in/folder/y") == OK
    assert client.status(9, "in/folder/y", rest=u32(4) + u32(0o600)) == OK
    assert (place / "in/folder/y").stat().st_mode & 0o777 == 0o600
    assert client.status(13, "in/folder/y") == OK
    assert client.status(15, "in/folder") == OK
    assert client.list("") == {".", "in", "out"}
    assert client.list("out") == {".", "file"}


def test_what_is_not_allowed(client: Client, place: Path) -> None:
    """Each operation elsewhere, and the other direction (attack)."""
    assert client.read("in/file") == client.read("secret/file") == DENIED
    assert client.write("out/file") == client.write("secret/new") == DENIED
    assert client.open("in/file", READ | WRITE)[0] == DENIED
    assert client.open("out/file", READ | TRUNCATE)[0] == DENIED
    assert client.open("out/new", READ | CREATE)[0] == DENIED
    assert client.write("in/x.key") == DENIED
    assert client.list("secret") == DENIED
    assert client.status(17, "secret/file") == client.status(7, "secret/file") == DENIED
    for kind in (13, 15):
        assert client.status(kind, "secret/file") == client.status(kind, "out/file") == DENIED
    assert client.status(14, "secret/x", rest=u32(0)) == DENIED
    assert client.status(9, "out/file", rest=u32(4) + u32(0o777)) == DENIED
    for name in ("statvfs@openssh.com",):
        assert client.ask(200, text(name) + client.path("secret"))[0] == STATUS
    assert {each.read_bytes() for each in place.glob("*/file")} == {b"in", b"out", b"secret"}
    assert not list(place.glob("*/new"))


def test_attack_attributes_of_a_file_that_is_open_for_reading(client: Client, place: Path) -> None:
    """A handle does not let its file be changed where the path does not."""
    before = (place / "out/file").stat().st_mode
    status, handle = client.open("out/file", READ)
    assert status == OK
    kind, answer = client.ask(10, text(handle) + u32(4) + u32(0o777))
    assert (kind, int.from_bytes(answer[:4], "big")) == (STATUS, DENIED)
    assert (place / "out/file").stat().st_mode == before


@pytest.mark.parametrize(
    "path",
    ["out/../secret/file", "out/link/file", "out/to", "out/chain", "out/proc/root{}/secret/file",
     "out/./../out/up/secret/file"],
)  # fmt: skip
def test_attack_links_and_dots_lead_nowhere_else(client: Client, place: Path, path: str) -> None:
    """What counts is where a path leads: links, links of links, ``..``, and /proc."""
    (place / "out/link").symlink_to("../secret")
    (place / "out/to").symlink_to(place / "secret/file")
    (place / "out/chain").symlink_to("to")
    (place / "out/up").symlink_to("..")
    (place / "out/proc").symlink_to("/proc/self")
    assert client.read(path.format(place)) == DENIED
    (place / "in/link").symlink_to("../secret")
    (place / "in/to").symlink_to("../secret/file")
    (place / "in/dangling").symlink_to("../secret/new")
    for name in ("link/file", "link/new", "to", "dangling", "../secret/file"):
        assert client.write(f"in/{name}") in (DENIED, NO_SUCH_FILE)
    assert client.status(9, "in/to", rest=u32(4) + u32(0o777)) == DENIED
    assert (place / "secret/file").read_bytes() == b"secret"
    assert os.listdir(place / "secret") == ["file"]


def test_a_link_within_is_followed(client: Client, place: Path) -> None:
    """A link to what is allowed is used, and removed itself, not what it leads to."""
    (place / "out/to").symlink_to("file")
    (place / "in/away").symlink_to("../secret/file")
    assert client.read("out/to") == b"out"
    assert client.status(13, "in/away") == OK
    assert (place / "secret/file").exists()


def test_attack_no_move_or_link_makes_readable(place: Path) -> None:
    """What may be written, but not read, is not moved or linked to where it may be read; nor is a
    link made that leads a program of others out.
    """
    client = Client(place, ["/in/**", "/both/**"], ["/both/**"], ["/both/hidden/**"])
    (place / "both").mkdir()
    (place / "both/hidden").mkdir()
    (place / "both/hidden/x").write_bytes(b"hidden")
    (place / "in/folder").mkdir()
    extended = [text("posix-rename@openssh.com"), text("hardlink@openssh.com")]
    for source, target in (
        ("in/file", "both/file"),
        ("in/folder", "both/folder"),
        ("secret/file", "both/file"),
        ("secret", "both/secret"),
        ("both", "in/both"),
        ("both/hidden", "both/open"),
        ("both/hidden/x", "both/x"),
    ):
        assert client.status(18, source, target) == DENIED
        for name in extended:
            kind, answer = client.ask(200, name + client.path(source) + client.path(target))
            assert (kind, int.from_bytes(answer[:4], "big")) == (STATUS, DENIED), source
    for target in ("../secret/file", "/etc/passwd", "../in/file", "hidden/x"):
        assert client.ask(20, text(target) + client.path("both/link"))[1][:4] == u32(DENIED)
    assert client.ask(20, text("other") + client.path("both/link"))[1][:4] == u32(OK)
    assert client.write("both/a") == OK
    assert client.status(18, "both/a", "both/b") == OK
    assert client.status(18, "in/folder", "in/moved") == OK
    assert sorted(os.listdir(place / "both")) == ["b", "hidden", "link"]
    client.server.close()


def test_attack_what_is_out_of_sight_answers_the_same(client: Client, place: Path) -> None:
    """Neither an error nor a real path tells whether something is there."""
    assert client.status(17, "secret/file") == client.status(17, "secret/none") == DENIED
    assert client.status(17, "in/none") == NO_SUCH_FILE
    (place / "secret/link").symlink_to("file")
    kind, answer = client.ask(16, client.path("secret/link"))
    assert kind == NAME
    assert os.fsencode(place / "secret/link") in answer


def test_attack_a_link_that_is_put_there_in_between(client: Client, place: Path) -> None:
    """Another process changes a folder into a link and back all the time; nothing of the other
    side is ever read or written.
    """
    (place / "out/folder").mkdir()
    (place / "out/folder/file").write_bytes(b"good")
    swap = (
        "import os, sys; os.chdir(sys.argv[1]); os.symlink('../secret', 'link')\n"
        "import ctypes; libc = ctypes.CDLL(None)\n"
        "while True: libc.renameat2(-100, b'folder', -100, b'link', 2)\n"
    )
    racer = subprocess.Popen([sys.executable, "-c", swap, str(place / "out")])
    try:
        while not (place / "out/link").is_symlink() and not (place / "out/folder").is_symlink():
            assert racer.poll() is None
        found = {client.read("out/folder/file") for _ in range(3000)}
    finally:
        racer.kill()
        racer.wait()
    assert b"good" in found
    assert found <= {b"good", DENIED, NO_SUCH_FILE}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces are root's")
def test_attack_files_of_another_mount_namespace(client: Client, place: Path) -> None:
    """By /proc/PID/root a path leads to a file of a container, whose path there is one that is
    allowed here; it is not that file.
    """
    script = f"mount -t tmpfs none {place}/out && echo other > {place}/out/file && echo && cat"
    other = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.read(1) == b"\n"
        there = f"/proc/{other.pid}/root{place}/out/file"
        assert Path(there).read_bytes() == b"other\n"
        kind, answer = client.ask(3, text(there) + u32(READ) + u32(0))
        other.stdin.close()
    assert (kind, answer[:4]) in ((STATUS, u32(DENIED)), (STATUS, u32(NO_SUCH_FILE)))
    assert client.read("out/file") == b"out"


def test_a_removed_file_has_no_path(client: Client, place: Path) -> None:
    """Its handle reads on; what asks for its path is refused."""
    (place / "in/gone").write_bytes(b"x")
    status, handle = client.open("in/gone", WRITE)
    assert status == OK
    (place / "in/gone").unlink()
    kind, answer = client.ask(10, text(handle) + u32(4) + u32(0o777))
    assert (kind, answer[:4]) == (STATUS, u32(NO_SUCH_FILE))


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"upload": {"allow": ["x"], "deny": []}}'])
def test_rules_that_are_none_are_refused(data: bytes) -> None:
    """No server runs without the rules that it was meant to have."""
    with pytest.raises(ValueError, match=r"rules|pattern"):
        read_files(data, b"/root")
