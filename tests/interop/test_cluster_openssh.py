"""What a user does with stock OpenSSH, through the proxy, on a real cluster."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from three_processes import Cluster, wait_for

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")

FIFTY = 50 * 1000 * 1000


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_status_is_the_remote_one(cluster: Cluster) -> None:
    """A script can rely on the exit status and on both streams."""
    done = cluster.ssh(cluster.host, "echo out; echo err >&2; exit 42", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (42, b"out\n", b"err\n")


def test_tele_ssh_takes_the_short_name(cluster: Cluster) -> None:
    """``tele ssh web1 false`` ends as ``false`` does."""
    assert cluster.tele("ssh", "web1", "echo $((6 * 7))").stdout == b"42\n"
    assert cluster.tele("ssh", "web1", "false", check=False).returncode == 1


def test_the_signal_of_a_killed_command_is_reported(cluster: Cluster) -> None:
    """A command that is killed is distinguished from one that succeeded."""
    done = cluster.ssh(cluster.host, "kill -TERM $$", check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("size", [0, 1, FIFTY])
def test_every_byte_arrives(cluster: Cluster, size: int) -> None:
    """Standard input arrives there and standard output arrives here, to the byte."""
    data = os.urandom(min(size, 1 << 20)) * (size // (1 << 20) + 1)
    data = data[:size]
    there = cluster.ssh(cluster.host, "sha256sum", stdin=data, seconds=120)
    assert there.stdout.split()[0].decode() == digest(data)
    back = cluster.ssh(cluster.host, "cat", stdin=data, seconds=120)
    assert digest(back.stdout) == digest(data)


def test_a_reader_that_closes_early(cluster: Cluster) -> None:
    """``ssh host yes | head -1`` ends, also while standard input is open."""
    read, write = os.pipe()
    line = f"ssh -F {cluster.ssh_config} {cluster.host} yes | head -1"
    try:
        done = subprocess.run(
            ["sh", "-c", line],
            stdin=read,
            env=cluster.environment,
            capture_output=True,
            check=True,
            timeout=60,
        )
    finally:
        os.close(read)
        os.close(write)
    assert done.stdout == b"y\n"


def test_a_terminal_that_is_not_read(cluster: Cluster) -> None:
    """What writes to it waits, though the client stays, and it still takes keys."""
    shell = "stty -echo; echo $$; exec yes"
    line = ["ssh", "-F", str(cluster.ssh_config), "-tt", cluster.host, shell]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=cluster.environment
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        stat = Path(f"/proc/{int(client.stdout.readline())}/stat")
        client.stdout.close()

        def waits() -> bool:
            before = stat.read_text()
            time.sleep(0.5)
            return stat.read_text() == before

        wait_for(waits, "it to wait")
        assert client.poll() is None
        client.stdin.write(b"\x03")
        client.stdin.flush()
        client.wait(60)
        assert not stat.exists()


def test_a_slow_reader_loses_nothing(cluster: Cluster) -> None:
    """Output that waits for the reader is complete when the program has long ended."""
    program = f"ssh -F {cluster.ssh_config} {cluster.host}"
    line = f"{program} 'head -c 8000000 /dev/zero' | (sleep 1.5; wc -c)"
    done = subprocess.run(
        ["sh", "-c", line], env=cluster.environment, capture_output=True, check=True, timeout=60
    )
    assert int(done.stdout) == 8_000_000


def test_a_terminal_has_its_size_and_its_name(cluster: Cluster) -> None:
    """An interactive shell gets a terminal that knows its size."""
    program = f"ssh -tt -F {cluster.ssh_config} {cluster.host}"
    line = f"stty rows 33 cols 99; {program} 'stty size; tty; echo $TERM'"
    done = subprocess.run(
        ["script", "-qec", line, "/dev/null"],
        env={**cluster.environment, "TERM": "xterm-256color"},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )
    assert b"33 99" in done.stdout
    assert b"/dev/pts/" in done.stdout
    assert b"xterm-256color" in done.stdout


def test_many_sessions_share_one_connection(cluster: Cluster, tmp_path: Path) -> None:
    """ControlMaster multiplexing works, and the connection is one recording."""
    path = f"{tmp_path}/c"
    options = ("-o", f"ControlPath={path}", "-o", "ControlMaster=auto", "-o", "ControlPersist=60")
    try:
        for number in range(5):
            done = cluster.ssh(*options, cluster.host, f"echo {number}")
            assert done.stdout == b"%d\n" % number
    finally:
        cluster.ssh("-o", f"ControlPath={path}", "-O", "exit", cluster.host, check=False)


@pytest.mark.parametrize("flags", [(), ("-O",)], ids=["sftp", "legacy"])
def test_scp_both_ways(cluster: Cluster, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A file is copied there and back unchanged, with the new protocol and the old one."""
    data = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(data)
    there = tmp_path / "there"
    cluster.client("scp", *flags, "-q", str(tmp_path / "up"), f"{cluster.host}:{there}")
    cluster.client("scp", *flags, "-q", f"{cluster.host}:{there}", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == data


def test_sftp_batch(cluster: Cluster, tmp_path: Path) -> None:
    """OpenSSH's sftp lists, makes directories, uploads, downloads, renames and removes."""
    (tmp_path / "a").write_bytes(b"hello")
    commands = (
        f"mkdir {tmp_path}/d",
        f"put {tmp_path}/a {tmp_path}/d/b",
        f"rename {tmp_path}/d/b {tmp_path}/d/c",
        f"ls {tmp_path}/d",
        f"get {tmp_path}/d/c {tmp_path}/e",
        f"rm {tmp_path}/d/c",
        f"rmdir {tmp_path}/d",
    )
    cluster.client("sftp", "-b", "-", cluster.host, stdin="\n".join(commands).encode() + b"\n")
    assert (tmp_path / "e").read_bytes() == b"hello"
    assert not (tmp_path / "d").exists()


@pytest.mark.skipif(not shutil.which("rsync"), reason="needs rsync")
def test_rsync_of_a_tree(cluster: Cluster, tmp_path: Path) -> None:
    """Rsync copies a tree over plain ssh."""
    source = tmp_path / "source"
    for number in range(50):
        file = source / str(number % 5) / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(number * 100))
    subprocess.run(
        ["rsync", "-a", "-e", f"ssh -F {cluster.ssh_config}", f"{source}/",
         f"{cluster.host}:{tmp_path}/copy/"],
        env=cluster.environment, check=True, timeout=60,
    )  # fmt: skip
    assert subprocess.run(["diff", "-r", source, tmp_path / "copy"], check=False).returncode == 0


