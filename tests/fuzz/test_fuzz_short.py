"""Each fuzz target for a short while, always with the same seeds; by command they run longer."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from attempts import run

HERE = Path(__file__).parent
TARGETS = sorted(path.stem for path in HERE.glob("fuzz_*.py"))
#: Those that log in each time take milliseconds.
SLOW = {"fuzz_channels", "fuzz_server", "fuzz_target", "fuzz_userauth"}


@pytest.mark.parametrize("name", TARGETS)
def test_short(name: str) -> None:
    """The invariant holds for the first few hundred seeds."""
    count = 150 if name in SLOW else 1000
    assert run(importlib.import_module(name).attempt, range(count)) == count


@pytest.mark.parametrize("name", TARGETS)
def test_first_line(name: str) -> None:
    """A target says first what it holds, and can be run as a command."""
    text = (HERE / f"{name}.py").read_text()
    assert (ast.get_docstring(ast.parse(text)) or "").startswith("Invariant: ")
    assert text.endswith('if __name__ == "__main__":\n    main(attempt)\n')


def test_a_failure_names_its_seed() -> None:
    """What failed can be done again."""

    def attempt(dice: object) -> None:
        raise ValueError("no")

    with pytest.raises(AssertionError, match="seed 3: ValueError"):
        run(attempt, [3])
