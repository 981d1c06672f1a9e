"""Which algorithms two ends agree on."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from tele.errors import ProtocolError
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
