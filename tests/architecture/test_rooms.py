"""The house law: imports point to lower rooms only, and cores know no reactor, clock or dice."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"

#: Ranks of rooms. A file imports only from its own room or from rooms of lower rank.
RANKS = {
    "errors": 0,
    "text": 0,
    "_version": 0,
    "spawner": 0,
    "model": 1,
    "terminal": 1,
    "private_files": 1,
    "data_dir": 1,
    "durable_files": 1,
    "log_stream": 1,
    "interfaces": 2,
    "wire": 2,
    "rbac": 2,
    "tape": 2,
    "admission": 2,
    "certs": 3,
    "log": 4,
    "loop": 5,
    "capacity": 6,
    "workers": 6,
    "call_queue": 6,
    "single_flight": 6,
    "wakeup": 6,
    "sockets": 7,
    "store": 7,
    "outbound": 8,
    "https": 9,
    "audit": 10,
    "conch": 10,
    "recording": 10,
    "membership": 11,
    "tunnel": 11,
    "routing": 12,
    "auth": 13,
    "node": 13,
    "proxy": 13,
    "web": 13,
    "config": 14,
    "plugins": 14,
    "testing": 14,
    "embed": 15,
    "tap": 16,
    "cli": 16,
}

CORES = {
    "errors", "text", "_version", "model", "terminal", "wire", "rbac", "tape", "admission",
    "certs",
}  # fmt: skip

#: What would give a core a reactor, a clock, randomness or a log of its own.
IMPURE_MODULES = {
    "twisted",
    "txaio",
    "logging",
    "random",
    "secrets",
    "asyncio",
    "socket",
    "threading",
}
IMPURE_CALLS = {
    "os.urandom",
    "time.time",
    "time.monotonic",
    "datetime.now",
    "datetime.utcnow",
    "datetime.datetime.now",
    "uuid.uuid4",
}

FORBIDDEN_NAMES = {"util", "utils", "misc", "common", "helpers", "base", "manager"}


def modules() -> list[Path]:
    return sorted((SOURCE / "tele").rglob("*.py"))


def room_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "tele" and len(parts) > 1 else None


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            if module == "tele":
                yield from (f"tele.{alias.name}" for alias in node.names)
            else:
                yield module


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_to_lower_rooms(path: Path) -> None:
    """A file imports from its own room and from rooms of strictly lower rank only."""
    room = room_of(name_of(path))
    if room is None:
        return
    assert room in RANKS, f"room {room} has no rank"
    for imported in imports(path):
        other = room_of(imported)
        if other is None or other == room:
            continue
        assert RANKS[other] < RANKS[room], f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize(
    "path", [p for p in modules() if room_of(name_of(p)) in CORES], ids=name_of
)
def test_cores_are_pure(path: Path) -> None:
    """A core has no reactor, no clock, no randomness and no log: they are arguments."""
    for imported in imports(path):
        assert imported.split(".")[0] not in IMPURE_MODULES, f"{name_of(path)} imports {imported}"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in IMPURE_CALLS, (
                f"{name_of(path)}:{node.lineno} calls {ast.unparse(node.func)}"
            )


def test_the_spawner_is_stand_alone() -> None:
    """The program that runs as root imports the standard library and its own folder, nothing else:
    an interpreter that has no other package imports all of it.
    """
    names = [name_of(path) for path in modules() if room_of(name_of(path)) == "spawner"]
    assert "tele.spawner.program" in names
    code = (
        f"import sys; sys.path.append({str(SOURCE)!r}); import {', '.join(names)};"
        "others = {name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names;"
        "ours = {name for name in sys.modules if name.startswith('tele.')};"
        "print(sorted(others), sorted(name for name in ours if 'spawner' not in name))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "['__main__', 'tele'] []\n"


def test_only_embedders_let_in_without_a_certificate() -> None:
    """No part of tele knows the classes that ask a Conch program's own checkers."""
    others = {"tele.conch.compat.server", "tele.conch.compat.userauth", "tele.conch.compat.client"}
    for path in modules():
        name = name_of(path)
        if name not in others and not name.startswith("tele.embed.ssh."):
            assert not others & set(imports(path)), name


def test_no_grab_bags() -> None:
    """No module has a name that says nothing."""
    assert not [p for p in modules() if p.stem in FORBIDDEN_NAMES]


def test_plugin_folder_is_a_namespace() -> None:
    """``twisted.plugins`` stays a namespace: an __init__ there would hide all other plugins."""
    assert not list((SOURCE / "twisted").rglob("__init__.py"))


def test_plugin_files_import_nothing_of_ours() -> None:
    """The plugin files name our services by string, so that twistd --help stays fast."""
    for path in (SOURCE / "twisted" / "plugins").glob("*.py"):
        assert not [name for name in imports(path) if name.startswith("tele")]


#: Files of the command line that write bytes of recordings, of which one law is to let them be.
REPLAYS = {"tele.cli.play", "tele.cli.recordings"}
WRITERS = {"click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write"}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_one_file_writes_to_the_terminal(path: Path) -> None:
    """All that commands print goes through ``tele.cli.output``, so that none forgets to make
    peer text harmless; other programs of ours print what went through ``printable_lines``.
    """
    name = name_of(path)
    if name == "tele.cli.output":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("sys.stdout.buffer.write", "traceback.print_exc"):
            assert name in REPLAYS, f"{name}:{node.lineno} calls {called}"
        elif called in WRITERS:
            first = ast.unparse(node.args[0])
            assert first.startswith("printable_lines("), f"{name}:{node.lineno} calls {called}"


def test_peer_text_has_one_filter() -> None:
    """No other file makes its own table of characters that are harmless: ``isprintable`` is for
    refusing a text, never for cutting pieces out of it.
    """
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".translate"):
                raise AssertionError(f"{name_of(path)}:{node.lineno} has a table of its own")
            # A label's value is what is printable of a command's output: no message.
            others = name_of(path) not in ("tele.text", "tele.node.labels")
            if others and isinstance(node, ast.comprehension):
                kept = [ast.unparse(each) for each in node.ifs]
                assert not any("isprintable" in each for each in kept), name_of(path)
