"""Frames of WebSocket: every division is read alike, and what a browser never sends is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import ProtocolError
from tele.web.websocket import (
    FRAME_LIMIT,
    CloseCode,
    Control,
    FrameReader,
    Opcode,
    accept,
    close_frame,
    frame,
    unmask,
)

MASK = b"\x01\x02\x03\x04"


def masked(
    data: bytes, opcode: int = Opcode.BINARY, first: int = 0x80, mask: bytes = MASK
) -> bytes:
    """A frame as a browser sends it."""
    size = len(data)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes((first | opcode,)) + length + mask + unmask(data, mask)


def read(*parts: bytes) -> tuple[bytes, list[Control]]:
    """The stream and the control frames in what arrives in parts."""
    reader, stream, controls = FrameReader(), b"", []
    for part in parts:
        for found in reader.feed(part):
            if isinstance(found, Control):
                controls.append(found)
            else:
                stream += found
    return stream, controls


def test_the_answer_to_a_key() -> None:
    """The example of RFC 6455, section 1.3."""
    assert accept(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("key", [b"", b"c2hvcnQ=", b"!!!!", b"dGhlIHNhbXBsZSBub25jZQ"])
def test_a_key_that_is_none(key: bytes) -> None:
    """A key has 16 bytes in base64."""
    with pytest.raises(ProtocolError):
        accept(key)


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.binary(min_size=4, max_size=4)), max_size=6),
    st.integers(1, 50),
)
def test_divisions_mean_nothing(frames: list[tuple[bytes, bytes]], step: int) -> None:
    """However frames and reads divide the stream, the same bytes come out."""
    sent = b"".join(masked(data, mask=mask) for data, mask in frames)
    parts = [sent[at : at + step] for at in range(0, len(sent), step)]
    assert read(*parts)[0] == b"".join(data for data, _ in frames)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_000])
def test_lengths(size: int) -> None:
    """Each of the three forms of a length is read, and written."""
    data = bytes(size)
    assert read(masked(data))[0] == data
    head = frame(data)[: len(frame(data)) - size]
    assert len(head) == (2 if size < 126 else 4 if size < 65536 else 10)


def test_a_message_in_fragments_with_a_ping_between() -> None:
    """A control frame may come between the fragments of a message."""
    sent = (
        masked(b"ab", Opcode.BINARY, 0) + masked(b"?", Opcode.PING)
        + masked(b"cd", Opcode.CONTINUATION, 0) + masked(b"", Opcode.CONTINUATION)
    )  # fmt: skip
    for step in (1, 3, len(sent)):
        parts = [sent[at : at + step] for at in range(0, len(sent), step)]
        assert read(*parts) == (b"abcd", [Control(Opcode.PING, b"?")])


def test_the_end() -> None:
    """A CLOSE is told with its data, and ours has a code."""
    assert read(masked(b"\x03\xe8", Opcode.CLOSE))[1] == [Control(Opcode.CLOSE, b"\x03\xe8")]
    assert close_frame(CloseCode.NORMAL) == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x82\x01a",
        masked(b"a", first=0xC0),
        masked(b"a", Opcode.TEXT),
        masked(b"a", 3),
        masked(b"a", 11),
        masked(b"a", Opcode.PING, 0),
        masked(bytes(126), Opcode.PING),
        masked(b"a", Opcode.CONTINUATION),
        masked(b"a", Opcode.BINARY, 0) + masked(b"b"),
        b"\x82\xff" + (FRAME_LIMIT + 1).to_bytes(8, "big") + MASK,
        b"\x82\xff" + b"\xff" * 8 + MASK,
    ],
    ids=[
        "not masked", "extension", "text", "reserved", "reserved control", "divided control",
        "long control", "goes on without one", "within another", "too long", "longest",
    ],
)  # fmt: skip
def test_what_a_browser_never_sends(sent: bytes) -> None:
    """It is refused at the head of the frame, before anything of it is kept."""
    with pytest.raises(ProtocolError):
        read(sent)
