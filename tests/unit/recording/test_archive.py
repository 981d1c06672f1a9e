"""The archive in a directory: what it acknowledges is on disk, with every folder on the way."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tele import durable_files
from tele.durable_files import make_folder, write_file
from tele.errors import Conflict, NotFound, StorageFull
from tele.model.disk import DiskLevel
from tele.recording.archives import directory as module
from tele.recording.archives.directory import DirectoryArchive

ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11"
OTHER = "6b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DirectoryArchive:
    """An archive whose threads are this one."""

    def here(reactor: Any, function: Any) -> Deferred[Any]:
        try:
            return succeed(function())
        except Exception:
            answer: Deferred[Any] = Deferred()
            answer.errback(Failure())
            return answer

    monkeypatch.setattr(module, "in_thread_pool", here)

    return DirectoryArchive(tmp_path / "data" / "recordings", Clock())


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of all that was synced, in order."""
    paths: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return paths


def value(answer: Deferred[Any]) -> Any:
    found: list[Any] = []
    answer.addBoth(found.append)
    if isinstance(found[0], Failure):
        found[0].raiseException()
    return found[0]


def test_a_chunk_is_on_disk_with_its_folders(
    archive: DirectoryArchive, synced: list[str], tmp_path: Path
) -> None:
    """Bytes, the name of the file and the names of its folders are synced before the answer."""
    value(archive.put(ID, "00000000.chunk", b"x"))
    root = tmp_path / "data" / "recordings"
    folder = root / ID[:2] / ID
    assert synced[-3:] == [str(folder), str(folder.parent), str(root)]
    written = next(n for n, path in enumerate(synced) if Path(path).parent == folder)
    assert written < len(synced) - 3
    assert [path.name for path in folder.iterdir()] == ["00000000.chunk"]


def test_a_chunk_that_is_sent_again_is_synced(
    archive: DirectoryArchive, synced: list[str], tmp_path: Path
) -> None:
    """The first call may have been cut off before its sync: the second does not answer before."""
    value(archive.put(ID, "00000000.chunk", b"x"))
    synced.clear()
    value(archive.put(ID, "00000000.chunk", b"x"))
    folder = tmp_path / "data" / "recordings" / ID[:2] / ID
    assert synced == [str(folder), str(folder.parent), str(folder.parent.parent)]


def test_what_was_acknowledged_never_changes(
    archive: DirectoryArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two calls at once with different bytes one is refused, and the file is of one of them."""
    folder = tmp_path / "data" / "recordings" / ID[:2] / ID
    write = durable_files.write_file

    def raced(path: Path, data: bytes, **words: Any) -> bool:
        write(path, b"faster")
        return write(path, data, **words)

    monkeypatch.setattr(module, "write_file", raced)
    with pytest.raises(Conflict):
        value(archive.put(ID, "00000000.chunk", b"slower"))
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [
        ("00000000.chunk", b"faster")
    ]


def test_a_part_of_a_blob_is_read(archive: DirectoryArchive) -> None:
    """From a byte up to another, and no more than there is; what is not there is an error."""
    value(archive.put("r1", "index", b"0123456789"))
    assert value(archive.get_range("r1", "index", 2, 5)) == b"234"
    assert value(archive.get_range("r1", "index", 8, 50)) == b"89"
    assert value(archive.get_range("r1", "index", 20, 50)) == b""
    assert value(archive.get_range("r1", "index", 5, 2)) == b""
    with pytest.raises(NotFound):
        value(archive.get_range("r1", "other", 0, 5))


def test_two_writers_do_not_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread syncs, another one that writes the same file does not touch its bytes."""
    path = tmp_path / "file"
    fsync = os.fsync
    calls: list[int] = []

    def meanwhile(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            write_file(path, b"the second")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_file(path, b"the first, which is longer")
    assert path.read_bytes() == b"the first, which is longer"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_new_folder_is_on_disk(tmp_path: Path, synced: list[str]) -> None:
    """Each folder that is made is synced in the one that names it; one that is there is left."""
    make_folder(tmp_path / "a" / "b")
    assert synced == [str(tmp_path), str(tmp_path / "a")]
    synced.clear()
    make_folder(tmp_path / "a" / "b")
    assert synced == []


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no hard links a file is written all the same, and not over another one."""

    def none(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    assert write_file(tmp_path / "file", b"1", replace=False)
    assert not write_file(tmp_path / "file", b"2", replace=False)
    assert (tmp_path / "file").read_bytes() == b"1"


def test_inodes_are_left_for_the_store(
    archive: DirectoryArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where hardly any are left a new chunk is refused, and takes none itself; what is there
    already is acknowledged again.
    """
    value(archive.put(ID, "0.chunk", b"first"))
    few = SimpleNamespace(
        f_blocks=1 << 20, f_bavail=1 << 20, f_frsize=4096, f_files=1000, f_favail=50
    )
    monkeypatch.setattr(os, "statvfs", lambda _: few)
    with pytest.raises(StorageFull, match="tele recordings rm"):
        value(archive.put(OTHER, "0.chunk", b"refused"))
    value(archive.put(ID, "0.chunk", b"first"))
    assert archive.space().level is DiskLevel.TIGHT
    assert value(archive.names(OTHER)) == []
    assert [path.name for path in archive._root.rglob(f"*{OTHER}*")] == []
    few.f_files = few.f_favail = 0  # a file system that makes them as they are needed
    value(archive.put(OTHER, "0.chunk", b"taken"))
