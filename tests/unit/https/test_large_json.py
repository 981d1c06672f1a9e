"""Large JSON is read and written in a thread, in pieces, and nobody has it for themselves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from zope.interface import implementer

from tele.errors import InvalidInput, Unavailable
from tele.https.large_json import LARGE, WAITING, LargeJson
from tele.model import codec
from tele.model.codec import DEPTH_LIMIT, encode, encode_large, read_json


@implementer(IReactorFromThreads)
class Reactor(Clock):
    """A clock that threads can call; :meth:`turn` waits for the next call of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def callFromThread(
        self,
        callable: Callable[..., Any],  # noqa: A002 - the interface's name
        *args: object,
        **kwargs: object,
    ) -> None:
        self._calls.put(lambda: callable(*args, **kwargs))

    def turn(self) -> None:
        self._calls.get(timeout=30)()


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


@pytest.fixture
def large(reactor: Reactor) -> Iterator[LargeJson]:
    made = LargeJson(reactor)
    yield made
    made.close()


def test_what_is_large_is_done_in_a_thread(reactor: Reactor, large: LargeJson) -> None:
    """What is small is done at once: a thread would cost more than it."""
    found: list[Any] = []
    large.call("user alice", LARGE, threading.get_ident).addCallback(found.append)
    assert found == [threading.get_ident()]
    large.call("user alice", LARGE + 1, threading.get_ident).addCallback(found.append)
    assert len(found) == 1
    reactor.turn()
    assert found[1] != threading.get_ident()


def test_one_callers_requests_do_not_make_another_wait(reactor: Reactor, large: LargeJson) -> None:
    """Each caller has one at a time, in turn; and so many that wait (attack)."""
    order: list[str] = []
    ends = threading.Event()

    def busy(name: str) -> None:
        assert ends.wait(30)
        order.append(name)

    refused: list[Any] = []
    for number in range(WAITING + 2):
        asked: Deferred[None] = large.call("node a", LARGE + 1, busy, f"a{number}")
        asked.addErrback(lambda failure: refused.append(failure.value))
    (error,) = refused
    assert isinstance(error, Unavailable)
    large.call("user alice", LARGE + 1, busy, "alice")
    ends.set()
    for _ in range(3):
        reactor.turn()
    assert "alice" in order[:3]
    for _ in range(WAITING - 1):
        reactor.turn()


def test_without_threads_it_is_done_at_once() -> None:
    """A clock of tests takes no calls from threads."""
    for made in (LargeJson(Clock()), LargeJson()):
        found: list[int] = []
        made.call("", LARGE + 1, threading.get_ident).addCallback(found.append)
        assert found == [threading.get_ident()]
        made.close()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(_VALUES)
def test_pieces_make_the_same_json(value: Any) -> None:
    """A signature is over these bytes: however they are written, they are the same."""
    piece = codec.PIECE
    codec.PIECE = 2  # type: ignore[misc]
    try:
        assert encode_large(value) == encode(value)
    finally:
        codec.PIECE = piece  # type: ignore[misc]


@frozen
class Listed:
    """A value with a list."""

    items: tuple[int, ...]


def test_a_long_list_is_written_in_pieces() -> None:
    """Its pieces are joined as one list, of a length that they divide, too."""
    for length in (0, 1, codec.PIECE, codec.PIECE + 1, 4 * codec.PIECE):
        value = Listed(tuple(range(length)))
        assert encode_large(value) == encode(value)


def test_the_depth_of_a_long_text_is_bounded() -> None:
    """Read in another way, the same is refused and the same is read: brackets in strings do not
    count.
    """
    filler = '[{]}\\" ' * (codec.TEXT_PIECE // 4)
    fits = "[" * (DEPTH_LIMIT - 1) + json.dumps(filler) + "]" * (DEPTH_LIMIT - 1)
    assert len(fits) > codec.TEXT_PIECE
    value = read_json(fits.encode())
    for _ in range(DEPTH_LIMIT - 1):
        (value,) = value
    assert value == filler
    deeper = f"[[{fits}]]"
    with pytest.raises(InvalidInput, match="deep in each other"):
        read_json(deeper.encode())
