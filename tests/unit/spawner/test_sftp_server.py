"""Our own sftp server: against OpenSSH's client, and against packets that it never sends."""

from __future__ import annotations

import os
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tele.spawner import sftp_server
from tele.spawner.sftp_fields import BadPacket
from tele.spawner.sftp_server import Server

PROGRAM = Path(sftp_server.__file__)


def sftp(folder: Path, *commands: str) -> subprocess.CompletedProcess[str]:
    """Run OpenSSH's sftp on our server, in ``folder``."""
    if shutil.which("sftp") is None:
        pytest.skip("OpenSSH's sftp is not installed")
    return subprocess.run(
        ["sftp", "-q", "-b", "-", "-D", f"{sys.executable} -I -S {PROGRAM}"],
        input="\n".join(commands) + "\n",
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        check=False,
    )


def test_files_there_and_back(tmp_path: Path) -> None:
    """OpenSSH's client puts and gets 3 MB and an empty file to the byte, times and mode kept."""
    data = os.urandom(3_000_001)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "a").chmod(0o640)
    os.utime(tmp_path / "a", (1_000_000_000, 1_000_000_000))
    (tmp_path / "far").mkdir()
    done = sftp(
        tmp_path, "put -p a far/a", "put empty far/e", "get -p far/a back", "get far/e e2", "df",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "far" / "a").read_bytes() == (tmp_path / "back").read_bytes() == data
    assert (tmp_path / "e2").read_bytes() == b""
    found = (tmp_path / "back").stat()
    assert (found.st_mode & 0o777, found.st_mtime) == (0o640, 1_000_000_000)


def test_names(tmp_path: Path) -> None:
    """Listing, making, renaming, linking and removing do what OpenSSH's client expects."""
    (tmp_path / "näme with space").write_bytes(b"12345")
    done = sftp(
        tmp_path,
        "mkdir d", "ls -l", "rename 'näme with space' d/two", "ln -s two d/soft", "ln d/two d/hard",
        "ls -1 d", "chmod 600 d/two", "rm d/soft", "rmdir d",
    )  # fmt: skip
    assert "5 " in done.stdout
    assert "näme with space" in done.stdout
    assert {"d/hard", "d/soft", "d/two"} <= set(done.stdout.split())
    assert done.returncode != 0, "the folder is not empty"
    assert os.listdir(tmp_path / "d")
    assert (tmp_path / "d" / "two").stat().st_mode & 0o777 == 0o600


def test_many_names(tmp_path: Path) -> None:
    """A folder of 350 files is listed in several answers, without loss."""
    for n in range(350):
        (tmp_path / f"f{n}").touch()
    assert len(sftp(tmp_path, "ls -1").stdout.split()) == 350 + 3


class Client:
    """Speaks to a server without a process."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.server = Server(self.answers.append)
        self.server.received(struct.pack(">BI", 1, 3))
        assert self.answers.pop()[4] == 2

    def ask(self, kind: int, *fields: bytes | int) -> bytes:
        """Send one request; return the answer from its type on."""
        encoded = b"".join(
            struct.pack(">I", f) if isinstance(f, int) else struct.pack(">I", len(f)) + f
            for f in fields
        )
        self.server.received(struct.pack(">BI", kind, 7) + encoded)
        (answer,) = self.answers
        self.answers.clear()
        assert answer[5:9] == struct.pack(">I", 7)
        return answer[4:5] + answer[9:]

    def status(self, kind: int, *fields: bytes | int) -> int:
        """Send a request that is answered by a status; return its code."""
        answer = self.ask(kind, *fields)
        assert answer[0] == 101
        return int.from_bytes(answer[1:5], "big")


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        (99, (), 8),
        (200, (b"no-such@extension",), 8),
        (5, (b"\0\0\0\1", 0, 0, 100), 4),
        (4, (b"nothing",), 2),
        (12, (b"nothing",), 4),
        (3, (b"/etc/passwd\0x", 1, 0), 5),
        (17, (b"/no/such/file",), 2),
        (17, (b"x" * 5000,), 5),
        (3, (b"/", 2, 0), 4),
    ],
)
def test_refusals(kind: int, fields: tuple[bytes | int, ...], code: int) -> None:
    """What cannot be done is answered by its status, and the next request works."""
    client = Client()
    assert client.status(kind, *fields) == code
    assert client.ask(16, b".")[0] == 104


def test_handles_are_bounded(tmp_path: Path) -> None:
    """A client that never closes runs into a limit, not the machine (attack)."""
    client = Client()
    try:
        opened = 0
        while client.ask(11, os.fsencode(tmp_path))[0] == 102:
            opened += 1
        assert opened == sftp_server.HANDLES_LIMIT
    finally:
        client.server.close()


def test_reads_are_bounded() -> None:
    """A read of 4 GiB is answered with at most one packet's worth (attack)."""
    client = Client()
    opened = client.ask(3, b"/dev/zero", 1, 0)
    answer = client.ask(6, opened[5:], 0, 0, b"")  # not open for writing
    assert answer[0] == 101
    with pytest.raises(BadPacket):
        client.ask(5, opened[5:], 0)
    client.server.close()


@pytest.mark.parametrize(
    "packet", [b"", b"\x03", b"\x03\0\0\0\x01\xff\xff\xff\xff", b"\x04\0\0\0\1\0\0"]
)
def test_torn_packets_end_it(packet: bytes) -> None:
    """A packet whose fields lie about their length ends the session (attack)."""
    client = Client()
    with pytest.raises(BadPacket):
        client.server.received(packet)


def test_nothing_before_the_beginning() -> None:
    """No request is served before INIT."""
    with pytest.raises(BadPacket):
        Server(lambda _: None).received(b"\x10\0\0\0\1\0\0\0\1.")


def test_a_packet_too_long_ends_the_program() -> None:
    """The program reads no more of a packet that is longer than allowed (attack)."""
    done = subprocess.run(
        shlex.split(f"{sys.executable} -I -S {PROGRAM}"),
        input=struct.pack(">IB", 1 << 30, 1),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 11
    assert b"too long" in done.stderr
