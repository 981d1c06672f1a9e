"""Which codes does an authenticator app show? TOTP with SHA-1, six digits, 30 s (RFC 6238)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Container
from datetime import datetime
from typing import Final

from tele.model.second_factors import DIGITS, STEP_SECONDS

#: The clocks of telephones: one code before and one after the present one are accepted, too.
SKEW: Final = 1


def code_of(secret: bytes, step: int) -> str:
    """Return the code of the ``step``-th 30 seconds since 1970."""
    made = hmac.new(secret, step.to_bytes(8, "big"), hashlib.sha1).digest()
    at = made[-1] & 0xF
    number = int.from_bytes(made[at : at + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


def step_of(moment: datetime) -> int:
    """Return the number of the 30 seconds that ``moment`` is in."""
    return int(moment.timestamp()) // STEP_SECONDS


def match(secret: bytes, code: str, moment: datetime, used: Container[int] = ()) -> int | None:
    """Return the step that ``code`` is of, which is not ``used`` yet, or None."""
    if not (code.isascii() and code.isdigit() and len(code) == DIGITS):
        return None
    present, found = step_of(moment), None
    for step in range(max(0, present - SKEW), present + SKEW + 1):
        if hmac.compare_digest(code_of(secret, step), code) and step not in used:
            found = step
    return found
