"""What is read of a session's requests, and what they reach."""

from __future__ import annotations

from tele.conch.session.channel import SessionChannel
from tele.conch.session.session_requests import MODES_LIMIT, read_modes


def test_modes_are_no_more_than_there_are() -> None:
    """A request with fifty thousand modes is handed on as what opcodes there are (attack)."""
    modes = read_modes(b"".join(bytes((n % 159 + 1, 0, 0, 0, 1)) for n in range(50_000)))
    assert len(modes) == MODES_LIMIT
    assert read_modes(bytes((3, 0, 0, 0, 1, 0))) == ((3, 1),)


def test_which_methods_requests_reach() -> None:
    """A request reaches the method of its name: there are no other methods of such names."""
    known = "break env exec pty-req shell signal subsystem window-change x11-req"
    methods = {f"request_{name.replace('-', '_')}" for name in known.split()}
    assert {name for name in dir(SessionChannel) if name.startswith("request_")} == methods
