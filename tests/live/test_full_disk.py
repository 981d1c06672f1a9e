"""A node on a disk that is really full: updates from auth apply, and ends of sessions are kept.

The disk is a small tmpfs in a mount namespace of the node's own, which ends with it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from three_processes import Cluster, make_cluster, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not (shutil.which("ssh") and shutil.which("unshare")), reason="needs OpenSSH and unshare"
    ),
]

OPTIONS = """
kind: role
version: v1
metadata: {{name: {name}}}
spec:
  allow: {{logins: ["{{{{internal.logins}}}}"], node_labels: {{env: [test]}}}}
  options: {{{options}}}
"""
ROLE = """
kind: role
version: v1
metadata: {{name: helpers}}
spec:
  allow: {{logins: ["{{{{internal.logins}}}}"], node_labels: {{env: [test]}}}}
  deny: {{node_labels: {{env: [{denied}]}}}}
"""
#: Bigger than both reserves, so that they are there, and little besides.
SIZE = "size=16m,nr_inodes=300"


class Node:
    """The node, as root sees it from outside."""

    def __init__(self, cluster: Cluster, what: str) -> None:
        self._what = what
        pid = cluster.processes["node"].pid
        self.folder = Path(f"/proc/{pid}/root{cluster.folder}/node")
        self._fill = self.folder / "fill"

    def fill(self) -> None:
        """Take every free block, or every free inode."""
        if self._what == "inodes":
            self._fill.mkdir(exist_ok=True)
            with pytest.raises(OSError, match="No space left"):
                while True:
                    (self._fill / str(len(list(self._fill.iterdir())))).touch()
            return
        with pytest.raises(OSError, match="No space left"), self._fill.open("ab", 0) as file:
            while True:
                file.write(bytes(4096))

    def clear(self) -> None:
        """Give them back."""
        if self._what == "inodes":
            shutil.rmtree(self._fill)
        else:
            self._fill.unlink()

    def state(self) -> bool:
        """Whether there is a state that a restarted node would decide by."""
        return (self.folder / "identity" / "node" / "state.json").exists()


@pytest.fixture
def alice(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose node has a small disk, as its administrator has it."""
    (tmp_path / "node").mkdir(mode=0o700)
    mount = f'mount -t tmpfs -o {SIZE},mode=700 tmpfs "$0" && exec "$@"'
    isolated = ["unshare", "-m", "--propagation", "private", "sh", "-c", mount]
    running = make_cluster(tmp_path, prefixes={"node": [*isolated, str(tmp_path / "node")]})
    try:
        yield running
    finally:
        running.stop()


def apply_role(alice: Cluster, denied: str) -> None:
    """Set what the role ``helpers`` denies."""
    done = alice.tele("get", "role/helpers", "--format", "json", check=False)
    role = ROLE.format(denied=denied)
    if done.returncode == 0:
        revision = json.loads(done.stdout)["metadata"]["revision"]
        role = role.replace("{name: helpers}", f"{{name: helpers, revision: {revision}}}")
    (alice.folder / "role.yaml").write_text(role)
    alice.tele("apply", "-f", str(alice.folder / "role.yaml"))


