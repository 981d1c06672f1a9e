"""Who are the cluster's users and what are its roles? Reading and changing them.

Laws of this file:

* A change that was made on an old reading (``metadata.revision``) is refused.
* A role that a user holds cannot be removed.
* A user and their password appear and vanish together: who gets a name that somebody had
  before does not get that one's password.
* What has ``metadata.expires`` is gone at that time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from attrs import evolve

from tele.auth.passwords import Passwords
from tele.auth.shelf import Kept, Shelf
from tele.auth.state import ROLES
from tele.errors import Conflict, InvalidInput, NotFound
from tele.interfaces import IBackend, Put
from tele.model.codec import encode
from tele.model.resources import Metadata, Role, User
from tele.rbac.presets import PRESETS, check_role

USERS: Final = "/users/"
PRESETS_MADE: Final = "/cluster/presets"
#: An SSH certificate has to fit into one packet, with room to spare.
SPEC_LIMIT: Final = 16 * 1024


class People:
    """Users and roles, by name."""

    def __init__(
        self, backend: IBackend, passwords: Passwords, now: Callable[[], datetime]
    ) -> None:
        self._backend = backend
        self._passwords = passwords
        self._now = now
        self._users = Shelf(backend, USERS, User)
        self._roles = Shelf(backend, ROLES, Role)

    async def ensure_presets(self) -> None:
        """Make the roles that a cluster begins with, once: one that is removed stays away."""
        if await self._backend.get(PRESETS_MADE) is not None:
            return
        for role in PRESETS:
            try:
                await self._backend.commit(self._roles.put(role.metadata.name, role, 0))
            except Conflict:
                continue  # it was written down by hand, or by another auth
        await self._backend.commit(Put(PRESETS_MADE, b"1"))

    def _left(self, metadata: Metadata) -> timedelta | None:
        if metadata.expires is None:
            return None
        left = metadata.expires - self._now()
        if left <= timedelta(0):
            raise InvalidInput("metadata.expires: this time is over")
        return left

    # -- users ------------------------------------------------------------------------
    async def find_user(self, name: str) -> User | None:
        """Return a user with their revision, or None."""
        kept = await self._users.get(name)
        return None if kept is None else _with_revision(kept)

    async def user(self, name: str) -> User:
        """Return a user. Raises :class:`NotFound`."""
        found = await self.find_user(name)
        if found is None:
            raise NotFound(f"no such user: {name!r}; tele users ls shows the users")
        return found

    async def users(self, limit: int, after: str) -> Sequence[User]:
        """Return a page of users, by name."""
        return [_with_revision(kept) for kept in await self._users.list(limit, after)]

    async def add_user(self, user: User, password: str) -> tuple[User, str]:
        """Create a user; returns the password if one had to be made."""
        await self._check_user(user)
        if await self._users.get(user.metadata.name) is not None:
            raise Conflict(f"user {user.metadata.name} exists already")
        left = self._left(user.metadata)
        made = "" if password else self._passwords.generate()
        given = await self._passwords.replacement(user.metadata.name, password or made)
        stored = evolve(user, metadata=evolve(user.metadata, revision=0))
        try:
            await self._backend.commit(
                self._users.put(user.metadata.name, stored, if_revision=0, ttl=left), given
            )
        except Conflict:
            raise Conflict(f"user {user.metadata.name} exists already") from None
        return await self.user(user.metadata.name), made

    async def put_user(self, name: str, user: User) -> tuple[User, bool]:
        """Create or replace a user, without a password of their own; returns whether it is new."""
        if user.metadata.name != name:
            raise InvalidInput("the name in the path and in metadata differ")
        await self._check_user(user)
        before = await self._users.get(name)
        revision = user.metadata.revision or (0 if before is None else before.revision)
        stored = evolve(user, metadata=evolve(user.metadata, revision=0))
        change = self._users.put(name, stored, revision, self._left(user.metadata))
        old_password = [self._passwords.removal(name)] if before is None else []
        try:
            await self._backend.commit(change, *old_password)
        except Conflict:
            raise _changed("user", name) from None
        return await self.user(name), before is None

    async def reset_user(self, name: str, password: str) -> tuple[User, str]:
        """Give a user a new password; returns it if one had to be made."""
        user = await self.user(name)
        made = "" if password else self._passwords.generate()
        await self._backend.commit(await self._passwords.replacement(name, password or made))
        return user, made

    async def delete_user(self, name: str) -> None:
        """Remove a user and their password."""
        await self.user(name)
        await self._backend.commit(self._users.delete(name), self._passwords.removal(name))

    async def _check_user(self, user: User) -> None:
        if len(encode(user.spec)) > SPEC_LIMIT:
            raise InvalidInput(
                f"roles and traits of {user.metadata.name} take more than {SPEC_LIMIT} bytes:"
                " they have to fit into certificates"
            )
        for role in user.spec.roles:
            if await self._roles.get(role) is None:
                raise InvalidInput(f"no such role: {role!r}; tele get role shows the roles")

    # -- roles ------------------------------------------------------------------------
    async def role(self, name: str) -> Role:
        """Return a role. Raises :class:`NotFound`."""
        kept = await self._roles.get(name)
        if kept is None:
            raise NotFound(f"no such role: {name!r}; tele get role shows the roles")
        return _role_with_revision(kept)

    async def roles(self, limit: int, after: str) -> Sequence[Role]:
        """Return a page of roles, by name."""
        return [_role_with_revision(kept) for kept in await self._roles.list(limit, after)]

    async def put_role(self, name: str, role: Role) -> Role:
        """Create or replace a role."""
        if role.metadata.name != name:
            raise InvalidInput("the name in the path and in metadata differ")
        check_role(role)
        before = await self._roles.get(name)
        revision = role.metadata.revision or (0 if before is None else before.revision)
        stored = evolve(role, metadata=evolve(role.metadata, revision=0))
        change = self._roles.put(name, stored, revision, self._left(role.metadata))
        try:
            await self._backend.commit(change)
        except Conflict:
            raise _changed("role", name) from None
        return await self.role(name)

    async def delete_role(self, name: str) -> None:
        """Remove a role that nobody holds."""
        await self.role(name)
        holders = [k.name for k in await self._users.list() if name in k.value.spec.roles]
        if holders:
            raise Conflict(f"role {name} is held by {', '.join(holders[:5])}; take it away first")
        await self._backend.commit(self._roles.delete(name))


def _changed(kind: str, name: str) -> Conflict:
    return Conflict(
        f"{kind} {name} has changed since it was read; see it as it is now: tele get {kind}/{name}"
    )


def _with_revision(kept: Kept[User]) -> User:
    user = kept.value
    return evolve(user, metadata=evolve(user.metadata, revision=kept.revision))


def _role_with_revision(kept: Kept[Role]) -> Role:
    role = kept.value
    return evolve(role, metadata=evolve(role.metadata, revision=kept.revision))
