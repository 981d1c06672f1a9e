"""Which sessions need which OS account, and when is one made, changed and released?

Invariants:

* Requests about one login run one after the other; what counts is who is connected when a request
  begins. An account is released only while no connection needs it.
* Users who are connected as one login share its account: it has the groups and the lines of sudoers
  that all of them have, so that none gets another's rights.
* A login begins after its account is as roles want it, or is refused with the reason. A change of
  roles changes the account of running sessions; if that fails, its sudoers and groups are taken
  away.
* A release that does not succeed, as while processes of the account run, is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from tele.errors import TeleError
from tele.interfaces import IHostUsers
from tele.log import make_logger
from tele.loop import backoff
from tele.membership.audit_reporter import AuditReporter
from tele.model.host_user import Ensured, HostUser, Recovered, Released

#: Seconds between attempts to remove an account of which processes run.
LONGEST_PAUSE: Final = 60.0
#: Seconds that a node that stops waits for accounts to be released; the rest is done at its start.
STOP_SECONDS: Final = 10.0

_log = make_logger(__name__)


@define(eq=False)
class _Account:
    """The account of one login, while connections need it or it is not released yet."""

    login: str
    user: str = ""
    lock: DeferredLock = field(factory=DeferredLock)
    leases: dict[AccountLease, None] = field(factory=dict)
    #: What the account was last made like.
    applied: HostUser | None = None
    is_applied: bool = False
    attempts: int = 0
    timer: IDelayedCall | None = None


@define(eq=False)
class AccountLease:
    """One connection's need of an account; ``wanted`` is what its roles say of it."""

    wanted: HostUser | None
    _changed: Callable[[AccountLease], None]
    _released: Callable[[AccountLease], None]

    def update(self, wanted: HostUser | None) -> None:
        """Roles say something else now."""
        if wanted != self.wanted:
            self.wanted = wanted
            self._changed(self)

    def release(self) -> None:
        """The connection has ended. May be called twice."""
        self._released(self)


