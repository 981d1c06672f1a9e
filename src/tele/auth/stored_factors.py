"""Which second factors does a user have, and is a code one of them?

Invariants:

* A code is good once: used steps of an authenticator app and used recovery codes are noted in the
  change that accepts them. A clock that is set back makes no used code good, and no unused one bad.
* A challenge is answered once, for the purpose that it was made for, within its time, and by the
  login session that asked for it.
* A code that comes too early after wrong ones (:mod:`tele.auth.guessing`) is not used up.
* Of recovery codes only hashes are stored: they have 80 random bits.
* Bookkeeping only: times and random bytes are arguments, and a value is never changed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from attrs import Factory, evolve, field, frozen

from tele.auth.guessing import Guard, Outcome
from tele.auth.totp import match
from tele.auth.webauthn_keys import (
    BadAnswer,
    StoredKey,
    challenge_of,
    counted,
    credential_of,
    made,
)
from tele.errors import Conflict, InvalidInput, NotFound, quoted
from tele.model.bounds import OMITTED
from tele.model.second_factors import (
    DEVICES_LIMIT,
    RECOVERY_CODES,
    MfaDevice,
    NewDevice,
    SecondFactor,
    read_secret,
)

#: Used steps that are remembered: each is used once, and three are accepted at any time.
USED_LIMIT: Final = 8
#: Bytes of a recovery code, in base32 four groups of four.
CODE_BYTES: Final = 10
TOTP: Final = "totp"
RECOVERY: Final = "recovery"
WEBAUTHN: Final = "webauthn"
#: Challenges of a user that wait for an answer, and for how long one does.
CHALLENGES_LIMIT: Final = 8
CHALLENGE_LIFE: Final = timedelta(minutes=5)


@frozen
class StoredChallenge:
    """What a security key has to sign; ``session`` is the login session that makes a key by it, or
    empty for one that a login answers.
    """

    challenge: bytes = field(repr=False)
    expires: datetime
    session: str = ""


@frozen
class StoredDevice:
    """An authenticator app; ``used`` are the latest steps of which a code was used.

    With a ``key`` it is a security key, and has no secret.
    """

    id: str
    name: str
    added: datetime
    secret: bytes = field(repr=False)
    used: tuple[int, ...] = ()
    last_used: datetime | None = None
    key: StoredKey | None = field(default=None, metadata=OMITTED)

    @property
    def shown(self) -> MfaDevice:
        """The device without its secret."""
        return MfaDevice(self.id, self.name, self.type, self.added, self.last_used)

    @property
    def type(self) -> str:
        """What it is, for users and the audit."""
        return TOTP if self.key is None else WEBAUTHN


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
    challenges: tuple[StoredChallenge, ...] = field(default=(), metadata=OMITTED)

    def tried(
        self, factor: SecondFactor, source: str, now: datetime, rp_id: str = "",
        *, device: bool = False,
    ) -> tuple[Tried, StoredFactors]:  # fmt: skip
        """Return the outcome of ``factor`` from ``source``, and the factors after it.

        ``rp_id`` is the domain of security keys now; ``device``: the source is a device that proved
        itself.
        """
        if factor.webauthn:
            used = self._signed(factor.webauthn, now, rp_id)
        else:
            used = self._used(factor.code.strip().replace(" ", ""), now)
        outcome, guard = self.guard.attempt(source, used is not None, now, device=device)
        if used is None or outcome is not Outcome.GOOD:
            return Tried(outcome), evolve(self, guard=guard)
        how, name, after = used
        return Tried(outcome, how, name, len(after.recovery)), evolve(after, guard=guard)

    def _used(self, code: str, now: datetime) -> tuple[str, str, StoredFactors] | None:
        """Return how ``code`` is accepted, by which device, and the factors without it."""
        for each in self.devices:
            if each.key is not None:
                continue
            step = match(each.secret, code, now, each.used)
            if step is not None:
                noted = evolve(each, used=(*each.used, step)[-USED_LIMIT:], last_used=now)
                return TOTP, each.name, self._with(noted)
        hashed = _hash(code)
        left = tuple(each for each in self.recovery if not hmac.compare_digest(each, hashed))
        if len(left) == len(self.recovery):
            return None
        return RECOVERY, "", evolve(self, recovery=left)

    def _with(self, device: StoredDevice) -> StoredFactors:
        devices = tuple(device if each.id == device.id else each for each in self.devices)
        return evolve(self, devices=devices)

    # -- security keys ----------------------------------------------------------------
    @property
    def keys(self) -> tuple[StoredKey, ...]:
        """The security keys among the devices."""
        return tuple(each.key for each in self.devices if each.key is not None)

    def challenged(self, challenge: bytes, now: datetime, session: str = "") -> StoredFactors:
        """Return the factors with one more challenge; the oldest ones go."""
        waiting = [each for each in self.challenges if now < each.expires <= now + CHALLENGE_LIFE]
        new = StoredChallenge(challenge, now + CHALLENGE_LIFE, session)
        return evolve(self, challenges=(*waiting, new)[-CHALLENGES_LIMIT:])

    def _taken(self, challenge: bytes, now: datetime, session: str) -> tuple[bool, StoredFactors]:
        """Return whether a challenge waits for an answer, and the factors without it."""
        found = [each for each in self.challenges if each.challenge == challenge]
        left = tuple(each for each in self.challenges if each.challenge != challenge)
        good = any(
            each.session == session and now < each.expires <= now + CHALLENGE_LIFE for each in found
        )
        return good, evolve(self, challenges=left)

    def _signed(
        self, answer: str, now: datetime, rp_id: str
    ) -> tuple[str, str, StoredFactors] | None:
        """Return how a security key answered, which one, and the factors after it; or None."""
        try:
            challenge, credential = challenge_of(answer), credential_of(answer)
            good, left = self._taken(challenge, now, "")
            if not good:
                return None
            for each in self.devices:
                if each.key is None or each.key.rp_id != rp_id:
                    continue
                if each.key.credential == credential:
                    count = counted(answer, challenge, each.key)
                    key = evolve(each.key, sign_count=count)
                    noted = evolve(each, key=key, last_used=now)
                    return WEBAUTHN, each.name, left._with(noted)
        except BadAnswer:
            return None
        return None

    def key_added(
        self, name: str, answer: str, session: str, rp_id: str, device_id: str, now: datetime
    ) -> StoredFactors:
        """Return the factors with a security key that answers a challenge of ``session``.

        Raises :class:`InvalidInput` for an answer that is not acceptable.
        """
        name = self._new_name(name)
        challenge = challenge_of(answer)
        good, left = self._taken(challenge, now, session)
        if not good:
            raise InvalidInput("the challenge of the security key is over: begin again")
        key = made(answer, challenge, rp_id)
        if any(each.credential == key.credential for each in self.keys):
            raise Conflict("this security key is set up already")
        device = StoredDevice(device_id, name, now, b"", key=key)
        return evolve(left, devices=(*self.devices, device))

    def _new_name(self, given: str) -> str:
        name = given.strip()
        if not name or not name.isprintable():
            raise InvalidInput("a device has a name that can be printed, such as phone")
        if any(each.name == name for each in self.devices):
            raise Conflict(f"there is a device {quoted(name)} already: choose another name")
        if len(self.devices) >= DEVICES_LIMIT:
            raise Conflict(f"a user has {DEVICES_LIMIT} devices at most: remove one first")
        return name

    # -- setting up -------------------------------------------------------------------
    def added(self, new: NewDevice, device_id: str, now: datetime) -> StoredFactors:
        """Return the factors with one more device, whose first code is used up."""
        name = self._new_name(new.name)
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
