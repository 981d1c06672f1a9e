"""The recording format: what is written is read; what is changed or cut off is found out."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tele.errors import BadRecording, InvalidInput
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import ChunkDigest, Manifest, RecordingStart
from tele.tape.details import details
from tele.tape.exports.cast import asciicast
from tele.tape.exports.json_lines import json_lines
from tele.tape.exports.text import PlainText, text
from tele.tape.file import read_file, write_file
from tele.tape.layout import DATA_LIMIT, RAW_LIMIT, pack_chunk, read_chunk
from tele.tape.verify import VERSION, read_frames, to_sign, verify
from tele.tape.writer import CUT_AT, TapeWriter

START = RecordingStart(
    "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11", "ssh", "c", "alice", "root", ("access",), "s", "web1",
    "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22", "192.0.2.1:1",
    datetime(2026, 11, 24, 12, tzinfo=UTC),
)  # fmt: skip


def frame(time: int, data: bytes, kind: FrameKind = FrameKind.OUTPUT, channel: int = 1) -> Frame:
    return Frame(time, channel, kind, data)


def opened(columns: int = 99, channel: int = 1) -> Frame:
    said = {"kind": "shell", "command": "", "pty": {"term": "vt", "columns": columns, "rows": 33}}
    return frame(0, json.dumps(said).encode(), FrameKind.OPEN, channel)


def began(start: RecordingStart = START) -> Frame:
    return Frame(0, 0, FrameKind.START, encode(start))


END = Frame(40, 0, FrameKind.END, b'{"reason": "done"}')


def write(*groups: list[Frame]) -> tuple[list[bytes], Manifest]:
    """One chunk for each group."""
    writer = TapeWriter()
    chunks, digests = [], []
    for number, group in enumerate(groups):
        for each in group:
            writer.add(each)
        cut = writer.cut(last=number == len(groups) - 1)
        assert cut is not None
        digests.append(cut[0])
        chunks.append(cut[1])
    manifest = Manifest(
        START.id, VERSION, START, START.started, tuple(digests), writer.frames, True, False, "cert",
        sequence=writer.sequence,
    )  # fmt: skip
    return chunks, manifest


FRAMES = [
    evolve(each, sequence=min(number, 4))
    for number, each in enumerate(
        [began(), opened(), frame(10, b"one"), frame(20, b"two"), frame(30, b"three"), END]
    )
]
CHUNKS, MANIFEST = write(FRAMES[:3], FRAMES[3:4], FRAMES[4:])


def good(_: Manifest) -> None:
    """A signature that is accepted."""


def test_what_is_written_is_read() -> None:
    """Frames come back in order, and the whole verifies."""
    assert list(read_frames(CHUNKS, MANIFEST, START)) == FRAMES
    verdict = verify(CHUNKS, MANIFEST, START, good)
    assert (verdict.complete, verdict.chunks, verdict.frames) == (True, 3, 6)


def test_an_unfinished_recording_can_be_read() -> None:
    """Without a manifest what is there is read, and said to be incomplete."""
    assert list(read_frames(CHUNKS[:2], None, START)) == FRAMES[:4]
    assert verify(CHUNKS[:2], None, START, good).complete is False


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        (CHUNKS[:2], "missing"),
        ([], "missing"),
        (CHUNKS[1:], "chunk 1 stands where chunk 0"),
        ([CHUNKS[0], CHUNKS[2], CHUNKS[1]], "chunk 2 stands where chunk 1"),
        ([*CHUNKS, CHUNKS[2]], "not in the manifest|follows the last"),
        ([CHUNKS[0], CHUNKS[1][:-1], CHUNKS[2]], "decompressed|manifest"),
        ([b"", *CHUNKS[1:]], "cut off"),
    ],
)
def test_changes_of_order_and_length_show(chunks: list[bytes], said: str) -> None:
    """Taking away, adding and reordering chunks is named with its place."""
    with pytest.raises(BadRecording, match=said):
        list(read_frames(chunks, MANIFEST, START))


def test_a_chunk_of_another_recording_does_not_fit() -> None:
    """Even with the right number and good bytes, the chain breaks."""
    other, _ = write([began(), frame(1, b"other")], [frame(2, b"bytes")], [frame(3, b"x"), END])
    for manifest in (None, MANIFEST):
        with pytest.raises(BadRecording, match="does not follow"):
            list(read_frames([CHUNKS[0], other[1], CHUNKS[2]], manifest, START))


OTHER = evolve(START, id="5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a99")


@pytest.mark.parametrize("start", [OTHER, evolve(START, user="mallory"), evolve(START, node="db1")])
@pytest.mark.parametrize("complete", [True, False])
def test_the_first_frame_says_of_which_session_it_is(start: RecordingStart, complete: bool) -> None:
    """Chunks of one session, whole and chained, do not pass for those of another one."""
    chunks, manifest = write([began(start), frame(1, b"rm -rf /"), END])
    with pytest.raises(BadRecording, match="start of another session"):
        list(read_frames(chunks, manifest if complete else None, START))


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([frame(1, b"x"), END], "does not name a session"),
        ([END], "does not name a session"),
        ([began(), frame(1, b"x"), began(), END], "another session starts"),
        ([began(), began(OTHER), END], "another session starts"),
        ([began(), END, frame(50, b"x"), END], "continues after its end"),
        ([began(), frame(1, b"x")], "not the end"),
        ([Frame(0, 0, FrameKind.START, b"{"), END], "cannot be read"),
    ],
)
def test_a_recording_has_one_start_and_one_end(frames: list[Frame], said: str) -> None:
    """A host cannot leave out, repeat or move the first and last frame of a recording."""
    chunks, manifest = write(frames)
    with pytest.raises(BadRecording, match=said):
        verify(chunks, manifest, START, good)


@pytest.mark.parametrize(
    "change",
    [
        {"id": OTHER.id},
        {"start": OTHER},
        {"version": 4},
        {"frames": 5},
        {"chunks": MANIFEST.chunks[::-1]},
        {"chunks": (*MANIFEST.chunks, MANIFEST.chunks[0])},
        {"chunks": (evolve(MANIFEST.chunks[0], size=1), *MANIFEST.chunks[1:])},
    ],
)
def test_a_manifest_is_of_these_chunks_and_this_session(change: dict[str, Any]) -> None:
    """A manifest that a signature would cover is still compared with all that it names."""
    with pytest.raises(BadRecording):
        verify(CHUNKS, evolve(MANIFEST, **change), START, good)


def test_no_other_signature_is_one_of_a_manifest() -> None:
    """What is signed begins with a text that no other signature of a host's key begins with."""
    assert to_sign(MANIFEST).startswith(b"tele-manifest@tele\n{")
    assert to_sign(evolve(MANIFEST, signature=b"x")) == to_sign(MANIFEST)


