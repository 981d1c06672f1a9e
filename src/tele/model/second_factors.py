"""What is a second factor, when is it asked for, and how does a client show one?

A second factor is what a user has beside the password: an authenticator app that makes codes (TOTP,
RFC 6238), a security key or passkey (WebAuthn), or a recovery code in place of these.

Invariants:

* No secret and no code shows in a repr.
* The client makes the secret of an authenticator app: auth learns it together with a first code,
  so that nothing is half enrolled.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Final
from urllib.parse import quote

from attrs import field, frozen

from tele.errors import InvalidInput
from tele.model.bounds import OMITTED, AtMost

#: Digits of a code, and the seconds for which it is the present one.
DIGITS: Final = 6
STEP_SECONDS: Final = 30
#: Bytes of a secret: as long as the hash that codes are made with (RFC 4226, section 4).
SECRET_BYTES: Final = 20
LONGEST_SECRET: Final = 64
#: Devices of a user, and recovery codes that are made at once.
DEVICES_LIMIT: Final = 10
RECOVERY_CODES: Final = 8
NAME_LIMIT: Final = 64
#: Characters of a browser's answer about a security key.
ANSWER_LIMIT: Final = 8192


class SecondFactorMode(str, Enum):
    """Whether users have a second factor.

    ``off``: logins never ask for it, and it cannot be set up. ``optional``: logins of users who
    have set one up ask for it. ``required``: no login without one.
    """

    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


@frozen
class SecondFactor:
    """What a user shows beside the password.

    ``code`` is one of the authenticator app, or a recovery code. ``webauthn`` is the answer of a
    security key to the challenge that came with the error, as browsers write it in JSON.
    """

    code: str = field(default="", repr=False, validator=AtMost(64))
    webauthn: str = field(default="", repr=False, validator=AtMost(ANSWER_LIMIT), metadata=OMITTED)


@frozen
class NewDevice:
    """An authenticator app to set up: its ``secret`` (base32) and a ``code`` that it shows now."""

    name: str = field(validator=AtMost(NAME_LIMIT))
    secret: str = field(repr=False, validator=AtMost(128))
    code: str = field(repr=False, validator=AtMost(16))


@frozen
class MfaDevice:
    """A device of a user, without its secret. ``type`` is ``totp`` or ``webauthn``."""

    id: str
    name: str
    type: str
    added: datetime
    last_used: datetime | None = None


def new_secret(entropy: Callable[[int], bytes]) -> str:
    """Return the secret of a new authenticator app, in base32."""
    return base64.b32encode(entropy(SECRET_BYTES)).decode()


def read_secret(text: str) -> bytes:
    """Return the bytes of a secret. Raises :class:`InvalidInput` for one that is too short to be
    one, or is no base32.
    """
    plain = text.replace(" ", "").rstrip("=").upper()
    try:
        secret = base64.b32decode(plain + "=" * (-len(plain) % 8))
    except (binascii.Error, ValueError):
        raise InvalidInput("the secret of the authenticator app is not base32") from None
    if not SECRET_BYTES <= len(secret) <= LONGEST_SECRET:
        raise InvalidInput(f"the secret of an authenticator app has {SECRET_BYTES} bytes or more")
    return secret


def otpauth_uri(cluster: str, user: str, secret: str) -> str:
    """Return what authenticator apps read from a QR code."""
    label = f"{quote(cluster, safe='')}:{quote(user, safe='')}"
    return f"otpauth://totp/{label}?secret={secret.rstrip('=')}&issuer={quote(cluster, safe='')}"
