"""A backup opens for those it was made for, and restores what was there; nothing else."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import pytest
import zstandard

from tele.backups.contents import BackupInfo, is_name
from tele.backups.restoring import restore
from tele.backups.sealed_stream import (
    MAGIC,
    PIECE,
    OpenedBy,
    SealedFor,
    SealedReader,
    SealedWriter,
)
from tele.backups.taking import AuthFiles, copy_store, write_backup
from tele.errors import Conflict, InvalidInput, NotFound, TeleError
from tele.model.codec import encode
from tele.tape.sealing import public_key

PRIVATE, OTHER = bytes([1]) * 32, bytes([2]) * 32
FOR = SealedFor((public_key(PRIVATE),))
PASSPHRASE = "correct horse battery"
INFO = BackupInfo("c", datetime(2026, 11, 30, tzinfo=UTC), "1", True)


def sealed(data: bytes, for_whom: SealedFor = FOR) -> bytes:
    file = io.BytesIO()
    writer = SealedWriter(file, for_whom, os.urandom)
    writer.write(data)
    writer.finish()
    return file.getvalue()


OWNER = OpenedBy(PRIVATE)


def opened(data: bytes, by: OpenedBy = OWNER) -> bytes:
    reader = SealedReader(io.BytesIO(data), by)
    return b"".join(iter(reader.read, b""))


# -- the stream -----------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
def test_what_was_sealed_is_read(size: int) -> None:
    """Also at the borders of pieces; nothing of it is in clear."""
    data = os.urandom(size)
    made = sealed(data)
    assert opened(made) == data
    assert size < 32 or data[:32] not in made


def test_each_key_and_the_passphrase_open_it() -> None:
    """Another key does not, nor does another passphrase; errors show neither."""
    both = SealedFor((public_key(OTHER), public_key(PRIVATE)), PASSPHRASE)
    made = sealed(b"data", both)
    for by in (OpenedBy(PRIVATE), OpenedBy(OTHER), OpenedBy(passphrase=PASSPHRASE)):
        assert opened(made, by) == b"data"
    for by in (OpenedBy(bytes([3]) * 32), OpenedBy(passphrase="another passphrase")):
        with pytest.raises(InvalidInput, match="does not open the backup"):
            opened(made, by)
    with pytest.raises(InvalidInput, match="has no passphrase"):
        opened(sealed(b""), OpenedBy(passphrase=PASSPHRASE))
    assert PASSPHRASE not in repr((both, OpenedBy(passphrase=PASSPHRASE)))
    for nobody in (SealedFor(), SealedFor(passphrase="short"), SealedFor((b"",))):
        with pytest.raises(InvalidInput):
            sealed(b"", nobody)
    with pytest.raises(InvalidInput, match="at most"):
        sealed(b"", SealedFor((public_key(PRIVATE),) * 33))


def test_attack_a_backup_is_changed_cut_or_put_together() -> None:
    """Every bit is verified, the header, too; no piece is left out, moved or taken from another."""
    data = os.urandom(2 * PIECE + 100)
    made = sealed(data)
    begin = len(made) - (2 * PIECE + 100 + 3 * 16)
    size = PIECE + 16
    first, second, last = made[begin : begin + size], made[begin + size : -116], made[-116:]
    head = made[:begin]
    other = sealed(data)[:begin]
    wrong = [
        head + second + first + last,
        head + first + last,
        head + first + second,
        head + last,
        head + first + second + last + b"\0",
        head,
        other + first + second + last,
        made[: len(MAGIC) + 3],
        b"",
        MAGIC + (1 << 30).to_bytes(4, "big") + made[len(MAGIC) + 4 :],
        MAGIC + (4).to_bytes(4, "big") + b"[{}]",
        made.replace(b'"key":"', b'"key":7"', 1),
    ]
    for place in (20, begin - 1, begin, begin + size, len(made) - 1):
        wrong.append(made[:place] + bytes([made[place] ^ 1]) + made[place + 1 :])
    for each in wrong:
        with pytest.raises(InvalidInput):
            opened(each)


# -- a cluster's files ----------------------------------------------------------------
@pytest.fixture
def files(tmp_path: Path) -> AuthFiles:
    """What auth has, with a store that is open, and two recordings."""
    folder = tmp_path / "auth"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "auth.sqlite")) as store, store:
        store.execute("PRAGMA journal_mode = WAL")
        store.execute("CREATE TABLE items (key TEXT, value BLOB)")
        store.execute("INSERT INTO items VALUES ('a', 'secret of the store')")
    for name in ("host_id", "signing.key", "identity/node/identity.json", "tele.pid", "auth.sock"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for name in ("ab/ab1/0.chunk", "ab/ab2/manifest", "ab/ab2/.0.chunk.f00"):
        path = folder / "recordings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return AuthFiles(folder, folder / "auth.sqlite", folder / "recordings")


def take(files: AuthFiles, target: Path) -> None:
    store = copy_store(files)
    try:
        write_backup(target, files, store, INFO, FOR, os.urandom)
    finally:
        shutil.rmtree(store.parent)


def no_check(info: BackupInfo, store: Path) -> None:
    assert info == INFO
    assert store.exists()


def names_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_what_is_there_is_restored(files: AuthFiles, tmp_path: Path) -> None:
    """All of auth, closed to others; neither sockets, nor what is being written, nor logs."""
    target, folder = tmp_path / "b", tmp_path / "new"
    with closing(sqlite3.connect(files.store)) as store:
        store.execute("INSERT INTO items VALUES ('b', 'in the log')")
        store.commit()  # auth runs, and its log has what the file lacks
        take(files, target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert b"secret of the store" not in target.read_bytes()
    assert restore(target, folder, OpenedBy(PRIVATE), no_check) == INFO
    assert names_in(folder) == {
        "auth.sqlite", "host_id", "signing.key", "identity/node/identity.json",
        "recordings/ab/ab1/0.chunk", "recordings/ab/ab2/manifest",
    }  # fmt: skip
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o77 == 0
    with closing(sqlite3.connect(folder / "auth.sqlite")) as store:
        assert len(store.execute("SELECT * FROM items").fetchall()) == 2
    assert not list(files.folder.glob(".backup-*"))


def test_no_file_is_replaced(files: AuthFiles, tmp_path: Path) -> None:
    """Neither a backup nor a cluster; what a killed command has left is removed."""
    target = tmp_path / "b"
    (files.folder / ".backup-0").mkdir()
    take(files, target)
    assert not (files.folder / ".backup-0").exists()
    with pytest.raises(Conflict, match="exists already"):
        take(files, target)
    before = names_in(files.folder)
    with pytest.raises(Conflict, match="restore into an empty folder"):
        restore(target, files.folder, OpenedBy(PRIVATE), no_check)
    assert names_in(files.folder) == before
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".restore-0").mkdir()
    restore(target, tmp_path / "new", OpenedBy(PRIVATE), no_check)
    assert not (tmp_path / "new" / ".restore-0").exists()
    with pytest.raises(NotFound, match="there is no store"):
        copy_store(AuthFiles(tmp_path, tmp_path / "none"))
    (tmp_path / "bad").write_bytes(b"no store" * 100)
    with pytest.raises(TeleError, match="cannot be copied"):
        copy_store(AuthFiles(tmp_path, tmp_path / "bad"))
    with pytest.raises(TeleError, match="cannot write"):
        take(files, tmp_path / "none" / "b")


def test_a_check_that_fails_restores_nothing(files: AuthFiles, tmp_path: Path) -> None:
    """The audit, for instance: the folder is empty afterwards."""
    take(files, tmp_path / "b")

    def refused(info: BackupInfo, store: Path) -> None:
        raise TeleError("the audit is not whole")

    with pytest.raises(TeleError, match="not whole"):
        restore(tmp_path / "b", tmp_path / "new", OpenedBy(PRIVATE), refused)
    assert list((tmp_path / "new").iterdir()) == []
    data = (tmp_path / "b").read_bytes()
    for cut in (len(data) - 1, len(data) // 2):
        (tmp_path / "cut").write_bytes(data[:cut])
        with pytest.raises(InvalidInput):
            restore(tmp_path / "cut", tmp_path / "new", OpenedBy(PRIVATE), no_check)
        assert list((tmp_path / "new").iterdir()) == []


Members = Callable[[tarfile.TarFile], None]


def forged(target: Path, fill: Members, *, info: bytes | None = None) -> None:
    """A backup that one who knows the public key can make, with what he likes in it."""
    with target.open("wb") as file:
        writer = SealedWriter(file, FOR, os.urandom)
        packing = zstandard.ZstdCompressor().stream_writer(cast("IO[bytes]", writer), closefd=False)
        with tarfile.open(fileobj=packing, mode="w|") as tar:
            add(tar, "backup.json", encode(INFO) if info is None else info)
            fill(tar)
        packing.flush(zstandard.FLUSH_FRAME)
        writer.finish()


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **more: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in more.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))


def linked(tar: tarfile.TarFile) -> None:
    add(tar, "recordings/aa", type=tarfile.SYMTYPE, linkname="/etc")
    add(tar, "recordings/aa/x", b"mine")


def twice(tar: tarfile.TarFile) -> None:
    add(tar, "host_id", b"1")
    add(tar, "host_id", b"2")


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        (lambda tar: add(tar, "../escaped", b"mine"), "no file of a backup"),
        (lambda tar: add(tar, "recordings/../../escaped", b"mine"), "no file of a backup"),
        (lambda tar: add(tar, "/etc/cron.d/x", b"mine"), "no file of a backup"),
        (lambda tar: add(tar, "auth.sock", b"mine"), "no file of a backup"),
        (lambda tar: add(tar, "auth.sqlite-wal", b"mine"), "no file of a backup"),
        (lambda tar: add(tar, "recordings/.ssh/x", b"mine"), "no file of a backup"),
        (lambda tar: add(tar, "host_id", type=tarfile.LNKTYPE, linkname="x"), "no file"),
        (lambda tar: add(tar, "host_id", type=tarfile.CHRTYPE), "no file of a backup"),
        (linked, "no file of a backup"),
        (twice, "twice"),
        (lambda tar: add(tar, "host_id", b"x"), "has no store"),
        (lambda tar: add(tar, "auth.sqlite", b"no store"), "is damaged"),
    ],
)
def test_attack_a_forged_backup_writes_nothing_elsewhere(
    tmp_path: Path, fill: Members, said: str
) -> None:
    """Who knows the public key can make a backup for it: names, kinds and contents are checked."""
    forged(tmp_path / "b", fill)
    with pytest.raises(InvalidInput, match=said):
        restore(tmp_path / "b", tmp_path / "new", OpenedBy(PRIVATE), no_check)
    assert names_in(tmp_path) == {"b"}


def test_attack_a_backup_that_says_nothing_of_itself(tmp_path: Path) -> None:
    """It begins with what it is, which is small; what is no tar file is refused."""
    for info in (b"{}", b"x" * (64 * 1024 + 1), b""):
        forged(tmp_path / "b", lambda tar: None, info=info)
        with pytest.raises(InvalidInput):
            restore(tmp_path / "b", tmp_path / "new", OpenedBy(PRIVATE), no_check)
    for content in (b"", os.urandom(5000), zstandard.compress(os.urandom(5000))):
        (tmp_path / "b").write_bytes(sealed(content))
        with pytest.raises(InvalidInput):
            restore(tmp_path / "b", tmp_path / "new", OpenedBy(PRIVATE), no_check)
    assert names_in(tmp_path) == {"b"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_attack_root_works_in_a_folder_of_another_account(files: AuthFiles, tmp_path: Path) -> None:
    """It could lead root elsewhere while that reads, writes or removes: root does nothing there."""
    take(files, tmp_path / "b")
    (tmp_path / "new").mkdir()
    for folder in (files.folder, tmp_path / "new"):
        os.chown(folder, 65534, 65534)
    with pytest.raises(InvalidInput, match="belongs to the account nobody: run this as that"):
        copy_store(files)
    with pytest.raises(InvalidInput, match="belongs to the account nobody"):
        restore(tmp_path / "b", tmp_path / "new", OpenedBy(PRIVATE), no_check)
    assert list((tmp_path / "new").iterdir()) == []


def test_names() -> None:
    """Only those that auth has."""
    assert is_name("recordings/ab/ab1/00000.chunk")
    assert is_name("s3/ab/ab1/manifest.json")
    for name in (
        "recordings",
        "recordings/",
        "s3/a/b/c/d/e",
        "identity/x/identity.json",
        "host_id/x",
    ):
        assert not is_name(name)
