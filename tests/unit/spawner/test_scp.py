"""The server's side of scp: which command lines it is, and what a client may not do to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tele.spawner.restricted_files import AnyFiles
from tele.spawner.scp_request import ScpRequest, read_scp
from tele.spawner.scp_server import ScpServer


@pytest.mark.parametrize(
    ("command", "request_"),
    [
        (b"scp -t /x", ScpRequest("t", (b"/x",))),
        (b"scp -v -r -p -t -- /x", ScpRequest("prtv", (b"/x",))),
        (b"/usr/bin/scp -rf '/x y' z", ScpRequest("fr", (b"/x y", b"z"))),
        (b"scp -f $(id)", ScpRequest("f", (b"$(id)",))),
        (b"scp -f -- -x", ScpRequest("f", (b"-x",))),
        (b"scp -f a; id", ScpRequest("f", (b"a;", b"id"))),  # three words, and no shell reads them
        (b"scp -t a; id", None),
        (b"scp -t", None),
        (b"scp -t -f x", None),
        (b"scp x y", None),
        (b"scp -S /bin/sh -t x", None),
        (b"scp -oProxyCommand=x -t x", None),
        (b"scp -t x\nid", None),
        (b"./scp -t x", None),
        (b"scp -t 'x", None),
        (b"", None),
    ],
)
def test_command_lines(command: bytes, request_: ScpRequest | None) -> None:
    """What is not wholly understood is another command line, which is refused (attack)."""
    assert read_scp(command) == request_


def talk(folder: Path, command: bytes, sent: bytes) -> tuple[int, bytes]:
    """Run a server on what a client sends; return the status and what it wrote."""
    request = read_scp(command)
    assert request is not None
    written: list[bytes] = []
    source = memoryview(sent)

    def read(size: int) -> bytes:
        nonlocal source
        data, source = bytes(source[:size]), source[size:]
        return data

    home = os.fsencode(folder)
    return ScpServer(request, AnyFiles(), home, read, written.append).run(), b"".join(written)


def test_a_file_and_a_folder_to_here(tmp_path: Path) -> None:
    """With times and modes, and a file that exists is replaced."""
    (tmp_path / "a").write_bytes(b"longer than before")
    sent = b"T1000000000 0 1000000001 0\nC0640 3 a\nnew\0D0750 0 d\nC0600 0 e\n\0E\n"
    status, answers = talk(tmp_path, f"scp -rp -t {tmp_path}".encode(), sent)
    assert (status, set(answers)) == (0, {0})
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "a").stat().st_mtime == 1_000_000_000
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "d/e").read_bytes() == b""


def test_from_here(tmp_path: Path) -> None:
    """A folder with a file, by a pattern and from the home directory."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_bytes(b"12345")
    (tmp_path / "d/x").chmod(0o644)
    (tmp_path / "d").chmod(0o755)
    status, written = talk(tmp_path, b"scp -r -f ~/d*", bytes(20))
    assert (status, written) == (0, b"D0755 0 d\nC0644 5 x\n12345\0E\n")


@pytest.mark.parametrize(
    "line",
    [b"C0644 1 ../x\n", b"C0644 1 ..\n", b"D0755 0 .\n", b"C0644 -1 x\n", b"C9999 1 x\n", b"E\n",
     b"hello\n", b"C0644 1 " + b"x" * 5000],
)  # fmt: skip
def test_attack_lines_that_are_none(tmp_path: Path, line: bytes) -> None:
    """A name is one name; anything else ends the copy, and nothing is made."""
    (tmp_path / "in").mkdir()
    status, _ = talk(tmp_path, f"scp -r -t {tmp_path}/in".encode(), line + b"x\0")
    assert status == 1
    assert os.listdir(tmp_path) == ["in"]
    assert os.listdir(tmp_path / "in") == []


def test_attack_folders_without_end(tmp_path: Path) -> None:
    """Folders within folders are refused at a limit."""
    status, answers = talk(tmp_path, f"scp -r -t {tmp_path}".encode(), b"D0755 0 d\n" * 1000)
    assert status == 1
    assert b"no folder is expected" in answers


def test_errors_are_told(tmp_path: Path) -> None:
    """Of what is not there, and of a folder that was not asked for."""
    status, written = talk(tmp_path, b"scp -f ~/none", bytes(5))
    assert (status, written[:5]) == (1, b"\x01scp:")
    status, written = talk(tmp_path, f"scp -f {tmp_path}".encode(), bytes(5))
    assert (status, written[:5]) == (1, b"\x01scp:")
    status, written = talk(tmp_path, b"scp -d -t ~/none", b"C0644 1 x\nx\0")
    assert status == 1
