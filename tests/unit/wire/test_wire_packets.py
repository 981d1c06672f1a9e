"""Packets of each direction."""

from __future__ import annotations

import hmac
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import ProtocolError
from tele.wire.chacha import ChachaOpener
from tele.wire.ciphers import CIPHERS, MACS, Secrets, needs_mac
from tele.wire.etm import EtmSealer
from tele.wire.gcm import CONTEXTS_KEPT, GcmOpener, GcmSealer
from tele.wire.numbers import MAC_ERROR
from tele.wire.packets import (
    DATA_HEADER_SIZE,
    OVERHEAD,
    PADDING_SIZE,
    Opener,
    PlainOpener,
    PlainSealer,
    Sealer,
)

#: Each cipher, with each MAC if it needs one.
SUITES = [(c, m) for c in CIPHERS for m in (MACS if needs_mac(c) else (b"",))]
suites = pytest.mark.parametrize("suite", SUITES, ids=lambda s: b"+".join(s).decode())

LIMIT = 35000
SECRETS = Secrets(b"\0\0\0\x01k", b"h" * 32, b"s" * 32)
PADDING = bytes(range(PADDING_SIZE))
CHACHA = b"chacha20-poly1305@openssh.com"


def pair(suite: tuple[bytes, bytes], sequence: int = 0) -> tuple[Sealer, Opener]:
    cipher, mac = suite
    return (
        SECRETS.sealer(cipher, True, PADDING, sequence, mac),
        SECRETS.opener(cipher, True, LIMIT, sequence, mac),
    )


def sealed(sealer: Sealer, payload: bytes) -> bytes:
    out = memoryview(bytearray(len(payload) + OVERHEAD))
    return bytes(out[: sealer.seal(payload, out, 0)])


def opened(opener: Opener, packet: bytes) -> bytes | None:
    buffer = memoryview(bytearray(len(packet) + OVERHEAD))
    taken = opener.open(memoryview(packet), 0, len(packet), buffer)
    assert taken in (0, len(packet))
    return bytes(buffer[1 : opener.payload_end]) if taken else None


@given(st.binary(min_size=1, max_size=3000))
def test_plain_round_trip(payload: bytes) -> None:
    """Plain packets are multiples of 8 with at least 4 bytes of padding."""
    packet = sealed(PlainSealer(), payload)
    assert len(packet) % 8 == 0
    assert packet[4] >= 4
    assert opened(PlainOpener(LIMIT), packet) == payload


@suites
@given(payloads=st.lists(st.binary(min_size=1, max_size=3000), max_size=5))
def test_round_trip(suite: tuple[bytes, bytes], payloads: list[bytes]) -> None:
    """A sequence of sealed packets opens in order, and both ends count the same."""
    sealer, opener = pair(suite)
    for payload in payloads:
        packet = sealed(sealer, payload)
        assert (len(packet) - 4) % 16 == 0
        assert payload not in packet or len(payload) < 4
        assert opened(opener, packet) == payload
    assert sealer.sequence == opener.sequence == sealer.packets == opener.packets
    assert sealer.octets == opener.octets


@suites
@pytest.mark.parametrize("code", [None, 1])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 1000, 32768])
@pytest.mark.parametrize("earlier", [0, 1])
def test_data_packets_are_like_any_other(
    suite: tuple[bytes, bytes], size: int, code: int | None, earlier: int
) -> None:
    """Sealing data in place gives the packet that the message would have become, whether it is the
    first packet or not.
    """
    data = bytes(i % 251 for i in range(size))
    buffer = memoryview(bytearray(DATA_HEADER_SIZE + 32768 + PADDING_SIZE))
    buffer[DATA_HEADER_SIZE : DATA_HEADER_SIZE + size] = data
    out = memoryview(bytearray(40000))
    sealer, opener = pair(suite)
    for _ in range(earlier):
        assert opened(opener, bytes(out[: sealer.seal(b"earlier", out, 0)])) == b"earlier"
    end = sealer.seal_data(buffer, 7, size, code, out, 3)
    kind = b"\x5e" if code is None else b"\x5f"
    extra = b"" if code is None else code.to_bytes(4, "big")
    message = kind + (7).to_bytes(4, "big") + extra + size.to_bytes(4, "big") + data
    assert opened(opener, bytes(out[3:end])) == message


