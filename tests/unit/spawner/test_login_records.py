"""Records of logins, in files of a test's own."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tele.spawner import login_records
from tele.spawner.login_records import DEAD_PROCESS, USER_PROCESS, Records

SIZES = {"x86_64": (384, 292), "aarch64": (400, 296)}


def make_records(folder: Path, machine: str = "x86_64") -> Records:
    """Empty files, as a package of the system makes them."""
    files = [folder / name for name in ("utmp", "wtmp", "lastlog")]
    for file in files:
        file.touch()
    utmp, wtmp, lastlog = map(str, files)
    return Records(utmp, wtmp, lastlog, machine)


@pytest.mark.parametrize("machine", SIZES)
def test_sizes_are_those_of_the_c_library(tmp_path: Path, machine: str) -> None:
    """A record is as long as glibc's struct utmpx and struct lastlog on that machine."""
    records = make_records(tmp_path, machine)
    records.log_in("pts/1", 7, "alice", "192.0.2.7")
    records.remember(0, "pts/1", "192.0.2.7")
    size, last = SIZES[machine]
    assert (tmp_path / "utmp").stat().st_size == size
    assert (tmp_path / "wtmp").stat().st_size == size
    assert (tmp_path / "lastlog").stat().st_size == last
    last_login = records.last_login(0)
    assert last_login is not None
    assert abs(last_login[0] - time.time()) < 60
    assert last_login[1] == "192.0.2.7"
    assert records.last_login(1) is None


def test_a_line_has_one_record(tmp_path: Path) -> None:
    """Utmp holds a line once, for the session on it; wtmp holds all sessions."""
    records = make_records(tmp_path)
    records.log_in("pts/1", 7, "alice", "a")
    records.log_in("pts/22", 8, "bob", "b")
    records.log_out("pts/1", 7)
    records.log_in("pts/1", 9, "carol", "c")
    records.log_out("pts/1", 7)  # late: another session has it by now
    data = (tmp_path / "utmp").read_bytes()
    found = [struct.unpack_from("=hxxi32s4s32s", data, place) for place in (0, 384)]
    assert len(data) == 2 * 384
    assert [(kind, pid, user.rstrip(b"\0")) for kind, pid, _, _, user in found] == [
        (USER_PROCESS, 9, b"carol"),
        (USER_PROCESS, 8, b"bob"),
    ]
    records.log_out("pts/22", 8)
    data = (tmp_path / "utmp").read_bytes()
    assert struct.unpack_from("=hxxi32s4s32s", data, 384)[::4] == (DEAD_PROCESS, bytes(32))
    assert (tmp_path / "wtmp").stat().st_size == 6 * 384


def test_long_names_are_cut(tmp_path: Path) -> None:
    """What does not fit is cut, and shifts nothing (attack)."""
    records = make_records(tmp_path)
    records.log_in("pts/" + "1" * 99, 7, "u" * 99, "h" * 999)
    data = (tmp_path / "utmp").read_bytes()
    assert len(data) == 384
    assert struct.unpack_from("=44x32s256s", data) == (b"u" * 32, b"h" * 256)


def test_files_that_are_not_there_are_not_made(tmp_path: Path) -> None:
    """A system without utmp wants none."""
    records = Records(*(str(tmp_path / name) for name in ("utmp", "wtmp", "lastlog")))
    assert not records.available
    records.log_in("pts/1", 7, "alice", "a")
    records.remember(0, "pts/1", "a")
    assert records.last_login(0) is None
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_machine_keeps_none(tmp_path: Path) -> None:
    """Where the layout is not known, nothing is written that could be wrong."""
    records = make_records(tmp_path, "vax")
    assert not records.available
    records.log_in("pts/1", 7, "alice", "a")
    assert (tmp_path / "wtmp").stat().st_size == 0


def test_a_lock_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on the file prevents a record, not a login."""
    monkeypatch.setattr(login_records, "PATIENCE", 0.1)
    records = make_records(tmp_path)
    program = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_SH);"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "utmp")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as locker:
        assert locker.stdout is not None
        locker.stdout.readline()
        records.log_in("pts/1", 7, "alice", "a")
        assert (tmp_path / "utmp").stat().st_size == 0
        assert (tmp_path / "wtmp").stat().st_size == 384
        locker.communicate()
