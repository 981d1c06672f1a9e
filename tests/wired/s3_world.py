"""An archive in a bucket of a real server, on a reactor and a store of its own: for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, succeed

from own_reactor import OwnReactor, own_reactor
from swift_server import Swift
from tele.model.stuck import StuckUpload
from tele.recording.archives.s3.archive import S3Archive
from tele.recording.archives.s3.location import parse_location
from tele.recording.archives.s3.transport import HttpTransport
from tele.store.memory import MemoryBackend

ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a11"
OTHER = "6b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a22"


def chunk(number: int, size: int = 3 << 20) -> bytes:
    """Return a chunk that is like no other."""
    seed = hashlib.sha256(str(number).encode()).digest()
    return (seed * (size // 32 + 1))[:size]


@define(eq=False)
class S3World:
    """One auth's archive; several may share ``backend``."""

    reactor: OwnReactor
    arguments: str
    folder: Path
    backend: MemoryBackend
    owner: str = "auth-1"
    stall: float = 1.5
    whole: float = 6.0
    reports: list[StuckUpload] = field(factory=list)
    archive: Any = None

    def start(self) -> S3World:
        """Start the archive, as auth does."""
        location = parse_location(self.arguments)
        transport = HttpTransport(
            self.reactor, location, connect=2.0, stall=self.stall, whole=self.whole
        )
        self.archive = S3Archive(self.reactor, location, self.folder, transport)
        self.reactor.wait(self.archive.start(self.backend, self.owner, self._report))
        return self

    def _report(self, upload: StuckUpload) -> Deferred[None]:
        self.reports.append(upload)
        return succeed(None)

    def stop(self) -> None:
        """Stop it."""
        self.reactor.wait(self.archive.stop())

    def put(self, recording_id: str, name: str, data: bytes) -> None:
        """Store a blob."""
        self.reactor.wait(self.archive.put(recording_id, name, data))

    def get(self, recording_id: str, name: str) -> bytes:
        """Read a blob."""
        data: bytes = self.reactor.wait(self.archive.get(recording_id, name))
        return data

    def get_range(self, recording_id: str, name: str, start: int, end: int) -> bytes:
        """Read a part of a blob."""
        part = self.archive.get_range(recording_id, name, start, end)
        data: bytes = self.reactor.wait(part)
        return data

    def names(self, recording_id: str) -> dict[str, int]:
        """Return the blobs with their sizes."""
        return dict(self.reactor.wait(self.archive.names(recording_id)))

    def landed(self, place: str = "landing") -> list[str]:
        """Return the blobs that are on the disk."""
        while True:
            try:
                return sorted(p.name for p in (self.folder / place).rglob("*") if p.is_file())
            except FileNotFoundError:
                continue  # a folder was removed meanwhile

    def until_uploaded(self, seconds: float = 60.0) -> None:
        """Wait until nothing is on the disk any more."""
        self.reactor.until(lambda: not self.landed(), seconds)

    def stuck(self) -> list[StuckUpload]:
        """Return the uploads that do not go on."""
        return list(self.reactor.wait(self.archive.stuck()))


@contextmanager
def s3_world(swift: Swift, folder: Path, prefix: str) -> Iterator[S3World]:
    """Make an archive that has not been started; it is stopped at the end."""
    with own_reactor() as reactor:
        backend = MemoryBackend(reactor)
        world = S3World(reactor, swift.arguments(prefix), folder / "s3", backend)
        try:
            yield world
        finally:
            if world.archive is not None:
                world.stop()
            reactor.wait(backend.close())
            reactor.sleep(0.05)


@contextmanager
def s3_world_of(request: pytest.FixtureRequest, swift: Swift, folder: Path) -> Iterator[S3World]:
    """Make an archive with the right credentials, below a prefix of the test's own."""
    prefix = request.node.name.replace("[", "-").strip("]")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in swift.credentials.items():
            environment.setenv(name, value)
        with s3_world(swift, folder, prefix) as made:
            yield made