class HostUsers:
    """The accounts that a node makes.

    :param host_users: makes and removes them; None makes none.
    :param enabled: whether roles may have accounts made; otherwise what there is from before is
        only released.
    """

    def __init__(
        self,
        clock: IReactorTime,
        host_users: IHostUsers | None,
        audit: AuditReporter,
        *,
        enabled: bool = True,
    ) -> None:
        self._clock = clock
        self._host_users = host_users or _NoAccounts()
        self._audit = audit
        self._enabled = enabled and host_users is not None
        self._accounts: dict[str, _Account] = {}
        #: Logins whose accounts were made here, also before.
        self._managed: set[str] = set()
        self._stopped = False

    async def start(self) -> None:
        """Take away what sessions before a crash or a reboot needed, before any login."""
        try:
            recovered = await self._host_users.recover()
        except TeleError as error:
            _log.error("accounts not recovered", error=str(error))
            return
        self._managed.update(recovered.kept, recovered.dropped)
        for login in recovered.dropped:
            self._accounts[login] = account = _Account(login)
            self._soon(account, self._release(account))

    async def stop(self) -> None:
        """No connection is left: wait for releases, for a while."""
        self._stopped = True
        for account in list(self._accounts.values()):
            if account.timer is not None:
                account.timer.cancel()
                account.timer = None
            waiting: Deferred[object] = account.lock.run(lambda: None)
            waiting.addTimeout(STOP_SECONDS, self._clock)
            waiting.addErrback(lambda _: None)  # it is left for the next start
            await waiting

    async def acquire(self, login: str, user: str, wanted: HostUser | None) -> AccountLease:
        """Have the account ready for a connection of ``user``; the caller releases the lease.

        Raises a TeleError if that cannot be.
        """
        lease = AccountLease(
            wanted if self._enabled else None,
            lambda lease: self._changed(login, lease),
            lambda lease: self._released(login, lease),
        )
        account = self._accounts.get(login)
        if account is None:
            account = self._accounts[login] = _Account(login)
        account.user = user
        account.leases[lease] = None
        self._stop_timer(account)
        try:
            await self._apply(account)
        except BaseException:
            lease.release()
            raise
        return lease

    # -- one login --------------------------------------------------------------------
    async def _apply(self, account: _Account) -> None:
        await account.lock.run(lambda: Deferred.fromCoroutine(self._apply_now(account)))

    async def _apply_now(self, account: _Account) -> None:
        """Make the account as all who are connected want it."""
        if not account.leases:
            return
        wanted = shared([lease.wanted for lease in account.leases])
        if wanted is None and account.login not in self._managed:
            return
        if account.is_applied and account.applied == wanted:
            return
        account.is_applied = False
        ensured = await self._host_users.ensure(account.login, wanted)
        account.applied, account.is_applied = wanted, True
        if not ensured.managed:
            self._managed.discard(account.login)
            return
        self._managed.add(account.login)
        if ensured.made or ensured.changed:
            has = wanted or HostUser()
            self._audit.emit(
                "host_user.create" if ensured.made else "host_user.update",
                user=account.user,
                login=account.login,
                drop=has.drop,
                groups=list(has.groups),
                sudoers=list(has.sudoers),
            )

    def _changed(self, login: str, lease: AccountLease) -> None:
        account = self._accounts.get(login)
        if not self._enabled:
            lease.wanted = None
        if account is not None and lease in account.leases:
            self._soon(account, self._apply_or_take_away(account))

    async def _apply_or_take_away(self, account: _Account) -> None:
        try:
            await self._apply(account)
        except TeleError as error:
            _log.error("account not changed", login=account.login, error=str(error))
            # No user has more than the roles give.
            without = evolve(account.applied or HostUser(), groups=(), sudoers=())
            account.is_applied = False
            await account.lock.run(lambda: self._host_users.ensure(account.login, without))

    def _released(self, login: str, lease: AccountLease) -> None:
        account = self._accounts.get(login)
        if account is None or lease not in account.leases:
            return
        del account.leases[lease]
        if account.leases:
            self._soon(account, self._apply_or_take_away(account))
        else:
            self._soon(account, self._release(account))

    async def _release(self, account: _Account) -> None:
        """The user has left: rights end, and an account that is to be dropped is removed."""
        busy = await account.lock.run(lambda: Deferred.fromCoroutine(self._release_now(account)))
        if busy and not account.leases and not self._stopped:
            pause = backoff(account.attempts, longest=LONGEST_PAUSE)
            account.attempts += 1
            account.timer = self._clock.callLater(pause, self._again, account)

    async def _release_now(self, account: _Account) -> bool:
        """Release it; True if it has to be tried again."""
        if account.leases:
            return False
        if account.login in self._managed:
            account.is_applied = False
            try:
                released = await self._host_users.release(account.login)
            except TeleError as error:
                _log.error("account not released", login=account.login, error=str(error))
                return True
            if released.busy:
                return True
            if released.removed:
                self._managed.discard(account.login)
                self._audit.emit("host_user.remove", user=account.user, login=account.login)
        if not account.leases and not account.lock.waiting:
            self._accounts.pop(account.login, None)
        return False

    def _again(self, account: _Account) -> None:
        account.timer = None
        self._soon(account, self._release(account))

    def _stop_timer(self, account: _Account) -> None:
        account.attempts = 0
        if account.timer is not None:
            account.timer.cancel()
            account.timer = None

    def _soon(self, account: _Account, work: Coroutine[Any, Any, None]) -> None:
        done: Deferred[None] = Deferred.fromCoroutine(work)
        done.addErrback(
            lambda failure: _log.error(
                "account not changed", login=account.login, error=failure.getErrorMessage()
            )
        )


@implementer(IHostUsers)
class _NoAccounts:
    """Makes nothing, and made nothing."""

    def recover(self) -> Deferred[Recovered]:
        return succeed(Recovered())

    def ensure(self, login: str, wanted: HostUser | None) -> Deferred[Ensured]:
        return succeed(Ensured(managed=False))

    def release(self, login: str) -> Deferred[Released]:
        return succeed(Released())


def shared(wanted: list[HostUser | None]) -> HostUser | None:
    """Return the account that connections share: no group or line of sudoers that one lacks.

    It is dropped only if all of them say so. The shell and the numbers are those of the first one.
    """
    given = [each for each in wanted if each is not None]
    if not given:
        return None
    if len(given) < len(wanted):
        given = [*given, HostUser(drop=given[0].drop)]
    return evolve(
        given[0],
        drop=all(each.drop for each in given),
        groups=_in_all([each.groups for each in given]),
        sudoers=_in_all([each.sudoers for each in given]),
    )


def _in_all(lists: list[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(each for each in lists[0] if all(each in other for other in lists))
