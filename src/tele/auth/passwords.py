"""Is this the user's password? Argon2 in threads, within the limits of guessing.

Invariants:

* Unknown user, wrong password and locked out take the same work, the same reads and the same
  commit, and give the same answer; the reason is for the audit only.
* The limits are applied to the stored guard *after* the password was hashed: parallel guesses are
  counted one by one (:mod:`tele.auth.guessing`).
* Hashing never runs in the reactor's thread, and never more than :data:`AT_ONCE` times in parallel:
  an argon2 hash takes 64 MiB. Waiting attempts take turns by source and by user name, so that a
  flood delays no other client for long; no source can fill the queue, and nothing is hashed for a
  client that has disconnected.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from attrs import Factory, evolve, field, frozen
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred

from tele.admission.fair_queue import FairQueue
from tele.auth.guessing import Guard, Outcome
from tele.auth.repository import Repository
from tele.errors import Conflict, InvalidInput, NotFound, Unavailable
from tele.interfaces import Delete, IBackend, Put
from tele.model.cluster_settings import SHORTEST_PASSWORD, PasswordPolicy
from tele.model.names import NAME_PATTERN

T = TypeVar("T")

SHORTEST: Final = SHORTEST_PASSWORD
LONGEST: Final = 1024
AT_ONCE: Final = 2
#: Waiting attempts: all, those of one source, and those of one source for one user name.
WAITING: Final = 512
WAITING_PER_SOURCE: Final = 128
WAITING_PER_NAME: Final = 8
DECOYS: Final = 16

_NAME = re.compile(NAME_PATTERN, re.ASCII)
_NOBODY: Final = "--"
#: The source of passwords that administrators set, for the queue.
_SETTING: Final = "@setting"


@frozen
class StoredPassword:
    """A password in the store. ``failures`` and ``locked_until`` are of older versions, unused."""

    hash: str = field(repr=False)
    failures: tuple[datetime, ...] = ()
    locked_until: datetime | None = None
    guard: Guard = Factory(Guard)


@frozen
class Attempt:
    """A client: its ``source`` network, or the name of its ``device`` if that proved itself.

    ``present()`` is whether it still waits for the answer.
    """

    source: str = ""
    device: str = ""
    present: Callable[[], bool] = lambda: True


@frozen(eq=False)
class _Job:
    """Work that waits for its turn."""

    work: Callable[[], Deferred[Any]]
    answer: Deferred[Any]
    present: Callable[[], bool]


class Passwords:
    """The passwords of a cluster's users.

    ``in_thread(function, *arguments)`` runs a function in a thread and returns a Deferred.
    """

    def __init__(
        self,
        backend: IBackend,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        in_thread: Callable[..., Deferred[Any]],
        hasher: PasswordHasher | None = None,
        policy: Callable[[], PasswordPolicy] = PasswordPolicy,
    ) -> None:
        self._policy = policy
        self._now = now
        self._entropy = entropy
        self._in_thread = in_thread
        self._hasher = hasher or PasswordHasher()
        self._repository = Repository(backend, "/passwords/", StoredPassword)
        self._turns: FairQueue[_Job] = FairQueue(WAITING, WAITING_PER_SOURCE, WAITING_PER_NAME)
        self._running = 0
        # One at a time: parallel attempts at one user would make each other's commits fail.
        self._settling = DeferredLock()
        self._decoy: str | None = None

    async def _work(
        self, source: str, name: str, present: Callable[[], bool],
        function: Callable[..., T], *arguments: object,
    ) -> T:  # fmt: skip
        answer: Deferred[T] = Deferred()
        job = _Job(lambda: self._in_thread(function, *arguments), answer, present)
        displaced = self._turns.add(source, name, job)
        if displaced is None:
            for left in self._turns.drop(lambda each: not each.present()):
                left.answer.errback(_too_many())
            displaced = self._turns.add(source, name, job)
        if displaced is None:
            raise _too_many()
        for each in displaced:
            each.answer.errback(_too_many())
        self._next()
        return await answer

    def _next(self) -> None:
        while self._running < AT_ONCE and (job := self._turns.next()) is not None:
            if not job.present():
                job.answer.errback(_too_many())
                continue
            self._running += 1
            maybeDeferred(job.work).addBoth(self._done, job.answer)

    def _done(self, result: Any, answer: Deferred[Any]) -> None:
        self._running -= 1
        self._next()
        answer.callback(result)

    # -- setting ----------------------------------------------------------------------
    def generate(self) -> str:
        """Return a new random password of 120 bits."""
        return base64.b32encode(self._entropy(15)).decode().lower()

    async def replacement(self, user: str, password: str) -> Put:
        """Return the change that gives ``user`` a password and resets its guard.

        Raises :class:`InvalidInput` for one that the policy refuses.
        """
        self._check_policy(password)
        return self._repository.put(user, await self._made(user, password))

    async def generated(self, user: str) -> tuple[str, Put]:
        """Return a new random password, and the change that gives it to ``user``."""
        made = self.generate()
        return made, self._repository.put(user, await self._made(user, made))

    def _check_policy(self, password: str) -> None:
        if problem := self._policy().refuses(password):
            raise InvalidInput(problem)

    async def mark(self, user: str) -> str:
        """Return a mark of the password that ``user`` has now; another password has another."""
        entry = await self._repository.get(user)
        return "" if entry is None else entry.value.hash

    async def change(self, user: str, mark: str, password: str) -> None:
        """Replace the password of ``user`` that has this mark.

        Raises :class:`Conflict` if the user has another one by now: it may be another user.
        Raises :class:`InvalidInput` for one that the policy refuses.
        """
        self._check_policy(password)
        made = await self._made(user, password)

        def changed(present: StoredPassword | None) -> StoredPassword:
            if present is None or present.hash != mark:
                raise Conflict("the password has been changed meanwhile")
            return made

        await self._repository.change(user, changed)

    async def _made(self, user: str, password: str) -> StoredPassword:
        check_length(password)
        hashed = await self._work(_SETTING, user, _always, self._hasher.hash, password)
        return StoredPassword(hashed)

    def removal(self, user: str) -> Delete:
        """Return the change that removes the password of ``user``."""
        return self._repository.delete(user)

    # -- checking ---------------------------------------------------------------------
    async def check(self, user: str, password: str, attempt: Attempt | None = None) -> Outcome:
        """Return the outcome of an attempt, and count it."""
        attempt = attempt or Attempt()
        # An invalid name is treated as an unknown one.
        name = user if _NAME.fullmatch(user) else _NOBODY
        entry = await self._repository.get(name)
        hashed = await self._decoy_hash() if entry is None else entry.value.hash
        good = await self._work(
            attempt.source, name, attempt.present, self._verify, hashed, password[: LONGEST + 1]
        )
        settle = self._settle_unknown if entry is None else self._settle
        outcome: Outcome = await self._settling.run(
            lambda: Deferred.fromCoroutine(settle(user, hashed, good, attempt))
        )
        return outcome

    async def _settle(self, user: str, hashed: str, good: bool, attempt: Attempt) -> Outcome:
        outcome = Outcome.UNKNOWN

        def settled(present: StoredPassword | None) -> StoredPassword:
            nonlocal outcome
            if present is None:
                raise NotFound("removed meanwhile")
            outcome, after = self._tried(present, good and present.hash == hashed, attempt)
            return after

        try:
            await self._repository.change(user, settled)
        except NotFound:
            return Outcome.UNKNOWN
        return outcome

    async def _settle_unknown(
        self, user: str, hashed: str, good: bool, attempt: Attempt
    ) -> Outcome:
        """Do the same work as for a user that exists."""
        # Names that begin with - are no user's. A bounded number of them is stored.
        decoy = f"-{zlib.crc32(user.encode('utf-8', 'replace')) % DECOYS}"
        stored = StoredPassword(hashed)
        await self._repository.change(
            decoy, lambda present: self._tried(present or stored, False, attempt)[1]
        )
        return Outcome.UNKNOWN

    def _tried(
        self, present: StoredPassword, good: bool, attempt: Attempt
    ) -> tuple[Outcome, StoredPassword]:
        source = f"device {attempt.device}" if attempt.device else attempt.source
        outcome, guard = present.guard.attempt(
            source, good, self._now(), device=bool(attempt.device)
        )
        return outcome, evolve(present, guard=guard, failures=(), locked_until=None)

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (Argon2Error, InvalidHashError, UnicodeEncodeError):
            return False

    async def _decoy_hash(self) -> str:
        """Return the hash of a random password: checking it costs what a real one costs."""
        if self._decoy is None:
            made = self.generate()
            self._decoy = await self._work(_SETTING, "", _always, self._hasher.hash, made)
        return self._decoy

    async def warm_up(self) -> None:
        """Make the decoy, so that the first unknown user takes no longer than others."""
        await self._decoy_hash()


def check_length(password: str) -> None:
    """Raise :class:`InvalidInput` for a password that is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise InvalidInput(f"a password has {SHORTEST} to {LONGEST} characters")


def _always() -> bool:
    return True


def _too_many() -> Unavailable:
    return Unavailable("too many logins at the same time; try again")
