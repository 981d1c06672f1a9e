"""What the documentation says of the source is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tele.certs.algorithms import HOST_ALGORITHMS, USER_ALGORITHMS
from tele.wire.agreement import METHODS
from tele.wire.ciphers import CIPHERS, MACS

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


def test_the_page_on_ssh_has_every_extension() -> None:
    """Each name of OpenSSH's that the engine knows is on the page, or in its generated table,
    and the page has none that the engine does not know.
    """
    tables = {*CIPHERS, *MACS, *METHODS, *HOST_ALGORITHMS, *USER_ALGORITHMS}
    sources = [f for room in ("wire", "conch") for f in (ROOT / "src/tele" / room).rglob("*.py")]
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
