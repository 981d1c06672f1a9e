"""No page and no help text names a command, option, setting or event that does not exist."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from documented_names import (
    FOREIGN_OPTIONS,
    ROOT,
    SOURCE,
    help_problems,
    literals,
    problems,
)
from tele.cli.main import tele

PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_only_what_exists(page: Path) -> None:
    """Every literal and every line to type is read by what it is for."""
    assert problems(page.read_text()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "Type ``tele uzers ls``.",
        "Type ``tele users add alice --rolle access``.",
        "Run ``twistd -n tele-nodes --config FILE``.",
        "Run ``twistd -n tele-node --konfig FILE``.",
        "The option ``--detatch`` returns at once.",
        "Set ``node.kill_leftover`` to end them.",
        "Set ``auth.recording_limits.sessions``.",
        "With ``node.kill_leftover: true`` nothing remains.",
        "With ``proxy_protocol: needed`` it is required.",
        "The option ``record: strictly`` refuses it.",
        "``TELE_HOUSE`` names a folder.",
        "The event ``session.begin`` reports it.",
        "The key ``public_address`` is announced.",
        "::\n\n    tele recordings list\n",
    ],
)
def test_a_wrong_name_is_found(wrong: str) -> None:
    """A page with a name that does not exist fails."""
    assert problems(wrong)


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            inner = command.get_command(context, each)
            assert inner is not None
            yield from commands(inner, f"{name} {each}")


def test_help_names_only_what_exists() -> None:
    """So do the texts of ``--help``."""
    found = []
    for name, command in commands(tele, "tele"):
        texts = [command.help or "", command.short_help or ""]
        texts += [getattr(each, "help", None) or "" for each in command.params]
        found += [f"{name}: {each}" for text in texts for each in help_problems(text)]
    assert found == []


def test_messages_name_only_commands_that_exist() -> None:
    """So does every text of the source that quotes a command."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                quoted = "`tele " in node.value
                found += [f"{path}: {each}" for each in help_problems(node.value) if quoted]
    assert found == []


def test_a_wrong_help_text_is_found() -> None:
    """A help text with a command or option that does not exist fails."""
    assert help_problems("As `tele down-all` does.")
    assert help_problems("Together with --forse.")


def test_foreign_options_are_named() -> None:
    """The list of other programs' options has none that no page names."""
    named = {each.partition(" ")[0] for page in PAGES for each in literals(page.read_text())}
    assert set(FOREIGN_OPTIONS) - named - {"--help"} == set()
