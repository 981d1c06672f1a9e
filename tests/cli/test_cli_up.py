"""``tele up`` and ``tele down``: the whole life of a cluster in one process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tele_command import BIN, Cluster, Tele, free_port, read_line

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")


@pytest.fixture
def own(tele: Tele) -> Iterator[Cluster]:
    """A cluster that a test starts itself."""
    cluster = Cluster(tele, tele.folder / "state", "own", f"127.0.0.1:{free_port()}")
    yield cluster
    cluster.down()


def pid_of(cluster: Cluster) -> int:
    return int((cluster.folder / "tele.pid").read_text())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_up_serves_and_down_ends_it(own: Cluster) -> None:
    """After ``--detach`` everything works at once; after ``down`` nothing is left."""
    said = own.up("--cluster", own.name, "--listen", own.listen)
    assert said.stderr == ""
    assert "tele ssh" in said.stdout
    assert "Only this machine can reach it; for others, use --listen" in said.stdout
    tele = own.tele
    (node,) = tele.json("ls")
    assert (node["status"], node["mode"]) == ("online", "direct")
    assert set(node) >= {"id", "name", "addresses", "labels", "mode", "status", "last_seen"}
    assert node["name"] == socket.gethostname()
    done = tele.run("ssh", socket.gethostname(), "echo out; echo err >&2; exit 7", status=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    status = tele.json("status")
    assert (status["cluster"], status["proxy"]) == (own.name, own.listen)
    assert set(status["roles"]) == {"access", "editor", "auditor"}
    pid = pid_of(own)
    tele.run("down", "--dir", own.folder)
    assert not is_running(pid)
    assert "does not answer" in tele.fails(6, "ls") or "did not answer" in tele.fails(6, "ls")
    assert "no cluster is running" in tele.run("down", "--dir", own.folder).stderr


def test_up_resumes_what_is_there(own: Cluster) -> None:
    """Users, the authority and the node's identity are the same after a restart."""
    own.up("--cluster", own.name, "--listen", own.listen)
    own.tele.run("users", "add", "bob", "--login", "bob")
    before = own.tele.json("ls")[0]["id"], own.tele.json("status")["ca_pins"]
    own.tele.run("down", "--dir", own.folder)
    own.up()
    assert (own.tele.json("ls")[0]["id"], own.tele.json("status")["ca_pins"]) == before
    assert "bob" in own.tele.run("users", "ls", "--format", "names").stdout.split()
    assert own.tele.json("status")["proxy"] == own.listen


def test_up_after_its_own_node_was_removed(own: Cluster) -> None:
    """The node of the cluster's own machine joins again after its removal, as another host, by
    starting the cluster again, and not before.
    """
    own.up("--cluster", own.name, "--listen", own.listen)
    (node,) = own.tele.json("ls")
    own.tele.run("nodes", "rm", node["name"])
    assert own.tele.json("ls") == []
    own.tele.run("down", "--dir", own.folder)
    own.up()
    (again,) = own.tele.json("ls")
    assert (again["name"], again["status"]) == (node["name"], "online")
    assert again["id"] != node["id"]


def test_a_second_up_names_the_process_of_the_first(own: Cluster) -> None:
    """The folder has one process; which one, and how to end it, is said."""
    own.up("--cluster", own.name, "--listen", own.listen)
    said = own.tele.fails(1, "up", "--detach", "--dir", own.folder)
    assert f"(process {pid_of(own)})" in said
    assert "tele down --dir" in said
    assert own.tele.json("ls")


def test_after_a_crash_it_starts_again(own: Cluster) -> None:
    """Killed without warning: down does not mind the stale number, up resumes."""
    own.up("--cluster", own.name, "--listen", own.listen)
    pid = pid_of(own)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "no cluster is running" in own.tele.run("down", "--dir", own.folder).stderr
    own.up()
    assert own.tele.json("ls")[0]["status"] == "online"
    own.tele.run("ssh", socket.gethostname(), "true")


