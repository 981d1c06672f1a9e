"""Auth that keeps recordings in a bucket, as a process that is killed, and by its commands."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define, field

from lone_auth import CLUSTER, Ledger, LoneAuth
from swift_server import INSTALLED, Swift, running_swift
from three_processes import wait_for

pytest.importorskip("botocore")
pytestmark = pytest.mark.skipif(not INSTALLED, reason="OpenStack Swift is not installed")


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with running_swift(tmp_path_factory.mktemp("swift")) as server:
        yield server


@define
class BucketAuth(LoneAuth):
    """Auth with its recordings in a bucket."""

    recordings: str = field(default="")

    def configure(self) -> None:
        self.config.write_text(
            f"version: v1\ndata_dir: {self.data_dir}\n"
            f"auth:\n  cluster_name: {CLUSTER}\n  listen: 127.0.0.1:{self.port}\n"
            f"  recordings: {self.recordings}\n"
        )

    def waiting(self) -> list[Path]:
        """Files that are not in the bucket."""
        return [path for path in (self.data_dir / "s3").rglob("*") if path.is_file()]

    def json(self, *words: str) -> list[dict[str, object]]:
        """Run a command that lists, and return what it lists."""
        done = self.run("recordings", *words, "--format", "json", "--config", str(self.config))
        assert done.returncode == 0, done.stderr
        found: list[dict[str, object]] = json.loads(done.stdout)
        return found

    def command(self, *words: str) -> str:
        """Run a command that succeeds; return what it says."""
        done = self.run("recordings", *words, "--config", str(self.config))
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


def objects(swift: Swift, name: str) -> tuple[list[str], list[str]]:
    """Return the keys of the test called ``name``: of recordings, and of heads of the audit."""
    mine = [key for key in swift.objects() if name in key]
    heads = [key for key in mine if "/audit-heads-" in key]
    return [key for key in mine if key not in heads], heads


@pytest.fixture
def auth(swift: Swift, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[BucketAuth]:
    (tmp_path / "home").mkdir()
    made = BucketAuth(
        tmp_path,
        environment=swift.credentials,
        recordings="s3:" + swift.arguments(request.node.name),
    )
    yield made
    made.stop()


def test_killed_in_the_middle_of_uploads(auth: BucketAuth, swift: Swift) -> None:
    """What was acknowledged is there after each kill -9, and nothing else is in the bucket."""
    ledger = Ledger(auth)
    for moment in (0.0, 0.05, 0.2, 0.5):
        auth.start()
        ledger.add(3)
        time.sleep(moment)  # somewhere within an upload
        auth.kill()
    auth.start()
    assert ledger.missing() == []
    wait_for(lambda: not auth.waiting(), "all uploads to end", 60)
    assert ledger.missing() == []
    mine, heads = objects(swift, "test_killed")
    assert len(mine) == 2 * len(ledger.finished), mine
    assert heads, "a head of the audit was signed after each start"


def test_the_life_of_a_recording_by_commands(auth: BucketAuth, swift: Swift) -> None:
    """Held, not removed, released, removed: with reasons, and nothing stays in the bucket."""
    auth.start()
    ledger = Ledger(auth)
    ledger.add(1)
    (recording,) = ledger.finished
    wait_for(lambda: not auth.waiting(), "the upload to end", 60)
    auth.command("hold", recording[:8], "--reason", "case 12")
    (hold,) = auth.json("holds")
    assert (hold["id"], hold["reason"]) == (recording, "case 12")
    refused = auth.run(
        "recordings", "rm", recording, "--reason", "old", "--config", str(auth.config)
    )
    assert refused.returncode == 1
    assert "case 12" in refused.stderr
    assert ledger.missing() == []
    auth.command("release", recording, "--reason", "closed")
    without = auth.run("recordings", "rm", recording, "--config", str(auth.config))
    assert without.returncode == 2
    auth.command("rm", recording, "--reason", "old")
    assert objects(swift, "test_the_life")[0] == []
    assert auth.json("ls") == []
    assert auth.json("stuck") == []


def test_what_is_stuck_is_shown_and_retried(auth: BucketAuth, swift: Swift) -> None:
    """Wrong credentials: chunks are accepted and the reason is shown; a restart mends it."""
    auth.environment = {**swift.credentials, "AWS_SECRET_ACCESS_KEY": "wrong-secret"}
    auth.start()
    ledger = Ledger(auth)
    ledger.add(1)
    (recording,) = ledger.finished

    def of_recording() -> list[dict[str, object]]:
        return [stuck for stuck in auth.json("stuck") if stuck["id"] == recording]

    wait_for(of_recording, "the upload to fail", 60)
    (stuck,) = of_recording()
    assert stuck["state"] == "refused"
    assert "SignatureDoesNotMatch" in str(stuck["reason"])
    assert "wrong-secret" not in auth.log.read_text()
    assert ledger.missing() == []
    auth.stop()
    auth.environment = swift.credentials
    auth.start()
    wait_for(lambda: not auth.waiting(), "the upload to end", 60)
    assert auth.json("stuck") == []
    assert ledger.missing() == []
