"""Which tokens are there? They are short-lived, counted, and stored as a hash.

A host joins with one; that of a machine identity logs in its user, and is for nothing else.

Invariants:

* The secret is shown once and never stored; it is found by its hash.
* Unknown, expired and used up give the same answer.
* The token of a machine identity is for the user who had the name when it was made, and for no
  later one.
* A use is counted in the commit that makes a host a member: ``max_uses`` holds for parallel joins,
  and a failed join uses nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from attrs import Factory, evolve, field, frozen

from tele.auth.issuing import is_host_name
from tele.auth.join_methods import Admission, method_of
from tele.auth.repository import ATTEMPTS, Repository, Versioned
from tele.certs.names import own_addresses
from tele.errors import AccessDenied, Conflict, InvalidInput, NotFound, Unavailable, quoted
from tele.interfaces import Delete, IBackend, Put
from tele.model.api.tokens import NewToken, Token
from tele.model.bounds import OMITTED
from tele.model.identity import HostRole
from tele.model.names import NAME_PATTERN

SECRET_BYTES = 20
LONGEST_TTL = timedelta(days=366)
SHORTEST_SECRET = 16


@frozen
class StoredToken:
    """A token in the store, by the SHA-256 of its secret."""

    roles: tuple[HostRole, ...]
    created: datetime
    expires: datetime
    max_uses: int
    uses: int = 0
    labels: Mapping[str, str] = Factory(dict)
    created_by: str = ""
    addresses: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    host_id: str = ""
    bot: str = field(default="", metadata=OMITTED)


def check_host_id(text: str) -> None:
    """Raise :class:`InvalidInput` unless ``text`` is a UUID in its canonical form."""
    try:
        canonical = str(uuid.UUID(text))
    except ValueError:
        raise InvalidInput("a host id is a UUID") from None
    if canonical != text:
        raise InvalidInput("a host id is a UUID in its canonical form (lower case, with hyphens)")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def refused() -> AccessDenied:
    """Return the one answer to a token that is not good."""
    return AccessDenied(
        "the token is unknown, expired or used up; make another with: tele tokens add", "token"
    )


class Tokens:
    """The tokens of a cluster."""

    def __init__(
        self,
        backend: IBackend,
        cluster: str,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._backend = backend
        self._cluster = cluster
        self._now = now
        self._entropy = entropy
        self._repository = Repository(backend, "/tokens/", StoredToken)

    async def add(self, request: NewToken, created_by: str) -> tuple[str, Token]:
        """Make a token; returns its secret, for the only time, and its public part."""
        if request.bot:
            _check_bot(request)
        elif not request.roles or HostRole.AUTH in request.roles:
            raise InvalidInput("a token is for the roles node and proxy")
        if not timedelta(0) < request.ttl <= LONGEST_TTL:
            raise InvalidInput("a token's lifetime has to be between 0 and 366 days")
        self._check_permissions(request)
        made = base64.b32encode(self._entropy(SECRET_BYTES)).decode().lower()
        # No name has a slash: the machine reads from its token who it is.
        secret = f"{request.bot}/{made}" if request.bot else request.token or made
        if len(secret) < SHORTEST_SECRET:
            raise InvalidInput(
                f"a token has at least {SHORTEST_SECRET} characters, so that it cannot be guessed;"
                " leave it out and auth makes one"
            )
        if method := method_of(secret):
            raise InvalidInput(
                f"a token cannot begin with {quoted(method + ':')}: a host that has such a token is"
                f" checked by the join method {method} (auth.join_methods); use another character"
                " than the colon, or leave the token out and auth makes one"
            )
        now = self._now()
        stored = StoredToken(
            request.roles, now, now + request.ttl, request.max_uses, 0, request.labels, created_by,
            tuple(dict.fromkeys(address.lower() for address in request.addresses)),
            tuple(dict.fromkeys(name.lower() for name in request.replaces)), request.host_id,
            request.bot,
        )  # fmt: skip
        name = _digest(secret)
        try:
            await self._backend.commit(self._repository.put(name, stored, 0, request.ttl))
        except Conflict:
            raise Conflict("this token exists already") from None
        return secret, _public(name, stored)

    def _check_permissions(self, request: NewToken) -> None:
        for address in request.addresses:
            if not is_host_name(address) or not own_addresses((address,), self._cluster):
                raise InvalidInput(
                    f"{quoted(address)} is not an address of a host: give an IP address, or a DNS"
                    " name with a dot that is not in the cluster's own domain"
                )
        for name in request.replaces:
            # An address that a token gave is a name here, too.
            if not re.fullmatch(NAME_PATTERN, name, re.ASCII) and not is_host_name(name):
                raise InvalidInput(f"{quoted(name)} is not a host name")
        if request.labels and HostRole.NODE not in request.roles:
            raise InvalidInput("only nodes have labels: use the role node")
        if request.addresses and set(request.roles) != {HostRole.NODE}:
            raise InvalidInput("only certificates of nodes have addresses: use the role node")
        if request.host_id:
            check_host_id(request.host_id)
            if len(request.roles) > 1:
                raise InvalidInput("a token for a host id is for one role")

    async def claim(self, secret: str, role: HostRole) -> tuple[Put, Admission]:
        """Return the change that counts one use of the token for ``role``, and what it gives.

        The token is used when that change is committed, which fails with :class:`Conflict` if
        another host used it meanwhile. Raises :class:`AccessDenied` with one single text.
        """
        name = _digest(secret)
        entry = await self._repository.get(name)
        now = self._now()
        if entry is None or entry.value.expires <= now or role not in entry.value.roles:
            raise refused()
        token = entry.value
        if token.max_uses and token.uses >= token.max_uses:
            raise refused()
        used = evolve(token, uses=token.uses + 1)
        given = Admission(token.labels, token.addresses, token.replaces, token.host_id)
        return self._repository.put(name, used, entry.revision, token.expires - now), given

    async def find_bot(self, secret: str) -> Versioned[StoredToken]:
        """Return the token of a machine identity; :meth:`claim` takes no such token.

        Raises :class:`AccessDenied` with one single text.
        """
        entry = await self._repository.get(_digest(secret))
        if entry is None or entry.value.expires <= self._now() or not entry.value.bot:
            raise refused()
        if entry.value.max_uses and entry.value.uses >= entry.value.max_uses:
            raise refused()
        return entry

    async def use_bot(self, secret: str) -> str:
        """Count one use of it; return its id. Raises as :meth:`find_bot` if there is none left."""
        for _ in range(ATTEMPTS):
            entry = await self.find_bot(secret)
            used = evolve(entry.value, uses=entry.value.uses + 1)
            left = entry.value.expires - self._now()
            try:
                await self._backend.commit(
                    self._repository.put(entry.name, used, entry.revision, left)
                )
            except Conflict:
                continue  # another run of the same machine was first
            return _id(entry.name)
        raise Unavailable("this token is used too often at the same time; try again")

    async def list(self, limit: int, after: str) -> tuple[Sequence[Token], str]:
        """Return a page of tokens without their secrets, by id, and where the next one begins."""
        # An id is a prefix of a name.
        found = await self._repository.list(limit, after and after + "~")
        tokens = [_public(entry.name, entry.value) for entry in found]
        return tokens, tokens[-1].id if len(tokens) == limit else ""

    async def made_by(self, user: str) -> dict[str, Delete]:
        """Return the changes that remove tokens that ``user`` made, or that log ``user`` in, by
        the tokens' ids.
        """
        return {
            _id(entry.name): self._repository.delete(entry.name)
            for entry in await self._repository.list()
            if user in (entry.value.created_by, entry.value.bot)
        }

    async def delete(self, wanted: str) -> str:
        """Remove the token with this id, or with this secret; returns its id."""
        by_secret = await self._repository.get(_digest(wanted))
        if by_secret is not None:
            name = by_secret.name
        else:
            # An id is a prefix of a name, and shorter than any name.
            following = await self._repository.list(1, wanted)
            if not following or _id(following[0].name) != wanted:
                raise NotFound("no such token; tele tokens ls shows the tokens")
            name = following[0].name
        await self._backend.commit(self._repository.delete(name))
        return _id(name)


def _check_bot(request: NewToken) -> None:
    """Raise :class:`InvalidInput` for what only the token of a host can have."""
    if request != NewToken((), request.ttl, request.max_uses, bot=request.bot):
        raise InvalidInput(
            "the token of a machine identity has a lifetime and a number of uses, nothing of hosts"
        )


def _id(name: str) -> str:
    return name[:12]


def _public(name: str, stored: StoredToken) -> Token:
    return Token(
        _id(name), stored.roles, stored.created, stored.expires, stored.max_uses, stored.uses,
        stored.labels, stored.created_by, stored.addresses, stored.replaces, stored.host_id,
        stored.bot,
    )  # fmt: skip
