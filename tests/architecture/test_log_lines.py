"""A line of the log is one event: a constant message, and fields that can be searched."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from layers import Tree

SOURCE = Path(__file__).resolve().parents[2] / "src"
METHODS = {"debug", "info", "warn", "error", "failure"}
#: Keys that each line has by itself.
TAKEN = {"time", "level", "from", "message"}
#: What passes on the message of another call, and the lines of audit events.
EXCEPTIONS = {"tele.conch.server.connection_admission", "tele.audit.lines"}


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls of a logger: ``log.info``, ``_log.warn``, ``self.lines.info``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            is_log = owner in ("log", "_log") or owner.endswith(".lines")
            if is_log and node.func.attr in METHODS:
                yield node


def problems(tree: ast.Module) -> list[str]:
    found = []
    for call in calls(tree):
        message = call.args[0]
        text = message.value if isinstance(message, ast.Constant) else None
        if not isinstance(text, str) or "{" in text:
            found.append(f"line {call.lineno}: {ast.unparse(message)}")
        found += [f"line {call.lineno}: {key.arg}" for key in call.keywords if key.arg in TAKEN]
    return found


def test_messages_are_constants() -> None:
    """What varies is a field, so that all lines of one event are found by its message."""
    parsed = Tree(SOURCE).parsed
    assert sum(len(list(calls(tree))) for tree in parsed.values()) > 100
    for name, tree in parsed.items():
        if name not in EXCEPTIONS:
            assert not problems(tree), name


def test_a_planted_message_is_found() -> None:
    """A placeholder, a text that is put together, and a field with a name of the line's own."""
    for text in ('log.info("a {b}", b=1)', 'log.warn(f"a {b}")', 'self.lines.info("a", time=1)'):
        assert problems(ast.parse(text))
    assert not problems(ast.parse('log.info("login refused", user=user)'))
