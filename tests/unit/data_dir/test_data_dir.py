"""The lock of a data_dir, with processes that hold it, check it and die."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tele.data_dir import LOCK_FILE, PARTS, DataDirLock, check_unlocked
from tele.errors import Conflict, TeleError

_HOLD = """
import sys
from pathlib import Path
from tele.data_dir import DataDirLock
lock = DataDirLock(Path(sys.argv[1]), *sys.argv[2:])
print("locked", flush=True)
sys.stdin.read()
"""

_DAEMON = """
import os, sys
from pathlib import Path
from tele.data_dir import DataDirLock
folder = Path(sys.argv[1])
lock = DataDirLock(folder, "auth")
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
DataDirLock(folder, "auth")
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, *parts: str, program: str = _HOLD) -> Iterator[subprocess.Popen[str]]:
    """Run another process that has locked ``parts``; it ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), *parts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_process_is_refused_and_the_first_named(tmp_path: Path) -> None:
    """Only one process has a part of a folder; the other one learns the part, folder and pid."""
    with holder(tmp_path, "auth") as other:
        assert first_line(other) == "locked"
        said = f"the auth of {re.escape(str(tmp_path))} runs already: process {other.pid};"
        with pytest.raises(Conflict, match=said):
            DataDirLock(tmp_path, "auth")
        with pytest.raises(Conflict, match=said):
            check_unlocked(tmp_path, PARTS)
        # Neither try has released it or changed what it says.
        with pytest.raises(Conflict, match=said):
            DataDirLock(tmp_path, "node", "auth")


def test_other_parts_of_the_folder_are_free(tmp_path: Path) -> None:
    """Auth, proxy and node of one machine may be processes of their own with one data_dir."""
    with holder(tmp_path, "auth") as other:
        assert first_line(other) == "locked"
        check_unlocked(tmp_path, ("proxy", "node"))
        DataDirLock(tmp_path, "proxy", "node").release()


def test_all_parts_are_locked_or_none(tmp_path: Path) -> None:
    """A process that cannot lock all of its parts holds none of them."""
    with holder(tmp_path, "node") as other:
        assert first_line(other) == "locked"
        with pytest.raises(Conflict, match="the node of"):
            DataDirLock(tmp_path, "auth", "proxy", "node")
        with holder(tmp_path, "auth", "proxy") as third:
            assert first_line(third) == "locked"


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    """After kill -9 the next process gets the lock, and its own number is in the file."""
    with holder(tmp_path, "auth") as other:
        assert first_line(other) == "locked"
        other.send_signal(signal.SIGKILL)
        other.wait()
        check_unlocked(tmp_path, PARTS)
        lock = DataDirLock(tmp_path, "auth")
        assert f"auth {os.getpid()}" in (tmp_path / LOCK_FILE).read_text()
        lock.release()


def test_closing_another_descriptor_does_not_release_it(tmp_path: Path) -> None:
    """Opening and closing the file in the same process leaves the lock alone."""
    lock = DataDirLock(tmp_path, "auth")
    (tmp_path / LOCK_FILE).read_bytes()
    with (tmp_path / LOCK_FILE).open("r+b"):
        pass
    with pytest.raises(subprocess.CalledProcessError):
        _try(tmp_path)
    lock.release()
    _try(tmp_path)


def _try(folder: Path) -> None:
    program = "import sys; from pathlib import Path; from tele.data_dir import DataDirLock;"
    program += "DataDirLock(Path(sys.argv[1]), 'auth')"
    subprocess.run([sys.executable, "-c", program, folder], check=True, capture_output=True)


def test_parts_in_one_process_share_the_folder(tmp_path: Path) -> None:
    """In one process a part may be locked twice; the last release lets others in."""
    (tmp_path / "link").symlink_to(tmp_path)
    first, second = DataDirLock(tmp_path, *PARTS), DataDirLock(tmp_path / "link", "auth")
    check_unlocked(tmp_path, PARTS)
    first.release()
    first.release()
    with pytest.raises(subprocess.CalledProcessError):
        _try(tmp_path)
    second.release()
    _try(tmp_path)


def test_it_stays_when_a_daemon_forks(tmp_path: Path) -> None:
    """The lock goes with the daemon, whose number it says, and not with who started it."""
    with holder(tmp_path, program=_DAEMON) as starter:
        daemon = int(first_line(starter))
        starter.wait()
        try:
            with pytest.raises(Conflict, match=f"process {daemon};"):
                DataDirLock(tmp_path, "auth")
        finally:
            os.kill(daemon, signal.SIGKILL)


def test_programs_that_are_started_do_not_have_it(tmp_path: Path) -> None:
    """A session that outlives its node does not keep the next node from starting."""
    lock = DataDirLock(tmp_path, "node")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        lock.release()
        held = [os.readlink(path) for path in Path(f"/proc/{child.pid}/fd").iterdir()]
        assert str(tmp_path / LOCK_FILE) not in held
        child.communicate(b"\n")


def test_asking_changes_nothing(tmp_path: Path) -> None:
    """A check makes no file, and a directory that does not exist is unlocked."""
    check_unlocked(tmp_path, PARTS)
    check_unlocked(tmp_path / "absent", PARTS)
    assert not list(tmp_path.iterdir())


def test_the_file_is_private_and_no_link(tmp_path: Path) -> None:
    """No other account can lock the parts, and a link leads to no other file."""
    DataDirLock(tmp_path, "auth").release()
    assert stat.S_IMODE((tmp_path / LOCK_FILE).stat().st_mode) == 0o600
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK_FILE).symlink_to(tmp_path / "target")
    with pytest.raises(TeleError, match=r"cannot open .*\.lock"):
        DataDirLock(tmp_path / "other", "auth")
    assert not (tmp_path / "target").exists()
