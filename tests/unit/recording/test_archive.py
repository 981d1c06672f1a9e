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
from tele.recording.archives import group_writes
from tele.recording.archives.directory import DirectoryArchive
from tele.recording.archives.group_writes import GroupWriter

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

    monkeypatch.setattr(group_writes, "write_file", raced)
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


class Groups:
    """Writes of one root, whose thread runs when told to; it counts the syncs of file systems."""

    def __init__(self, root: Path) -> None:
        self.jobs: list[Any] = []
        self.syncs = 0
        self.problem: OSError | None = None
        self.refused = -1
        self.root = root
        root.mkdir()
        self.writer = GroupWriter(root, self._run, self._check, self._sync)

    def _run(self, job: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.jobs.append((job, answer))
        return answer

    def _check(self, size: int) -> None:
        if size == self.refused:
            raise StorageFull("no space")

    def _sync(self, _: int) -> None:
        self.syncs += 1
        if self.problem is not None:
            raise self.problem

    def write(self, folder: int, name: str, data: bytes) -> list[Any]:
        results: list[Any] = []
        path = self.root / "ab" / str(folder) / name
        self.writer.write(path, data).addBoth(results.append)
        return results

    def run(self) -> None:
        job, answer = self.jobs.pop(0)
        try:
            answer.callback(job())
        except OSError:
            answer.errback(Failure())

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.root.rglob("*") if path.is_file())
        return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found}


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    """A root whose first write runs: what is written meanwhile is one group."""
    made = Groups(tmp_path / "root")
    made.write(0, "busy", b"")
    return made


def test_parts_that_come_together_share_two_syncs(groups: Groups) -> None:
    """One for their bytes and one for their names, however many there are."""
    results = [groups.write(n % 7, f"{n}.chunk", b"%d" % n) for n in range(100)]
    groups.run()
    assert groups.syncs == 0
    groups.run()
    assert groups.jobs == []
    assert groups.syncs == 2
    assert results == [[None]] * 100
    assert len(groups.files()) == 101
    assert groups.files()["3/3.chunk"] == b"3"


def test_a_bad_part_fails_alone(groups: Groups) -> None:
    """Another chunk under a number that is taken, here or before, and one without space."""
    groups.refused = 9
    kept = [groups.write(n, "a.chunk", b"x") for n in range(6)]
    again, other = groups.write(0, "a.chunk", b"x"), groups.write(0, "a.chunk", b"other")
    full = groups.write(8, "a.chunk", b"123456789")
    groups.run()
    groups.run()
    assert kept == [[None]] * 6
    assert again == [None]
    assert other[0].check(Conflict)
    assert full[0].check(StorageFull)
    late = [groups.write(n, "a.chunk", b"x" if n else b"other") for n in range(6)]
    groups.run()
    groups.run()
    assert [bool(each[0]) for each in late] == [True] + [False] * 5
    assert set(groups.files().values()) == {b"", b"x"}


def test_a_sync_that_fails_acknowledges_nothing(groups: Groups) -> None:
    """Nothing is left beside the files, and the next group is written."""
    groups.problem = OSError(5, "Input/output error")
    results = [groups.write(n, "a.chunk", b"x") for n in range(8)]
    groups.run()
    groups.run()
    assert all(each[0].check(OSError) for each in results)
    assert list(groups.files()) == ["0/busy"]
    groups.problem = None
    more = [groups.write(n, "a.chunk", b"x") for n in range(8)]
    groups.run()
    groups.run()
    assert more == [[None]] * 8


def test_a_group_has_a_limited_size(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is in the next one."""
    monkeypatch.setattr(group_writes, "GROUP_BYTES", 30)
    results = [groups.write(n, "a.chunk", b"1234567890") for n in range(7)]
    groups.run()
    groups.run()
    assert results == [[None]] * 3 + [[]] * 4
    groups.run()
    groups.run()
    assert results == [[None]] * 7
