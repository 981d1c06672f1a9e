"""The store on a full disk: what is reserved is used up step by step, and taken back."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tele.errors import StorageFull
from tele.model.disk import DiskLevel, DiskSpace, kept_for_store
from tele.store import reserve as store_reserve
from tele.store.reserve import STEP, StoreReserve

GIB = 1 << 30


def full(code: int = sqlite3.SQLITE_FULL) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = code
    return error


class Disk:
    """A write that works when so much of the reserve was released."""

    def __init__(self, path: Path, needs: int) -> None:
        self.file = path.with_name(f"{path.name}.reserve")
        self.size = self.file.stat().st_size
        self.needs = needs

    def write(self) -> str:
        if self.size - self.file.stat().st_size < self.needs:
            raise full()
        return "written"


def test_a_commit_on_a_full_disk_uses_the_reserve(tmp_path: Path) -> None:
    """It is tried again with as much as it needs, and the disk counts as full from then on."""
    path = tmp_path / "auth.sqlite"
    reserve = StoreReserve(path)
    assert reserve.space().reserve == reserve.space().reserve_left > 0
    disk = Disk(path, 3 * STEP)
    assert reserve.spend(disk.write) == "written"
    assert reserve.space().reserve_left == disk.size - 3 * STEP
    assert reserve.space().level is DiskLevel.FULL
    reserve.check()
    assert reserve.space().reserve_left == disk.size, "taken back when there is space"
    reserve.close()


def test_when_the_reserve_is_used_up(tmp_path: Path) -> None:
    """A write for which nothing is left fails with a text that says what is full."""
    path = tmp_path / "auth.sqlite"
    reserve = StoreReserve(path)
    with pytest.raises(StorageFull, match="disk is full"):
        reserve.spend(Disk(path, 1 << 40).write)
    assert reserve.space().reserve_left == 0
    reserve.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CORRUPT])
def test_other_errors_of_sqlite_release_nothing(tmp_path: Path, code: int) -> None:
    """Only a full disk is a reason to use what is kept for it."""
    reserve = StoreReserve(tmp_path / "auth.sqlite")

    def fails() -> None:
        raise full(code)

    with pytest.raises(sqlite3.OperationalError):
        reserve.spend(fails)
    assert reserve.space().reserve_left == reserve.space().reserve
    reserve.close()


def test_the_reserve_is_a_part_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small disk is not used up by it, on a large one it is some megabytes."""
    for total, size in ((16 << 20, 1 << 20), (512 << 20, 8 << 20), (1 << 40, 16 << 20)):
        monkeypatch.setattr(StoreReserve, "_measure", lambda _, t=total: (t, t, 0, 0))
        reserve = StoreReserve(tmp_path / f"{total}.sqlite")
        assert reserve.space().reserve == size
        reserve.close()
    assert store_reserve.STEP < store_reserve.LEAST


@pytest.mark.parametrize(
    ("space", "level"),
    [
        (DiskSpace(100 * GIB, 50 * GIB, 1, 1), DiskLevel.OK),
        (DiskSpace(100 * GIB, 9 * GIB, 1, 1), DiskLevel.LOW),
        (DiskSpace(100 * GIB, GIB - 1, 1, 1), DiskLevel.TIGHT),
        (DiskSpace(GIB, GIB // 20 - 1, 1, 1), DiskLevel.TIGHT),
        (DiskSpace(100 * GIB, 0, 2, 1), DiskLevel.FULL),
        (DiskSpace(100 * GIB, 50 * GIB, 1, 1, 1000, 100), DiskLevel.OK),
        (DiskSpace(100 * GIB, 50 * GIB, 1, 1, 1000, 99), DiskLevel.LOW),
        (DiskSpace(100 * GIB, 50 * GIB, 1, 1, 1000, 50), DiskLevel.TIGHT),
        (DiskSpace(100 * GIB, 50 * GIB, 1, 1, 10**7, 10_000), DiskLevel.TIGHT),
    ],
)
def test_levels(space: DiskSpace, level: DiskLevel) -> None:
    """How full a disk is goes by the bytes and inodes that are free, and by whether the reserve is
    whole.
    """
    assert space.level is level
    assert kept_for_store(100 * GIB) == GIB
