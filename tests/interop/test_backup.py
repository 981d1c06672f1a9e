"""A cluster whose auth is lost is restored from a backup that was taken while it ran."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lone_auth import LoneAuth
from three_processes import Cluster, make_cluster, wait_for


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Auth, a proxy, and a node that has a tunnel."""
    running = make_cluster(tmp_path_factory.mktemp("backup"), tunnel=True)
    try:
        yield running
    finally:
        running.stop()


def test_a_passphrase_opens_a_backup(tmp_path: Path) -> None:
    """A short one is refused, and another one does not open it; what is not in a file of this
    machine is not backed up.
    """
    auth = LoneAuth(tmp_path)
    auth.start()
    try:
        right, wrong, short = (tmp_path / name for name in ("right", "wrong", "short"))
        for path, text in ((right, "correct horse"), (wrong, "another horse"), (short, "horse")):
            path.touch(0o600)
            path.write_text(text)
        local, file = ("--config", str(auth.config)), str(tmp_path / "auth.backup")
        refused = auth.run("backup", file, "--passphrase-file", str(short), *local)
        assert "at least 12 characters" in refused.stderr
        assert auth.run("backup", file, *local).returncode == 2
        assert not (tmp_path / "auth.backup").exists()
        assert not list(auth.data_dir.glob(".backup-*"))
        done = auth.run("backup", file, "--passphrase-file", str(right), *local)
        assert done.returncode == 0, done.stderr
        assert "it has no recordings" in done.stderr
        assert "not in the audit" not in done.stderr
        listed = auth.run("audit", "ls", "--event", "backup.create", "--format", "json", *local)
        (event,) = json.loads(listed.stdout)
        assert (event["keys"], event["passphrase"], event["recordings"]) == (0, True, False)
        assert done.stdout.splitlines()[-1].endswith(event["head"])
        shown = auth.run("restore", file, "--check", "--passphrase-file", str(right))
        assert shown.stdout == done.stdout
        refused = auth.run("restore", file, "--check", "--passphrase-file", str(wrong))
        assert refused.returncode == 2
        assert "this passphrase does not open the backup" in refused.stderr
        assert "horse" not in refused.stderr + done.stderr + done.stdout
    finally:
        auth.stop()
    again = auth.run("backup", f"{file}1", "--passphrase-file", str(right), *local)
    assert again.returncode == 0, again.stderr
    assert "the backup is not in the audit, which auth writes" in again.stderr
    auth.settings = "store: memory"
    auth.configure()
    refused = auth.run("backup", f"{file}2", "--passphrase-file", str(right), *local)
    assert "is not in a file of this machine" in refused.stderr


def recordings(cluster: Cluster) -> list[str]:
    """The ids of complete recordings."""
    listed = cluster.tele("recordings", "ls", "--format", "json").stdout
    return [each["id"] for each in json.loads(listed) if each["complete"]]


def test_a_lost_auth_is_restored(cluster: Cluster) -> None:
    """On an empty folder: the node reconnects by itself, the login of a user goes on, and what was
    recorded can be verified. What was done after the backup is gone.
    """
    folder, local = cluster.folder, ("--config", str(cluster.folder / "auth.yaml"))
    key, file = folder / "backup.key", folder / "auth.backup"
    public = cluster.tele("ca", "keygen", f"file:{key}").stdout.decode().strip()
    assert cluster.ssh(cluster.host, "echo recorded").stdout == b"recorded\n"
    wait_for(lambda: len(recordings(cluster)) == 1, "the recording to be complete")
    pins = cluster.tele("ca", "status", *local).stdout
    # Auth writes meanwhile: sessions begin and end.
    done = cluster.tele("backup", str(file), "--for", public, "--recordings", *local)
    assert b"ok: events up to " in done.stdout
    assert b"cluster: interop\n" in done.stdout
    shown = cluster.tele("restore", str(file), "--check", "--identity", str(key))
    assert shown.stdout == done.stdout
    cluster.tele("users", "add", "later", "--role", "access", *local, check=False)
    other = cluster.tele("backup", str(file), "--for", public, *local, check=False)
    assert other.returncode == 2
    assert b"replaces no file" in other.stderr
    refused = cluster.tele(
        "restore", str(file), "--dir", str(folder / "auth"), "--identity", str(key), check=False
    )
    assert b"restore into an empty folder" in refused.stderr

    cluster.kill("auth")
    shutil.rmtree(folder / "auth")
    cluster.tele("restore", str(file), "--dir", str(folder / "new"), "--identity", str(key))
    text = (folder / "auth.yaml").read_text()
    (folder / "auth.yaml").write_text(text.replace(f"{folder}/auth", f"{folder}/new"))
    cluster.start("auth")
    wait_for(cluster.online, "the node to reconnect", 90)
    assert cluster.tele("ca", "status", *local).stdout == pins
    assert cluster.ssh(cluster.host, "echo again").stdout == b"again\n"
    for each in recordings(cluster):
        cluster.tele("recordings", "verify", each)
    head = done.stdout.decode().splitlines()[-1].removeprefix("head: ")
    assert b"ok: " in cluster.tele("audit", "verify", "--head", head, *local).stdout
