"""A node's spool and recorder with a fake clock, and an auth in memory."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tele.certs.issue import HostCertificateRequest, issue_host
from tele.certs.keys import PrivateKey
from tele.errors import InvalidInput, NotFound, TeleError, Unreachable
from tele.interfaces import IAuthority
from tele.model.api.operation import Octets
from tele.model.api.recordings import (
    ChunksStored,
    OpenRecordings,
    RecordingProgress,
    StoredChunk,
)
from tele.model.frame import Frame, FrameKind
from tele.model.identity import HostRole
from tele.model.session import Manifest, RecordingStart, WrappedKey
from tele.recording.batch import BatchChunk, refused, unpack_chunks
from tele.recording.playback import Source
from tele.recording.recorder import TapeRecorder
from tele.recording.spool import Spool, SpoolFolder
from tele.recording.upload import Uploader
from tele.tape.sealing import opener, unwrap
from tele.tape.verify import Verdict, read_frames

HOST_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22"
CA, KEY = PrivateKey.generate(), PrivateKey.generate()
BEGIN = datetime(2027, 1, 15, 8, tzinfo=UTC)
CERTIFICATE = issue_host(
    CA, KEY.public.blob, HostCertificateRequest(HOST_ID, "web1", "c", HostRole.NODE), BEGIN,
    lambda n: bytes(n),
)  # fmt: skip


def start(recording_id: str | None = None) -> RecordingStart:
    return RecordingStart(
        recording_id or str(uuid.uuid4()), "ssh", "c", "alice", "root", ("access",), "s", "web1",
        HOST_ID, "192.0.2.1:1", BEGIN,
    )  # fmt: skip


def output(time: int, data: bytes) -> Frame:
    return Frame(time, 1, FrameKind.OUTPUT, data)


class Place:
    """A node's spool and recorder with a fake clock. It counts how often the spool is synced."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.clock.advance(BEGIN.timestamp())
        self.syncs = 0
        self.spool = Spool(folder, self._synced)
        self.changes: list[str] = []
        #: For whom recordings are sealed.
        self.recipients: tuple[bytes, ...] = ()
        self.recorder = self.restarted()

    def _synced(self, _: int) -> None:
        self.syncs += 1

    def restarted(self) -> TapeRecorder:
        """Return the recorder of another process, which knows nothing of those before."""
        return TapeRecorder(
            self.spool, self.clock, KEY.sign, lambda: CERTIFICATE.line, self.changes.append,
            lambda: self.recipients,
        )  # fmt: skip

    def recover(self, auth: Auth) -> Uploader:
        """Another process begins, which closes and uploads what is there."""
        self.kill()
        self.recorder = self.restarted()
        uploader = Uploader(self.recorder, auth)
        uploader.start()
        return uploader

    def kill(self) -> None:
        """The process is gone, its timers with it."""
        for call in self.clock.getDelayedCalls():
            call.cancel()

    def open(self, begin: RecordingStart | None = None) -> Any:
        opened: list[Any] = []
        self.recorder.open(begin or start()).addBoth(opened.append)
        if isinstance(opened[0], Failure):
            opened[0].raiseException()
        return opened[0]

    def folder(self, recording_id: str) -> SpoolFolder:
        return self.spool.folder(recording_id)

    def frames(self, recording_id: str) -> list[Frame]:
        folder = self.spool.folder(recording_id)
        chunks = [folder.chunk(n) for n in folder.numbers()]
        opened = folder.open_chunk
        return list(read_frames(chunks, folder.manifest, folder.start, open_chunk=opened))


