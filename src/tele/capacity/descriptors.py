"""How many file descriptors may users take, and what is left for the process itself?

``RLIMIT_NOFILE`` is divided once (:class:`Shares`): a part for the process (files, audit,
recordings, tunnels, calls to auth), a part for connections that have not logged in, and the
rest for users. :class:`DescriptorBudget` counts what users hold.

Invariants:

* All users together never hold more than their part, and one user over all connections no more
  than a quarter of it. A request beyond that is refused before anything is opened.
* A descriptor is counted before it is opened and until it is closed.
* Some descriptors are held open in reserve (:func:`spare_descriptor`), so that a file of a
  recording or of the audit can be opened when all others are used up.
"""

from __future__ import annotations

import functools
import os
import resource
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from attrs import define, field, frozen

from tele.errors import Unavailable, quoted

#: More are of no use, and their tables cost memory.
HIGHEST_LIMIT: Final = 1 << 20
#: Descriptors in reserve for the files of recordings and of the audit.
SPARES: Final = 8
#: A user's share of what all users may hold.
PER_USER_PART: Final = 4


@frozen
class Shares:
    """How a limit of descriptors is divided; all are numbers of descriptors.

    ``own``: the process's; ``unauthenticated``: connections that have not logged in; ``users``:
    all users together; ``per_user``: one of them.
    """

    own: int
    unauthenticated: int
    users: int
    per_user: int


def shares_of(limit: int) -> Shares:
    """Return how ``limit`` descriptors are divided."""
    own = min(max(64, limit // 8), 1024)
    unauthenticated = min(max(8, limit // 8), 2048)
    users = max(PER_USER_PART, limit - own - unauthenticated)
    return Shares(own, unauthenticated, users, users // PER_USER_PART)


@define
class DescriptorBudget:
    """Counts what users hold. ``shares`` are the limits."""

    shares: Shares
    _held: Counter[str] = field(factory=Counter, init=False)

    @property
    def held(self) -> int:
        """How many all users hold."""
        return self._held.total()

    def held_by(self, owner: str) -> int:
        """Return how many one user holds."""
        return self._held[owner]

    def account(self, owner: str) -> Account:
        """Return the account of ``owner``, which all connections of the user share."""
        return Account(self, owner)

    def take(self, owner: str, count: int) -> Lease:
        """Count ``count`` more for ``owner``. Raises :class:`Unavailable` if that is too many."""
        if self._held[owner] + count > self.shares.per_user:
            held = self._held[owner]
            self._forget_if_none(owner)
            raise Unavailable(
                f"{quoted(owner)} holds {held} of at most {self.shares.per_user} file descriptors"
                " here: close sessions or forwards first"
            )
        if self.held + count > self.shares.users:
            self._forget_if_none(owner)
            raise Unavailable(
                f"all users hold {self.held} of at most {self.shares.users} file descriptors"
                " here: try again later, or have LimitNOFILE of this host raised"
            )
        self._held[owner] += count
        return Lease(self, owner, count)

    def give_back(self, owner: str, count: int) -> None:
        """Count ``count`` less; for :class:`Lease`."""
        self._held[owner] -= count
        self._forget_if_none(owner)

    def _forget_if_none(self, owner: str) -> None:
        if not self._held[owner]:
            del self._held[owner]


@define(eq=False)
class Lease:
    """Some descriptors of one user."""

    _budget: DescriptorBudget
    _owner: str
    count: int

    def keep(self, count: int) -> None:
        """Give all but ``count`` back. May be called again, and does nothing then."""
        if count < self.count:
            back, self.count = self.count - count, count
            self._budget.give_back(self._owner, back)

    def release(self) -> None:
        """Give all back after they were closed. May be called twice."""
        self.keep(0)


@frozen
class Account:
    """What one user may take."""

    budget: DescriptorBudget
    owner: str

    def take(self, count: int = 1) -> Lease:
        """See :meth:`DescriptorBudget.take`."""
        return self.budget.take(self.owner, count)


# -- this process ---------------------------------------------------------------------
def raise_limit() -> None:
    """Raise the soft limit of this process to its hard limit, as servers do.

    Not for a program that uses ``select``: its sets end at 1024. What is started for users gets
    the :func:`given_limit`.
    """
    given_limit()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = HIGHEST_LIMIT if hard == resource.RLIM_INFINITY else min(hard, HIGHEST_LIMIT)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@functools.cache
def given_limit() -> int:
    """Return the soft limit with which this process was started."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@functools.cache
def process_budget() -> DescriptorBudget:
    """Return the budget of this process, by its limit at the first call.

    All parts of a cluster that run in the process share it.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = HIGHEST_LIMIT if soft == resource.RLIM_INFINITY else min(soft, HIGHEST_LIMIT)
    _spares.fill()
    return DescriptorBudget(shares_of(limit))


@define
class _Spares:
    """Descriptors of ``/dev/null`` that are closed when another file has to be opened."""

    count: int
    _open: list[int] = field(factory=list, init=False)
    _wanted: bool = field(default=False, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def fill(self) -> None:
        """Open what is missing, as far as possible now."""
        with self._lock:
            self._fill()

    def _fill(self) -> None:
        self._wanted = True
        while len(self._open) < self.count:
            try:
                self._open.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return  # the next call tries again

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Hold one less inside of the block."""
        with self._lock:
            if self._open:
                os.close(self._open.pop())
        try:
            yield
        finally:
            if self._wanted:
                self.fill()


_spares: Final = _Spares(SPARES)


@contextmanager
def spare_descriptor() -> Iterator[None]:
    """Free one descriptor of the reserve, for a file that is closed again inside of the block.

    Does nothing without a :func:`process_budget`.
    """
    with _spares.lent():
        yield
