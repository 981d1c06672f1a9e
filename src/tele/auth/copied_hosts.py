"""What does auth do when two machines use the identity of one host?

Invariants:

* It is an event each time, and what the cluster says: a lock, or nothing more.
* After that the line of certificates begins anew, so that a lock that an administrator removes does
  not come back because of what was before it.
"""

from __future__ import annotations

from typing import Final

from tele.auth.generations import Copied, Generations
from tele.auth.journal import Journal
from tele.auth.state import State
from tele.auth.users import Users
from tele.log import make_logger
from tele.model.cluster_settings import OnCopy
from tele.model.identity import Caller, HostIdentity
from tele.model.resources import Lock, LockSpec, LockTarget, Metadata

#: Who made a lock that auth makes by itself; no user can have this name.
AUTH: Final = "@auth"
_log: Final = make_logger(__name__)


class CopiedHosts:
    """Acts on copies of hosts that :class:`Generations` has found."""

    def __init__(
        self, generations: Generations, users: Users, state: State, journal: Journal
    ) -> None:
        self._generations = generations
        self._users = users
        self._state = state
        self._journal = journal

    async def check(self, caller: Caller, host: HostIdentity) -> None:
        """Raise :class:`Copied` for a call with a certificate that only a copy can have."""
        try:
            self._generations.check(host)
        except Copied:
            if await self.locks(caller, host):
                raise

    async def locks(self, caller: Caller, host: HostIdentity) -> bool:
        """Emit the event, and lock the host if the cluster says so; returns whether it does."""
        locking = self._state.settings.host_certificates.on_copied_identity is OnCopy.LOCK
        name = f"copied-{host.host_id}"
        if locking and await self._users.has_lock(name):
            return True  # by a call of the same moment
        await self._journal.emit(
            "node.copied", caller, ok=False, role=host.role.value, locked=locking,
            generation=await self._generations.number(host),
            error="two machines use the identity of this host",
        )  # fmt: skip
        _log.warn(
            "two machines use the identity of one host",
            host=host.name, host_id=host.host_id, address=caller.remote_addr, locked=locking,
            advice="remove the host, and join with a new token: docs, how machines join",
        )  # fmt: skip
        if locking:
            metadata = Metadata(name, description=f"{host.role.value} {host.name}")
            message = "two machines use the identity of this host"
            spec = LockSpec(LockTarget(host_id=host.host_id), message, created_by=AUTH)
            await self._users.put_lock(name, Lock(metadata, spec))
            await self._journal.emit(
                "lock.create", caller, name=name, target={"host_id": host.host_id},
                message=message, expires=None, user=AUTH,
            )  # fmt: skip
        await self._generations.forget(host)
        return locking
