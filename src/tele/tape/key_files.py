"""How are keys written that open recordings: in files, and in the configuration?

A private key is one line, ``tele-recording-key-1:`` and base64 of 32 bytes; a public one
``x25519:`` and base64 of 32 bytes.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from tele.errors import InvalidInput, quoted
from tele.tape.sealing import KEY_SIZE, check_recipient

_PRIVATE: Final = "tele-recording-key-1:"
_PUBLIC: Final = "x25519:"


def private_text(private: bytes) -> str:
    """Return the content of the file of a private key."""
    return f"{_PRIVATE}{base64.b64encode(private).decode('ascii')}\n"


def public_text(public: bytes) -> str:
    """Return a public key as it stands in the configuration."""
    return f"{_PUBLIC}{base64.b64encode(public).decode('ascii')}"


def read_private(data: bytes) -> bytes:
    """Read a private key. Raises :class:`InvalidInput`, which has nothing of it."""
    key = _decoded(data.decode("ascii", "replace").strip(), _PRIVATE)
    if key is None:
        raise InvalidInput("not a private key of `tele recordings keygen`")
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
