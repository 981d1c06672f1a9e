"""What is read of a session's requests."""

from __future__ import annotations

from tele.conch.session.session_requests import MODES_LIMIT, read_modes


def test_modes_are_no_more_than_there_are() -> None:
    """A request with fifty thousand modes is handed on as what opcodes there are (attack)."""
    modes = read_modes(b"".join(bytes((n % 159 + 1, 0, 0, 0, 1)) for n in range(50_000)))
    assert len(modes) == MODES_LIMIT
    assert read_modes(bytes((3, 0, 0, 0, 1, 0))) == ((3, 1),)
