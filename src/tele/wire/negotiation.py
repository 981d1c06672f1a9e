"""Which algorithms do two ends agree on (RFC 4253, section 7.1)?

Invariants:

* The client's order decides; a marker is never chosen as a method (RFC 8308, section 2.2).
* A MAC is negotiated only for a cipher that needs one.
* Compression is ``none``.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from tele.errors import ProtocolError
from tele.wire.ciphers import CIPHERS, MACS, needs_mac
from tele.wire.fields import Reader, boolean, name_list, uint32
from tele.wire.numbers import KEXINIT, KEY_EXCHANGE_FAILED

COOKIE_SIZE: Final = 16

EXT_INFO_CLIENT: Final = b"ext-info-c"
EXT_INFO_SERVER: Final = b"ext-info-s"
STRICT_CLIENT: Final = b"kex-strict-c-v00@openssh.com"
STRICT_SERVER: Final = b"kex-strict-s-v00@openssh.com"
_MARKERS: Final = frozenset({EXT_INFO_CLIENT, EXT_INFO_SERVER, STRICT_CLIENT, STRICT_SERVER})

COMPRESSIONS: Final = (b"none",)

#: Most extensions in one EXT_INFO.
EXTENSIONS_LIMIT: Final = 32


@frozen
class KexInit:
    """KEXINIT. ``payload`` is the whole message with its number, as hashed."""

    kex: tuple[bytes, ...]
    host_keys: tuple[bytes, ...]
    ciphers_to_server: tuple[bytes, ...]
    ciphers_to_client: tuple[bytes, ...]
    macs_to_server: tuple[bytes, ...]
    macs_to_client: tuple[bytes, ...]
    compressions_to_server: tuple[bytes, ...]
    compressions_to_client: tuple[bytes, ...]
    guess_follows: bool
    payload: bytes


def make_kexinit(
    kex: tuple[bytes, ...],
    host_keys: tuple[bytes, ...],
    cookie: bytes,
    ciphers: tuple[bytes, ...] = CIPHERS,
    macs: tuple[bytes, ...] = MACS,
) -> KexInit:
    """Return our KEXINIT. ``cookie`` is 16 random bytes."""
    lists = (kex, host_keys, ciphers, ciphers, macs, macs, COMPRESSIONS, COMPRESSIONS, (), ())
    payload = (
        bytes((KEXINIT,)) + cookie + b"".join(map(name_list, lists)) + boolean(False) + uint32(0)
    )
    return KexInit(*lists[:8], guess_follows=False, payload=payload)


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
        macs_to_server=lists[4],
        macs_to_client=lists[5],
        compressions_to_server=lists[6],
        compressions_to_client=lists[7],
        guess_follows=guess_follows,
        payload=bytes((KEXINIT,)) + body,
    )


@frozen
class Agreement:
    """The algorithms negotiated. ``wrong_guess``: the client's next KEX message is ignored.

    A MAC is empty if its cipher needs none.
    """

    kex: bytes
    host_key: bytes
    cipher_to_server: bytes
    cipher_to_client: bytes
    mac_to_server: bytes
    mac_to_client: bytes
    wrong_guess: bool


def negotiate(client: KexInit, server: KexInit) -> Agreement:
    """Return the algorithms of ``client`` and ``server``.

    Raises :class:`ProtocolError` with the kind of algorithm that has none in common.
    """
    cipher_to_server = _first_shared("cipher", client.ciphers_to_server, server.ciphers_to_server)
    cipher_to_client = _first_shared("cipher", client.ciphers_to_client, server.ciphers_to_client)
    agreement = Agreement(
        kex=_first_shared("key exchange method", client.kex, server.kex),
        host_key=_first_shared("host key algorithm", client.host_keys, server.host_keys),
        cipher_to_server=cipher_to_server,
        cipher_to_client=cipher_to_client,
        mac_to_server=_mac(cipher_to_server, client.macs_to_server, server.macs_to_server),
        mac_to_client=_mac(cipher_to_client, client.macs_to_client, server.macs_to_client),
        wrong_guess=client.guess_follows
        and (client.kex[:1] != server.kex[:1] or client.host_keys[:1] != server.host_keys[:1]),
    )
    for theirs, ours in (
        (client.compressions_to_server, server.compressions_to_server),
        (client.compressions_to_client, server.compressions_to_client),
    ):
        _first_shared("compression", theirs, ours)
    return agreement


def _mac(cipher: bytes, client: tuple[bytes, ...], server: tuple[bytes, ...]) -> bytes:
    return _first_shared("MAC", client, server) if needs_mac(cipher) else b""


def _first_shared(kind: str, client: tuple[bytes, ...], server: tuple[bytes, ...]) -> bytes:
    for name in client:
        if name in server and name not in _MARKERS:
            return name
    raise ProtocolError(f"no common {kind}", KEY_EXCHANGE_FAILED)


def parse_extensions(body: bytes) -> dict[bytes, bytes]:
    """Read EXT_INFO (RFC 8308, section 2.3); ``body`` is without the message number."""
    reader = Reader(body)
    count = reader.uint32()
    if count > EXTENSIONS_LIMIT:
        raise ProtocolError("too many extensions")
    pairs = [(reader.string(), reader.string()) for _ in range(count)]
    reader.end()
    return dict(pairs)
