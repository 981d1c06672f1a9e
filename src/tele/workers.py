"""Who may use a thread next, when something has to wait where the reactor must not?

Name services, DNS and the like wait for other machines, for as long as these like. Each kind of
them has :class:`Workers` of its own: threads in which calls wait, with a share for each key, such
as a person.

Invariants:

* One key has at most ``share`` threads, also while its calls are stuck: others go on.
* Keys take turns, and a call that waits costs the same however many wait.
* What waits is bounded, of one key and in all, and so is for how long: a call that is not done
  in time fails, though its thread may be busy for longer, and is counted until it is not.
* A thread that is stuck keeps no process from ending.

What has to happen in order, such as writes to one file, has a :class:`SerialWorker`: one thread,
and no time-out, since a disk that is slow is not an error.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from attrs import define
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from tele.errors import Unavailable

T = TypeVar("T")

#: Calls of all keys together that may wait: so many times what one key may have waiting.
KEYS_WAITING: Final = 16


@define(eq=False)
class _Call:
    key: str
    function: Callable[[], Any]
    answer: Deferred[Any]
    timer: Any = None
    running: bool = False


class Workers:
    """Threads for one kind of call, named ``name`` in messages, such as "the name service".

    :param reactor: a clock that can be called from threads.
    :param threads: most threads.
    :param share: most threads of one key.
    :param waiting: most calls of one key that wait for a thread.
    :param seconds: how long a call may take, its waiting included.
    """

    def __init__(
        self,
        reactor: Any,
        name: str,
        *,
        threads: int,
        share: int,
        waiting: int,
        seconds: float,
    ) -> None:
        self._reactor = reactor
        self._name = name
        self._threads = threads
        self._share = share
        self._waiting = waiting
        self._seconds = seconds
        self._queues: dict[str, deque[_Call]] = {}
        #: Keys with calls that wait, and a share that is not used up: the next one is first.
        self._turns: dict[str, None] = {}
        self._running: Counter[str] = Counter()
        self._waits = 0
        self._jobs: SimpleQueue[_Call | None] = SimpleQueue()
        self._started = 0
        self._closed = False

    @property
    def running(self) -> int:
        """How many calls have a thread."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """How many calls wait for one."""
        return self._waits

    def call(self, key: str, function: Callable[..., T], *words: Any) -> Deferred[T]:
        """Call ``function(*words)`` in a thread, as one of the calls of ``key``.

        Fails as the function does, or with :class:`Unavailable` when too many calls wait or it
        takes too long. Cancelled, it is not called if it waits still.
        """
        answer: Deferred[T] = Deferred(lambda _: self._give_up(made))
        made = _Call(key, lambda: function(*words), answer)
        queue = self._queues.get(key)
        mine = 0 if queue is None else len(queue)
        if self._closed or mine >= self._waiting or not self._has_room(mine + 1):
            answer.errback(Unavailable(f"{self._name} has too much to do; try again later"))
            return answer
        made.timer = self._reactor.callLater(self._seconds, self._late, made)
        if queue is None:
            queue = self._queues[key] = deque()
        queue.append(made)
        self._waits += 1
        self._offer(key)
        self._start()
        return answer

    def close(self) -> None:
        """Take no more calls, and let threads end when they are done."""
        self._closed = True
        for queue in list(self._queues.values()):
            for waiting in list(queue):
                self._fail(waiting, Unavailable(f"{self._name} is not asked any more: we stop"))
        for _ in range(self._started):
            self._jobs.put(None)
        self._started = 0

    def _has_room(self, mine: int) -> bool:
        """Whether one more may wait, of a key that has ``mine`` then; the last call of the key
        with most goes for it.
        """
        if self._waits < self._waiting * KEYS_WAITING:
            return True
        longest = max(self._queues.values(), key=len)
        if len(longest) <= mine:
            return False
        self._fail(longest[-1], Unavailable(f"{self._name} has too much to do; try again later"))
        return True

    # -- turns ------------------------------------------------------------------------
    def _offer(self, key: str) -> None:
        """Give ``key`` a turn if it has something to do and may."""
        if key in self._queues and self._running[key] < self._share:
            self._turns.setdefault(key)

    def _start(self) -> None:
        while self._turns and self.running < self._threads:
            key = next(iter(self._turns))
            del self._turns[key]
            made = self._queues[key].popleft()
            if not self._queues[key]:
                del self._queues[key]
            self._waits -= 1
            self._running[key] += 1
            self._offer(key)
            made.running = True
            if self._started < min(self.running, self._threads):
                self._started += 1
                threading.Thread(
                    target=_work, args=(self._jobs, self._report), name=self._name, daemon=True
                ).start()
            self._jobs.put(made)

    def _report(self, made: _Call, result: Any) -> None:
        """In a thread: tell the reactor."""
        self._reactor.callFromThread(self._done, made, result)

    def _done(self, made: _Call, result: Any) -> None:
        self._running[made.key] -= 1
        if not self._running[made.key]:
            del self._running[made.key]
        self._offer(made.key)
        self._start()
        if not made.answer.called:
            made.timer.cancel()
            made.answer.callback(result)  # a Failure is an errback

    # -- giving up --------------------------------------------------------------------
    def _late(self, made: _Call) -> None:
        self._fail(made, Unavailable(f"{self._name} did not answer within {self._seconds:.0f} s"))

    def _fail(self, made: _Call, error: Unavailable) -> None:
        self._forget(made)
        made.answer.errback(error)

    def _give_up(self, made: _Call) -> None:
        self._forget(made)

    def _forget(self, made: _Call) -> None:
        if made.timer.active():
            made.timer.cancel()
        if made.running:
            return
        queue = self._queues[made.key]
        queue.remove(made)
        self._waits -= 1
        if not queue:
            del self._queues[made.key]
            self._turns.pop(made.key, None)


class SerialWorker:
    """One thread, named ``name``, that makes calls one after the other, as they came.

    With a clock that takes no calls from threads, as a test's, they are made at once.
    """

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._inline = not IReactorFromThreads.providedBy(reactor)
        self._jobs: SimpleQueue[_Call | None] = SimpleQueue()
        self._started = False
        self._closed = False

    def call(self, function: Callable[..., T], *words: Any) -> Deferred[T]:
        """Call ``function(*words)`` after all that was asked for before; fails as it does."""
        if self._closed:
            raise RuntimeError(f"{self._name}: it is closed")
        if self._inline:
            return maybeDeferred(function, *words)
        answer: Deferred[T] = Deferred()
        self._start()
        self._jobs.put(_Call("", lambda: function(*words), answer))
        return answer

    def close(self) -> Deferred[None]:
        """Take no more calls; fires when all are made. May be called twice."""
        if self._closed:
            return succeed(None)
        done: Deferred[None] = self.call(lambda: None) if self._started else succeed(None)
        self._closed = True
        self._jobs.put(None)
        return done

    def _start(self) -> None:
        if not self._started:
            self._started = True
            threading.Thread(
                target=_work, args=(self._jobs, self._report), name=self._name, daemon=True
            ).start()

    def _report(self, made: _Call, result: Any) -> None:
        """In the thread: tell the reactor."""
        self._reactor.callFromThread(_answer, made.answer, result)


def _answer(answer: Deferred[Any], result: Any) -> None:
    if not answer.called:  # cancelled
        answer.callback(result)


def _work(jobs: SimpleQueue[_Call | None], report: Callable[[_Call, Any], None]) -> None:
    """A thread's life: one call after the other until it is told to end."""
    while (made := jobs.get()) is not None:
        try:
            result = made.function()
        except BaseException:
            result = Failure()
        report(made, result)
