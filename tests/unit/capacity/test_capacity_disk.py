"""Space that is reserved for what must be written on a full disk, and what is said of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tele.capacity.disk import DiskReserve, why

SIZE, STEP = 64 << 10, 16 << 10


def full_disk(reserve: Path, needed: int, code: int = errno.ENOSPC) -> Callable[[], str]:
    """Return a write that works when the reserve has released ``needed`` bytes."""

    def write() -> str:
        if reserve.stat().st_size > SIZE - needed:
            raise OSError(code, os.strerror(code))
        return "written"

    return write


def test_the_space_is_real(tmp_path: Path) -> None:
    """The reserve holds blocks of the disk, not a promise, and they are private."""
    DiskReserve(tmp_path / "reserve", SIZE, STEP).close()
    found = (tmp_path / "reserve").stat()
    assert found.st_blocks * 512 >= SIZE
    assert found.st_mode & 0o777 == 0o600


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_it_is_released_as_far_as_it_is_needed(tmp_path: Path, code: int) -> None:
    """A write that meets a full disk uses reserved space, and no more of it than it needs."""
    path = tmp_path / "reserve"
    reserve = DiskReserve(path, SIZE, STEP)
    assert reserve.is_whole()
    assert reserve.spend(full_disk(path, STEP + 1, code)) == "written"
    assert path.stat().st_size == SIZE - 2 * STEP
    reserve.close()


def test_it_is_taken_back_when_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not whole until the disk has space for all of it again."""
    path = tmp_path / "reserve"
    reserve = DiskReserve(path, SIZE, STEP)
    reserve.spend(full_disk(path, STEP))

    def no_space(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_space)
        assert not reserve.is_whole()
    assert reserve.is_whole()
    assert path.stat().st_size == SIZE
    reserve.close()


def test_files_are_reserved_as_well(tmp_path: Path) -> None:
    """A file system without inodes: each step gives some of the empty files; later all are back."""
    path = tmp_path / "reserve"
    reserve = DiskReserve(path, SIZE, STEP, files=8)
    assert len(list(tmp_path.iterdir())) == 9

    def write() -> None:
        if len(list(tmp_path.iterdir())) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    reserve.spend(write)
    assert len(list(tmp_path.iterdir())) == 5
    assert reserve.is_whole()
    assert len(list(tmp_path.iterdir())) == 9
    with pytest.raises(OSError, match="No space left"):
        reserve.spend(_raises)
    assert [each.name for each in tmp_path.iterdir()] == ["reserve"]
    reserve.close()


def test_when_all_is_spent_the_error_comes_through(tmp_path: Path) -> None:
    """A write that not even the whole reserve helps fails as it would without."""
    path = tmp_path / "reserve"
    reserve = DiskReserve(path, SIZE, STEP)
    with pytest.raises(OSError, match="No space left"):
        reserve.spend(full_disk(path, SIZE + 1))
    assert path.stat().st_size == 0
    reserve.close()


def test_other_errors_spend_nothing(tmp_path: Path) -> None:
    """Only a full disk releases the reserve."""
    path = tmp_path / "reserve"
    reserve = DiskReserve(path, SIZE, STEP)
    with pytest.raises(OSError, match="Too many open files"):
        reserve.spend(full_disk(path, STEP, errno.EMFILE))
    assert reserve.is_whole()
    reserve.close()


def test_where_nothing_can_be_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot reserve is no full disk: it lets sessions begin."""

    def unsupported(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    reserve = DiskReserve(tmp_path / "reserve", SIZE, STEP)
    assert reserve.is_whole()
    with pytest.raises(OSError, match="No space left"):
        reserve.spend(_raises)
    reserve.close()


def _raises() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_true_reason() -> None:
    """Each kind of failure has its own words; only a full disk is called one."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EROFS,
             errno.EIO, errno.EFBIG, errno.ENAMETOOLONG)  # fmt: skip
    said = [why(OSError(code, os.strerror(code))) for code in codes]
    assert len(set(said)) == len(codes)
    assert [text for text in said if "full" in text] == ["the disk was full"]
    assert said[2] == "the process had no file descriptors left"
