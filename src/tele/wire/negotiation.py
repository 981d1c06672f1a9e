"""Which algorithms do two ends agree on (RFC 4253, section 7.1)?

Laws of this file:

* The client's order decides; a marker is never taken for a method (RFC 8308, section 2.2).
* MAC lists are sent because they have to be, and not looked at: all ciphers are AEAD.
* Compression is ``none``.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from tele.errors import ProtocolError
from tele.wire.ciphers import CIPHERS
from tele.wire.fields import Reader, boolean, name_list, uint32
from tele.wire.numbers import KEXINIT, KEY_EXCHANGE_FAILED

COOKIE_SIZE: Final = 16

EXT_INFO_CLIENT: Final = b"ext-info-c"
EXT_INFO_SERVER: Final = b"ext-info-s"
STRICT_CLIENT: Final = b"kex-strict-c-v00@openssh.com"
STRICT_SERVER: Final = b"kex-strict-s-v00@openssh.com"
_MARKERS: Final = frozenset({EXT_INFO_CLIENT, EXT_INFO_SERVER, STRICT_CLIENT, STRICT_SERVER})

#: Names that other implementations want to see; never used.
MACS: Final = (b"hmac-sha2-256-etm@openssh.com", b"hmac-sha2-512-etm@openssh.com", b"hmac-sha2-256")
COMPRESSIONS: Final = (b"none",)


@frozen
class KexInit:
    """KEXINIT. ``payload`` is the whole message with its number, as hashed."""

    kex: tuple[bytes, ...]
    host_keys: tuple[bytes, ...]
    ciphers_to_server: tuple[bytes, ...]
    ciphers_to_client: tuple[bytes, ...]
    compressions_to_server: tuple[bytes, ...]
    compressions_to_client: tuple[bytes, ...]
    guess_follows: bool
    payload: bytes


def make_kexinit(
    kex: tuple[bytes, ...],
    host_keys: tuple[bytes, ...],
    cookie: bytes,
    ciphers: tuple[bytes, ...] = CIPHERS,
) -> KexInit:
    """Return our KEXINIT. ``cookie`` is 16 random bytes."""
    lists = (kex, host_keys, ciphers, ciphers, MACS, MACS, COMPRESSIONS, COMPRESSIONS, (), ())
    payload = (
        bytes((KEXINIT,)) + cookie + b"".join(map(name_list, lists)) + boolean(False) + uint32(0)
    )
    return KexInit(kex, host_keys, ciphers, ciphers, COMPRESSIONS, COMPRESSIONS, False, payload)


def parse_kexinit(body: bytes) -> KexInit:
    """Read a peer's KEXINIT; ``body`` is without the message number."""
    reader = Reader(body)
    reader.take(COOKIE_SIZE)
    lists = [reader.name_list() for _ in range(10)]
    guess_follows = reader.boolean()
    reader.uint32()
    reader.end()
    return KexInit(
        kex=lists[0],
        host_keys=lists[1],
        ciphers_to_server=lists[2],
        ciphers_to_client=lists[3],
        compressions_to_server=lists[6],
        compressions_to_client=lists[7],
        guess_follows=guess_follows,
        payload=bytes((KEXINIT,)) + body,
    )


@frozen
class Agreement:
    """What two KEXINITs amount to. ``wrong_guess``: the client's next KEX message is void."""

    kex: bytes
    host_key: bytes
    cipher_to_server: bytes
    cipher_to_client: bytes
    wrong_guess: bool


def negotiate(client: KexInit, server: KexInit) -> Agreement:
    """Return what ``client`` and ``server`` agree on.

    Raises :class:`ProtocolError` naming the kind of algorithm that they share none of.
    """
    agreement = Agreement(
        kex=_first_shared("key exchange method", client.kex, server.kex),
        host_key=_first_shared("host key algorithm", client.host_keys, server.host_keys),
        cipher_to_server=_first_shared(
            "cipher", client.ciphers_to_server, server.ciphers_to_server
        ),
        cipher_to_client=_first_shared(
            "cipher", client.ciphers_to_client, server.ciphers_to_client
        ),
        wrong_guess=client.guess_follows
        and (client.kex[:1] != server.kex[:1] or client.host_keys[:1] != server.host_keys[:1]),
    )
    for theirs, ours in (
        (client.compressions_to_server, server.compressions_to_server),
        (client.compressions_to_client, server.compressions_to_client),
    ):
        _first_shared("compression", theirs, ours)
    return agreement


def _first_shared(kind: str, client: tuple[bytes, ...], server: tuple[bytes, ...]) -> bytes:
    for name in client:
        if name in server and name not in _MARKERS:
            return name
    raise ProtocolError(f"we share no {kind}", KEY_EXCHANGE_FAILED)
