"""Private files, the machine's id and the spool of audit events."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tele.errors import TeleError
from tele.membership.files import private_folder, read_private, write_private
from tele.membership.spool import BATCH_LINES, LINE_LIMIT, FileSpool, MemorySpool, Spool
from tele.membership.store import host_id_in


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_files_are_private_from_the_start(tmp_path: Path) -> None:
    """Whatever the umask, a folder is 0700 and a file 0600, and nothing else is left beside it."""
    old = os.umask(0)
    try:
        folder = private_folder(tmp_path / "a" / "b")
        write_private(folder / "secret", b"x")
        write_private(folder / "secret", b"y")
    finally:
        os.umask(old)
    assert (mode(folder), mode(folder / "secret")) == (0o700, 0o600)
    assert [path.name for path in folder.iterdir()] == ["secret"]
    assert read_private(folder / "secret") == b"y"


def test_existing_folder_is_closed(tmp_path: Path) -> None:
    """A folder that others may read is closed to them."""
    (tmp_path / "open").mkdir(mode=0o755)
    assert mode(private_folder(tmp_path / "open")) == 0o700


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A key file with wider permissions is an error that says what to do (attack)."""
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(0o644)
    with pytest.raises(TeleError, match="chmod 600"):
        read_private(path)


def test_not_replacing(tmp_path: Path) -> None:
    """Without replace the first one wins."""
    assert write_private(tmp_path / "id", b"1", replace=False)
    assert not write_private(tmp_path / "id", b"2", replace=False)
    assert read_private(tmp_path / "id") == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["id"]


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    """Writing replaces a symbolic link by a file and leaves its target alone (attack)."""
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "id").symlink_to(tmp_path / "target")
    write_private(tmp_path / "id", b"1")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "id").is_symlink()


def test_unusable_folder(tmp_path: Path) -> None:
    """A folder that cannot be made is one clear error."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TeleError, match="cannot be used"):
        private_folder(tmp_path / "file" / "folder")


def test_host_id_is_made_once(tmp_path: Path) -> None:
    """The machine's id is a UUID, in a private file, and stays the same."""
    first = host_id_in(tmp_path / "data")
    assert str(uuid.UUID(first)) == first
    assert host_id_in(tmp_path / "data") == first
    assert mode(tmp_path / "data" / "host_id") == 0o600


def test_damaged_host_id(tmp_path: Path) -> None:
    """A file that holds something else is an error, not a new machine."""
    write_private(tmp_path / "host_id", b"\xff\xfe")
    with pytest.raises(TeleError, match="does not hold the id"):
        host_id_in(tmp_path)


@pytest.fixture(params=["memory", "file"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Spool]:
    """Each kind of spool, with a small limit."""
    made: Spool = (
        MemorySpool(4096) if request.param == "memory" else FileSpool(tmp_path / "events", 4096)
    )
    yield made
    made.close()


def test_spool_keeps_order(spool: Spool) -> None:
    """Lines come out in order, again and again until they are dropped."""
    for n in range(5):
        assert spool.append(b"line %d" % n)
    first = spool.peek()
    assert first == spool.peek() == [b"line %d" % n for n in range(5)]
    spool.drop(first[:2])
    assert spool.peek() == [b"line %d" % n for n in range(2, 5)]
    assert spool.append(b"line 5")
    spool.drop(spool.peek())
    assert spool.peek() == []
    assert spool.append(b"again")
    assert spool.peek() == [b"again"]


def test_spool_takes_many_lines(spool: Spool) -> None:
    """Lines that are appended together are those that were appended, up to the first that does not
    fit.
    """
    assert spool.append_all([b"1", b"2", b"3"]) == 3
    spool.drop([b"1"])
    assert spool.append_all([b"4"]) == 1
    assert spool.append_all([b"5", b"x" * 5000, b"6"]) == 1
    assert spool.append_all([]) == 0
    assert spool.peek() == [b"2", b"3", b"4", b"5"]


def test_many_lines_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand small files cost the disk few writes; after a crash the spool is as it was."""
    spool = FileSpool(tmp_path / "events")
    sizes: list[int] = []
    write = os.write

    def counted(file: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(file, data)

    monkeypatch.setattr(os, "write", counted)
    assert spool.append_all([b"%03d" % n for n in range(200)]) == 200
    assert sizes == [800]
    spool.drop([b"000"])
    monkeypatch.undo()
    again = FileSpool(tmp_path / "events")
    assert again.peek() == [b"%03d" % n for n in range(1, 200)]
    spool.close()
    again.close()


def test_spool_is_bounded(spool: Spool) -> None:
    """It says that it is full before it is, then takes no more and loses nothing old."""
    count = 0
    full_at = 0
    while spool.append(b"x" * 99):
        count += 1
        full_at = full_at or (count if spool.full else 0)
    assert 0 < full_at < count <= 41
    assert len(spool.peek()) == count
    assert not spool.append(b"x" * LINE_LIMIT)


def test_spool_hands_out_batches(spool: Spool) -> None:
    """One batch is at most so many lines."""
    for _ in range(BATCH_LINES + 5):
        spool.append(b"x")
    assert len(spool.peek()) == BATCH_LINES


def test_spool_survives_a_crash(tmp_path: Path) -> None:
    """Without being closed: what was appended and not dropped is there for the next one."""
    path = tmp_path / "events"
    first = FileSpool(path)
    for n in range(4):
        first.append(b"%d" % n)
    first.drop([b"0"])
    again = FileSpool(path)
    assert again.peek() == [b"1", b"2", b"3"]
    assert mode(path) == 0o600
    first.close()
    again.close()


@pytest.mark.parametrize("torn", [b"half a line", b"x" * (LINE_LIMIT + 10)])
def test_spool_cuts_a_torn_line(tmp_path: Path, torn: bytes) -> None:
    """Half a line at the end is cut off; the lines before it stay and new ones follow."""
    path = tmp_path / "events"
    path.write_bytes(b"1\n2\n" + torn)
    spool = FileSpool(path)
    assert spool.append(b"3")
    assert spool.peek() == [b"1", b"2", b"3"]
    spool.close()


def test_spool_is_emptied_on_disk(tmp_path: Path) -> None:
    """When all is sent the file is empty, and a mark of before means nothing."""
    path = tmp_path / "events"
    spool = FileSpool(path)
    spool.append(b"1")
    spool.append(b"2")
    spool.drop([b"1"])
    spool.drop([b"2"])
    assert path.stat().st_size == 0
    spool.append(b"3")
    spool.close()
    again = FileSpool(path)
    assert again.peek() == [b"3"]
    again.close()


def test_spool_with_a_damaged_mark(tmp_path: Path) -> None:
    """A mark that cannot be read means that events are sent twice, never that they are lost."""
    (tmp_path / "events").write_bytes(b"1\n")
    write_private(tmp_path / "events.sent", b"\xff")
    spool = FileSpool(tmp_path / "events")
    assert spool.peek() == [b"1"]
    spool.close()