def test_there_are_no_data_before_keys() -> None:
    """Data sent too early are an error of this program, and nothing is sent."""
    buffer = memoryview(bytearray(200))
    with pytest.raises(ValueError, match="before keys"):
        PlainSealer().seal_data(buffer, 1, 1, None, buffer, 0)


@suites
@pytest.mark.parametrize("earlier", [0, 1])
def test_data_of_others_do_not_leak_into_padding(suite: tuple[bytes, bytes], earlier: int) -> None:
    """Padding is overwritten: bytes left in the shared buffer by others are not sent."""
    buffer = memoryview(bytearray(b"SECRET" * 6000))
    out = memoryview(bytearray(200))
    sealer, opener = pair(suite)
    for _ in range(earlier):
        assert opened(opener, bytes(out[: sealer.seal(b"earlier", out, 0)])) == b"earlier"
    end = sealer.seal_data(buffer, 1, 2, None, out, 0)
    plain = memoryview(bytearray(200))
    opener.open(out, 0, end, plain)
    padding = plain[0]
    assert bytes(plain[opener.payload_end : opener.payload_end + padding]) == PADDING[:padding]


@suites
@given(data=st.data())
def test_any_changed_bit_is_noticed(suite: tuple[bytes, bytes], data: st.DataObject) -> None:
    """A packet of which one bit changed never opens."""
    sealer, opener = pair(suite)
    packet = bytearray(sealed(sealer, b"payload"))
    packet[data.draw(st.integers(0, len(packet) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    result = None
    with suppress(ProtocolError):
        result = opened(opener, bytes(packet))
    assert result is None


@suites
def test_a_wrong_tag_is_a_mac_error(suite: tuple[bytes, bytes]) -> None:
    """The reason of the disconnect is the authentication of a packet, and there is
    no payload.
    """
    sealer, opener = pair(suite)
    packet = sealed(sealer, b"payload")
    with pytest.raises(ProtocolError) as caught:
        opened(opener, packet[:-1] + bytes((packet[-1] ^ 1,)))
    assert caught.value.disconnect_code == MAC_ERROR
    assert opener.payload_end == opener.packets == 0


@suites
def test_order_is_part_of_authenticity(suite: tuple[bytes, bytes]) -> None:
    """Packets that are swapped, repeated or left out do not open."""
    for good, bad in ((None, 1), (0, 0), (0, 2)):
        sealer, opener = pair(suite)
        packets = [sealed(sealer, b"%d" % i) for i in range(3)]
        if good is not None:
            opened(opener, packets[good])
        with pytest.raises(ProtocolError):
            opened(opener, packets[bad])


@suites
def test_incomplete_packets_wait(suite: tuple[bytes, bytes]) -> None:
    """Of a packet that is not all there nothing is taken, and no state changes."""
    sealer, opener = pair(suite)
    packet = sealed(sealer, b"payload")
    for size in range(len(packet)):
        assert opened(opener, packet[:size]) is None
    assert opened(opener, packet) == b"payload"


@pytest.mark.parametrize("length", [0, 1, 11, 13, 15, LIMIT + 1, 0x7FFFFFFC, 0xFFFFFFFF])
def test_bad_lengths_are_refused_at_once(length: int) -> None:
    """A length that no packet can have is refused before any of the packet arrives (S10)."""
    clear = [pair(suite)[1] for suite in SUITES if suite[0] != CHACHA]
    for opener in (PlainOpener(LIMIT), *clear):
        with pytest.raises(ProtocolError):
            opened(opener, length.to_bytes(4, "big"))


@pytest.mark.parametrize("length", [0, 1, 7, 9, 4096 + 4, LIMIT + 5, 0x7FFFFFF8, 0xFFFFFFFF])
def test_bad_lengths_are_refused_though_they_are_encrypted(length: int) -> None:
    """A hostile length under ChaCha20, which the peer's own key encrypted, is refused as soon
    as it is there: 4 GB are not waited for.
    """
    sealer, opener = pair((CHACHA, b""))
    stream = int.from_bytes(sealed(sealer, b"payload")[:4], "big") ^ 16  # its length is 16
    with pytest.raises(ProtocolError):
        opened(opener, (length ^ stream).to_bytes(4, "big"))


@pytest.mark.parametrize("padding", [0, 1, 3, 11, 12, 255])
def test_bad_padding_is_refused(padding: int) -> None:
    """Padding below 4, or that leaves no payload, is refused (S10)."""
    packet = (12).to_bytes(4, "big") + bytes((padding,)) + bytes(11)
    with pytest.raises(ProtocolError):
        opened(PlainOpener(LIMIT), packet)


def test_idle_directions_keep_no_context() -> None:
    """Of many connections the busy one keeps its contexts; idle ones make new ones when needed."""
    suite = (b"aes128-gcm@openssh.com", b"")
    busy, idle = pair(suite), [pair(suite) for _ in range(3 * CONTEXTS_KEPT)]
    for each in idle:
        for sealer, opener in (each, busy):
            assert opened(opener, sealed(sealer, b"first")) == b"first"
    directions = [direction for both in idle for direction in both]
    with_context = [each for each in directions if each.has_context]  # type: ignore[union-attr]
    assert len(with_context) <= CONTEXTS_KEPT + 2
    assert all(each.has_context for each in busy)  # type: ignore[union-attr]
    for sealer, opener in idle:
        assert opened(opener, sealed(sealer, b"second")) == b"second"


def test_the_nonce_counter_wraps() -> None:
    """The 64-bit invocation counter starts anywhere and wraps."""
    iv = b"fixd" + b"\xff" * 8
    sealer = GcmSealer(b"k" * 16, iv, PADDING, 0xFFFFFFFF)
    opener = GcmOpener(b"k" * 16, iv, LIMIT, 0xFFFFFFFF)
    for payload in (b"one", b"two"):
        assert opened(opener, sealed(sealer, payload)) == payload
    assert sealer.sequence == opener.sequence == 1


@pytest.mark.parametrize("suite", [s for s in SUITES if "gcm" not in s[0].decode()])
def test_the_sequence_number_wraps(suite: tuple[bytes, bytes]) -> None:
    """What nonces and MACs are made of is a uint32 and wraps to 0."""
    sealer, opener = pair(suite, 0xFFFFFFFF)
    for payload in (b"one", b"two"):
        assert opened(opener, sealed(sealer, payload)) == payload
    assert sealer.sequence == opener.sequence == 1


def test_known_gcm_packet() -> None:
    """The format is pinned: AES-GCM over a clear length (RFC 5647, section 7)."""
    key, iv = bytes(range(16)), bytes(range(100, 112))
    packet = sealed(GcmSealer(key, iv, PADDING), b"\x02\0\0\0\0")
    length = (16).to_bytes(4, "big")
    encryptor = Cipher(AES(key), GCM(iv)).encryptor()
    encryptor.authenticate_additional_data(length)
    body = encryptor.update(b"\x0a\x02\0\0\0\0" + PADDING[:10]) + encryptor.finalize()
    assert packet == length + body + encryptor.tag


def test_known_chacha_packet() -> None:
    """The vector of draft-josefsson-ssh-chacha20-poly1305-openssh, appendix A."""
    key = bytes.fromhex(
        "8bbff6855fc102338c373e73aac0c914f076a905b2444a32eecaffeae22becc5"
        "e9b7a7a5825a8249346ec1c28301cf394543fc7569887d76e168f37562ac0740"
    )
    packet = bytes.fromhex(
        "2c3ecce4a5bc05895bf07a7ba956b6c68829ac7c83b780b7000ecde745afc705bbc378ce03a280236b87b5"
        "3bed5839662302b164b6286a48cd1e097138e3cb909b8b2b829dd18d2a35ff82d995349e855bf02c298ef7"
        "75f2d1a7e8b8"
    )
    text = b"Lorem ipsum dolor sit amet, consectetur adipisicing elit"
    payload = b"\x5e" + bytes(7) + bytes((len(text),)) + text
    assert opened(ChachaOpener(key, LIMIT, 7), packet) == payload


@pytest.mark.parametrize(("mac", "digest"), [(MACS[0], "sha256"), (MACS[1], "sha512")])
def test_known_etm_packets(mac: bytes, digest: str) -> None:
    """The format is pinned: one CTR stream over all packets, a MAC of number, length and
    ciphertext.
    """
    key, iv, mac_key = bytes(range(32)), bytes(range(100, 116)), bytes(range(64))
    sealer = EtmSealer(key, iv, mac_key, mac, PADDING, 5)
    stream = Cipher(AES(key), CTR(iv)).encryptor()
    for number in (5, 6):
        head = number.to_bytes(4, "big") + (16).to_bytes(4, "big")
        body = stream.update(b"\x0a\x02\0\0\0\0" + PADDING[:10])
        tag = hmac.digest(mac_key, head + body, digest)
        assert sealed(sealer, b"\x02\0\0\0\0") == head[4:] + body + tag
