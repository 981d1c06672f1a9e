"""How are keys written that open recordings, or signing keys: in files, and in the configuration?

A private key is one line, ``tele-recording-key-1:`` or ``tele-signing-key-1:`` and base64 of 32
bytes; a public one ``x25519:`` and base64 of 32 bytes.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from tele.errors import InvalidInput, quoted
from tele.tape.sealing import KEY_SIZE, check_recipient

RECORDING_KEY: Final = "tele-recording-key-1:"
SIGNING_KEY: Final = "tele-signing-key-1:"
_MADE_BY: Final = {RECORDING_KEY: "tele recordings keygen", SIGNING_KEY: "tele ca keygen"}
_PUBLIC: Final = "x25519:"


def private_text(private: bytes, begin: str = RECORDING_KEY) -> str:
    """Return the content of the file of a private key, which begins with ``begin``."""
    return f"{begin}{base64.b64encode(private).decode('ascii')}\n"


def public_text(public: bytes) -> str:
    """Return a public key as it stands in the configuration."""
    return f"{_PUBLIC}{base64.b64encode(public).decode('ascii')}"


def read_private(data: bytes, begin: str = RECORDING_KEY) -> bytes:
    """Read a private key. Raises :class:`InvalidInput`, which has nothing of it."""
    key = _decoded(data.decode("ascii", "replace").strip(), begin)
    if key is None:
        raise InvalidInput(f"not a private key of `{_MADE_BY[begin]}`")
    return key


def read_public(text: str) -> bytes:
    """Read a public key. Raises :class:`InvalidInput`."""
    key = _decoded(text, _PUBLIC)
    if key is None:
        raise InvalidInput(f"{quoted(text)} is not a public key, x25519:...")
    check_recipient(key)
    return key


def _decoded(text: str, begin: str) -> bytes | None:
    if not text.startswith(begin):
        return None
    try:
        key = base64.b64decode(text.removeprefix(begin), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_SIZE else None
