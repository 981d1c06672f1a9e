"""How are the cluster's users, roles and locks read and changed?

Invariants:

* A change based on an old revision (``metadata.revision``) is refused.
* A role that a user holds cannot be removed.
* A user and their password, or their invitation, are created and removed together, and their
  second factors removed with them: a new user with the name of an earlier one gets none of these,
  nor their resources.
* A resource with ``metadata.expires`` is gone at that time.
* What a user loses is revoked in the commit that takes it away, so that older certificates do not
  give it any more.
* The last administrator is removed only by force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from attrs import evolve

from tele.auth.invitations import INVITATIONS
from tele.auth.passwords import Passwords
from tele.auth.repository import Repository, Versioned
from tele.auth.second_factors import factors_removal
from tele.auth.state import LOCKS, REVOKED_USERS, ROLES
from tele.errors import Conflict, InvalidInput, NotFound
from tele.interfaces import Delete, IBackend, Put
from tele.model.codec import encode, format_time, parse_time
from tele.model.resources import Lock, Metadata, Role, User
from tele.model.revocation import UserRevocation
from tele.rbac.administrators import Directory, administrators, last_lost
from tele.rbac.presets import FORMER_PRESETS, PRESETS, check_role
from tele.rbac.revoking import (
    REVOCATION_LIFE,
    after_change,
    after_removal,
    issued_from,
    revocation_ttl,
)

T = TypeVar("T")

USERS: Final = "/users/"
#: When the present user of a name was created.
SINCE: Final = "/users-since/"
#: The latest time of issue of a user's certificates.
ISSUED: Final = "/users-issued/"
PRESETS_MADE: Final = "/cluster/presets"
PRESETS_VERSION: Final = b"2"
#: Written with each change that removes an administrator, so that two such changes at the same time
#: cannot each rely on the other's administrator.
ADMINISTRATORS: Final = "/cluster/administrators"
LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
#: Roles and traits have to fit into an SSH certificate, which has to fit into one packet.
SPEC_LIMIT: Final = 16 * 1024


class Users:
    """Users, roles and locks, by name."""

    def __init__(
        self, backend: IBackend, passwords: Passwords, now: Callable[[], datetime]
    ) -> None:
        self._backend = backend
        self._passwords = passwords
        self._now = now
        self._users = Repository(backend, USERS, User)
        self._roles = Repository(backend, ROLES, Role)
        self._locks = Repository(backend, LOCKS, Lock)
        self._revocations = Repository(backend, REVOKED_USERS, UserRevocation)

    async def ensure_presets(self) -> None:
        """Make the preset roles, once: a removed one stays removed.

        Those that an earlier version made become the present ones, once, unless they were changed.
        """
        made = await self._backend.get(PRESETS_MADE)
        if made is not None and made.value == PRESETS_VERSION:
            return
        if made is None:
            for role in PRESETS:
                await self.restore_preset(role.metadata.name)
        else:
            for former in FORMER_PRESETS:
                await self._upgrade_preset(former)
        await self._backend.commit(Put(PRESETS_MADE, PRESETS_VERSION))

    async def _upgrade_preset(self, former: Role) -> None:
        name = former.metadata.name
        entry = await self._roles.get(name)
        if entry is None or entry.value != former:
            return
        for role in PRESETS:
            if role.metadata.name == name:
                try:
                    await self._backend.commit(self._roles.put(name, role, entry.revision))
                except Conflict:
                    return  # it was changed now, or another auth did the same

    async def restore_preset(self, name: str) -> bool:
        """Make a preset role if it does not exist; returns whether it was made."""
        for role in PRESETS:
            if role.metadata.name == name:
                try:
                    await self._backend.commit(self._roles.put(name, role, 0))
                except Conflict:
                    return False  # it exists, or another auth made it
                return True
        return False

    def _left(self, metadata: Metadata) -> timedelta | None:
        if metadata.expires is None:
            return None
        left = metadata.expires - self._now()
        if left <= timedelta(0):
            raise InvalidInput("metadata.expires: this time is in the past")
        return left

    # -- users ------------------------------------------------------------------------
    async def find_user(self, name: str) -> User | None:
        """Return a user with their revision, or None."""
        entry = await self._users.get(name)
        return None if entry is None else _with_revision(entry)

    async def user(self, name: str) -> User:
        """Return a user. Raises :class:`NotFound`."""
        found = await self.find_user(name)
        if found is None:
            raise NotFound(f"no such user: {name!r}; tele users ls shows the users")
        return found

    async def users(self, limit: int, after: str) -> Sequence[User]:
        """Return a page of users, by name."""
        return [_with_revision(entry) for entry in await self._users.list(limit, after)]

    async def add_user(
        self, user: User, password: str, invitation: Put | None = None
    ) -> tuple[User, str]:
        """Create a user; returns the password if it was generated.

        With an ``invitation``, which is committed, too, there is no password.
        """
        await self._check_user(user)
        if await self._users.get(user.metadata.name) is not None:
            raise Conflict(f"user {user.metadata.name} exists already")
        left = self._left(user.metadata)
        made, given = await self._credential(user.metadata.name, password, invitation)
        stored = evolve(user, metadata=evolve(user.metadata, revision=0))
        revoked = await self._revoke_change(None, stored)
        try:
            await self._backend.commit(
                self._users.put(user.metadata.name, stored, if_revision=0, ttl=left),
                *given,
                factors_removal(user.metadata.name),
                self._since_now(user.metadata.name),
                *revoked,
            )
        except Conflict:
            raise Conflict(f"user {user.metadata.name} exists already") from None
        return await self.user(user.metadata.name), made

    async def put_user(self, name: str, user: User, force: bool = False) -> tuple[User, bool]:
        """Create a user without a password, or replace one; returns whether it is new."""
        if user.metadata.name != name:
            raise InvalidInput("the name in the path and in metadata differ")
        await self._check_user(user)
        entry = await self._users.get(name)
        revision = user.metadata.revision or (0 if entry is None else entry.revision)
        if entry is not None and entry.revision != revision:
            raise _changed("user", name)
        before = None if entry is None else entry.value
        stored = evolve(user, metadata=evolve(user.metadata, revision=0))
        more: list[Put | Delete] = await self._revoke_change(before, stored)
        if before is None:
            more += [
                self._passwords.removal(name), Delete(INVITATIONS + name), factors_removal(name),
                self._since_now(name),
            ]  # fmt: skip
        elif await self._is_administrator(before):
            more += await self._keep_one(
                lambda d: evolve(d, users=_with(d.users, name, stored)), force
            )
        change = self._users.put(name, stored, revision, self._left(user.metadata))
        try:
            await self._backend.commit(change, *more)
        except Conflict:
            raise _changed("user", name) from None
        return await self.user(name), before is None

    async def reset_user(
        self, name: str, password: str, invitation: Put | None = None
    ) -> tuple[User, str]:
        """Give a user a new password; returns it if it was generated. See :meth:`add_user`."""
        user = await self.user(name)
        made, given = await self._credential(name, password, invitation)
        await self._backend.commit(*given)
        return user, made

    async def _credential(
        self, name: str, password: str, invitation: Put | None
    ) -> tuple[str, tuple[Put | Delete, ...]]:
        """Return a password that was generated, or nothing, and what to commit."""
        if invitation is not None:
            return "", (self._passwords.removal(name), invitation)
        made = ""
        if password:
            given = await self._passwords.replacement(name, password)
        else:
            made, given = await self._passwords.generated(name)
        return made, (given, Delete(INVITATIONS + name))

    async def accept(self, name: str, revision: int, password: str, *also: Put) -> None:
        """Exchange the invitation of this revision for a password, in one commit with ``also``.

        Raises :class:`Conflict` if it was used, replaced or removed meanwhile, as with its user.
        """
        given = await self._passwords.replacement(name, password)
        await self._backend.commit(given, Delete(INVITATIONS + name, revision), *also)

    async def delete_user(
        self, name: str, force: bool = False, also: Sequence[Delete] = ()
    ) -> None:
        """Remove a user and their password, in one commit with the changes ``also``."""
        user = await self.user(name)
        last: tuple[Put, ...] = ()
        if await self._is_administrator(user):
            last = await self._keep_one(
                lambda d: evolve(d, users=_with(d.users, name, None)), force
            )
        entry = await self._revocations.get(name)
        old = None if entry is None else entry.value
        revocation = after_removal(old, name, await self._after_issues(name))
        try:
            await self._backend.commit(
                self._users.delete(name, user.metadata.revision),
                self._passwords.removal(name),
                Delete(INVITATIONS + name),
                factors_removal(name),
                self._revoke(entry, revocation),
                *last,
                *also,
            )
        except Conflict:
            raise _changed("user", name) from None

    def _since_now(self, name: str) -> Put:
        return Put(SINCE + name, format_time(self._now()).encode())

    async def since(self, name: str) -> datetime:
        """Return when the present user of this name was created; :data:`LONG_AGO` if unknown."""
        entry = await self._backend.get(SINCE + name)
        return LONG_AGO if entry is None else parse_time(entry.value.decode())

    # -- revocations ------------------------------------------------------------------
    async def issue_time(self, name: str) -> datetime:
        """Return the time of issue for a certificate of a user.

        Call it before reading the user: what the user loses in between is revoked from a later
        time on.
        """
        moment = self._now()
        entry = await self._revocations.get(name)
        return issued_from(None if entry is None else entry.value, moment)

    async def note_issue(self, name: str, issued: datetime) -> None:
        """Store the time of issue of a user's certificate, before it is issued."""
        entry = await self._backend.get(ISSUED + name)
        if entry is None or parse_time(entry.value.decode()) < issued:
            value = format_time(issued).encode()
            await self._backend.commit(Put(ISSUED + name, value, ttl=REVOCATION_LIFE))

    async def _after_issues(self, name: str) -> datetime:
        """Return the present time, or the latest time of issue if the clock was set back since."""
        entry = await self._backend.get(ISSUED + name)
        moment = self._now()
        return moment if entry is None else max(moment, parse_time(entry.value.decode()))

    async def _revoke_change(self, before: User | None, after: User) -> list[Put | Delete]:
        name = after.metadata.name
        entry = await self._revocations.get(name)
        old = None if entry is None else entry.value
        revocation = after_change(old, before, after, await self._after_issues(name))
        if revocation == old:
            return []
        if revocation is None:
            return [self._revocations.delete(name)]
        return [self._revoke(entry, revocation)]

    def _revoke(self, entry: Versioned[UserRevocation] | None, revocation: UserRevocation) -> Put:
        revision = 0 if entry is None else entry.revision
        ttl = revocation_ttl(revocation, self._now())
        return self._revocations.put(revocation.user, revocation, revision, ttl)

    async def _is_administrator(self, user: User) -> bool:
        """Whether a user is an administrator, apart from locks. Reads their roles only."""
        held = [await self._roles.get(name) for name in user.spec.roles]
        roles = {entry.name: entry.value for entry in held if entry is not None}
        name = user.metadata.name
        return bool(administrators(Directory({name: user}, roles), self._now()))

    async def _keep_one(
        self, change: Callable[[Directory], Directory], force: bool
    ) -> tuple[Put, ...]:
        """Return what to commit with a change that may remove the last administrator.

        It reads all users, roles and locks: call it only if the change can remove one. Raises
        :class:`Conflict` if none would be left, unless by ``force``.
        """
        guard = await self._backend.get(ADMINISTRATORS)
        before = Directory(
            {entry.name: entry.value for entry in await self._users.list()},
            {entry.name: entry.value for entry in await self._roles.list()},
            {entry.name: entry.value for entry in await self._locks.list()},
        )
        lost = last_lost(before, change(before), self._now())
        if lost and not force:
            raise Conflict(
                f"the last administrator would be lost ({', '.join(sorted(lost))}): make another"
                " administrator first, or use --force"
            )
        return (Put(ADMINISTRATORS, b"1", 0 if guard is None else guard.revision),)

    async def _check_user(self, user: User) -> None:
        if len(encode(user.spec)) > SPEC_LIMIT:
            raise InvalidInput(
                f"roles and traits of {user.metadata.name} have more than {SPEC_LIMIT} bytes: they"
                " have to fit into certificates"
            )
        for role in user.spec.roles:
            if await self._roles.get(role) is None:
                raise InvalidInput(f"no such role: {role!r}; tele get role shows the roles")

    # -- roles ------------------------------------------------------------------------
    async def role(self, name: str) -> Role:
        """Return a role. Raises :class:`NotFound`."""
        entry = await self._roles.get(name)
        if entry is None:
            raise NotFound(f"no such role: {name!r}; tele get role shows the roles")
        return _role_with_revision(entry)

    async def roles(self, limit: int, after: str) -> Sequence[Role]:
        """Return a page of roles, by name."""
        return [_role_with_revision(entry) for entry in await self._roles.list(limit, after)]

    async def put_role(self, name: str, role: Role, force: bool = False) -> Role:
        """Create or replace a role."""
        if role.metadata.name != name:
            raise InvalidInput("the name in the path and in metadata differ")
        check_role(role)
        before = await self._roles.get(name)
        revision = role.metadata.revision or (0 if before is None else before.revision)
        stored = evolve(role, metadata=evolve(role.metadata, revision=0))
        change = self._roles.put(name, stored, revision, self._left(role.metadata))
        last: tuple[Put, ...] = ()
        if stored.spec.deny.rules or (before is not None and before.value.spec.allow.rules):
            last = await self._keep_one(
                lambda d: evolve(d, roles=_with(d.roles, name, stored)), force
            )
        try:
            await self._backend.commit(change, *last)
        except Conflict:
            raise _changed("role", name) from None
        return await self.role(name)

    async def delete_role(self, name: str) -> None:
        """Remove a role that no user holds."""
        await self.role(name)
        holders = [k.name for k in await self._users.list() if name in k.value.spec.roles]
        if holders:
            raise Conflict(f"role {name} is held by {', '.join(holders[:5])}; take it away first")
        await self._backend.commit(self._roles.delete(name))

    # -- locks ------------------------------------------------------------------------
    async def lock(self, name: str) -> Lock:
        """Return a lock. Raises :class:`NotFound`."""
        entry = await self._locks.get(name)
        if entry is None:
            raise NotFound(f"no such lock: {name!r}; tele locks ls shows the locks")
        return _lock_with_revision(entry)

    async def has_lock(self, name: str) -> bool:
        """Whether there is a lock of this name."""
        return await self._locks.get(name) is not None

    async def locks(self, limit: int, after: str) -> Sequence[Lock]:
        """Return a page of locks in force, by name."""
        return [_lock_with_revision(entry) for entry in await self._locks.list(limit, after)]

    async def put_lock(self, name: str, lock: Lock, force: bool = False) -> tuple[Lock, bool]:
        """Create or replace a lock; returns whether it is new."""
        if lock.metadata.name != name:
            raise InvalidInput("the name in the path and in metadata differ")
        before = await self._locks.get(name)
        revision = lock.metadata.revision or (0 if before is None else before.revision)
        stored = evolve(lock, metadata=evolve(lock.metadata, revision=0))
        change = self._locks.put(name, stored, revision, self._left(lock.metadata))
        last: tuple[Put, ...] = ()
        target = lock.spec.target
        user = None if target.user is None else await self.find_user(target.user)
        if target.role is not None or (user is not None and await self._is_administrator(user)):
            last = await self._keep_one(
                lambda d: evolve(d, locks=_with(d.locks, name, stored)), force
            )
        try:
            await self._backend.commit(change, *last)
        except Conflict:
            raise _changed("lock", name) from None
        return await self.lock(name), before is None

    async def delete_lock(self, name: str) -> None:
        """Remove a lock."""
        await self.lock(name)
        await self._backend.commit(self._locks.delete(name))


def _with(values: Mapping[str, T], name: str, value: T | None) -> dict[str, T]:
    """Return ``values`` with one of them changed, or removed."""
    others = {key: each for key, each in values.items() if key != name}
    return others if value is None else {**others, name: value}


def _changed(kind: str, name: str) -> Conflict:
    return Conflict(
        f"{kind} {name} has changed since it was read; read it again: tele get {kind}/{name}"
    )


def _with_revision(entry: Versioned[User]) -> User:
    user = entry.value
    return evolve(user, metadata=evolve(user.metadata, revision=entry.revision))


def _role_with_revision(entry: Versioned[Role]) -> Role:
    role = entry.value
    return evolve(role, metadata=evolve(role.metadata, revision=entry.revision))


def _lock_with_revision(entry: Versioned[Lock]) -> Lock:
    lock = entry.value
    return evolve(lock, metadata=evolve(lock.metadata, revision=entry.revision))
