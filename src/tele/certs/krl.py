"""How is a list of revoked certificates written for OpenSSH? A KRL (PROTOCOL.krl), unsigned.

Invariants:

* Certificates are named by their serial and the CA that signed them, and by nothing else: the list
  tells its readers no names.
* Equal input makes equal bytes: serials are sorted, each once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from tele.wire.fields import string, uint32

MAGIC: Final = b"SSHKRL\n\0"
_FORMAT: Final = 1
_CERTIFICATES: Final = b"\x01"
_SERIAL_LIST: Final = b"\x20"


def write_krl(
    authorities: Iterable[bytes], serials: Iterable[int], generated: datetime, comment: str = ""
) -> bytes:
    """Return the KRL of the certificates with these ``serials`` that one of ``authorities`` signed.

    ``authorities`` are key blobs. The version of the list is the time at which it was made.
    """
    listed = sorted(set(serials))
    seconds = int(generated.timestamp())
    head = (
        MAGIC
        + uint32(_FORMAT)
        + _uint64(seconds)
        + _uint64(seconds)
        + _uint64(0)
        + string(b"")
        + string(comment.encode())
    )
    if not listed:
        return head
    sections = (_of_authority(blob, listed) for blob in sorted(set(authorities)))
    return head + b"".join(_CERTIFICATES + string(section) for section in sections)


def _of_authority(blob: bytes, serials: Sequence[int]) -> bytes:
    listed = b"".join(map(_uint64, serials))
    return string(blob) + string(b"") + _SERIAL_LIST + string(listed)


def _uint64(value: int) -> bytes:
    return value.to_bytes(8, "big")
