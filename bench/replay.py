"""How fast is a long recording opened, and any time of it reached?

    python bench/replay.py [--size 1024] [--seeks 40]

Starts an auth, uploads a recording with SIZE MiB of terminal output to it as a node does, waits for
its index, and prints JSON:

index_s     until auth has made the index, with ``terminal`` (ghostty or own)
index_kb    the index; ``tables_kb`` is the part that is read to open the recording
open_ms     open the recording over the API: its manifest and the tables of its index
seek_ms     reach a time, chosen at random: keyframe and chunk from auth, checked, and applied to a
            screen; the median, and the most of all seeks
range_ms    the same for a page in a browser: a part of the index and a part of a chunk (``Range``)
command_ms  ``tele play ID --at TIME`` until the screen of that time is on the terminal, with the
            start of the command; ``command_cpu_ms`` is the CPU that the command has used until then
any_ms      ``tele recordings show ID``, for comparison: what any command that asks auth takes;
            ``any_cpu_ms`` is its CPU
linear_ms   reach the middle of it without an index, for comparison

The limits are 200 ms for open and seek, and for the command 200 ms more than any command takes.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import select
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import evolve

from lists import CLUSTER, Node, auth, timed
from servers import BIN
from tele.https.blocking import BlockingAuthority
from tele.https.pinning import server_name
from tele.model.api import recordings, table
from tele.model.api.paging import ById
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.session import ChunkDigest, Manifest, RecordingStart
from tele.recording.index_program import library
from tele.recording.playback import from_authority, schedule
from tele.recording.seek import IndexedRecording, open_seekable
from tele.tape.layout import NO_CHUNK, digest, pack_chunk_2, pack_frames
from tele.tape.verify import VERSION, to_sign
from tele.terminal.emulator import Emulator
from tele.terminal.screen import Screen

SECOND: Final = 1_000_000_000
#: Bytes of output in one frame, as a node reads it, and seconds from one to the next.
FRAME: Final = 32 * 1024
PAUSE: Final = 0.25
#: Frames of a chunk.
FRAMES: Final = 62
COLUMNS, ROWS = 120, 40


def lines(dice: random.Random) -> bytes:
    """Output of a program that logs, in colours."""
    out = bytearray()
    while len(out) < FRAME:
        out += (
            b"\x1b[3%dm%08x\x1b[0m web%d nginx[%d]: \x1b[1mGET\x1b[0m /a/%x/%x.html %d %d\r\n"
            % (
                dice.randrange(1, 8), dice.getrandbits(32), dice.randrange(100),
                dice.randrange(9999), dice.getrandbits(40), dice.getrandbits(40),
                dice.choice((200, 200, 304, 404)), dice.randrange(10**6),
            )
        )  # fmt: skip
    return bytes(out)


def chunks(start: RecordingStart, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Chunks of a session with so many bytes of output, frames and the last number."""
    dice, previous, number, sequence, time_ = random.Random(1), NO_CHUNK, 0, 1, 0
    pieces = [lines(dice) for _ in range(400)]
    terminal = {"kind": "shell", "pty": {"columns": COLUMNS, "rows": ROWS}}
    frames = [
        Frame(0, 0, FrameKind.START, encode(start)),
        Frame(1, 1, FrameKind.OPEN, json.dumps(terminal).encode(), 1),
    ]
    written = 0
    while True:
        while written < size and len(frames) < FRAMES:
            sequence, time_ = sequence + 1, time_ + int(PAUSE * SECOND)
            data = dice.choice(pieces)
            frames.append(Frame(time_, 1, FrameKind.OUTPUT, data, sequence))
            written += len(data)
        last = written >= size
        if last:
            frames.append(Frame(time_, 1, FrameKind.CLOSE, b"{}", sequence + 1))
            frames.append(Frame(time_, 0, FrameKind.END, b"{}", sequence + 1))
        raw, facts = pack_frames(frames)
        chunk = pack_chunk_2(raw, facts, number, previous, last=last)
        yield chunk, len(frames), sequence + last
        if last:
            return
        previous, number, frames = digest(chunk), number + 1, []


def upload(node: Node, size: int) -> tuple[str, int]:
    """Upload a recording as a node does; return its id, and its size as stored."""
    host, moment = node.member.host, datetime.now(UTC)
    start = RecordingStart(
        str(uuid.uuid4()), "ssh", CLUSTER, "alice", "root", ("access",), "s1", "web1", host.host_id,
        "192.0.2.7:1", moment,
    )  # fmt: skip
    named: list[ChunkDigest] = []
    count = last = 0
    with BlockingAuthority(
        node.address, node.member.tls, node.trust, server_name(CLUSTER)
    ) as remote:
        remote.perform(table.START_RECORDING, recordings.StartRecording(start.id, start))
        for number, (data, frames, sequence) in enumerate(chunks(start, size)):
            remote.perform(table.PUT_CHUNK, recordings.PutChunk(start.id, number, data))
            named.append(ChunkDigest(number, len(data), digest(data).hex()))
            count, last = count + frames, sequence
        manifest = Manifest(
            start.id, VERSION, start, datetime.now(UTC), tuple(named), count, True, False,
            node.member.ssh_certificate.line, sequence=last,
        )  # fmt: skip
        signed = evolve(manifest, signature=node.member.keys.ssh.sign(to_sign(manifest)))
        remote.perform(table.FINISH_RECORDING, recordings.FinishRecording(start.id, signed))
    return start.id, sum(each.size for each in named)


