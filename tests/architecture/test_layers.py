"""Imports point to lower layers only, nothing goes round in circles, and no file is long."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from layers import (
    CORES,
    FORBIDDEN_NAMES,
    IMPURE_CALLS,
    IMPURE_MODULES,
    INNER_LAYERS,
    LAYERS,
    LINES_LIMIT,
    PROGRAMS,
    Tree,
    package_of,
)

SOURCE = Path(__file__).resolve().parents[2] / "src"
TREE = Tree(SOURCE)


def test_each_package_has_a_layer() -> None:
    """A package or file without a layer could import anything."""
    packages = {package_of(name) for name in TREE.paths} - {None}
    assert packages <= set(LAYERS)
    for package, layers in INNER_LAYERS.items():
        inside = {name.split(".")[2] for name in TREE.paths if name.startswith(f"tele.{package}.")}
        assert inside == set(layers), package


def test_imports_point_to_lower_layers() -> None:
    """A file imports from its own package and from packages of strictly lower layers only."""
    assert not list(TREE.upward_imports())


def test_no_circles() -> None:
    """No module imports what imports it: neither late, in a function, nor for a type checker."""
    assert not list(TREE.circles())


def test_no_long_file() -> None:
    """A file with more lines is two files."""
    assert not list(TREE.long_files())


def test_a_planted_circle_is_found() -> None:
    """Two modules of one package that import each other, one of them in a function."""
    text = "def late() -> object:\n    from tele.wire import negotiation\n    return negotiation\n"
    found = list(TREE.planted("wire/fields.py", text).circles())
    pair = ("tele.wire.fields", "tele.wire.negotiation")
    assert any(all(name in circle for name in pair) for circle in found)


def test_a_planted_circle_of_types_is_found() -> None:
    """Two modules that know each other's types do not stand alone, either."""
    text = "if TYPE_CHECKING:\n    from tele.conch.connection.connection import SSHConnection\n"
    found = list(TREE.planted("conch/connection/channel.py", text).circles())
    assert any("tele.conch.connection.channel" in circle for circle in found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("wire/fields.py", "import tele.auth.service\n"),
        ("conch/transport/transport.py", "from tele.conch import server\n"),
        ("conch/session/channel.py", "from tele.conch.compat import session_runner\n"),
        ("conch/client/transport.py", "from tele.conch.server.transport import USERAUTH\n"),
        ("proxy/service.py", "from tele.node import service\n"),
        ("spawner/program.py", "from tele import errors\n"),
    ],
)
def test_a_planted_import_is_found(name: str, text: str) -> None:
    """From a higher layer, from a sibling, and of one package's own layers."""
    assert list(TREE.planted(name, text).upward_imports())


@pytest.mark.parametrize("package", PROGRAMS)
@pytest.mark.parametrize("text", ["import attrs\n", "from tele.text import printable\n"])
def test_a_planted_import_of_a_program_is_found(package: str, text: str) -> None:
    """A package of another project, or of ours."""
    assert list(TREE.planted(f"{package}/program.py", text).others_in_programs())


def test_a_planted_long_file_is_found() -> None:
    """One line too many."""
    tree = TREE.planted("wire/long.py", "pass\n" * (LINES_LIMIT + 1))
    assert f"tele.wire.long has {LINES_LIMIT + 1} lines" in tree.long_files()


@pytest.mark.parametrize("name", [name for name in TREE.paths if package_of(name) in CORES])
def test_cores_are_pure(name: str) -> None:
    """A core has no reactor, no clock, no randomness and no log: they are arguments."""
    assert not [each for each in TREE.imports[name] if each.split(".")[0] in IMPURE_MODULES]
    for node in ast.walk(TREE.parsed[name]):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in IMPURE_CALLS, f"{name}:{node.lineno}"


@pytest.mark.parametrize("package", PROGRAMS)
def test_programs_are_stand_alone(package: str) -> None:
    """A program that runs as root imports the standard library and its own folder, nothing else:
    an interpreter that has no other package imports all of it.
    """
    assert not list(TREE.others_in_programs())
    names = [name for name in TREE.paths if package_of(name) == package]
    assert f"tele.{package}.program" in names
    code = (
        f"import sys; sys.path.append({str(SOURCE)!r}); import {', '.join(names)};"
        "others = {name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names;"
        "ours = {name for name in sys.modules if name.startswith('tele.')};"
        f"print(sorted(others), sorted(name for name in ours if {package!r} not in name))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "['__main__', 'tele'] []\n"


def test_only_embedders_accept_logins_without_a_certificate() -> None:
    """No part of tele knows the classes that ask a Conch program's own checkers."""
    for name, imports in TREE.imports.items():
        if not name.startswith(("tele.conch.compat", "tele.embed.ssh.")):
            assert not [each for each in imports if each.startswith("tele.conch.compat")], name


def test_no_grab_bags() -> None:
    """No module has a name that says nothing."""
    assert not [name for name in TREE.paths if name.rpartition(".")[2] in FORBIDDEN_NAMES]


def test_plugin_folder_is_a_namespace() -> None:
    """``twisted.plugins`` stays a namespace: an __init__ there would hide all other plugins."""
    assert not list((SOURCE / "twisted").rglob("__init__.py"))


def test_plugin_files_import_nothing_of_ours() -> None:
    """The plugin files name our services by string, so that twistd --help stays fast."""
    for path in (SOURCE / "twisted" / "plugins").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", ())]
            module = getattr(node, "module", None) or ""
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not [each for each in (module, *names) if each.startswith("tele")]


def test_one_importer_of_txaio() -> None:
    """All logging goes through ``tele.log``, where each event becomes one harmless line."""
    importers = [name for name, imports in TREE.imports.items() if "txaio" in imports]
    assert importers == ["tele.log"]


#: Files of the command line that write bytes, which are not changed: of recordings, and KRLs.
REPLAYS = {"tele.cli.play", "tele.cli.recordings_export", "tele.cli.authorities"}
WRITERS = {"click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write"}


@pytest.mark.parametrize("name", TREE.paths)
def test_one_file_writes_to_the_terminal(name: str) -> None:
    """All that commands print goes through ``tele.cli.output``, so that none forgets to make
    peer text harmless; other programs of ours print what went through ``printable_lines``.
    """
    if name == "tele.cli.output":
        return
    for node in ast.walk(TREE.parsed[name]):
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
    for name, tree in TREE.parsed.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".translate"):
                raise AssertionError(f"{name}:{node.lineno} has a table of its own")
            # A label's value is what is printable of a command's output: no message.
            others = name not in ("tele.text", "tele.node.labels")
            if others and isinstance(node, ast.comprehension):
                kept = [ast.unparse(each) for each in node.ifs]
                assert not any("isprintable" in each for each in kept), name
