"""Secrets in files: which other users can read them, and the error if any can."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tele.errors import InvalidInput
from tele.private_files import check_secret, exposure, own_folder, read_secret

ME = 1000
OTHER = 2000


def found(mode: int, uid: int = ME, gid: int = ME, kind: int = 0o100000) -> os.stat_result:
    return os.stat_result((kind | mode, 1, 1, 1, uid, gid, 1, 0, 0, 0))


@pytest.fixture
def as_me(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: ME)


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("as_me")
@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (found(0o600), ""),
        (found(0o400), ""),
        (found(0o700), ""),
        (found(0o640), "others can read it (mode 0640)"),
        (found(0o604), "others can read it (mode 0604)"),
        (found(0o620), "others can change it (mode 0620)"),
        (found(0o602), "others can change it (mode 0602)"),
        # A service that is not root reads root's files by its group: credentials, TLS keys.
        (found(0o440, 0, 0), ""),
        (found(0o640, 0, 110), ""),
        (found(0o660, 0, 110), "others can change it (mode 0660)"),
        (found(0o644, 0, 0), "others can read it (mode 0644)"),
        (found(0o600, OTHER), f"it belongs to another user (uid {OTHER})"),
        # A pipe of a shell is its owner's; a terminal keeps nothing.
        (found(0o600, kind=0o010000), ""),
        (found(0o644, kind=0o010000), "others can read it (mode 0644)"),
        (found(0o666, 0, 5, kind=0o020000), ""),
    ],
)
def test_users_who_can_read_a_file_of_a_user(file: os.stat_result, problem: str) -> None:
    """Only its owner, or root and the group that root gave it to, may have access to a secret."""
    assert exposure(file) == problem


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (found(0o600, 0, 0), ""),
        (found(0o440, 0, 0), ""),
        (found(0o640, 0, 50), "others can read it (mode 0640)"),
        (found(0o600, OTHER), f"it belongs to another user (uid {OTHER})"),
    ],
)
def test_users_who_can_read_a_file_of_root(file: os.stat_result, problem: str) -> None:
    """Root needs no group to read by, so a group that can read is others."""
    assert exposure(file) == problem


@pytest.mark.usefixtures("as_root")
def test_the_caller_of_sudo_may_own_a_named_file() -> None:
    """A file of the user who typed the command is theirs to name."""
    assert exposure(found(0o600, ME), (ME,)) == ""
    assert exposure(found(0o640, ME), (ME,)) == "others can read it (mode 0640)"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text("s3cret")
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    yield path
    path.unlink()


def test_a_file_is_read_or_refused_with_what_to_do(secret: Path) -> None:
    """The error names what it is, the file, the mode and the remedy, and not the secret."""
    assert read_secret(secret, "token_file") == b"s3cret"
    check_secret(secret, "token_file")
    secret.chmod(0o644)
    for read in (read_secret, check_secret):
        with pytest.raises(InvalidInput) as caught:
            read(secret, "token_file")
        assert str(caught.value) == (
            f"token_file {secret}: others can read it (mode 0644): replace it if others"
            f" may have read it, then type: chmod 600 {secret}"
        )
    check_secret(secret.with_name("missing"), "token_file")


def test_the_file_counts_and_not_the_link_to_it(secret: Path, tmp_path: Path) -> None:
    """A link is followed, as those of certificates are; the mode of its target decides."""
    link = tmp_path / "link"
    link.symlink_to(secret)
    assert read_secret(link, "key") == b"s3cret"
    secret.chmod(0o604)
    with pytest.raises(InvalidInput, match="others can read it"):
        read_secret(link, "key")


def test_a_service_does_not_wait_for_a_pipe(pipe: Path, tmp_path: Path) -> None:
    """What is no regular file is refused at once: a daemon that waited for a writer would serve no
    client.
    """
    for path in (pipe, tmp_path):
        with pytest.raises(InvalidInput, match="not a regular file"):
            read_secret(path, "token_file")


def test_a_command_reads_a_pipe(pipe: Path) -> None:
    """``--password-file <(pass show tele)`` works; one that others can read does not."""
    reading, writing = os.pipe()
    os.write(writing, b"s3cret\n")
    os.close(writing)
    assert read_secret(Path(f"/dev/fd/{reading}"), "--password-file", pipes=True) == b"s3cret\n"
    os.close(reading)
    pipe.chmod(0o644)
    both = os.open(pipe, os.O_RDWR)
    with pytest.raises(InvalidInput, match="others can read it"):
        read_secret(pipe, "--password-file", pipes=True)
    os.close(both)


# -- folders ---------------------------------------------------------------------------
def described(path: Path) -> tuple[int, list[str]]:
    return stat.S_IMODE(path.stat().st_mode), sorted(each.name for each in path.iterdir())


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o770, 0o720, 0o775, 0o1700])
@pytest.mark.parametrize("inside", [(), ("tele.yaml",), ("other",)])
def test_a_folder_that_others_can_write_to_is_refused(
    tmp_path: Path, mode: int, inside: tuple[str, ...]
) -> None:
    """As /tmp is: whatever it holds, and nothing of it is changed; the error says what to do, but
    not to close a directory like /tmp, which would break other programs.
    """
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in inside:
        (shared / name).touch()
    shared.chmod(mode)
    for strict in (False, True):
        with pytest.raises(InvalidInput, match="others can write") as caught:
            own_folder(shared, ("tele.yaml",), strict=strict)
        assert str(caught.value).endswith(f"chmod 700 {shared}") == (mode != 0o1777)
        with pytest.raises(InvalidInput):
            own_folder(shared, None)
    assert described(shared) == (mode, list(inside))


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o711])
def test_a_folder_with_other_things_is_not_closed(tmp_path: Path, mode: int) -> None:
    """It is needed as it is: a home, a project, a folder of another program."""
    (tmp_path / "notes.txt").touch()
    tmp_path.chmod(mode)
    with pytest.raises(InvalidInput, match=r"files that are not tele's, such as 'notes.txt'"):
        own_folder(tmp_path, ("tele.yaml",))
    assert described(tmp_path) == (mode, ["notes.txt"])


def test_a_private_folder_with_other_things_is_taken_only_where_it_was_meant(
    tmp_path: Path,
) -> None:
    """A configuration may name its data_dir; ``tele up --dir /root`` is a mistake."""
    (tmp_path / "notes.txt").touch()
    tmp_path.chmod(0o700)
    own_folder(tmp_path, ("tele.yaml",))
    with pytest.raises(InvalidInput, match="not tele's"):
        own_folder(tmp_path, ("tele.yaml",), strict=True)


@pytest.mark.parametrize("inside", [(), ("tele.yaml", "notes.txt"), ("lost+found",)])
def test_our_own_folder_and_an_empty_one_are_closed(
    tmp_path: Path, inside: tuple[str, ...]
) -> None:
    """One that others could only read."""
    for name in inside:
        (tmp_path / name).touch()
    tmp_path.chmod(0o755)
    own_folder(tmp_path, ("tele.yaml",), strict=True)
    assert described(tmp_path)[0] == 0o700


def test_a_new_folder_is_private_and_a_file_is_none(tmp_path: Path) -> None:
    """Its parents are made, too, with the usual mode."""
    own_folder(tmp_path / "a" / "b", ())
    assert described(tmp_path / "a" / "b") == (0o700, [])
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        own_folder(tmp_path / "file", ())


@pytest.mark.root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """Also for root, to whom it would be open."""
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 65534, 65534)
    with pytest.raises(InvalidInput, match="belongs to another user"):
        own_folder(tmp_path / "theirs", ())
