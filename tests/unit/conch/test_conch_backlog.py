"""A backlog keeps the order of its bytes, and all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tele.conch.connection.backlog import PIECE, Backlog


def taken(backlog: Backlog, size: int) -> bytes:
    """Take up to ``size`` bytes off the front."""
    view, _ = backlog.first(size)
    with view:
        data = bytes(view)
    backlog.drop(len(data))
    return data


@given(st.lists(st.binary(max_size=100)), st.integers(1, 50))
def test_bytes_leave_in_order(pieces: list[bytes], step: int) -> None:
    """Whatever the sizes of the pieces in which they come and leave."""
    backlog = Backlog()
    for piece in pieces:
        backlog.append(piece)
    out = b""
    while backlog:
        out += taken(backlog, step)
    assert out == b"".join(pieces)


def test_more_may_come_while_the_front_is_sent() -> None:
    """The front does not grow while it is being sent: new bytes follow it."""
    backlog = Backlog()
    backlog.append(b"first ")
    view, _ = backlog.first(PIECE)
    with view:
        backlog.append(b"second ")
        assert bytes(view) == b"first "
    backlog.drop(len(b"first "))
    backlog.append(b"third")
    assert taken(backlog, PIECE) + (taken(backlog, PIECE) if backlog else b"") == b"second third"


def test_kinds_are_not_mixed() -> None:
    """Standard error keeps its place among standard output."""
    backlog = Backlog()
    for code in (None, 1, None):
        backlog.append(b"x", code)
    kinds = []
    while backlog:
        kinds.append(backlog.first(PIECE)[1])
        taken(backlog, PIECE)
    assert kinds == [None, 1, None]


def test_small_pieces_are_joined() -> None:
    """Many bytes that came one by one are joined to few pieces."""
    backlog = Backlog()
    for _ in range(2 * PIECE):
        backlog.append(b"x")
    assert len(backlog) == 2 * PIECE
    assert len(backlog.front(100)) == 2
