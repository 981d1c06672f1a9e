"""The documentation agrees with the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tele.certs.algorithms import HOST_ALGORITHMS, USER_ALGORITHMS
from tele.wire.ciphers import CIPHERS, MACS
from tele.wire.key_agreement import METHODS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*(ROOT / "docs").rglob("*.rst"), ROOT / "README.rst"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    """A page that names a file of the project names one that is there."""
    named = re.findall(
        r"``((?:src|tests|docs|bench|newsfragments|\.ci)/[^`<>* ]+)``", page.read_text()
    )
    missing = [name for name in named if "<" not in name and not (ROOT / name.rstrip("/")).exists()]
    assert not missing


def test_attacks_that_are_named_are_made() -> None:
    """The page on attacks has S1 to S16, and names only tests that there are."""
    page = (ROOT / "docs" / "explanation" / "attacks.rst").read_text()
    assert re.findall(r"\* - (S\d+)", page) == [f"S{number}" for number in range(1, 17)]
    made = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.M)
    }
    assert set(re.findall(r"``(test_\w+)``", page)) - made == set()


def test_readme_and_ci_run_the_same_tests() -> None:
    """The command that README gives is the one that CI runs."""
    assert "    sh tests/run\n" in (ROOT / "README.rst").read_text()
    assert "sh tests/run" in (ROOT / ".ci" / "run").read_text()


def drawn_layers(text: str) -> list[set[str]]:
    """The packages of each layer, the highest first, as the page on development draws them."""
    drawing = text.split(".. diagram:: Layers of packages\n", 1)[1].split("\n\n* ")[0]
    rows = re.findall(r"^    │ ([\w ·]+?) *│", drawing, re.M)
    return [set(row.split(" · ")) for row in rows]


def wrong_imports(layers: list[set[str]]) -> list[str]:
    """Imports that do not lead to a lower layer."""
    height = {name: -number for number, layer in enumerate(layers) for name in layer}
    source = ROOT / "src" / "tele"
    found = []
    for path in sorted(source.rglob("*.py")):
        package = path.relative_to(source).parts[0].removesuffix(".py")
        if package in ("__init__", "_version"):
            continue
        for other in re.findall(r"^ *(?:from|import) tele\.(\w+)", path.read_text(), re.M):
            lower = other in ("_version", package) or height[other] < height[package]
            if not lower:
                found.append(f"{path.relative_to(source)} imports {other}")
    return found


def test_the_layers_that_are_drawn_are_those_of_the_source() -> None:
    """Each package is in one layer of the drawing, and imports lead downwards in it."""
    layers = drawn_layers((ROOT / "docs" / "develop.rst").read_text())
    there = {
        path.stem
        for path in (ROOT / "src" / "tele").iterdir()
        if (path / "__init__.py").exists() or path.suffix == ".py"
    }
    assert sorted(set().union(*layers)) == sorted(there - {"__init__", "_version"})
    assert sum(map(len, layers)) == len(set().union(*layers))
    assert wrong_imports(layers) == []
    assert wrong_imports(list(reversed(layers)))


def test_each_package_has_a_change_that_goes_there() -> None:
    """The table of changes names every package."""
    text = (ROOT / "docs" / "develop.rst").read_text()
    table = text.split("Where a change goes", 1)[1].split("\nLayers\n", 1)[0]
    packages = set().union(*drawn_layers(text)) - {"web"}
    assert packages - set(re.findall(r"``(\w+)``", table)) == set()


def test_the_page_on_ssh_has_every_extension() -> None:
    """Each OpenSSH name of the engine is on the page or in its table, and the page has no other."""
    tables = {*CIPHERS, *MACS, *METHODS, *HOST_ALGORITHMS, *USER_ALGORITHMS}
    sources = [
        f for package in ("wire", "conch") for f in (ROOT / "src/tele" / package).rglob("*.py")
    ]
    pattern = r"[a-z0-9-]+@openssh\.com"
    known = {
        name
        for source in sources
        for name in re.findall(f'b"({pattern})"', source.read_text())
        if name.encode() not in tables
    }
    page = set(re.findall(pattern, (ROOT / "docs" / "protocols" / "ssh.rst").read_text()))
    assert known - page == set()
    assert page - known - {name.decode() for name in tables} == set()
