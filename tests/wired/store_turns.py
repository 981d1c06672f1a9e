"""A fake reactor for stores, whose threads are real, and a database that goes by its clock."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure
from zope.interface import implementer

from postgres_server import PostgresServer
from tele.testing import SettableClock

T = TypeVar("T")


@implementer(IReactorFromThreads)
class Turns(SettableClock):
    """A clock whose threads' answers are delivered when a test waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        #: Called with the wall clock before each move of it.
        self.before_move: list[Callable[[float], None]] = []

    def advance(self, amount: float) -> None:
        if amount:
            self._moves(self.wall_seconds() + amount)
        super().advance(amount)

    def set_wall(self, by: float) -> None:
        self._moves(self.wall_seconds() + by)
        super().set_wall(by)

    def _moves(self, moment: float) -> None:
        for each in self.before_move:
            each(moment)

    def callFromThread(
        self,
        callable: Callable[..., Any],  # noqa: A002 - the interface's name
        *args: object,
        **kwargs: object,
    ) -> None:
        self._calls.put(lambda: callable(*args, **kwargs))

    def wait(self, answer: Deferred[T]) -> T:
        found: list[Any] = []
        answer.addBoth(found.append)
        while not found:
            self._calls.get(timeout=20)()
            while not found and any(call.getTime() <= self.seconds() for call in self.calls):
                self.advance(0)
        if isinstance(found[0], Failure):
            found[0].raiseException()
        result: T = found[0]
        return result

    def deliver(self) -> None:
        """Deliver what has come so far."""
        while not self._calls.empty():
            self._calls.get()()

    def settle(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._calls.get(timeout=20)()


@contextmanager
def database_clock(server: PostgresServer, turns: Turns) -> Iterator[str]:
    """The URL of an empty store in a schema whose clock is the fake one."""
    schema = f"s{uuid.uuid4().hex}"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE SCHEMA {schema}")
        admin.execute(f"CREATE TABLE {schema}.moment (unix double precision)")
        admin.execute(f"INSERT INTO {schema}.moment VALUES (%s)", (turns.wall_seconds(),))
        admin.execute(
            f"CREATE FUNCTION {schema}.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
            f" 'SELECT to_timestamp(unix) FROM {schema}.moment'"
        )

        def moved(moment: float) -> None:
            admin.execute(f"UPDATE {schema}.moment SET unix = %s", (moment,))

        turns.before_move.append(moved)
        # What a schema before pg_catalog has comes before the server's own.
        yield server.url(options=f"-csearch_path%3D{schema},pg_catalog")
        turns.before_move.remove(moved)
        admin.execute(f"DROP SCHEMA {schema} CASCADE")