def events(alice: Cluster, name: str, user: str) -> list[dict[str, object]]:
    """Return the events of this name about a user."""
    done = alice.tele("audit", "ls", "--event", name, "--format", "json", "--limit", "100")
    return [event for event in json.loads(done.stdout) if event["user"] == user]


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_a_node_whose_disk_is_full(alice: Cluster, what: str) -> None:
    """A role that denies denies at once; another's session that runs goes on, and is audited and
    uploaded with the true reason of its gap; and when there is space again all is as before.
    """
    apply_role(alice, "nothing")
    bob, carol = alice.person("bob", "helpers"), alice.person("carol", "access")
    node = Node(alice, what)
    wait_for(lambda: bob.ssh(bob.host, "true", check=False).returncode == 0, "a login of bob")
    words = ["ssh", "-tt", "-F", str(carol.ssh_config), carol.host]
    command = "stty -echo; echo begun; for n in 1 2 3; do read x; echo line $n; done"
    running = subprocess.Popen(
        [*words, command], env=carol.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == b"begun\r\n"
        wait_for(lambda: "begun" in shown(alice, "carol"), "auth to have what was shown")
        wait_for(lambda: idle(node), "the spool to be empty but for the session that runs")
        node.fill()
        assert node.state()
        apply_role(alice, "test")
        wait_for(lambda: not node.state(), "the old state to be removed")
        refused = bob.ssh(bob.host, "true", check=False)
        assert refused.returncode == 255
        denied = events(alice, "auth.denied", "bob")
        assert denied
        assert "helpers" in str(denied[0]["error"])

        node.fill()  # also what the old state took
        running.stdin.write(b"\n")
        running.stdin.flush()
        assert running.stdout.readline() == b"line 1\r\n"
        wait_for(lambda: "recording not written" in log(alice), "the log to say it")
        for number in (2, 3):
            running.stdin.write(b"\n")
            running.stdin.flush()
            assert running.stdout.readline() == b"line %d\r\n" % number
        assert running.wait(30) == 0
    finally:
        running.kill()
        running.communicate()
    wait_for(lambda: bool(events(alice, "session.end", "carol")), "the end to be audited")
    frames = last_recording(alice, "carol")
    (gap,) = [frame for frame in frames if frame["frame"] == "gap"]
    assert gap["reason"] == "the disk was full"
    assert frames[-1]["frame"] == "end"
    node.fill()  # also what that recording took until auth had it
    node.clear()
    apply_role(alice, "nothing")
    wait_for(node.state, "the state to be written", 90)
    assert bob.ssh(bob.host, "echo again").stdout == b"again\n"


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_logins_on_a_full_disk(alice: Cluster, what: str) -> None:
    """A role that needs recordings refuses a session that has none; a user with ``break_glass``
    logs in whatever other roles say, and the audit says that it was not recorded.
    """
    for name, options in (
        ("strict", "record: strict"),
        ("rescue", "break_glass: true"),
    ):
        (alice.folder / "role.yaml").write_text(OPTIONS.format(name=name, options=options))
        alice.tele("apply", "-f", str(alice.folder / "role.yaml"))
    carol = alice.person("carol", "strict")
    dave = alice.person("dave", "strict", "rescue")
    node = Node(alice, what)
    for person in (carol, dave):
        wait_for(
            lambda p=person: p.ssh(p.host, "true", check=False).returncode == 0, "logins of all"
        )
    wait_for(lambda: idle(node), "all recordings to be at auth")

    def goes_on(person: Cluster, user: str) -> bool:
        """Whether a session goes on and is not recorded, with all space that was given back
        meanwhile taken again.
        """
        node.fill()
        assert person.ssh(person.host, "echo in").stdout == b"in\n"
        return any(e.get("unrecorded") for e in events(alice, "session.end", user))

    def refused() -> bool:
        """Whether one that has to be recorded is refused."""
        node.fill()
        done = carol.ssh(carol.host, "echo in", check=False)
        return b"cannot be recorded" in done.stderr or b"no room left" in done.stderr

    wait_for(refused, "a session that has to be recorded to be refused")
    wait_for(lambda: goes_on(dave, "dave"), "a login of the user with break_glass")
    node.clear()
    wait_for(lambda: carol.ssh(carol.host, "true", check=False).returncode == 0, "all to be well")


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_logins_where_all_freed_space_is_taken(alice: Cluster, what: str) -> None:
    """When something takes even the reserves users log in as long as auth takes their events;
    with auth away only those do who are to make room, and all is on record when it is back.
    """
    (alice.folder / "role.yaml").write_text(
        OPTIONS.format(name="rescue", options="break_glass: true")
    )
    alice.tele("apply", "-f", str(alice.folder / "role.yaml"))
    bob, dave = alice.person("bob", "access"), alice.person("dave", "access", "rescue")
    node = Node(alice, what)
    for person in (bob, dave):
        wait_for(
            lambda p=person: p.ssh(p.host, "true", check=False).returncode == 0, "logins of all"
        )
    wait_for(lambda: idle(node), "all recordings to be at auth")
    for _ in range(12):
        node.fill()
        assert bob.ssh(bob.host, "echo in").stdout == b"in\n"
    alice.kill("auth")
    node.fill()

    def refused() -> bool:
        """Whether one more is refused, after some that the rest of the reserve is enough for."""
        node.fill()
        return b"its disk is full" in bob.ssh(bob.host, "true", check=False).stderr

    if what == "blocks":  # events take no inodes
        wait_for(refused, "others to be refused", 90)
    assert dave.ssh(dave.host, "echo in").stdout == b"in\n"
    alice.start("auth")
    wait_for(lambda: bob.ssh(bob.host, "true", check=False).returncode == 0, "auth to be back", 90)
    wait_for(lambda: bool(events(alice, "session.end", "dave")), "all to be on record")
    node.clear()


def idle(node: Node) -> bool:
    """Whether all that was recorded is at auth: nothing is removed any more, which would give
    space back.
    """
    folders = [each for each in (node.folder / "spool").iterdir() if each.is_dir()]
    closed = [each for each in folders if (each / "manifest.json").exists()]
    return not closed and not any(list(each.glob("*.chunk")) for each in folders)


def shown(auditor: Cluster, user: str) -> str:
    """Return what the user's last session on a terminal showed, as far as auth has it."""
    found = json.loads(auditor.tele("recordings", "ls", "--format", "json").stdout)
    ids = [each["id"] for each in found if each["user"] == user and each["interactive"]]
    if not ids:
        return ""
    return auditor.tele("play", ids[0], "--format", "text", check=False).stdout.decode()


def log(alice: Cluster) -> str:
    """Return what the node logged."""
    return (alice.folder / "node.log").read_text()


def last_recording(auditor: Cluster, user: str) -> list[dict[str, object]]:
    """Return the frames of the user's last recording, once it has ended."""

    def listed() -> list[dict[str, object]]:
        found = json.loads(auditor.tele("recordings", "ls", "--format", "json").stdout)
        return [each for each in found if each["user"] == user and each["interactive"]]

    wait_for(lambda: any(each["ended"] for each in listed()), f"a recording of {user}")
    done = auditor.tele("play", str(listed()[0]["id"]), "--format", "json")
    return [json.loads(line) for line in done.stdout.splitlines()]
