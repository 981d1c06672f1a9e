"""What is hard to record is on the recording, byte for byte, in every mode, and it verifies.

::

    python tests/faults/contents.py --megabytes 1024
    python tests/faults/contents.py --megabytes 1024 --mode proxy-sync

A terminal shows a line of 10 MB, each byte there is, random bytes and broken UTF-8, so many
megabytes of text, and changes its size 200 times. A command without a terminal prints 10 MB.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from commands import main, say
from ledger import NOT_UPLOADED, SETTLES
from recordings import RECORDERS
from shown_terminal import STEPS, Following, captured
from three_processes import BIN, Cluster, make_cluster, wait_for

RESIZES = 200


def contents(folder: Path, megabytes: int, dice: random.Random, mode: str = "node") -> Counter[str]:
    """Record all of it in a mode; return the sizes and times of what is there."""
    cluster = make_cluster(folder, auth_settings=f"session_recording: {{mode: {mode}}}")
    try:
        data = dice.randbytes(10_000_000)
        (folder / "data").write_bytes(data)
        assert captured(cluster, folder / "data") == data
        (row,) = _rows(cluster, interactive=False)
        _verify(cluster, row["id"])
        # Where output waits for auth there are some for the beginnings of it before.
        *_, capture = (
            frame for frame in _frames(cluster, row["id"])
            if frame["frame"] == "capture" and frame["stream"] == "output"
        )  # fmt: skip
        assert (capture["bytes"], capture["sha256"]) == (len(data), sha256(data).hexdigest())
        return _terminal(cluster, megabytes)
    finally:
        cluster.stop()


def _terminal(cluster: Cluster, megabytes: int) -> Counter[str]:
    sizes = [(60 + n, 10 + n % 70) for n in range(RESIZES)]
    began = time.monotonic()
    client = Following(cluster, megabytes)
    try:
        for step in STEPS:
            client.read_until(b"\n-- " + step + b"\n")
            say(f"{step.decode()}: {client.shown} bytes after {time.monotonic() - began:.1f} s")
            client.next_step()
        client.read_until(b"\n-- resizes\n")
        for columns, rows in sizes:
            client.resize(columns, rows)
        digest = client.end()
    finally:
        client.close()
    took = time.monotonic() - began
    (row,) = _rows(cluster, interactive=True)
    _verify(cluster, row["id"])
    recorded, resized = sha256(), []
    for frame in _frames(cluster, row["id"]):
        assert frame["frame"] != "gap", frame
        if frame["frame"] == "output":
            recorded.update(_bytes(frame))
        elif frame["frame"] == "resize":
            resized.append((frame["columns"], frame["rows"]))
    assert recorded.hexdigest() == digest, "the recording is not what the terminal showed"
    assert resized == sizes, "the changes of the terminal's size are not those that were made"
    return Counter(shown=client.shown, session_ms=int(took * 1000))


def _rows(cluster: Cluster, *, interactive: bool) -> list[dict[str, Any]]:
    def rows() -> list[dict[str, Any]]:
        listed = json.loads(cluster.tele("recordings", "ls", "--format", "json").stdout)
        return [row for row in listed if row["interactive"] == interactive and row["ended"]]

    wait_for(rows, "the recording", SETTLES)
    return rows()


def _verify(cluster: Cluster, recording_id: str) -> None:
    """Wait until a recording is whole; fail if it does not verify."""

    def verified() -> bool:
        done = cluster.tele("recordings", "verify", recording_id, check=False, seconds=600)
        assert done.returncode in (0, NOT_UPLOADED), f"{done.stdout!r} {done.stderr!r}"
        return done.returncode == 0

    wait_for(verified, "the recording to be uploaded", SETTLES)


def _frames(cluster: Cluster, recording_id: str) -> Iterator[dict[str, Any]]:
    """Yield the frames of a recording, one at a time."""
    with subprocess.Popen(
        [str(BIN / "tele"), "play", recording_id, "--format", "json"],
        env=cluster.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
        assert process.wait(60) == 0


def _bytes(frame: dict[str, Any]) -> bytes:
    if "base64" in frame:
        return b64decode(frame["base64"])
    data: str = frame["data"]
    return data.encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--mode", default="node", choices=RECORDERS)
    given, sys.argv[1:] = parser.parse_known_args()
    main(partial(contents, mode=given.mode), "megabytes", 1024)
