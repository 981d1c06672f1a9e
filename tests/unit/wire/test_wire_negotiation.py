"""Which algorithms two ends agree on."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from tele.errors import ProtocolError
from tele.wire.ciphers import MACS, SERVER_CIPHERS
from tele.wire.negotiation import (
    EXT_INFO_CLIENT,
    STRICT_CLIENT,
    KexInit,
    make_kexinit,
    negotiate,
    parse_kexinit,
)
from tele.wire.numbers import KEY_EXCHANGE_FAILED


def kexinit(**changes: Any) -> KexInit:
    return evolve(
        make_kexinit((b"k1", b"k2"), (b"h1", b"h2"), bytes(16), (b"c1", b"c2")), **changes
    )


def test_encoding_round_trip() -> None:
    """A peer reads what we write."""
    ours = kexinit()
    assert parse_kexinit(ours.payload[1:]) == ours


def test_the_clients_order_decides() -> None:
    """The first of the client's names that the server has is taken, in each direction."""
    client = kexinit(kex=(b"k2", b"k1"), ciphers_to_client=(b"x", b"c2", b"c1"))
    agreement = negotiate(client, kexinit())
    assert agreement.kex == b"k2"
    assert agreement.host_key == b"h1"
    assert agreement.cipher_to_server == b"c1"
    assert agreement.cipher_to_client == b"c2"
    assert not agreement.wrong_guess


def test_a_marker_is_no_method() -> None:
    """Markers that both ends list are not agreed on (RFC 8308, section 2.2)."""
    client = kexinit(kex=(EXT_INFO_CLIENT, STRICT_CLIENT, b"k1"))
    server = kexinit(kex=(b"k1", EXT_INFO_CLIENT, STRICT_CLIENT))
    assert negotiate(client, server).kex == b"k1"
    with pytest.raises(ProtocolError):
        negotiate(kexinit(kex=(EXT_INFO_CLIENT,)), server)


GCM = (b"aes128-gcm@openssh.com",)
CTR = (b"aes128-ctr",)
SHA1 = (b"hmac-sha1-etm@openssh.com", b"hmac-sha2-256")


def test_a_mac_is_agreed_on_where_it_is_needed() -> None:
    """The client's first MAC is taken for a cipher that needs one; for one that does not,
    the lists are ignored.
    """
    server = make_kexinit((b"k1",), (b"h1",), bytes(16))
    client = evolve(
        server,
        ciphers_to_server=CTR,
        ciphers_to_client=GCM,
        macs_to_server=(*SHA1, *MACS[::-1]),
        macs_to_client=SHA1,
    )
    agreement = negotiate(client, server)
    assert agreement.mac_to_server == MACS[1]
    assert agreement.mac_to_client == b""
    with pytest.raises(ProtocolError, match="MAC"):
        negotiate(evolve(client, ciphers_to_client=CTR), server)


def test_what_is_never_offered() -> None:
    """No CBC, no MAC that is not of the etm kind, no SHA-1, MD5 or compression; ChaCha20 comes
    last where it comes at all, and a server does not offer it of its own accord.
    """
    ours = make_kexinit((), (), bytes(16))
    assert ours.ciphers_to_client[-1] == b"chacha20-poly1305@openssh.com"
    assert tuple(SERVER_CIPHERS) == ours.ciphers_to_client[:-1]
    assert all(b"-gcm@" in c or c.endswith(b"-ctr") for c in SERVER_CIPHERS)
    assert all(m.endswith(b"-etm@openssh.com") and b"sha2" in m for m in ours.macs_to_client)
    assert ours.compressions_to_client == (b"none",)


@pytest.mark.parametrize(
    "changes",
    [
        {"kex": (b"other",)},
        {"host_keys": ()},
        {"ciphers_to_server": (b"none",)},
        {"ciphers_to_client": (b"aes128-ctr",)},
        {"compressions_to_client": (b"zlib@openssh.com",)},
        {"compressions_to_server": (b"zlib",)},
    ],
)
def test_nothing_shared_is_the_end(changes: Any) -> None:
    """Without a shared algorithm of each kind there is no connection (S2: no zlib)."""
    with pytest.raises(ProtocolError) as caught:
        negotiate(kexinit(**changes), kexinit())
    assert caught.value.disconnect_code == KEY_EXCHANGE_FAILED


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [({}, False), ({"kex": (b"k2", b"k1")}, True), ({"host_keys": (b"h2", b"h1")}, True)],
)
def test_guesses(changes: Any, wrong: bool) -> None:
    """A guess is wrong if the first method or the first host key algorithm differs."""
    client = kexinit(guess_follows=True, **changes)
    assert negotiate(client, kexinit()).wrong_guess is wrong


@pytest.mark.parametrize("size", [0, 15, 16, 30, 60])
def test_cut_kexinits_are_refused(size: int) -> None:
    """A KEXINIT that ends early is refused."""
    with pytest.raises(ProtocolError):
        parse_kexinit(kexinit().payload[1 : 1 + size])
    with pytest.raises(ProtocolError):
        parse_kexinit(kexinit().payload[1:] + b"more")