def test_down_ends_only_the_process_that_holds_the_lock(own: Cluster) -> None:
    """A process id in the file that is another process's by now is left alone."""
    own.folder.mkdir()
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            (own.folder / "tele.pid").write_text(f"{other.pid}\n")
            assert "no cluster is running" in own.tele.run("down", "--dir", own.folder).stderr
            assert other.poll() is None
        finally:
            other.kill()


def test_down_where_nothing_ever_was(tele: Tele) -> None:
    """A folder that is no cluster's is probably a mistyped one."""
    assert "there is no cluster" in tele.fails(5, "down", "--dir", tele.folder / "nothing")


def test_a_port_in_use_is_reported(own: Cluster) -> None:
    """The port is named, with what to do, and nothing is left running or written."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = own.tele.fails(1, "up", "--detach", "--dir", own.folder, "--listen", address)
    assert f"the proxy cannot listen on {address}" in said
    assert "--listen" in said
    assert not (own.folder / "tele.yaml").exists()
    own.up("--listen", own.listen)  # and now it works


def test_ports_that_were_taken_meanwhile_are_replaced(own: Cluster) -> None:
    """Auth and the node use other free ports when theirs are taken at a restart."""
    own.up("--cluster", own.name, "--listen", own.listen)
    before = own.tele.json("ls")[0]["addresses"]
    own.tele.run("down", "--dir", own.folder)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int(before[0].rpartition(":")[2])))
        taken.listen()
        own.up()
        assert own.tele.json("ls")[0]["addresses"] != before
        own.tele.run("ssh", socket.gethostname(), "true")


@pytest.mark.ordinary
def test_an_unwritable_folder_is_reported(tele: Tele) -> None:
    """The folder is named, with what to do."""
    tele.folder.chmod(0o500)
    assert "cannot write to the folder" in tele.fails(1, "up", "--dir", tele.folder / "x")


def test_a_folder_that_is_a_file_is_reported(tele: Tele) -> None:
    """What stands in the way is named, for root, too."""
    (tele.folder / "file").write_text("")
    for path in (tele.folder / "file", tele.folder / "file" / "x", "/proc/tele"):
        assert "cannot write to the folder" in tele.fails(1, "up", "--dir", path)


def test_an_unknown_key_is_reported(own: Cluster) -> None:
    """All mistakes of tele.yaml at once, with file and line."""
    own.up("--cluster", own.name, "--listen", own.listen)
    own.tele.run("down", "--dir", own.folder)
    config = own.folder / "tele.yaml"
    config.write_text(config.read_text() + "nodes: 1\nlog: {level: loud}\n")
    said = own.tele.fails(2, "up", "--detach", "--dir", own.folder)
    lines = len(config.read_text().splitlines())
    assert f"{config}:{lines - 1}: nodes: unknown key; did you mean node?" in said
    assert f"{config}:{lines}: log.level: expected one of" in said


def test_what_was_changed_in_the_file_counts(own: Cluster) -> None:
    """tele.yaml is the owner's: labels given there are the node's."""
    own.up("--cluster", own.name, "--listen", own.listen)
    own.tele.run("down", "--dir", own.folder)
    config = own.folder / "tele.yaml"
    config.write_text(config.read_text() + "  labels: {env: lab}\n")
    own.up()
    assert [node["name"] for node in own.tele.json("ls", "env=lab")] == [socket.gethostname()]
    assert own.tele.json("ls", "env=prod") == []
    for either in (("env=lab", "env=prod"), ("env=prod", "env=lab")):
        assert len(own.tele.json("ls", *either)) == 1, either
        assert own.tele.run("ssh", ",".join(either), "echo there").stdout == "there\n"
    assert "env_lab" in json.loads(own.tele.run("ls", "--format", "ansible").stdout)
    assert own.tele.run("ssh", "env=lab", "echo there").stdout == "there\n"
    assert "none has env=prod,role=db" in own.tele.fails(5, "ssh", "env=prod,role=db", "true")
    assert "key=value" in own.tele.fails(2, "ssh", "env=lab,db", "true")


def test_another_name_for_the_same_folder_is_refused(own: Cluster) -> None:
    """A cluster's name is for good."""
    own.up("--cluster", own.name, "--listen", own.listen)
    own.tele.run("down", "--dir", own.folder)
    said = own.tele.fails(2, "up", "--dir", own.folder, "--cluster", "another")
    assert f"holds the cluster {own.name}, not another" in said


