"""Which second factors do the users of a cluster have, and does a login need one?

Invariants:

* A code is counted and used up in one commit, one after the other: of two clients that show the
  same code at the same time one is accepted.
* Only a client that has shown the password gets here, so that no other delays a user's second
  factor.
* While the cluster's setting is ``off`` none is asked for and none is set up; what was set up
  before is kept.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Final

from twisted.internet.defer import Deferred, DeferredLock

from tele.auth.passwords import Attempt
from tele.auth.repository import Repository
from tele.auth.stored_factors import StoredDevice, StoredFactors, Tried
from tele.auth.webauthn_keys import CHALLENGE_BYTES, creation_options, request_options
from tele.errors import AccessDenied, Conflict, NotFound
from tele.interfaces import Delete, IBackend, Put
from tele.model.second_factors import NewDevice, SecondFactor, SecondFactorMode

FACTORS: Final = "/mfa/"


class Need(Enum):
    """What a login with the right password still needs."""

    NOTHING = "nothing"
    FACTOR = "a second factor"
    SETUP = "a second factor, which is not set up yet"


class SecondFactors:
    """The second factors of the users of ``cluster``.

    ``mode()`` and ``rp_id()`` are settings of the cluster: whether there are second factors, and
    the domain of security keys, or nothing if there are none.
    """

    def __init__(
        self,
        backend: IBackend,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        mode: Callable[[], SecondFactorMode],
        rp_id: Callable[[], str] = lambda: "",
        cluster: str = "",
    ) -> None:
        self._rp_id = rp_id
        self._cluster = cluster
        self._now = now
        self._entropy = entropy
        self._mode = mode
        self._repository = Repository(backend, FACTORS, StoredFactors)
        # One at a time: parallel attempts at one user would make each other's commits fail.
        self._settling = DeferredLock()

    @property
    def mode(self) -> SecondFactorMode:
        """The setting of the cluster."""
        return self._mode()

    async def of(self, user: str) -> StoredFactors:
        """Return the factors of a user, who may have none."""
        entry = await self._repository.get(user)
        return StoredFactors() if entry is None else entry.value

    async def need(self, user: str) -> Need:
        """Return what a login of ``user`` needs beside the password."""
        mode = self._mode()
        if mode is SecondFactorMode.OFF:
            return Need.NOTHING
        if (await self.of(user)).devices:
            return Need.FACTOR
        return Need.SETUP if mode is SecondFactorMode.REQUIRED else Need.NOTHING

    async def check(self, user: str, factor: SecondFactor, attempt: Attempt) -> Tried:
        """Return the outcome of a second factor; it is counted, and used up if it is good."""
        source = f"device {attempt.device}" if attempt.device else attempt.source

        async def settle() -> Tried:
            tried: list[Tried] = []

            def settled(present: StoredFactors | None) -> StoredFactors:
                outcome, after = (present or StoredFactors()).tried(
                    factor, source, self._now(), self._rp_id(), device=bool(attempt.device)
                )
                tried.append(outcome)
                return after

            await self._repository.change(user, settled)
            return tried[-1]

        found: Tried = await self._settling.run(lambda: Deferred.fromCoroutine(settle()))
        return found

    async def challenge(self, user: str) -> str:
        """Return what a browser asks a security key of ``user``, as JSON, or nothing."""
        rp_id = self._rp_id()
        keys = [each for each in (await self.of(user)).keys if each.rp_id == rp_id]
        if not keys:
            return ""
        return request_options(rp_id, await self._challenged(user, ""), keys)

    async def _challenged(self, user: str, session: str) -> bytes:
        challenge = self._entropy(CHALLENGE_BYTES)
        await self._repository.change(
            user,
            lambda present: (present or StoredFactors()).challenged(
                challenge, self._now(), session
            ),
        )
        return challenge

    # -- setting up -------------------------------------------------------------------
    async def begin_key(self, user: str, session: str) -> str:
        """Return what a browser needs to make a security key of ``user``, as JSON.

        ``session`` is the login session that may finish it.
        """
        self.check_setup()
        rp_id = self._rp_id()
        if not rp_id:
            raise AccessDenied(
                "security keys are off in this cluster: webauthn.rp_id of its settings is the"
                " domain of its pages",
                "mfa",
            )
        present = (await self.of(user)).keys
        challenge = await self._challenged(user, session)
        return creation_options(rp_id, self._cluster, user, challenge, present)

    async def add_key(
        self, user: str, session: str, name: str, answer: str
    ) -> tuple[StoredDevice, tuple[str, ...]]:
        """Add the security key that answers :meth:`begin_key`; see :meth:`add`."""
        self.check_setup()
        device_id = self._new_id()
        return await self._added(
            user,
            lambda before: before.key_added(
                name, answer, session, self._rp_id(), device_id, self._now()
            ),
        )

    def check_setup(self) -> None:
        """Raise :class:`AccessDenied` unless second factors can be set up in this cluster."""
        if self._mode() is SecondFactorMode.OFF:
            raise AccessDenied(
                "second factors are off in this cluster (second_factor of its settings)", "mfa"
            )

    async def first(self, user: str, new: NewDevice) -> tuple[StoredDevice, tuple[str, ...], Put]:
        """Return the first device of a user, recovery codes, and the change that stores them."""
        self.check_setup()
        entry = await self._repository.get(user)
        if entry is not None and entry.value.devices:
            raise Conflict(f"user {user} has a second factor already")
        after = StoredFactors().added(new, self._new_id(), self._now())
        codes, after = after.with_codes(self._entropy)
        revision = 0 if entry is None else entry.revision
        return after.devices[-1], codes, self._repository.put(user, after, revision)

    async def add(self, user: str, new: NewDevice) -> tuple[StoredDevice, tuple[str, ...]]:
        """Add a device; returns recovery codes, too, if it is the first."""
        self.check_setup()
        device_id = self._new_id()
        return await self._added(user, lambda before: before.added(new, device_id, self._now()))

    async def _added(
        self, user: str, add: Callable[[StoredFactors], StoredFactors]
    ) -> tuple[StoredDevice, tuple[str, ...]]:
        codes = tuple[str, ...]()

        def added(present: StoredFactors | None) -> StoredFactors:
            nonlocal codes
            before = present or StoredFactors()
            after = add(before)
            if not before.devices:
                codes, after = after.with_codes(self._entropy)
            return after

        after = await self._repository.change(user, added)
        return after.devices[-1], codes

    async def remove(self, user: str, named: str, *, forced: bool = False) -> StoredDevice:
        """Remove a device by its id or name; ``forced`` also the last where one is required."""
        removed: list[StoredDevice] = []

        def without(present: StoredFactors | None) -> StoredFactors:
            before = present or StoredFactors()
            removed.append(before.find(named))
            after = before.without(removed[-1].id)
            if not after.devices and not forced and self._mode() is SecondFactorMode.REQUIRED:
                raise Conflict(
                    "this cluster requires a second factor, and this is the last device: add"
                    " another one first (tele mfa add)"
                )
            return after

        await self._repository.change(user, without)
        return removed[-1]

    async def new_codes(self, user: str) -> tuple[str, ...]:
        """Return new recovery codes, in place of all earlier ones."""
        codes = tuple[str, ...]()

        def changed(present: StoredFactors | None) -> StoredFactors:
            nonlocal codes
            if present is None or not present.devices:
                raise NotFound("recovery codes stand for a device, and there is none: tele mfa add")
            codes, after = present.with_codes(self._entropy)
            return after

        await self._repository.change(user, changed)
        return codes

    def _new_id(self) -> str:
        return str(uuid.UUID(bytes=self._entropy(16), version=4))


def factors_removal(user: str) -> Delete:
    """Return the change that removes all second factors of a user."""
    return Delete(FACTORS + user)
