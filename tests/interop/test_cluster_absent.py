"""Auth, or a node, is off for days, also while the CAs rotate: all are back within a minute.

libfaketime gives each process its date; nobody touches a host, and no token is there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial

import pytest

from set_clocks import HOUR, LIBRARIES, PARTS, clocked, set_clock
from three_processes import Cluster, make_cluster, wait_for

pytestmark = pytest.mark.skipif(
    shutil.which("ssh") is None or not LIBRARIES, reason="OpenSSH or faketime is not installed"
)

DAY = 24 * HOUR
#: 26 h are more than a certificate of a host is valid, 29 days less than it may be away after that.
ABSENCES = (26 * HOUR, 3 * DAY, 29 * DAY)
PHASES = ("init", "update_clients", "update_servers", "standby")
#: A minute, and the time in which a busy machine starts the parts.
BACK_SECONDS = 60 + 60


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "tunnel"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster whose hosts have no token any more."""
    folder = tmp_path_factory.mktemp("absent")
    made = make_cluster(folder, tunnel=request.param, prefixes=clocked(folder))
    try:
        (folder / "token").unlink()
        yield made
    finally:
        made.stop()


def local(cluster: Cluster, *words: str) -> bytes:
    """Run a command as auth's owner: a user's certificate would have expired."""
    return cluster.tele(*words, "--config", str(cluster.folder / "auth.yaml")).stdout


def events(cluster: Cluster, name: str) -> int:
    """How many events of this name there are."""
    words = ("audit", "ls", "--event", name, "--limit", "0", "--format", "json")
    return len(json.loads(local(cluster, *words)))


def are_back(cluster: Cluster, rejoined: int) -> bool:
    """Whether hosts have rejoined so often, and have what the present keys need of them."""
    rows = json.loads(local(cluster, "nodes", "ls", "--rotation", "--format", "json"))
    return events(cluster, "node.rejoin") >= rejoined and all(
        row["status"] == "online" and not row.get("behind") for row in rows
    )


def test_all_are_back_after_days(cluster: Cluster) -> None:
    """Auth is off, then the node, for each length; the last time the keys of all CAs are replaced
    meanwhile, and the host knows none of those that are in use.
    """
    date = rejoined = 0
    # Each length where more is between a node and auth; the longest one without.
    lengths = ABSENCES if not cluster.ports["node"] else ABSENCES[-1:]
    for length in lengths:
        for part in ("auth", "node"):
            cluster.kill(part)
            if part == "node" and length == ABSENCES[-1]:
                for phase in PHASES:
                    words = ("ca", "rotate", "--manual", "--phase", phase, "--force", "--yes")
                    local(cluster, *words)
            date += length
            for each in PARTS:
                set_clock(cluster.folder, each, date)
            cluster.start(part)
            rejoined += 2  # node and proxy: by the new date the certificates of both have expired
            wait_for(partial(are_back, cluster, rejoined), f"hosts after {length} s", BACK_SECONDS)
    assert events(cluster, "node.join") == 2
