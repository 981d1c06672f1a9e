"""The text of a refusal that a peer receives."""

from __future__ import annotations

import pytest
from twisted.conch.error import ConchError
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure

from tele.conch.connection.refusals import CONNECT_FAILED, ChannelRefused, refusal, terminal_lines
from tele.errors import AccessDenied, InvalidInput, quoted

EVIL = "lock \x1b[2J\x07\u202e\u2066\u200b\x9b1m"
SHOWN = "lock \\x1b[2J\\x07\\u202e\\u2066\\u200b\\x9b1m"


@pytest.mark.parametrize(
    "error",
    [
        AccessDenied(EVIL),
        InvalidInput(EVIL),
        ConchError(EVIL, 2),
        ConchError(EVIL.encode(), 2),
        ConchError(2, EVIL),
        ConnectError(string=EVIL),
    ],
)
def test_no_refusal_carries_what_a_terminal_obeys(error: Exception) -> None:
    """A text of a lock, a target or a library's error is printable when it is shown."""
    _, text = refusal(Failure(error))
    assert text.isprintable()
    assert SHOWN in text


def test_a_refusal_is_lines_of_a_terminal() -> None:
    """Each line ends with a carriage return, as a raw terminal needs it; the length has a limit."""
    assert terminal_lines(f"{EVIL}\nnext") == f"{SHOWN}\r\nnext\r\n".encode()
    assert len(terminal_lines("\x1b" * 1_000_000)) < 5000


def test_internal_errors_are_not_described() -> None:
    """Neither their text nor their type reaches the peer."""
    assert refusal(Failure(KeyError(EVIL))) == (CONNECT_FAILED, "internal error")


def test_a_refusal_in_bytes_is_shown_as_text() -> None:
    """In errors and in events: never as ``b'...'``, and with a limit."""
    assert str(ChannelRefused(EVIL.encode(), 2)) == SHOWN
    assert refusal(Failure(ChannelRefused(b"no \xff", 2))) == (2, "no \ufffd")
    assert quoted(b"ssh-dss") == quoted("ssh-dss") == "'ssh-dss'"
    assert quoted(b"\xff\n").isprintable()
    assert len(quoted(b"\x1b" * 1_000_000)) <= 256