def test_the_suite_is_chosen_at_the_first_start(own: Cluster) -> None:
    """``--signature-algorithm-suite ecdsa`` makes keys on NIST's curve, and stays."""
    own.up("--cluster", own.name, "--listen", own.listen, "--signature-algorithm-suite", "ecdsa")
    exported = own.tele.run("ca", "export", "--type", "user").stdout
    assert exported.startswith("ecdsa-sha2-nistp256 ")
    assert own.tele.run("ssh", own.tele.json("ls")[0]["name"], "echo hi").stdout == "hi\n"
    own.tele.run("down", "--dir", own.folder)
    words = ("up", "--dir", own.folder, "--signature-algorithm-suite")
    assert "with the suite ecdsa, not ed25519" in own.tele.fails(2, *words, "ed25519")
    own.up()
    assert own.tele.run("ca", "export", "--type", "user").stdout == exported


@pytest.mark.parametrize("name", ["Upper", "a b", "../x", "*", "-x"])
def test_a_bad_name_is_refused(tele: Tele, name: str) -> None:
    """Nothing is written for a name that cannot be one."""
    folder = tele.folder / "state"
    said = tele.fails(2, "up", f"--cluster={name}", "--dir", folder, "--listen", "127.0.0.1:0")
    assert "name" in said
    assert not (folder / "tele.yaml").exists()


def test_an_account_that_does_not_exist_is_reported(tele: Tele) -> None:
    """``--login`` takes accounts of this machine."""
    said = tele.fails(5, "up", "--dir", tele.folder / "s", "--login", "nobody-at-all")
    assert "no such account" in said


@pytest.mark.root
def test_root_serves_the_accounts_that_login_names(own: Cluster) -> None:
    """As root the administrator may log in as root and as each --login, and as no other account."""
    own.up("--cluster", own.name, "--listen", own.listen, "--login", "daemon")
    tele = own.tele
    assert tele.json("status")["logins"] == ["root", "daemon"]
    name = socket.gethostname()
    assert tele.run("ssh", f"root@{name}", "id -un").stdout == "root\n"
    denied = tele.run("ssh", f"bin@{name}", "id -un", status=255)
    assert "Permission denied" in denied.stderr


def test_in_the_foreground_it_ends_by_a_signal(own: Cluster) -> None:
    """Ctrl-C ends it in order, with status 0; what to type was printed before."""
    words = ["up", "--dir", str(own.folder), "--cluster", own.name, "--listen", own.listen]
    # What starts in the background of a shell inherits that SIGINT is ignored.
    with subprocess.Popen(
        ["env", "--default-signal=INT", str(BIN / "tele"), *words],
        env=own.tele.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            assert own.name in read_line(process)
            assert own.tele.json("ls")[0]["status"] == "online"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_nothing_secret_is_readable_by_others(own: Cluster) -> None:
    """Every file of the cluster and of its owner is for the owner only."""
    own.up("--cluster", own.name, "--listen", own.listen)
    for root in (own.folder, own.tele.home):
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                assert path.stat().st_mode & 0o077 == 0, path


def test_no_secret_is_on_a_command_line(own: Cluster) -> None:
    """What ps shows of the cluster's processes holds no token and no key."""
    own.up("--cluster", own.name, "--listen", own.listen)
    shown = Path(f"/proc/{pid_of(own)}/cmdline").read_bytes()
    assert b"PRIVATE" not in shown
    assert "PRIVATE" not in own.log
