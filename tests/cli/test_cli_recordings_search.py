"""What a user finds again of a session: by its text, its command, and at its time."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tele_command import Cluster

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")


def waited_for(cluster: Cluster, recording: str) -> None:
    """Wait until auth has made the index of a recording."""
    deadline = time.monotonic() + 120
    while cluster.tele.json("recordings", "show", recording)["index"] != "ready":
        assert time.monotonic() < deadline, "the index is not made"
        time.sleep(0.5)


def test_a_session_is_found_by_what_it_showed(cluster: Cluster) -> None:
    """Search, list by command and by a pattern of the node; what was not shown is nowhere."""
    before = {row["id"] for row in cluster.tele.json("recordings", "ls")}
    node = cluster.tele.run("ls", "--format", "names").stdout.strip()
    cluster.tele.run("ssh", node, "echo needle-$((40 + 2))")
    (recording,) = {row["id"] for row in cluster.tele.json("recordings", "ls")} - before
    waited_for(cluster, recording)
    shown = dict(
        line.split(":", 1)
        for line in cluster.tele.run("recordings", "show", recording).stdout.splitlines()
    )
    stated = [shown[name].strip() for name in ("Recorded by", "State", "Sealed", "Index")]
    assert stated == ["node", "complete", "no", "ready"]
    (hit,) = cluster.tele.json("recordings", "search", "NEEDLE-42", "--in", "output")
    assert (hit["recording"], hit["kind"], hit["line"]) == (recording, "output", "needle-42")
    (command,) = cluster.tele.json("recordings", "search", "needle-$((", "--in", "exec")
    assert command["recording"] == recording
    found = cluster.tele.json("recordings", "ls", "--command", "needle", "--node", "*")
    assert [row["id"] for row in found] == [recording]
    assert cluster.tele.json("recordings", "search", "needle-43") == []
    assert cluster.tele.json("recordings", "files", recording) == []
    short = cluster.tele.run("recordings", "search", "ab", status=2)
    assert "3 characters" in short.stderr


def test_files_of_a_session_are_listed(cluster: Cluster, tmp_path: Path) -> None:
    """Each with its size, a number; a folder has none. A file of the recording says the same."""
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "a.txt").write_text("hello")
    node = cluster.tele.run("ls", "--format", "names").stdout.strip()
    before = {row["id"] for row in cluster.tele.json("recordings", "ls")}
    cluster.tele.run("scp", "-q", "-r", tmp_path / "sent", f"{node}:{tmp_path}/got")
    (recording,) = {row["id"] for row in cluster.tele.json("recordings", "ls")} - before
    waited_for(cluster, recording)
    files = cluster.tele.json("recordings", "files", recording)
    sizes = {(each["op"], each["path"]): each["bytes"] for each in files}
    assert sizes["write", f"{tmp_path}/got/a.txt"] == 5
    assert sizes["mkdir", f"{tmp_path}/got"] is None
    file = tmp_path / "copy.tape"
    cluster.tele.run("recordings", "export", recording, file)
    assert cluster.tele.json("recordings", "files", file) == files