def test_git_clone(cluster: Cluster, tmp_path: Path) -> None:
    """Git clones over plain ssh."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    origin = tmp_path / "origin"
    subprocess.run([*git, "init", "-q", str(origin)], check=True)
    (origin / "file").write_text("text")
    subprocess.run([*git, "-C", str(origin), "add", "file"], check=True)
    subprocess.run([*git, "-C", str(origin), "commit", "-qm", "first"], check=True)
    subprocess.run(
        [*git, "clone", "-q", f"{cluster.host}:{origin}", str(tmp_path / "clone")],
        env={**cluster.environment, "GIT_SSH_COMMAND": f"ssh -F {cluster.ssh_config}",
             "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory",
             "GIT_CONFIG_VALUE_0": "*"},
        check=True, timeout=60,
    )  # fmt: skip
    assert (tmp_path / "clone" / "file").read_text() == "text"


def test_a_port_is_reached_with_dash_w(cluster: Cluster) -> None:
    """``ssh -W`` from the node reaches what listens there: here the proxy."""
    target = f"127.0.0.1:{cluster.ports['proxy']}"
    done = subprocess.run(
        ["ssh", "-F", str(cluster.ssh_config), "-W", target, cluster.host],
        env=cluster.environment, input=b"SSH-2.0-test\r\n", capture_output=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert done.stdout.startswith(b"SSH-2.0-")


def test_what_ran_can_be_replayed(cluster: Cluster) -> None:
    """A session is listed, verified, and its output replayed from auth."""
    mark = f"mark-{time.time_ns()}"
    cluster.ssh(cluster.host, f"echo {mark}")

    def found() -> bool:
        rows = json.loads(cluster.tele("recordings", "ls", "--format", "json").stdout)
        done = [row for row in rows if row["ended"]]
        return any(
            mark.encode() in cluster.tele("play", row["id"], "--format", "text", check=False).stdout
            for row in done[:3]
        )

    wait_for(found, "the recording to be there")
    rows = json.loads(cluster.tele("recordings", "ls", "--format", "json").stdout)
    ended = [row for row in rows if row["ended"]]
    assert {
        "id",
        "kind",
        "user",
        "login",
        "node",
        "started",
        "ended",
        "interactive",
        "size",
    } <= set(ended[0])
    assert ended[0]["user"] == "alice"
    assert ended[0]["node"] == "web1"
    cluster.tele("recordings", "verify", ended[0]["id"])


def test_the_audit_names_the_user(cluster: Cluster) -> None:
    """Starting and ending a session, and the command, are events."""
    mark = f"true {time.time_ns()}"
    cluster.ssh(cluster.host, mark)

    def reported() -> bool:
        events = json.loads(cluster.tele("audit", "ls", "--format", "json").stdout)
        execs = [e for e in events if e["event"] == "exec" and e.get("command") == mark]
        if not execs:
            return False
        session = execs[0]["session_id"]
        names = {e["event"] for e in events if e["session_id"] == session}
        return {"session.start", "exec", "session.end"} <= names

    wait_for(reported, "the events")
