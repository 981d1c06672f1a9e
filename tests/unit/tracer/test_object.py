"""The compiled programs come from their source, and both sides agree on numbers and layouts."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tele.tracer import operations, programs, records
from tele.tracer.libbpf import Library, Object, missed_runs

#: The source, which an installation does not have.
FOLDER = Path(__file__).resolve().parents[3] / "src" / "tele" / "tracer"
SOURCE = (FOLDER / "session.bpf.c").read_text()


def test_the_object_comes_from_the_source(tmp_path: Path) -> None:
    """The same compiler makes the same bytes of the source, in whatever folder it is."""
    tools = ("clang-14", "llvm-strip-14")
    missing = [name for name in tools if shutil.which(name) is None]
    if not os.path.exists("/usr/include/bpf/bpf_helpers.h"):
        missing.append("libbpf-dev")
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}")
    for name in ("session.bpf.c", "compile.sh"):
        shutil.copy(FOLDER / name, tmp_path)
    made = tmp_path / "made.o"
    subprocess.run(["sh", str(tmp_path / "compile.sh"), str(made)], check=True)
    shipped = Path(programs.__file__).with_name("session.bpf.o")
    assert made.read_bytes() == shipped.read_bytes()


def _defined() -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)\b", SOURCE, re.M)}


def test_numbers_agree() -> None:
    """What the table and the reader call something, the programs call the same."""
    defined = _defined()
    for name in (
        "OPEN", "PATHS", "DESCRIPTOR", "SOCKET", "ACTION", "EXECUTE", "OPEN_HOW", "SEND_MESSAGE",
        "SOCKET_CALL", "ACCEPT", "LISTEN", "SEND_MESSAGES", "CONTROL", "MAY_END",
    ):  # fmt: skip
        assert defined[name] == getattr(operations, name), name
    for name in ("EXECUTED", "EXITED", "CALLED", "RING_SUBMITTED", "CUT", "NAMED_CALL"):
        assert defined[name] == getattr(records, name), name
    for name, bit in operations.KINDS.items():
        assert defined[name.upper()] == bit, name
    assert defined["CALLS"] == operations.COMPAT_FIRST


def test_the_table_fits() -> None:
    """Each call is in the table of its machine, once, with arguments that there are."""
    found = dict(operations.table())
    assert len(found) == len(list(operations.table()))
    assert all(0 < number < 2 * operations.COMPAT_FIRST for number in found)
    for operation in found.values():
        assert all(0 <= place <= 6 for place in operation[2:])
        assert len(operation.packed()) == 8
    assert found[257] == operations.OPERATIONS["openat"]
    assert found[operations.COMPAT_FIRST + 212] == operations.OPERATIONS["chown"]


def test_names() -> None:
    """A call of a later kernel has its number."""
    assert operations.name_of(59) == "execve"
    assert operations.name_of(900) == "call_900"
    assert operations.name_of(operations.COMPAT_FIRST + 11) == "execve"
    assert operations.name_of(operations.COMPAT_FIRST + 900) == "compat_900"


def test_all_programs_are_known() -> None:
    """What the loader says is missing is about programs that there are."""
    try:
        library = Library()
    except OSError as error:
        pytest.skip(str(error))
    opened = Object(library, programs.OBJECT)
    try:
        names = {name for name, _ in opened.programs()}
    finally:
        opened.close()
    assert set(programs.RECORDED) | programs.NEEDED <= names


@pytest.mark.parametrize(
    ("machine", "release", "btf", "reason"),
    [
        ("aarch64", "6.1.0", "/", "machine"),
        ("x86_64", "5.10.0-30-amd64", "/", "old_kernel"),
        ("x86_64", "6.1.0", "/nowhere/btf", "no_btf"),
    ],
)
def test_machines_that_cannot(
    machine: str, release: str, btf: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that cannot trace says which of its properties that is."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(programs, "BTF", btf)
    with pytest.raises(programs.Unavailable) as caught:
        programs.check_machine(programs.OBJECT)
    assert caught.value.reason == reason


def test_an_incomplete_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the object the message names it."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(programs, "BTF", "/")
    with pytest.raises(programs.Unavailable, match=r"nowhere\.o is missing"):
        programs.check_machine("/nowhere.o")


def test_runs_that_the_kernel_left_out(tmp_path: Path) -> None:
    """Are in the description of a program; older kernels do not say it."""
    described = tmp_path / "fdinfo"
    described.write_text("pos:\t0\nprog_type:\t26\nrecursion_misses:\t7\nverified_insns:\t1\n")
    assert missed_runs(str(described)) == 7
    described.write_text("pos:\t0\n")
    assert missed_runs(str(described)) == 0
    assert missed_runs(str(tmp_path / "none")) == 0
