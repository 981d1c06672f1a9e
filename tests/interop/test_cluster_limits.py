"""One user's terminal does not fill auth's archive, and the recording says what it lacks."""

from __future__ import annotations

import json
from typing import Any

from cluster_users import events
from three_processes import Cluster, wait_for

#: More than the limit by far, and nothing that can be compressed much.
SHOWN = 40_000_000


def set_limits(cluster: Cluster, limits: str) -> None:
    """Have auth serve with these limits."""
    file = cluster.folder / "auth.yaml"
    text = file.read_text().rstrip().removesuffix("}")
    file.write_text(f"{text}, recording_limits: {limits}}}\n")
    cluster.kill("auth")
    cluster.start("auth")
    wait_for(cluster.online, "the node to be back")


def last_recording(cluster: Cluster) -> dict[str, Any]:
    done = cluster.tele("recordings", "ls", "--format", "json")
    row: dict[str, Any] = json.loads(done.stdout)[0]
    return row


def test_what_is_over_the_limit_of_a_session_is_a_gap(cluster: Cluster) -> None:
    """The user sees all; the recording is whole, small, and names the limit that it was over."""
    set_limits(cluster, "{session: 1MiB}")
    shown = cluster.ssh("-tt", cluster.host, f"head -c {SHOWN * 3 // 4} /dev/urandom | base64")
    assert len(shown.stdout) > SHOWN
    wait_for(lambda: last_recording(cluster)["complete"], "the recording")
    row = last_recording(cluster)
    assert row["size"] < SHOWN // 2
    cluster.tele("recordings", "verify", str(row["id"]))
    played = cluster.tele("play", str(row["id"]), "--format", "json").stdout
    frames = [json.loads(line) for line in played.splitlines()]
    gaps = [frame for frame in frames if frame["frame"] == "gap"]
    assert {gap["reason"] for gap in gaps} == {"over the limit of 1 MiB for one session"}
    said = events(cluster, "recording.limit")
    assert [event["session_id"] for event in said] == [row["id"]]
    assert cluster.ssh(cluster.host, "echo next").stdout == b"next\n"
