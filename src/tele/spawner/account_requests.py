"""How does the spawner answer requests about accounts without waiting for them?

Invariants:

* Standard library only: the spawner loads it.
* Each request runs in a process of its own, which ends after a time; a few run at once, and those
  that wait are bounded.
* A process that dies is an answer, too: the request failed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

from tele.spawner.accounts import Refused
from tele.spawner.host_accounts import HostAccounts, Switches
from tele.spawner.prepared_child import fork
from tele.spawner.session_child import reset_signals

#: Requests that run at once, and that wait for a place.
RUNNING: Final = 4
WAITING: Final = 1024
#: Seconds that a request may run: less than the node waits for its answer.
SECONDS: Final = 25
#: Seconds for what is left to do when the spawner ends.
LAST_SECONDS: Final = 10
_ANSWER: Final = 16
Report = Callable[[int, dict[str, Any]], None]


class AccountRequests:
    """The requests of one node.

    :param watch: calls its last argument when a descriptor has events; ``forget`` ends that, and
        closes the descriptor.
    :param report: takes the number of a request and its answer.
    """

    def __init__(
        self,
        switches: Switches,
        watch: Callable[[int, int, Callable[[], None]], None],
        forget: Callable[[int], None],
        report: Report,
    ) -> None:
        self._accounts = HostAccounts(switches)
        self._watch = watch
        self._forget = forget
        self._report = report
        self._answers: dict[int, bytes] = {}
        self._waiting: deque[tuple[int, dict[str, Any], tuple[int, ...]]] = deque()

    def take(self, number: int, header: dict[str, Any], changed_signals: tuple[int, ...]) -> None:
        """Begin to perform a request, or have it wait."""
        if len(self._waiting) >= WAITING:
            self._fail(number, "too many logins wait for their accounts; try again")
            return
        self._waiting.append((number, header, changed_signals))
        self._next()

    def end(self) -> None:
        """The node is gone, and with it all sessions. It waits for a while, and may end us."""
        signal.alarm(LAST_SECONDS)
        with contextlib.suppress(Refused, OSError):
            self._accounts.end()

    def _next(self) -> None:
        while self._waiting and len(self._answers) < RUNNING:
            number, header, changed_signals = self._waiting.popleft()
            try:
                reading, writing = os.pipe2(os.O_CLOEXEC)
            except OSError as error:
                self._fail(number, error.strerror or str(error))
                continue
            try:
                if fork() == 0:
                    _be_child(self._accounts, header, writing, changed_signals)
            except OSError as error:
                os.close(reading)
                self._fail(number, error.strerror or str(error))
                continue
            finally:
                os.close(writing)
            self._answers[reading] = b""
            self._watch(reading, select.EPOLLIN, partial(self._read, reading, number))

    def _read(self, fd: int, number: int) -> None:
        data = os.read(fd, 65536)
        if data:
            self._answers[fd] += data
            return
        answer = self._answers.pop(fd)
        self._forget(fd)
        try:
            self._report(number, json.loads(answer))
        except ValueError:
            self._fail(number, "it took too long, or was ended; try again")
        self._next()

    def _fail(self, number: int, why: str) -> None:
        message = f"the account cannot be made ready: {why}"
        self._report(number, {"ok": False, "reason": "spawner", "message": message})


def _be_child(
    accounts: HostAccounts, header: dict[str, Any], inherited: int, changed: tuple[int, ...]
) -> NoReturn:
    try:
        reset_signals(changed)
        signal.alarm(SECONDS)
        answer = os.dup2(inherited, _ANSWER, inheritable=False) if inherited != _ANSWER else _ANSWER
        os.closerange(3, _ANSWER)
        os.closerange(_ANSWER + 1, os.sysconf("SC_OPEN_MAX"))
        os.umask(0o022)
        text = json.dumps(perform(accounts, header)).encode("ascii")
        os.write(answer, text)  # a pipe holds it all
    finally:
        os._exit(0)


def perform(accounts: HostAccounts, header: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request, also if it cannot be performed."""
    try:
        return {"ok": True, **accounts.perform(header)}
    except Refused as refused:
        return {"ok": False, "reason": refused.reason, "message": str(refused)}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        message = f"the account cannot be made ready: {why}{where}"
        return {"ok": False, "reason": "spawner", "message": message}
    except Exception as error:
        message = f"the account cannot be made ready: {type(error).__name__}: {error}"[:1000]
        return {"ok": False, "reason": "spawner", "message": message}
