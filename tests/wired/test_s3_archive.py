"""Recordings in a bucket of a real S3 server: what is acknowledged is never lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3_world import ID, OTHER, S3World, chunk, s3_world_of
from swift_server import INSTALLED, Swift, running_swift
from tele.errors import Conflict, NotFound, StorageFull, Unavailable
from tele.recording.archives import directory
from tele.recording.archives.s3.packs import PACK_AT

pytest.importorskip("botocore")
pytestmark = pytest.mark.skipif(not INSTALLED, reason="OpenStack Swift is not installed")


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with running_swift(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture
def world(swift: Swift, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[S3World]:
    """An archive with the right credentials, below a prefix of its own."""
    with s3_world_of(request, swift, tmp_path) as made:
        yield made


def mine(world: S3World, swift: Swift) -> list[str]:
    """The keys below the prefix of this test, without it."""
    prefix = world.arguments.split("?")[0].removeprefix("//recordings/") + "/"
    return sorted(key.removeprefix(prefix) for key in swift.objects() if key.startswith(prefix))


def test_a_recording_moves_to_the_bucket_when_it_is_closed(world: S3World, swift: Swift) -> None:
    """Small chunks are one object with the manifest, and leave the disk; reads are of it."""
    world.start()
    for number in range(5):
        world.put(ID, f"{number:08d}.chunk", chunk(number, 1000))
    assert mine(world, swift) == []
    assert len(world.landed()) == 5
    world.put(ID, "manifest", b"{}")
    world.until_uploaded()
    keys = mine(world, swift)
    assert len(keys) == 2
    assert f"{ID[:2]}/{ID}/catalogue-1.json" in keys
    assert world.names(ID) == {f"{n:08d}.chunk": 1000 for n in range(5)} | {"manifest": 2}
    for number in range(5):
        assert world.get(ID, f"{number:08d}.chunk") == chunk(number, 1000)
    with pytest.raises(NotFound):
        world.get(ID, "00000005.chunk")


def test_a_long_recording_is_packed_while_it_runs(world: S3World, swift: Swift) -> None:
    """When enough is there a pack is stored in parts, without the end of the recording."""
    world.start()
    for number in range(3):
        world.put(ID, f"{number:08d}.chunk", chunk(number))
    world.until_uploaded()
    packs = [key for key in mine(world, swift) if key.endswith(".pack")]
    assert packs == mine(world, swift)
    assert world.names(ID) == {f"{n:08d}.chunk": 3 << 20 for n in range(3)}
    assert all(world.get(ID, f"{n:08d}.chunk") == chunk(n) for n in range(3))


def test_the_same_chunk_again_is_accepted_and_another_refused(world: S3World) -> None:
    """A chunk that is in the bucket cannot be replaced, nor one that waits."""
    world.start()
    world.put(ID, "00000000.chunk", b"first")
    with pytest.raises(Conflict):
        world.put(ID, "00000000.chunk", b"other")
    world.put(ID, "manifest", b"{}")
    world.until_uploaded()
    world.put(ID, "00000000.chunk", b"first")
    with pytest.raises(Conflict):
        world.put(ID, "00000000.chunk", b"other")
    assert world.landed() == []


def test_what_comes_after_the_manifest_is_another_generation(world: S3World, swift: Swift) -> None:
    """The objects of a closed recording never change: an index that comes later is beside them."""
    world.start()
    world.put(ID, "00000000.chunk", b"first")
    world.put(ID, "manifest", b"{}")
    world.until_uploaded()
    before = set(mine(world, swift))
    world.put(ID, "index", b"seek")
    world.put(ID, "manifest", b"{}")  # again: it is there
    assert world.landed() == ["index"]
    world.archive._parts.uploads._jobs[ID].since -= 4000  # it has waited for an hour
    world.until_uploaded()
    after = set(mine(world, swift))
    assert before < after
    assert f"{ID[:2]}/{ID}/catalogue-2.json" in after
    assert world.get(ID, "index") == b"seek"
    assert world.get_range(ID, "index", 1, 3) == b"ee"
    assert world.get_range(ID, "index", 2, 99) == b"ek"
    assert world.get_range(ID, "index", 4, 99) == b""
    assert world.get_range(ID, "00000000.chunk", 1, 3) == b"ir"


def test_removal_leaves_nothing_in_the_bucket(world: S3World, swift: Swift) -> None:
    """Every object of a recording is deleted, and those of another one are not."""
    world.start()
    for recording in (ID, OTHER):
        for number in range(4):
            world.put(recording, f"{number:08d}.chunk", chunk(number))
        world.put(recording, "manifest", b"{}")
    world.until_uploaded()
    world.put(ID, "index", b"x")
    world.reactor.wait(world.archive.remove(ID))
    assert all(OTHER in key for key in mine(world, swift))
    assert world.names(ID) == {}
    assert world.landed() == []
    assert world.get(OTHER, "00000000.chunk") == chunk(0)
    world.reactor.wait(world.archive.remove(ID))  # again


def test_wrong_credentials_keep_everything_and_are_shown(
    world: S3World, swift: Swift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused signature loses nothing; it is shown without a secret, and retried on request."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    world.start()
    world.put(ID, "00000000.chunk", b"first")
    world.put(ID, "manifest", b"{}")
    world.reactor.until(lambda: bool(world.reports), 60)
    (stuck,) = world.stuck()
    assert (stuck.id, stuck.state) == (ID, "refused")
    assert "SignatureDoesNotMatch" in stuck.reason
    assert "not-the-secret" not in json.dumps(stuck.reason)
    assert world.get(ID, "00000000.chunk") == b"first"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", swift.credentials["AWS_SECRET_ACCESS_KEY"])
    world.archive._parts.bucket._credentials.forget()
    world.reactor.wait(world.archive.retry(ID))
    world.until_uploaded()
    assert world.stuck() == []
    with pytest.raises(NotFound):
        world.reactor.wait(world.archive.retry(ID))


def test_no_credentials_are_an_error_that_says_so(
    world: S3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials chunks are still accepted, and the reason is shown."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    world.start()
    world.put(ID, "manifest", b"{}")
    world.reactor.until(lambda: bool(world.reports), 60)
    assert "there are no S3 credentials" in world.stuck()[0].reason


def test_a_bucket_that_is_not_there_is_refused(world: S3World) -> None:
    """A wrong name of the bucket is for the operator to change, not for endless retries."""
    world.arguments = world.arguments.replace("//recordings/", "//recordinks/")
    world.start()
    world.put(ID, "manifest", b"{}")
    world.reactor.until(lambda: bool(world.reports), 60)
    assert world.stuck()[0].state == "refused"
    assert "NoSuchBucket" in world.stuck()[0].reason


def test_one_bad_recording_does_not_stop_the_others(world: S3World, swift: Swift) -> None:
    """A recording whose bytes change on the disk is set aside; it can be read, and retried."""
    world.start()
    real, broken = world.archive._landing.in_thread, [True]

    def changed(function: object, folder: Path, *arguments: object) -> object:
        if ID in str(folder) and broken[0] and function.__name__ == "read_span":  # type: ignore[attr-defined]
            (folder / "00000000.chunk").write_bytes(b"other")
        return real(function, folder, *arguments)

    world.archive._landing.in_thread = changed
    for recording in (ID, OTHER):
        world.put(recording, "00000000.chunk", b"first")
        world.put(recording, "manifest", b"{}")
    world.until_uploaded()
    assert world.landed("quarantine") == ["00000000.chunk", "manifest"]
    (stuck,) = world.stuck()
    assert (stuck.id, stuck.state) == (ID, "quarantine")
    assert world.get(OTHER, "manifest") == b"{}"
    assert world.get(ID, "manifest") == b"{}"
    world.put(ID, "manifest", b"{}")
    with pytest.raises(Conflict):
        world.put(ID, "manifest", b"other")
    broken[0] = False
    world.reactor.wait(world.archive.retry(ID))
    world.reactor.until(lambda: not world.landed("quarantine") and not world.landed())
    assert world.stuck() == []
    assert world.get(ID, "manifest") == b"{}"


def test_an_auth_that_was_stopped_goes_on_after_its_start(world: S3World, swift: Swift) -> None:
    """What was begun by the auth before is finished or taken back; nothing stays beside it."""
    world.start()
    for number in range(4):
        world.put(ID, f"{number:08d}.chunk", chunk(number))
    world.put(ID, "manifest", b"{}")
    rows = world.archive._parts.rows
    world.reactor.until(lambda: any(pack.upload for pack in world.reactor.wait(rows.packs(ID))), 60)
    world.stop()
    assert world.landed()
    world.start()
    world.until_uploaded()
    assert all(world.get(ID, f"{n:08d}.chunk") == chunk(n) for n in range(4))
    packs = world.reactor.wait(world.archive._parts.rows.packs(ID))
    assert all(pack.stored and not pack.upload for pack in packs)
    assert len(mine(world, swift)) == len(packs) + 1
    assert sum(pack.size for pack in packs) >= PACK_AT


def test_two_auths_never_upload_a_recording_at_once(world: S3World, tmp_path: Path) -> None:
    """Who does not own the lease of a recording waits; both parts of it are found by both."""
    world.start()
    second = S3World(
        world.reactor, world.arguments, tmp_path / "second", world.backend, "auth-2"
    ).start()
    try:
        rows = world.archive._parts.rows
        world.reactor.wait(rows.acquire(ID))
        with pytest.raises(Unavailable, match="another auth"):
            world.reactor.wait(second.archive._parts.rows.acquire(ID))
        second.put(ID, "00000000.chunk", chunk(0))
        second.put(ID, "manifest", b"{}")
        second.reactor.sleep(0.5)
        assert len(second.landed()) == 2
        world.reactor.wait(rows.release(ID))
        second.until_uploaded()
        assert world.get(ID, "00000000.chunk") == chunk(0)
        assert set(world.names(ID)) == {"00000000.chunk", "manifest"}
    finally:
        second.stop()


def test_what_changed_in_the_bucket_is_not_returned(world: S3World, swift: Swift) -> None:
    """Who owns the bucket cannot hand out other bytes: the digest is in the store."""
    world.start()
    world.put(ID, "00000000.chunk", b"first")
    world.put(ID, "manifest", b"{}")
    world.until_uploaded()
    (key,) = [key for key in mine(world, swift) if key.endswith(".pack")]
    world.reactor.wait(world.archive._parts.bucket.put(key, b"other{}"))
    with pytest.raises(Unavailable, match="not what was stored"):
        world.get(ID, "00000000.chunk")
    world.reactor.wait(world.archive._parts.bucket.delete(key))
    with pytest.raises(NotFound, match="not in the bucket any more"):
        world.get(ID, "00000000.chunk")


def test_a_full_disk_refuses_chunks_and_uploads_go_on(
    world: S3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node keeps what is refused; what waits leaves the disk, and there is space again."""
    world.start()
    world.put(ID, "00000000.chunk", b"first")
    with monkeypatch.context() as full:
        full.setattr(directory, "kept_for_store", lambda total: 1 << 62)
        with pytest.raises(StorageFull):
            world.put(ID, "00000001.chunk", b"second")
        with pytest.raises(StorageFull):
            world.put(OTHER, "00000000.chunk", b"first")
    world.put(ID, "00000001.chunk", b"second")
    world.put(ID, "manifest", b"{}")
    world.until_uploaded()
    assert world.get(ID, "00000001.chunk") == b"second"
