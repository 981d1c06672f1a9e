"""What a shell begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tele.spawner.greeting import greeting


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("web.example", b" from web.example\n"),
        ("", b"\n"),
        (
            "a\x1b[2J\u202e\nLast login: forged",
            rb" from 'a\x1b[2J\u202e\nLast login: forged'" + b"\n",
        ),
    ],
)
def test_where_the_last_login_came_from_is_one_line(
    tmp_path: Path, host: str, shown: bytes
) -> None:
    """The name of an address is its owner's choice; it is shown, and not obeyed."""
    text = greeting(str(tmp_path), (0.0, host), ())
    assert text.startswith(b"Last login: ")
    assert text.endswith(shown)
    assert text.count(b"\n") == 1
