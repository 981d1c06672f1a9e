"""Recordings in memory, as auth has them, for tests of what they prove."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import evolve

from tele.certs.issue import (
    HostCertificateRequest,
    issue_host,
)
from tele.certs.keys import PrivateKey
from tele.errors import NotFound
from tele.model.api.operation import Octets
from tele.model.api.recordings import RecordingDetails
from tele.model.codec import encode
from tele.model.frame import Frame, FrameKind
from tele.model.identity import HostRole
from tele.model.session import Manifest, Recording, RecordingStart, RecordingState
from tele.recording.playback import Source, from_authority
from tele.tape.verify import VERSION, WITHOUT_NUMBERS, to_sign
from tele.tape.writer import TapeWriter

NODE_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22"
OTHER_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a33"
CA, KEY = PrivateKey.generate(), PrivateKey.generate()
BEGIN = datetime(2027, 1, 15, 8, tzinfo=UTC)
END = BEGIN + timedelta(minutes=5)
TRUSTED = {CA.public.blob}


def host(**words: Any) -> str:
    """A host certificate for the node's key, but for what ``words`` say."""
    ca, moment = words.pop("ca", CA), words.pop("moment", BEGIN)
    request = HostCertificateRequest(NODE_ID, "web1", "c", HostRole.NODE)
    made = issue_host(ca, KEY.public.blob, evolve(request, **words), moment, lambda n: bytes(n))
    return made.line


class Tape:
    """A recording as auth has it: a row, a manifest, chunks."""

    def __init__(self, text: bytes = b"hello", *, numbered: bool = True, **words: Any) -> None:
        self.start = evolve(
            RecordingStart(
                str(uuid.uuid4()), "ssh", "c", "alice", "root", ("access",), "s", "web1", NODE_ID,
                "192.0.2.1:1", BEGIN,
            ),
            **words,
        )  # fmt: skip
        self.id = self.start.id
        writer = TapeWriter(numbered=numbered)
        self.chunks: list[bytes] = []
        digests = []
        for frames in (
            [Frame(0, 0, FrameKind.START, encode(self.start))],
            [Frame(1, 1, FrameKind.OUTPUT, text), Frame(2, 0, FrameKind.END, b"{}")],
        ):
            for frame in frames:
                writer.add(frame)
            cut = writer.cut(last=frames[-1].kind is FrameKind.END)
            assert cut is not None
            digests.append(cut[0])
            self.chunks.append(cut[1])
        self.manifest = self.signed(
            Manifest(
                self.id, VERSION if numbered else WITHOUT_NUMBERS, self.start, END,
                tuple(digests), writer.frames, False, False, host(), sequence=writer.sequence,
            )
        )  # fmt: skip
        self.row = Recording(
            self.id, "ssh", self.start.user, self.start.login, "web1", BEGIN, END, False,
            sum(map(len, self.chunks)), NODE_ID, len(self.chunks), True, BEGIN,
        )  # fmt: skip

    def signed(self, manifest: Manifest, key: PrivateKey = KEY) -> Manifest:
        return evolve(manifest, signature=key.sign(to_sign(evolve(manifest, signature=b""))))

    @property
    def open(self) -> Recording:
        return evolve(self.row, ended=None, complete=False, chunks=1, size=len(self.chunks[0]))


def perform_of(
    row: Recording,
    manifest: Manifest | None,
    chunks: dict[int, bytes],
    state: RecordingState,
    available: int | None = None,
) -> Callable[[Any, Any], Any]:
    """Return what answers for an auth that has these under the id of ``row``."""
    expected = range(max(chunks, default=-1) + 1)
    if manifest is not None:
        expected = range(len(manifest.chunks))
    missing = tuple(number for number in expected if number not in chunks)
    count = len(chunks) if available is None else available

    def perform(operation: Any, request: Any) -> Any:
        if operation.name == "get_recording":
            return RecordingDetails(row, count, manifest, state, missing)
        if request.number not in chunks:
            raise NotFound("no such chunk")
        return Octets(chunks[request.number])

    return perform


def source(
    row: Recording,
    manifest: Manifest | None,
    chunks: list[bytes],
    state: RecordingState = RecordingState.COMPLETE,
    available: int | None = None,
) -> Source:
    """Read from an auth that has these under the id of ``row``."""
    perform = perform_of(row, manifest, dict(enumerate(chunks)), state, available)
    return from_authority(perform, row.id)