def wait_for_index(local: BlockingAuthority, recording_id: str) -> float:
    """Seconds until the index is there."""
    began = time.monotonic()
    while True:
        details = local.perform(table.GET_RECORDING, ById(recording_id))
        if details.index is recordings.IndexState.READY:
            return time.monotonic() - began
        if details.index is recordings.IndexState.FAILED:
            raise SystemExit("auth could not make the index; see its log")
        time.sleep(0.2)


def reach(seekable: IndexedRecording, at: float) -> Screen:
    """Return the screen of a time, as a player makes it."""
    position = seekable.position(at)
    screen = Screen(position.columns, position.rows, newline=position.newline)
    emulator = Emulator(screen)
    emulator.feed(position.state)
    for step in position.steps:
        if step.at > at:
            break
        emulator.feed(step.frame.data)
    return screen


def by_range(local: BlockingAuthority, seekable: IndexedRecording, at: float) -> None:
    """Ask for what a page in a browser needs to show a time."""
    keyframe = seekable.index.keyframe(1, int(at * SECOND))
    assert keyframe is not None
    first = seekable.index.states + keyframe.offset
    state = recordings.GetIndex(seekable.id, first, first + keyframe.packed)
    local.perform(table.GET_INDEX, state)
    local.perform(table.GET_CHUNK, recordings.GetChunk(seekable.id, keyframe.chunk, 0, 1 << 20))


def command(config: Path, recording_id: str, at: float) -> tuple[float, float]:
    """Seconds until the command has drawn a screen, which is full, on its terminal; and its CPU."""
    words = [str(BIN / "tele"), "play", recording_id, "--at", f"{at:.0f}s", "--config", str(config)]
    began = time.monotonic()
    child, terminal = pty.fork()
    if not child:
        os.environ["TERM"] = "xterm"
        os.execv(words[0], words)
    shown = b""
    while shown.count(b"nginx") < ROWS // 2:
        if not select.select([terminal], [], [], 60)[0]:
            raise SystemExit(f"tele play showed nothing: {shown!r}")
        shown += os.read(terminal, 65536)
    took = time.monotonic() - began
    os.kill(child, signal.SIGKILL)
    _, _, used = os.wait4(child, 0)
    os.close(terminal)
    return took, used.ru_utime + used.ru_stime


def any_command(config: Path, recording_id: str) -> tuple[float, float]:
    """Seconds, and seconds of CPU, of a command that asks auth for one thing."""
    words = [str(BIN / "tele"), "recordings", "show", recording_id, "--config", str(config)]
    began = time.monotonic()
    child = os.posix_spawn(
        words[0], words, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", 1, 0)]
    )
    _, _, used = os.wait4(child, 0)
    return time.monotonic() - began, used.ru_utime + used.ru_stime


def linear(local: BlockingAuthority, recording_id: str, at: float) -> None:
    """Read all frames up to a time."""
    source = from_authority(local.perform, recording_id)
    for step in schedule(source.frames(), 0, None):
        if step.at > at:
            return


def spread(seconds: list[float]) -> dict[str, float]:
    """The median and the most, in milliseconds."""
    return {
        "median": round(statistics.median(seconds) * 1000, 1),
        "most": round(max(seconds) * 1000, 1),
    }


def measure(config: Path, node: Node, size: int, seeks: int) -> dict[str, Any]:
    """Measure all of it."""
    node.announce()
    recording_id, stored = upload(node, size)
    local = BlockingAuthority.local(str(config.parent / "data" / "auth.sock"))
    found: dict[str, Any] = {
        "output_mb": round(size / 1e6), "stored_mb": round(stored / 1e6), "cores": os.cpu_count(),
        "terminal": library(), "index_s": round(wait_for_index(local, recording_id), 1),
    }  # fmt: skip
    opened: list[IndexedRecording] = []

    def open_it() -> None:
        seekable = open_seekable(from_authority(local.perform, recording_id), local.perform)
        assert seekable is not None
        opened.append(seekable)

    times = [timed(open_it) for _ in range(5)]
    seekable = opened[-1]
    found["chunks"], found["keyframes"] = len(seekable.index.chunks), len(seekable.index.keyframes)
    found["tables_kb"] = round(seekable.index.states / 1000)
    found["index_kb"] = round((seekable.index.states + seekable.index.states_size) / 1000)
    found["open_ms"] = spread(times)
    dice = random.Random(2)
    moments = [dice.uniform(1, seekable.length) for _ in range(seeks)]
    for moment in moments:
        assert any("nginx" in "".join(line.texts) for line in reach(seekable, moment).lines)
    found["seek_ms"] = spread([timed(partial(reach, seekable, at)) for at in moments])
    found["range_ms"] = spread([timed(partial(by_range, local, seekable, at)) for at in moments])
    played = [command(config, recording_id, at) for at in moments[:9]]
    shown = [any_command(config, recording_id) for _ in played]
    for name, pairs in (("command", played), ("any", shown)):
        for kind, seconds in zip(("ms", "cpu_ms"), zip(*pairs, strict=True), strict=True):
            found[f"{name}_{kind}"] = spread(list(seconds))
    middle = seekable.length / 2
    found["linear_ms"] = round(timed(lambda: linear(local, recording_id, middle)) * 1000)
    return found


def main() -> None:
    """Print figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="MiB of output")
    parser.add_argument("--seeks", type=int, default=40)
    said = parser.parse_args()
    os.environ.pop("TELE_USER", None)
    with (
        tempfile.TemporaryDirectory(prefix="tele-replay-") as name,
        auth(Path(name), 0) as (config, node),
    ):
        json.dump(measure(config, node, said.size << 20, said.seeks), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