@implementer(IAuthority)
class Auth:
    """Auth in memory, for one recording. ``away`` or ``refuse`` make calls fail.

    ``removed``: what was here of it was removed. ``private`` opens what is sealed.
    """

    def __init__(self) -> None:
        self.chunks: dict[int, bytes] = {}
        self.manifest: Manifest | None = None
        self.missing: tuple[int, ...] = ()
        self.interactive = False
        self.ended: datetime | None = None
        self.incomplete = ""
        self.over = ""
        self.calls: list[str] = []
        self.away = False
        self.removed = False
        self.refuse: TeleError | None = None
        self.started: dict[str, RecordingStart | None] = {}
        self.running: tuple[str, ...] = ()
        self.wrapped: tuple[WrappedKey, ...] = ()
        self.private = b""

    def perform(self, operation: Any, request: Any) -> Deferred[Any]:
        self.calls.append(operation.name)
        if self.away:
            return fail(Unreachable("auth is away"))
        if self.refuse is not None and operation.name != "open_recordings":
            return fail(self.refuse)
        try:
            return succeed(self._answer(operation.name, request))
        except TeleError as error:
            return fail(error)

    def _answer(self, name: str, request: Any) -> Any:
        match name:
            case "open_recordings":
                return OpenRecordings(self.running)
            case "start_recording":
                self.started[request.id] = request.start
                self.wrapped = self.wrapped or request.keys
            case "recording_progress":
                if request.id not in self.started:
                    raise NotFound("no such recording")
                if self.removed:
                    return RecordingProgress((), complete=False, closed=True)
                if self.manifest is not None and self.manifest.id != request.id:
                    return RecordingProgress((), False)  # what is here is another one's
                return RecordingProgress(tuple(sorted(self.chunks)), self.manifest is not None)
            case "put_chunks":
                return ChunksStored(tuple(map(self._put, unpack_chunks(request.data))))
            case "get_chunk":
                return Octets(self.chunks[request.number])
            case "update_recording":
                self.interactive = request.interactive or self.interactive
                self.ended = request.ended
                self.incomplete = request.incomplete
            case "finish_recording":
                named = {chunk.number for chunk in request.manifest.chunks}
                if named - set(self.chunks) - set(request.missing):
                    raise NotFound("a chunk that the manifest names is not here")
                if set(self.chunks) - named or set(request.missing) & set(self.chunks):
                    raise InvalidInput("the manifest leaves out what is here")
                self.manifest, self.missing = request.manifest, request.missing
        return None

    def _put(self, chunk: BatchChunk) -> StoredChunk:
        if self.removed:
            return refused(chunk, NotFound("no such recording"))
        if self.chunks.setdefault(chunk.number, chunk.data) != chunk.data:
            return refused(chunk, InvalidInput("another chunk under this number"))
        return StoredChunk(chunk.id, chunk.number, self.over)

    def follow(
        self, operation: Any, request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        return Deferred()

    def verify(self) -> Verdict:
        """Check all that is here, as an auditor does."""
        return self.source().verify({CA.public.blob}, "c")

    def source(self) -> Source:
        assert self.manifest is not None
        chunks = self.chunks
        return Source(
            self.manifest.id,
            self.manifest.start,
            self.manifest,
            lambda: (chunks[number] for number in sorted(chunks)),
            open_chunk=opener(self.keys()),
        )

    def keys(self) -> dict[int, bytes]:
        """Return the data keys of the recording."""
        if not self.private or self.manifest is None:
            return {}
        return unwrap(self.wrapped, self.private, self.manifest.id)

    def frames(self) -> list[Frame]:
        return list(self.source().frames())

    def shown(self) -> list[bytes]:
        """Return what the session showed."""
        return [frame.data for frame in self.frames() if frame.kind is FrameKind.OUTPUT]


def uploading(place: Place, auth: Auth) -> Uploader:
    return Uploader(place.recorder, auth)


def lose(folder: SpoolFolder, name: str, how: str) -> None:
    """Do to a file what a power cut does."""
    path = folder.path / name
    match how:
        case "gone":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "torn":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "zeros":
            path.write_bytes(bytes(path.stat().st_size))
        case "temporary":
            os.rename(path, folder.path / f".{name}")
        case "folder":
            shutil.rmtree(folder.path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A fresh node."""
    return Place(tmp_path / "spool")
