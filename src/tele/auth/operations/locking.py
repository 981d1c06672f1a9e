"""How are users, hosts and sessions locked?

Invariants:

* A lock on something that does not exist is refused: a mistyped name would lock nothing.
* A session is ended by a lock: nodes and proxies learn of both in the same way.
* Replacing a lock needs the verb ``delete``: creating locks is not enough to undo others.
* The message of a lock is one printable line.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from attrs import evolve
from twisted.internet.interfaces import IReactorTime

from tele.auth.authorizer import Authorizer, user_caller
from tele.auth.handlers import Handler, handler
from tele.auth.journal import Journal
from tele.auth.live_sessions import LiveSessions
from tele.auth.presence import Hosts
from tele.auth.users import Users
from tele.errors import AccessDenied, InvalidInput, NotFound, quoted
from tele.loop import now
from tele.model.access import Reason
from tele.model.api import table
from tele.model.api.locks import LockList, PutLock
from tele.model.api.operation import Nothing
from tele.model.api.paging import ByName, Paged
from tele.model.api.sessions import KillSession
from tele.model.codec import format_time
from tele.model.identity import Caller, HostRole
from tele.model.resources import Lock, LockSpec, LockTarget, Metadata
from tele.rbac.logins import is_login

#: How long a session that was ended stays locked: as long as an offline node is listed.
KILLED_FOR: Final = timedelta(days=7)
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_SERIAL: Final = re.compile(r"[1-9][0-9]{0,38}", re.ASCII)


class Locking:
    """Operations on locks, and the end of sessions."""

    def __init__(
        self,
        clock: IReactorTime,
        users: Users,
        hosts: Hosts,
        live: LiveSessions,
        authorizer: Authorizer,
        journal: Journal,
    ) -> None:
        self._authorizer = authorizer
        self._clock = clock
        self._users = users
        self._hosts = hosts
        self._live = live
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.LIST_LOCKS, self.list_locks),
            handler(table.GET_LOCK, self.get_lock),
            handler(table.PUT_LOCK, self.put_lock),
            handler(table.DELETE_LOCK, self.delete_lock),
            handler(table.KILL_SESSION, self.kill_session),
        )

    async def list_locks(self, request: Paged, caller: Caller) -> LockList:
        """Return a page of locks in force, by name."""
        limit = request.limit
        found = tuple(await self._users.locks(limit, request.after))
        return LockList(found, found[-1].metadata.name if len(found) == limit else "")

    async def get_lock(self, request: ByName, caller: Caller) -> Lock:
        """Return one lock."""
        return await self._users.lock(request.name)

    async def put_lock(self, request: PutLock, caller: Caller) -> Lock:
        """Create or replace a lock."""
        await self._check(request.lock.spec)
        if await self._users.has_lock(request.name) and not await self._authorizer.may(
            caller, "lock", "delete"
        ):
            raise AccessDenied(
                f"denied: replacing lock {request.name} needs a rule for the verb delete on lock",
                Reason.RULE.value,
            )
        force = await self._authorizer.forces(caller, request.force)
        return await self._put(request.lock, force, "lock.create", caller)

    async def _put(self, lock: Lock, force: bool, event: str, caller: Caller) -> Lock:
        by = user_caller(caller).user
        named = evolve(lock, spec=evolve(lock.spec, created_by=by))
        made, _ = await self._users.put_lock(lock.metadata.name, named, force)
        target = made.spec.target
        expires = made.metadata.expires
        await self._journal.emit(
            event,
            caller,
            name=made.metadata.name,
            target=dict([target.what]),
            message=made.spec.message,
            expires=None if expires is None else format_time(expires),
            **({} if target.session is None else {"session_id": target.session}),
        )
        return made

    async def delete_lock(self, request: ByName, caller: Caller) -> Nothing:
        """Remove a lock."""
        await self._users.delete_lock(request.name)
        await self._journal.emit("lock.delete", caller, name=request.name)
        return Nothing()

    async def kill_session(self, request: KillSession, caller: Caller) -> Lock:
        """End a session that runs."""
        session = await self._live.get(request.id)
        if not await self._authorizer.may(caller, "lock", "create"):
            await self._authorizer.need(caller, "session", "delete", session)
        metadata = Metadata(
            f"session-{session.id}",
            description=f"{session.login}@{session.node}, of {session.user}",
            expires=now(self._clock) + KILLED_FOR,
        )
        spec = LockSpec(LockTarget(session=session.id), request.message)
        _check_message(spec.message)
        return await self._put(Lock(metadata, spec), False, "session.kill", caller)

    async def _check(self, spec: LockSpec) -> None:
        """Raise :class:`TeleError` for a target that does not exist, or is malformed."""
        target = spec.target
        _check_message(spec.message)
        if target.user is not None:
            await self._users.user(target.user)
        if target.role is not None:
            await self._users.role(target.role)
        if target.host_id is not None and not any(
            self._hosts.known(role, target.host_id) for role in HostRole
        ):
            raise NotFound(f"no such host: {quoted(target.host_id)}; tele ls shows the nodes")
        if target.login is not None and not is_login(target.login):
            raise InvalidInput(f"{quoted(target.login)} is not an account name")
        for what, value in (("login session", target.login_session), ("session", target.session)):
            if value is not None and not _ID.fullmatch(value):
                raise InvalidInput(f"{quoted(value)} is not the id of a {what}: expected a UUID")
        if target.certificate is not None and not _SERIAL.fullmatch(target.certificate):
            raise InvalidInput(
                f"{quoted(target.certificate)} is not the serial of a certificate: expected the"
                " number that ssh-keygen -L prints"
            )


def _check_message(message: str) -> None:
    if not message.isprintable():
        raise InvalidInput("the message has to be one line of printable characters")
