"""Is this the user's password? Argon2, off the reactor's thread, with a lock-out.

Laws of this file:

* Unknown user, wrong password and locked out take the same work and give the same answer;
  the reason is for the audit only.
* Hashing never runs in the reactor's thread, and only so many at once: an argon2 hash
  takes 64 MiB.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred, DeferredSemaphore

from tele.auth.shelf import Shelf
from tele.errors import InvalidInput
from tele.interfaces import IBackend

T = TypeVar("T")

SHORTEST = 8
LONGEST = 1024
FAILURES = 5
WINDOW = timedelta(minutes=30)
LOCKED_FOR = timedelta(minutes=30)
AT_ONCE = 2


class Verdict(str, Enum):
    """How an attempt went; everything but GOOD is the same to the one who tried."""

    GOOD = "good"
    UNKNOWN = "unknown user"
    WRONG = "wrong password"
    LOCKED_OUT = "locked out after too many failures"


@frozen
class StoredPassword:
    """As it is in the store."""

    hash: str = field(repr=False)
    failures: tuple[datetime, ...] = ()
    locked_until: datetime | None = None


class Passwords:
    """The passwords of a cluster's users.

    ``in_thread(function, *words)`` runs a function in a thread and returns a Deferred.
    """

    def __init__(
        self,
        backend: IBackend,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        in_thread: Callable[..., Deferred[Any]],
        hasher: PasswordHasher | None = None,
    ) -> None:
        self._backend = backend
        self._now = now
        self._entropy = entropy
        self._in_thread = in_thread
        self._hasher = hasher or PasswordHasher()
        self._shelf = Shelf(backend, "/passwords/", StoredPassword)
        self._turns = DeferredSemaphore(AT_ONCE)
        self._decoy: str | None = None

    async def _work(self, function: Callable[..., T], *words: object) -> T:
        result: T = await self._turns.run(self._in_thread, function, *words)
        return result

    def generate(self) -> str:
        """Return a new random password of 120 bits."""
        return base64.b32encode(self._entropy(15)).decode().lower()

    async def set(self, user: str, password: str) -> None:
        """Give ``user`` a password; failures before are forgotten."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise InvalidInput(f"a password needs at least {SHORTEST} characters")
        hashed = await self._work(self._hasher.hash, password)
        await self._backend.commit(self._shelf.put(user, StoredPassword(hashed)))

    async def forget(self, user: str) -> None:
        """Remove the password of ``user``."""
        await self._backend.commit(self._shelf.delete(user))

    async def check(self, user: str, password: str) -> Verdict:
        """Return how the attempt went, and count it."""
        kept = await self._shelf.get(user)
        now = self._now()
        stored = None if kept is None else kept.value
        hashed = stored.hash if stored is not None else await self._decoy_hash()
        good = await self._work(self._verify, hashed, password[: LONGEST + 1])
        if stored is None:
            return Verdict.UNKNOWN
        if stored.locked_until is not None and now < stored.locked_until:
            return Verdict.LOCKED_OUT
        if good:
            if stored.failures or stored.locked_until:
                await self._shelf.change(user, lambda _: StoredPassword(hashed))
            return Verdict.GOOD
        after = await self._shelf.change(user, lambda v: self._failed(v or stored, now))
        return Verdict.LOCKED_OUT if after.locked_until else Verdict.WRONG

    def _failed(self, stored: StoredPassword, now: datetime) -> StoredPassword:
        recent = (*(f for f in stored.failures if now - f < WINDOW), now)
        if len(recent) >= FAILURES:
            return evolve(stored, failures=(), locked_until=now + LOCKED_FOR)
        return evolve(stored, failures=recent, locked_until=None)

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (Argon2Error, InvalidHashError):
            return False

    async def _decoy_hash(self) -> str:
        """A hash of nothing that anybody knows: checking it costs what a real one costs."""
        if self._decoy is None:
            self._decoy = await self._work(self._hasher.hash, self.generate())
        return self._decoy
