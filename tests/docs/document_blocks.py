"""Which commands and files do README and docs contain? Their literal blocks, each of one kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

from attrs import frozen

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]
#: How a line to type begins.
_PROGRAMS = re.compile(
    r"(?:[$#] )?(?:tele|ssh|scp|ssh-keygen|twistd|python3?|sh|eval|mkdir|cp|systemctl|journalctl|"
    r"umask|sqlite3|/opt/tele/bin/\w+) "
)
_CONFIGURATION = re.compile(r"^(?:version: v1|kind: \w+|auth:|proxy:|node:)", re.MULTILINE)
_DIRECTIVE = re.compile(r"\s*\.\. code-block:: *(\w+)")


@frozen
class Block:
    """One literal block. ``page`` is relative to the project, ``text`` without the indentation."""

    page: str
    line: int
    text: str

    @property
    def is_configuration(self) -> bool:
        """Whether it is a file of ours, or a part of one, or resources."""
        return _CONFIGURATION.search(self.text) is not None and not self.is_script

    @property
    def is_script(self) -> bool:
        """Whether it begins with the line that names an interpreter."""
        return self.text.startswith("#!")

    @property
    def commands(self) -> list[str]:
        """The lines to type, with their prompts (``$``, ``#``) and without comments."""
        if self.is_configuration or self.is_script or not _PROGRAMS.match(self.text):
            return []
        lines = [re.sub(r"\s{2,}# .*", "", line) for line in self.text.splitlines()]
        if self.text.startswith(("$ ", "# ")):
            return [line for line in lines if line.startswith(self.text[:2])]
        return [line for line in lines if line]


def blocks(page: Path) -> Iterator[Block]:
    """Give the blocks of one page: after ``::``, and those of ``code-block``."""
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        plain = line.rstrip().endswith("::") and not line.lstrip().startswith("..")
        if not plain and not _DIRECTIVE.match(line):
            continue
        margin = len(line) - len(line.lstrip())
        start = number
        while number < len(lines) and (
            not lines[number].strip() or len(lines[number]) - len(lines[number].lstrip()) > margin
        ):
            number += 1
        text = dedent("\n".join(lines[start:number])).strip("\n")
        yield Block(str(page.relative_to(ROOT)), start, text)


def all_blocks() -> list[Block]:
    """Return all blocks of README and docs."""
    return [block for page in PAGES for block in blocks(page)]
