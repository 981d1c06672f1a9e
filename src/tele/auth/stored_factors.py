"""Which second factors does a user have, and is a code one of them?

Invariants:

* A code is good once: used steps of an authenticator app and used recovery codes are noted in the
  change that accepts them. A clock that is set back makes no used code good, and no unused one bad.
* A code that comes too early after wrong ones (:mod:`tele.auth.guessing`) is not used up.
* Of recovery codes only hashes are stored: they have 80 random bits.
* Bookkeeping only: times and random bytes are arguments, and a value is never changed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime
from typing import Final

from attrs import Factory, evolve, field, frozen

from tele.auth.guessing import Guard, Outcome
from tele.auth.totp import match
from tele.errors import Conflict, InvalidInput, NotFound, quoted
from tele.model.second_factors import (
    DEVICES_LIMIT,
    RECOVERY_CODES,
    MfaDevice,
    NewDevice,
    read_secret,
)

#: Used steps that are remembered: each is used once, and three are accepted at any time.
USED_LIMIT: Final = 8
#: Bytes of a recovery code, in base32 four groups of four.
CODE_BYTES: Final = 10
TOTP: Final = "totp"
RECOVERY: Final = "recovery"


@frozen
class StoredDevice:
    """An authenticator app; ``used`` are the latest steps of which a code was used."""

    id: str
    name: str
    added: datetime
    secret: bytes = field(repr=False)
    used: tuple[int, ...] = ()
    last_used: datetime | None = None

    @property
    def shown(self) -> MfaDevice:
        """The device without its secret."""
        return MfaDevice(self.id, self.name, TOTP, self.added, self.last_used)


@frozen
class Tried:
    """The outcome of a code; ``how`` it was accepted, and the recovery codes that are left."""

    outcome: Outcome
    how: str = ""
    device: str = ""
    left: int = 0


@frozen
class StoredFactors:
    """The second factors of one user. ``recovery`` are hashes (SHA-256, hex) of unused codes."""

    devices: tuple[StoredDevice, ...] = ()
    recovery: tuple[str, ...] = ()
    guard: Guard = Factory(Guard)

    def tried(
        self, code: str, source: str, now: datetime, *, device: bool = False
    ) -> tuple[Tried, StoredFactors]:
        """Return the outcome of a ``code`` from ``source``, and the factors after it.

        ``device``: the source is a device that proved itself.
        """
        code = code.strip().replace(" ", "")
        used = self._used(code, now)
        outcome, guard = self.guard.attempt(source, used is not None, now, device=device)
        if used is None or outcome is not Outcome.GOOD:
            return Tried(outcome), evolve(self, guard=guard)
        how, name, after = used
        return Tried(outcome, how, name, len(after.recovery)), evolve(after, guard=guard)

    def _used(self, code: str, now: datetime) -> tuple[str, str, StoredFactors] | None:
        """Return how ``code`` is accepted, by which device, and the factors without it."""
        for at, each in enumerate(self.devices):
            step = match(each.secret, code, now, each.used)
            if step is not None:
                noted = evolve(each, used=(*each.used, step)[-USED_LIMIT:], last_used=now)
                devices = (*self.devices[:at], noted, *self.devices[at + 1 :])
                return TOTP, each.name, evolve(self, devices=devices)
        hashed = _hash(code)
        left = tuple(each for each in self.recovery if not hmac.compare_digest(each, hashed))
        if len(left) == len(self.recovery):
            return None
        return RECOVERY, "", evolve(self, recovery=left)

    def added(self, new: NewDevice, device_id: str, now: datetime) -> StoredFactors:
        """Return the factors with one more device, whose first code is used up."""
        name = new.name.strip()
        if not name or not name.isprintable():
            raise InvalidInput("a device has a name that can be printed, such as phone")
        if any(each.name == name for each in self.devices):
            raise Conflict(f"there is a device {quoted(name)} already: choose another name")
        if len(self.devices) >= DEVICES_LIMIT:
            raise Conflict(f"a user has {DEVICES_LIMIT} devices at most: remove one first")
        secret = read_secret(new.secret)
        step = match(secret, new.code.strip().replace(" ", ""), now)
        if step is None:
            raise InvalidInput(
                "the code is not the one that the authenticator app shows now: is the clock of"
                " that device right?"
            )
        device = StoredDevice(device_id, name, now, secret, (step,))
        return evolve(self, devices=(*self.devices, device))

    def find(self, named: str) -> StoredDevice:
        """Return the device with this id or name. Raises :class:`NotFound`."""
        for each in self.devices:
            if named in (each.id, each.name):
                return each
        raise NotFound(f"no such device: {quoted(named)}")

    def without(self, device_id: str) -> StoredFactors:
        """Return the factors without a device; recovery codes go with the last one."""
        left = tuple(each for each in self.devices if each.id != device_id)
        return evolve(self, devices=left, recovery=self.recovery if left else ())

    def with_codes(self, entropy: Callable[[int], bytes]) -> tuple[tuple[str, ...], StoredFactors]:
        """Return new recovery codes, and the factors with these in place of all others."""
        codes = tuple(_code(entropy(CODE_BYTES)) for _ in range(RECOVERY_CODES))
        return codes, evolve(self, recovery=tuple(_hash(each) for each in codes))


def _code(secret: bytes) -> str:
    text = base64.b32encode(secret).decode().lower()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def _hash(code: str) -> str:
    plain = code.replace("-", "").lower()
    return hashlib.sha256(plain.encode("utf-8", "replace")).hexdigest()
