"""How are blocking calls made in threads, with a fair share for each user?

Name services, DNS and the like block for an unknown time. Each kind of call has its own
:class:`Workers`: a pool of threads with a share for each key, such as a user.

Invariants:

* One key has at most ``share`` threads, even while its calls hang: calls of other keys proceed.
* Keys are served in turn; the cost of a call does not depend on how many wait.
* The number of waiting calls is bounded, for each key and in all, and so is their time: a call
  that takes too long fails; its thread counts until it returns.
* A thread that hangs does not keep the process from ending.

Calls that have to be made in order, such as writes to one file, go to a :class:`SerialWorker`: one
thread and no time-out, since a slow disk is not an error. A call that needs neither uses
the pool of the reactor (:func:`in_thread_pool`).
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from attrs import define
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorFromThreads,
    IReactorThreads,
    IReactorTime,
)
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from tele.errors import Unavailable

T = TypeVar("T")

#: The limit of waiting calls of all keys together: so many times the limit of one key.
KEYS_WAITING: Final = 16


@define(eq=False)
class _Call:
    key: str
    function: Callable[[], Any]
    answer: Deferred[Any]
    timer: IDelayedCall | None = None
    running: bool = False

    def stop_timer(self) -> None:
        """It is over, or has not even a timer."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()


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
        reactor: IReactorTime,
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

    def call(self, key: str, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Call ``function(*arguments)`` in a thread, as one of the calls of ``key``.

        Fails as the function does, or with :class:`Unavailable` when too many calls wait or it
        takes too long. Cancelling removes a call that still waits.
        """
        answer: Deferred[T] = Deferred(lambda _: self._give_up(call))
        call = _Call(key, lambda: function(*arguments), answer)
        queue = self._queues.get(key)
        mine = 0 if queue is None else len(queue)
        if self._closed or mine >= self._waiting or not self._may_wait(mine + 1):
            answer.errback(self._too_busy())
            return answer
        call.timer = self._reactor.callLater(self._seconds, self._late, call)
        if queue is None:
            queue = self._queues[key] = deque()
        queue.append(call)
        self._waits += 1
        self._offer(key)
        self._start()
        return answer

    def close(self) -> None:
        """Refuse further calls, and end threads when they are done."""
        self._closed = True
        for queue in list(self._queues.values()):
            for waiting in list(queue):
                self._fail(waiting, Unavailable(f"{self._name}: shutting down"))
        for _ in range(self._started):
            self._jobs.put(None)
        self._started = 0

    def _may_wait(self, mine: int) -> bool:
        """Return whether one more call may wait, of a key that then has ``mine``.

        When the limit is reached, the last call of the key with most calls is dropped for it.
        """
        if self._waits < self._waiting * KEYS_WAITING:
            return True
        longest = max(self._queues.values(), key=len)
        if len(longest) <= mine:
            return False
        self._fail(longest[-1], self._too_busy())
        return True

    def _too_busy(self) -> Unavailable:
        return Unavailable(f"{self._name}: too many requests; try again later")

    # -- turns ------------------------------------------------------------------------
    def _offer(self, key: str) -> None:
        """Give ``key`` a turn if it has calls that wait, and threads left."""
        if key in self._queues and self._running[key] < self._share:
            self._turns.setdefault(key)

    def _start(self) -> None:
        while self._turns and self.running < self._threads:
            key = next(iter(self._turns))
            del self._turns[key]
            call = self._queues[key].popleft()
            if not self._queues[key]:
                del self._queues[key]
            self._waits -= 1
            self._running[key] += 1
            self._offer(key)
            call.running = True
            if self._started < min(self.running, self._threads):
                self._started += 1
                threading.Thread(
                    target=_work, args=(self._jobs, self._report), name=self._name, daemon=True
                ).start()
            self._jobs.put(call)

    def _report(self, call: _Call, result: Any) -> None:
        """In a thread: hand the result to the reactor."""
        IReactorFromThreads(self._reactor).callFromThread(self._done, call, result)

    def _done(self, call: _Call, result: Any) -> None:
        self._running[call.key] -= 1
        if not self._running[call.key]:
            del self._running[call.key]
        self._offer(call.key)
        self._start()
        if not call.answer.called:
            call.stop_timer()
            call.answer.callback(result)  # a Failure is an errback

    # -- giving up --------------------------------------------------------------------
    def _late(self, call: _Call) -> None:
        self._fail(call, Unavailable(f"{self._name} did not answer within {self._seconds:.0f} s"))

    def _fail(self, call: _Call, error: Unavailable) -> None:
        self._forget(call)
        call.answer.errback(error)

    def _give_up(self, call: _Call) -> None:
        self._forget(call)

    def _forget(self, call: _Call) -> None:
        call.stop_timer()
        if call.running:
            return
        queue = self._queues[call.key]
        queue.remove(call)
        self._waits -= 1
        if not queue:
            del self._queues[call.key]
            self._turns.pop(call.key, None)


class SerialWorker:
    """One thread, named ``name``, that makes calls in order.

    With a clock that takes no calls from threads, such as a test's, calls are made at once.
    """

    def __init__(self, reactor: IReactorTime, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._inline = not IReactorFromThreads.providedBy(reactor)
        self._jobs: SimpleQueue[_Call | None] = SimpleQueue()
        self._started = False
        self._closed = False

    def call(self, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Call ``function(*arguments)`` after all earlier calls; fails as it does."""
        if self._closed:
            raise RuntimeError(f"{self._name} is closed")
        if self._inline:
            return maybeDeferred(function, *arguments)
        answer: Deferred[T] = Deferred()
        self._start()
        self._jobs.put(_Call("", lambda: function(*arguments), answer))
        return answer

    def close(self) -> Deferred[None]:
        """Refuse further calls; fires when all are made. May be called twice."""
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

    def _report(self, call: _Call, result: Any) -> None:
        """In the thread: hand the result to the reactor."""
        IReactorFromThreads(self._reactor).callFromThread(_answer, call.answer, result)


def in_thread_pool(
    reactor: IReactorTime, function: Callable[..., T], *arguments: Any
) -> Deferred[T]:
    """Call ``function(*arguments)`` in a thread of the pool of ``reactor``."""
    threads = IReactorThreads(reactor)
    return deferToThreadPool(threads, threads.getThreadPool(), function, *arguments)


def _answer(answer: Deferred[Any], result: Any) -> None:
    if not answer.called:  # cancelled
        answer.callback(result)


def _work(jobs: SimpleQueue[_Call | None], report: Callable[[_Call, Any], None]) -> None:
    """Run in a thread: make one call after the other until there is None."""
    while (call := jobs.get()) is not None:
        try:
            result = call.function()
        except BaseException:
            result = Failure()
        report(call, result)