@given(st.integers(0, len(CHUNKS[1]) - 1), st.integers(1, 255))
def test_any_changed_byte_shows(place: int, change: int) -> None:
    """No byte of a chunk can be changed unseen, and nothing else than BadRecording is raised."""
    changed = bytearray(CHUNKS[1])
    changed[place] ^= change
    with pytest.raises(BadRecording):
        list(read_frames([CHUNKS[0], bytes(changed), CHUNKS[2]], MANIFEST, START))


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_chunk_or_bad(data: bytes, framed: bool) -> None:
    """Invariant of the fuzz target: a chunk and its frames, or BadRecording."""
    if framed:
        data = pack_chunk(data, 0, bytes(32), last=False)
    try:
        list(read_chunk(data, 0).frames())
    except BadRecording:
        return


def test_a_small_chunk_cannot_become_a_large_one() -> None:
    """A chunk that claims, or decompresses to, too much is refused before it is made."""
    bomb = pack_chunk(bytes(RAW_LIMIT * 4), 0, bytes(32), last=False)
    with pytest.raises(BadRecording, match="larger"):
        read_chunk(bomb, 0)
    lying = bomb[:41] + (1000).to_bytes(4, "big") + bomb[45:]
    with pytest.raises(BadRecording):
        read_chunk(lying, 0)


