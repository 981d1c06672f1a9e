"""What are the messages of an SSH agent (draft-ietf-sshm-ssh-agent)?

Invariants:

* An answer is read whole, within limits; any other bytes are a :class:`ProtocolError`.
"""

from __future__ import annotations

from typing import Final

from tele.errors import ProtocolError
from tele.wire.fields import Reader, string, uint32

FAILURE: Final = 5
REQUEST_IDENTITIES: Final = 11
IDENTITIES_ANSWER: Final = 12
SIGN_REQUEST: Final = 13
SIGN_RESPONSE: Final = 14

#: Flags of a request to sign: which hash an RSA key uses.
RSA_SHA2_256: Final = 2
RSA_SHA2_512: Final = 4

#: Most bytes of one answer (OpenSSH's limit), and of keys in it.
MESSAGE_LIMIT: Final = 256 * 1024
IDENTITIES_LIMIT: Final = 2048
SIGNATURE_LIMIT: Final = 16 * 1024

LIST: Final = uint32(1) + bytes((REQUEST_IDENTITIES,))


def sign_request(blob: bytes, data: bytes, flags: int) -> bytes:
    """Return the message that asks for a signature of the key, or certificate, ``blob``."""
    body = bytes((SIGN_REQUEST,)) + string(blob) + string(data) + uint32(flags)
    return string(body)


def take_message(received: bytes | bytearray) -> bytes | None:
    """Return the first whole message in ``received`` without its length; None if it is not there
    yet.
    """
    if len(received) < 4:
        return None
    size = int.from_bytes(received[:4], "big")
    if not 0 < size <= MESSAGE_LIMIT:
        raise ProtocolError(f"a message of an agent of {size} bytes")
    return bytes(received[4 : 4 + size]) if len(received) >= 4 + size else None


def read_identities(message: bytes) -> tuple[bytes, ...]:
    """Return the blobs of the keys and certificates that an agent has."""
    reader = _body(message, IDENTITIES_ANSWER)
    count = reader.uint32()
    if count > IDENTITIES_LIMIT:
        raise ProtocolError(f"an agent with {count} keys")
    blobs = []
    for _ in range(count):
        blobs.append(reader.string())
        reader.string()  # its comment
    reader.end()
    return tuple(blobs)


def read_signature(message: bytes) -> bytes:
    """Return the signature of an answer."""
    reader = _body(message, SIGN_RESPONSE)
    signature = reader.string(SIGNATURE_LIMIT)
    reader.end()
    return signature


def _body(message: bytes, expected: int) -> Reader:
    reader = Reader(message)
    kind = reader.byte()
    if kind == FAILURE:
        raise ProtocolError("the agent refuses")
    if kind != expected:
        raise ProtocolError(f"an answer of an agent of the type {kind}, not {expected}")
    return reader
