"""Which invitations are open? One-time codes with which a user sets their first password.

Invariants:

* The code is shown once and never stored; its hash is, with the name of the user.
* A user has either a password or one open invitation: one commit exchanges one for the other, so
  that a code is good once, also for two who use it at the same time.
* A wrong, used, replaced or expired code, and one of a removed user, give the same answer.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from attrs import field, frozen

from tele.auth.repository import Repository, Versioned
from tele.errors import AccessDenied, InvalidInput
from tele.interfaces import IBackend, Put
from tele.model.api.invitations import LONGEST_INVITATION
from tele.model.names import NAME_PATTERN

INVITATIONS: Final = "/invitations/"
#: Of a code: 160 bits, too many to guess.
SECRET_BYTES: Final = 20
_CODE: Final = re.compile(rf"({NAME_PATTERN}):([a-z2-7]{{32}})", re.ASCII)


@frozen
class StoredInvitation:
    """An open invitation, by the name of its user. ``hash`` is the SHA-256 of the code (hex)."""

    hash: str = field(repr=False)
    expires: datetime


def refused() -> AccessDenied:
    """Return the one answer to a code that is not good."""
    return AccessDenied(
        "the invitation is unknown, expired or used: ask an administrator for another one"
        " (tele users reset NAME --invite)",
        "invitation",
    )


def invited_user(code: str) -> str:
    """Return the user whom a code names. Raises :class:`AccessDenied` if it names none."""
    found = _CODE.fullmatch(code)
    if found is None:
        raise refused()
    return found.group(1)


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


class Invitations:
    """The open invitations of a cluster; a user has one at most."""

    def __init__(
        self,
        backend: IBackend,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._now = now
        self._entropy = entropy
        self._repository = Repository(backend, INVITATIONS, StoredInvitation)

    def make(self, user: str, ttl: timedelta) -> tuple[str, datetime, Put]:
        """Return the code of an invitation, its end, and the change that opens it.

        It replaces an earlier one of ``user``.
        """
        if not timedelta(0) < ttl <= LONGEST_INVITATION:
            raise InvalidInput(f"an invitation is valid for {LONGEST_INVITATION.days} days at most")
        secret = base64.b32encode(self._entropy(SECRET_BYTES)).decode().lower()
        code, expires = f"{user}:{secret}", self._now() + ttl
        stored = StoredInvitation(_digest(code), expires)
        return code, expires, self._repository.put(user, stored, ttl=ttl)

    async def find(self, user: str, code: str) -> Versioned[StoredInvitation]:
        """Return the invitation of ``user`` that ``code`` is of. Raises :class:`AccessDenied`."""
        entry = await self._repository.get(user)
        wanted = "" if entry is None else entry.value.hash
        good = hmac.compare_digest(wanted, _digest(code))
        if entry is None or not good or entry.value.expires <= self._now():
            raise refused()
        return entry