def test_long_data_become_several_frames() -> None:
    """A frame has a limit; nothing is lost at it."""
    data = bytes(range(256)) * (DATA_LIMIT // 200)
    chunks, manifest = write([began(), frame(1, data), END])
    read = list(read_frames(chunks, manifest, START))[1:-1]
    assert len(read) > 1
    assert b"".join(f.data for f in read) == data


def test_what_was_launched_can_be_read_however_long_it_is() -> None:
    """A client cannot hide kind, command and terminal by making them too long for one frame.

    Each character takes six in JSON; a chunk that is nearly full has room for the longest.
    """
    many = "\x01" * 4096
    command, env = "\x01" * 128 * 1024, {f"LC_{n}": many for n in range(64)}
    said = {"kind": "exec", "command": command, "env": env, "pty": {"columns": 99, "rows": 33}}
    longest = frame(5, json.dumps(said).encode(), FrameKind.OPEN)
    assert len(longest.data) > DATA_LIMIT
    before = [frame(1, b"-" * DATA_LIMIT), frame(2, b"-" * (CUT_AT - DATA_LIMIT - 100))]
    chunks, manifest = write([began(), *before, longest, frame(6, b"shown"), END])
    read = list(read_frames(chunks, manifest, START))
    assert [details(f) for f in read if f.kind is FrameKind.OPEN] == [said]
    assert json.loads(next(asciicast(START, read)))["width"] == 99


def test_a_terminal_of_no_size_is_no_mistake_of_ours() -> None:
    """A file says what it likes of a terminal: what is no object is none."""
    odd = frame(0, b'{"kind": "shell", "pty": [1]}', FrameKind.OPEN)
    assert json.loads(next(asciicast(START, [odd])))["width"] == 80


def test_unknown_kinds_are_skipped() -> None:
    """A newer recorder's frames do not keep an older reader from the rest."""
    from tele.tape.layout import FRAME_HEAD

    raw = FRAME_HEAD.pack(1, 1, 200, 3) + b"new" + FRAME_HEAD.pack(2, 1, 5, 3) + b"old"
    chunk = read_chunk(pack_chunk(raw, 0, bytes(32), last=True), 0)
    assert [f.data for f in chunk.frames()] == [b"old"]


def test_a_frame_that_claims_terabytes() -> None:
    """What a chunk says of its size inside is compared before memory is taken for it (attack)."""
    head = struct.calcsize(">4sBI32sI") + struct.calcsize(">QQIQQH12s")
    # A zstd frame (RFC 8878) with an eight byte content size: single segment, no checksum.
    claims = b"\x28\xb5\x2f\xfd" + b"\xe0" + (1 << 43).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(BadRecording):
        read_chunk(CHUNKS[0][:head] + claims, 0)


# -- exports --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shown", "plain"),
    [
        (b"plain\r\ntext", "plain\ntext"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07after", "after"),
        (b"\x1b]52;c;ZXZpbA==\x1b\\after", "after"),
        (b"\x1bP+q544e\x1b\\x", "x"),
        (b"10%\r20%\r\n", "10%\n20%\n"),
        (b"$ id\r\n\x1b[?2004l\rroot\r\n", "$ id\nroot\n"),
        (b"10%\r\x1b[K20%\r\x1b[K\n", "10%\n20%\n"),
        (b"a\x08b\x00c\x7f", "abc"),
        ("gr\u00fc\u00df \U0001f600".encode(), "gr\u00fc\u00df \U0001f600"),
        (b"\xff", "\ufffd"),
        ("\x9b31mx".encode(), "x"),
        (b"\x1b(Bx\x1b=y", "xy"),
        (b"\x1b[H\x1b[2Jone\x1b[2;1Htwo\x1b[3dthree\x1b[1Cs\r\n", "one\ntwo\nthrees\n"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_text_has_no_control_sequences(shown: bytes, plain: str, step: int) -> None:
    """Colours, titles, clipboards and cursors are gone, however the bytes are cut."""
    reader = PlainText()
    parts = [reader.feed(shown[i : i + step]) for i in range(0, len(shown), step)]
    assert "".join(parts) + reader.feed(b"", final=True) == plain


@given(st.binary(max_size=200))
def test_text_is_always_harmless(data: bytes) -> None:
    """No recorded bytes reach the reader's terminal as more than text."""
    out = "".join(text([frame(0, data)]))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out)


def test_json_lines() -> None:
    """Each frame is an object; those with bytes have them as text."""
    rows = [json.loads(line) for line in json_lines(FRAMES)]
    assert [row["frame"] for row in rows[1:-1]] == ["open", "output", "output", "output"]
    assert rows[1]["pty"]["columns"] == 99
    assert rows[2]["data"] == "one"


def test_forwards_are_shown() -> None:
    """What was forwarded has lines of its own, and its words do nothing to a terminal."""
    noted = [
        frame(1, b"$ ", channel=1),
        frame(2, b'{"action": "listen", "kind": "tcpip-forward"}', FrameKind.FORWARD, channel=0),
        frame(
            3,
            b'{"kind": "forward", "forward": "x11\\u001b", "target": "\\u001b[2J"}',
            FrameKind.OPEN,
            channel=2,
        ),
        frame(4, b'{"sent": 3, "received": 4}', FrameKind.CLOSE, channel=2),
        frame(5, b"ls\n", channel=1),
        frame(6, b"", FrameKind.CLOSE, channel=1),
    ]
    assert "".join(text(noted)) == (
        "$ \n[tcpip-forward listen: ]\n"
        '[x11\\x1b open: channel=2 target="\\u001b[2J"]\n'
        "[forward close: channel=2 sent=3 received=4]\nls\n"
    )


def test_asciicast_is_of_one_terminal() -> None:
    """Version 2: the terminal's size, its output with times, its resizes, nothing of others."""
    frames = [
        opened(99),
        frame(1_500_000_000, "ü".encode()[:1]),
        frame(1_600_000_000, "ü".encode()[1:]),
        frame(1_700_000_000, b"other", channel=2),
        frame(1_800_000_000, b'{"columns": 50, "rows": 20}', FrameKind.RESIZE),
    ]
    lines = [json.loads(line) for line in asciicast(START, frames)]
    assert (lines[0]["version"], lines[0]["width"], lines[0]["height"]) == (2, 99, 33)
    assert lines[1:] == [[1.6, "o", "ü"], [1.8, "r", "50x20"]]


def test_asciicast_3_has_intervals_and_the_exit() -> None:
    """Version 3: times since the event before, the terminal in a map, the exit at the end."""
    frames = [
        opened(99),
        frame(1_500_000_000, b"one"),
        frame(1_750_000_000, b"two\xc3"),
        frame(1_800_000_000, b'{"columns": 50, "rows": 20}', FrameKind.RESIZE),
        frame(3_000_000_000, b'{"status": 7}', FrameKind.EXIT),
        frame(3_100_000_000, b"after"),
    ]
    lines = [json.loads(line) for line in asciicast(START, frames, version=3)]
    assert lines[0]["version"] == 3
    assert lines[0]["term"] == {"cols": 99, "rows": 33, "type": "vt"}
    assert lines[1:] == [
        [1.5, "o", "one"], [0.25, "o", "two"], [0.05, "r", "50x20"], [0.0, "o", "\ufffd"],
        [1.2, "x", "7"],
    ]  # fmt: skip
    assert sum(line[0] for line in lines[1:]) == pytest.approx(3.0)


def test_asciicast_of_a_program_without_a_terminal() -> None:
    """Its lines begin at the left, and two streams do not mix within a character."""
    said = {"kind": "exec", "command": "make"}
    frames = [
        frame(0, json.dumps(said).encode(), FrameKind.OPEN),
        frame(1, b"one\n\xc3"),
        frame(2, b"wrong\n", FrameKind.ERROR),
        frame(3, b"\xbc\n"),
        frame(4, b"\xff"),
    ]
    for version in (2, 3):
        lines = [json.loads(line) for line in asciicast(START, frames, version=version)]
        assert lines[0]["command"] == "make"
        texts = [line[2] for line in lines[1:]]
        assert texts == ["one\r\n", "wrong\r\n", "\u00fc\r\n", "\ufffd"]


def test_no_byte_is_lost_in_json() -> None:
    """What is not UTF-8 is there as base64, and the lines are JSON that every reader accepts."""
    every = bytes(range(256))
    (row,) = [json.loads(line) for line in json_lines([frame(1, every)])]
    assert base64.b64decode(row["base64"]) == every
    assert row["data"].encode("utf-8")  # no lone surrogates
    (row,) = [json.loads(line) for line in json_lines([frame(1, "\u00fc".encode())])]
    assert "base64" not in row


def test_files_and_commands_are_in_the_text() -> None:
    """Each has a line of its own, without control characters."""
    said = {"kind": "exec", "command": "tar c"}
    copied = {"protocol": "sftp", "direction": "upload", "path": "/a\x1b[2J", "bytes": 5}
    frames = [
        frame(0, json.dumps(said).encode(), FrameKind.OPEN),
        frame(1, b"out"),
        frame(2, json.dumps(copied).encode(), FrameKind.TRANSFER),
        frame(3, b'{"status": 0}', FrameKind.EXIT),
    ]
    assert "".join(text(frames)) == (
        "[exec tar c]\nout\n[sftp upload /a\\x1b[2J, 5 bytes]\n[exit status 0]\n"
    )


def test_data_is_a_line_and_not_a_flood_of_characters() -> None:
    """An archive that a command writes is one line, however many frames it has; text before and
    after it is there, also in a script of which a quarter is not, or with NUL between names.
    """
    said = {"kind": "exec", "command": "scp -f /a"}
    data = bytes(range(256)) * 16
    frames = [
        frame(0, json.dumps(said).encode(), FrameKind.OPEN),
        frame(1, b"C0644 8192 a\n"),
        frame(2, data),
        frame(3, data),
        frame(4, b"done\n"),
        frame(5, data),
        frame(6, b'{"status": 0}', FrameKind.EXIT),
    ]
    assert "".join(text(frames)) == (
        "[exec scp -f /a]\nC0644 8192 a\n[binary output]\ndone\n[binary output]\n[exit status 0]\n"
    )
    for data in (
        b"a\0" * 40,
        "\u00fc\u4e16".encode() * 40,
        b"caf\xe9 au lait \r\n" * 40,
        b"\xff\xfe",
    ):
        assert "binary" not in "".join(text([frame(1, data)]))


def test_text_from_a_time_on() -> None:
    """What was finished before it is left out."""
    frames = [frame(n * 1_000_000_000, b"line %d\n" % n) for n in range(5)]
    assert "".join(text(frames, at=3.0)) == "line 3\nline 4\n"
    assert "".join(text(frames, at=9.0)) == ""


def test_a_gap_names_the_frames_that_are_lost() -> None:
    """With the reason; of very many the first ones."""

    def shown(ranges: object) -> str:
        gap = {"lost": {"output": 1200}, "frames": ranges, "reason": "disk full"}
        return "".join(text([frame(0, json.dumps(gap).encode(), FrameKind.GAP)]))

    assert shown([[1041, 1050], [1060, 1060]]) == (
        "[not recorded: 1,200 bytes of output, frames 1041 to 1050, 1060 lost, disk full]\n"
    )
    assert ", 15, and 42 more ranges lost" in shown([[n, n] for n in range(1, 100, 2)])
    assert "frames ?, ? lost" in shown(["x", [1]])


def test_one_file_holds_it_all() -> None:
    """A .tape file gives back its parts; a foreign or truncated one says so."""
    blobs = [("start", b"x"), ("00000000.chunk", CHUNKS[0])]
    data = b"".join(write_file(blobs))
    assert list(read_file(io.BytesIO(data))) == blobs
    with pytest.raises(InvalidInput):
        list(read_file(io.BytesIO(b"something else")))
    for cut in range(11, len(data)):
        if cut not in (10, 10 + 2 + 5 + 8 + 1):
            with pytest.raises(BadRecording):
                list(read_file(io.BytesIO(data[:cut])))


def test_digests_name_chunks() -> None:
    """A manifest names each chunk by number, size and SHA-256."""
    import hashlib

    assert MANIFEST.chunks[1] == ChunkDigest(
        1, len(CHUNKS[1]), hashlib.sha256(CHUNKS[1]).hexdigest()
    )


def test_text_neither_turns_around_nor_hides_nor_piles_up() -> None:
    """What a session printed to be read wrongly, copied unseen or drawn over other lines is not
    in its text.
    """
    evil = "a\u202eb\u200bc\U000e0041d\u2028e" + "\u0301" * 50 + "\xa0f\n"
    shown = "".join(text([frame(0, evil.encode()[n : n + 1]) for n in range(len(evil.encode()))]))
    assert shown == "abcde" + "\u0301" * 8 + " f\n"


def test_attack_a_frame_does_not_pass_for_another_in_json() -> None:
    """A node that writes the keys of a line into a frame's data changes none of them."""
    said = {"time": 99, "channel": 7, "frame": "output", "sequence": 5, "data": "x", "status": 0}
    forged = Frame(10**9, 1, FrameKind.EXIT, json.dumps(said).encode(), 3)
    (row,) = [json.loads(line) for line in json_lines([forged])]
    assert (row["time"], row["channel"], row["frame"], row["sequence"]) == (1.0, 1, "exit", 3)
    assert row["status"] == 0
