"""Who may join? Whoever knows a token: short-lived, counted, stored as a hash.

Laws of this file:

* The secret is shown once and never stored; a look-up is by its hash.
* Unknown, expired and used up give one and the same answer.
* A use is counted in the commit that makes a machine a member: ``max_uses`` holds however
  many come at once, and a use that led to nothing is none.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from attrs import Factory, evolve, frozen

from tele.auth.shelf import Shelf
from tele.errors import AccessDenied, Conflict, InvalidInput, NotFound
from tele.interfaces import IBackend, Put
from tele.model.api.people import NewToken, Token
from tele.model.identity import HostRole

SECRET_BYTES = 20
LONGEST_TTL = timedelta(days=366)
SHORTEST_SECRET = 16


@frozen
class StoredToken:
    """As it is in the store, by the SHA-256 of the secret."""

    roles: tuple[HostRole, ...]
    created: datetime
    expires: datetime
    max_uses: int
    uses: int = 0
    labels: Mapping[str, str] = Factory(dict)
    created_by: str = ""


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _refused() -> AccessDenied:
    return AccessDenied(
        "the token is unknown, expired or used up; make another with: tele tokens add", "token"
    )


class Tokens:
    """The tokens of a cluster."""

    def __init__(
        self,
        backend: IBackend,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._backend = backend
        self._now = now
        self._entropy = entropy
        self._shelf = Shelf(backend, "/tokens/", StoredToken)

    async def add(self, request: NewToken, created_by: str) -> tuple[str, Token]:
        """Make a token; returns its secret, for the only time, and what is known of it."""
        if not request.roles or HostRole.AUTH in request.roles:
            raise InvalidInput("a token is for the roles node and proxy")
        if not timedelta(0) < request.ttl <= LONGEST_TTL:
            raise InvalidInput("a token's lifetime has to be between 0 and 366 days")
        if request.max_uses < 0:
            raise InvalidInput("max_uses has to be 0 (no limit) or more")
        secret = request.token or base64.b32encode(self._entropy(SECRET_BYTES)).decode().lower()
        if len(secret) < SHORTEST_SECRET:
            raise InvalidInput(
                f"a token of fewer than {SHORTEST_SECRET} characters can be guessed;"
                " leave it out and auth makes one"
            )
        now = self._now()
        stored = StoredToken(
            request.roles, now, now + request.ttl, request.max_uses, 0, request.labels, created_by
        )
        name = _digest(secret)
        try:
            await self._backend.commit(self._shelf.put(name, stored, 0, request.ttl))
        except Conflict:
            raise Conflict("this token exists already") from None
        return secret, _public(name, stored)

    async def claim(self, secret: str, role: HostRole) -> tuple[Put, Mapping[str, str]]:
        """Return the change that counts one use of the token for ``role``, and its labels.

        The token was not used before that change is committed, which fails with
        :class:`Conflict` if somebody used it meanwhile. Raises :class:`AccessDenied` with
        one single text.
        """
        name = _digest(secret)
        kept = await self._shelf.get(name)
        now = self._now()
        if kept is None or kept.value.expires <= now or role not in kept.value.roles:
            raise _refused()
        token = kept.value
        if token.max_uses and token.uses >= token.max_uses:
            raise _refused()
        used = evolve(token, uses=token.uses + 1)
        return self._shelf.put(name, used, kept.revision, token.expires - now), token.labels

    async def list(self, limit: int, after: str) -> tuple[Sequence[Token], str]:
        """Return tokens without their secrets, in order of ids, and how to go on."""
        # An id is the beginning of a name: what comes after it comes after all such names.
        found = await self._shelf.list(limit, after and after + "~")
        tokens = [_public(kept.name, kept.value) for kept in found]
        return tokens, tokens[-1].id if len(tokens) == limit else ""

    async def delete(self, wanted: str) -> str:
        """Remove the token with this id, or with this secret; returns its id."""
        by_secret = await self._shelf.get(_digest(wanted))
        if by_secret is not None:
            name = by_secret.name
        else:
            names = [k.name for k in await self._shelf.list() if _id(k.name) == wanted]
            if not names:
                raise NotFound("no such token; tele tokens ls shows the tokens")
            name = names[0]
        await self._backend.commit(self._shelf.delete(name))
        return _id(name)


def _id(name: str) -> str:
    return name[:12]


def _public(name: str, stored: StoredToken) -> Token:
    return Token(
        _id(name), stored.roles, stored.created, stored.expires, stored.max_uses, stored.uses,
        stored.labels, stored.created_by,
    )  # fmt: skip
