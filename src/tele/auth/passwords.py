"""Is this the user's password? Argon2, off the reactor's thread, with a lock-out.

Laws of this file:

* Unknown user, wrong password and locked out take the same work, the same look-ups and the
  same one commit, and give the same answer; the reason is for the audit only.
* What counts is what the store says *after* the password was hashed: however many guesses
  are tried at once, the sixth finds the user locked out.
* Hashing never runs in the reactor's thread, and only so many at once: an argon2 hash
  takes 64 MiB. Whoever comes when too many wait already is told to try again.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred, DeferredSemaphore

from tele.auth.shelf import Shelf
from tele.errors import InvalidInput, NotFound, Unavailable
from tele.interfaces import Delete, IBackend, Put
from tele.model.resources import NAME_PATTERN

T = TypeVar("T")

SHORTEST: Final = 8
LONGEST: Final = 1024
FAILURES: Final = 5
WINDOW: Final = timedelta(minutes=30)
LOCKED_FOR: Final = timedelta(minutes=30)
AT_ONCE: Final = 2
WAITING: Final = 64
DECOYS: Final = 16

_NAME = re.compile(NAME_PATTERN, re.ASCII)
_NOBODY: Final = "--"


class Verdict(str, Enum):
    """How an attempt went; everything but GOOD is the same to the one who tried."""

    GOOD = "good"
    UNKNOWN = "unknown user"
    WRONG = "wrong password"
    LAST = "wrong password, locked out from now on"
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
        self._now = now
        self._entropy = entropy
        self._in_thread = in_thread
        self._hasher = hasher or PasswordHasher()
        self._shelf = Shelf(backend, "/passwords/", StoredPassword)
        self._turns = DeferredSemaphore(AT_ONCE)
        self._waiting = 0
        self._decoy: str | None = None

    async def _work(self, function: Callable[..., T], *words: object) -> T:
        if self._waiting >= WAITING:
            raise Unavailable("too many people log in at this moment; try again")
        self._waiting += 1
        try:
            result: T = await self._turns.run(self._in_thread, function, *words)
        finally:
            self._waiting -= 1
        return result

    # -- setting ----------------------------------------------------------------------
    def generate(self) -> str:
        """Return a new random password of 120 bits."""
        return base64.b32encode(self._entropy(15)).decode().lower()

    async def replacement(self, user: str, password: str) -> Put:
        """Return the change that gives ``user`` a password; failures before are forgotten."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise InvalidInput(f"a password has {SHORTEST} to {LONGEST} characters")
        hashed = await self._work(self._hasher.hash, password)
        return self._shelf.put(user, StoredPassword(hashed))

    def removal(self, user: str) -> Delete:
        """Return the change that takes the password of ``user`` away."""
        return self._shelf.delete(user)

    # -- checking ---------------------------------------------------------------------
    async def check(self, user: str, password: str) -> Verdict:
        """Return how the attempt went, and count it."""
        # What is no possible name is as unknown as any other.
        name = user if _NAME.fullmatch(user) else _NOBODY
        kept = await self._shelf.get(name)
        hashed = await self._decoy_hash() if kept is None else kept.value.hash
        good = await self._work(self._verify, hashed, password[: LONGEST + 1])
        if kept is None:
            return await self._unknown(user)
        verdict = Verdict.UNKNOWN

        def settle(present: StoredPassword | None) -> StoredPassword:
            nonlocal verdict
            if present is None:
                raise NotFound("removed meanwhile")
            verdict, after = self._settle(present, good and present.hash == hashed)
            return after

        try:
            await self._shelf.change(name, settle)
        except NotFound:
            return Verdict.UNKNOWN
        return verdict

    async def _unknown(self, user: str) -> Verdict:
        """Leave the same traces in time as for a user whom there is."""
        # Names that begin with - are no user's; a few of them, so that they do not queue up.
        decoy = f"-{zlib.crc32(user.encode('utf-8', 'replace')) % DECOYS}"
        stored = StoredPassword(await self._decoy_hash())
        await self._shelf.change(decoy, lambda present: self._settle(present or stored, False)[1])
        return Verdict.UNKNOWN

    def _settle(self, present: StoredPassword, good: bool) -> tuple[Verdict, StoredPassword]:
        now = self._now()
        if present.locked_until is not None and now < present.locked_until:
            return Verdict.LOCKED_OUT, present
        if good:
            return Verdict.GOOD, StoredPassword(present.hash)
        recent = (*(f for f in present.failures if now - f < WINDOW), now)
        if len(recent) >= FAILURES:
            return Verdict.LAST, evolve(present, failures=(), locked_until=now + LOCKED_FOR)
        return Verdict.WRONG, evolve(present, failures=recent, locked_until=None)

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (Argon2Error, InvalidHashError, UnicodeEncodeError):
            return False

    async def _decoy_hash(self) -> str:
        """A hash of nothing that anybody knows: checking it costs what a real one costs."""
        if self._decoy is None:
            self._decoy = await self._work(self._hasher.hash, self.generate())
        return self._decoy

    async def warm_up(self) -> None:
        """Make the decoy, so that the first unknown user does not take longer than others."""
        await self._decoy_hash()
