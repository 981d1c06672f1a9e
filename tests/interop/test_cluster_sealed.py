"""A cluster that seals its recordings: what is stored cannot be read, and everything else works."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tele.tape.layout import read_head
from three_processes import BIN, Cluster, make_cluster, wait_for

WORD = "a-word-that-is-sealed"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file of a recovery key, and its public key."""
    file = tmp_path_factory.mktemp("recovery") / "key"
    made = subprocess.run(
        [str(BIN / "tele"), "recordings", "keygen", str(file)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert file.stat().st_mode & 0o777 == 0o600
    return file, made.stdout.strip()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, key: tuple[Path, str]) -> Iterator[Cluster]:
    setting = f"recording_encryption: {{enabled: true, recovery_keys: ['{key[1]}']}}"
    made = make_cluster(tmp_path_factory.mktemp("sealed"), auth_settings=setting)
    yield made
    made.stop()


def complete(cluster: Cluster, count: int) -> list[dict[str, object]]:
    """Wait for so many complete recordings; the newest is first."""
    found: list[dict[str, object]] = []

    def there() -> bool:
        listed = cluster.tele("recordings", "ls", "--format", "json").stdout
        found[:] = [row for row in json.loads(listed) if row["complete"]]
        return len(found) >= count

    wait_for(there, f"{count} complete recordings", 60)
    return found


def chunks(cluster: Cluster, recording: str) -> list[bytes]:
    """The chunks in auth's archive."""
    folder = cluster.folder / "auth" / "recordings" / recording[:2] / recording
    return [path.read_bytes() for path in sorted(folder.glob("*.chunk"))]


def test_what_auth_stores_cannot_be_read(cluster: Cluster, key: tuple[Path, str]) -> None:
    """Played by id, verified, exported, verified again, and opened with the recovery key."""
    cluster.ssh(cluster.host, f"echo {WORD}")
    recording = str(complete(cluster, 1)[0]["id"])
    stored = chunks(cluster, recording)
    assert [read_head(data, n).key for n, data in enumerate(stored)] == [1] * len(stored)
    assert WORD.encode() not in b"".join(stored)
    assert WORD in cluster.tele("play", recording, "--format", "text").stdout.decode()
    verified = cluster.tele("recordings", "verify", recording).stdout.decode()
    assert verified.startswith("ok:")
    assert "sealed: not opened" in verified
    file = cluster.folder / "one.tape"
    cluster.tele("recordings", "export", recording, str(file))
    assert WORD.encode() not in file.read_bytes()
    assert cluster.tele("recordings", "verify", str(file)).stdout.startswith(b"ok:")
    closed = cluster.tele("play", str(file), "--format", "text", check=False)
    assert closed.returncode == 1
    assert b"sealed" in closed.stderr
    opened = cluster.tele("play", str(file), "--format", "text", "--identity", str(key[0]))
    assert WORD in opened.stdout.decode()
    other = cluster.folder / "other.key"
    cluster.tele("recordings", "keygen", str(other))
    play = ("play", str(file), "--format", "text", "--identity", str(other))
    wrong = cluster.tele(*play, check=False)
    assert wrong.returncode == 2
    assert b"not sealed for this key" in wrong.stderr
    other.write_text("x")
    assert cluster.tele(*play, check=False).returncode == 2


def test_a_node_that_was_killed_completes_what_it_sealed(cluster: Cluster) -> None:
    """Its data key is beside what it has not sent, and continues to seal."""
    before = len(complete(cluster, 1))
    session = subprocess.Popen(
        ["ssh", "-F", str(cluster.ssh_config), cluster.host, f"echo {WORD}; sleep 60"],
        env=cluster.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert session.stdout is not None
        assert session.stdout.readline().decode().strip() == WORD
        spool = cluster.folder / "node" / "spool"
        wait_for(
            lambda: any(p.read_bytes().count(b"\n") > 1 for p in spool.glob("*-*/acknowledged")),
            "auth to have what was shown",
        )
        cluster.kill("node")
    finally:
        session.kill()
        session.communicate()
    cluster.start("node")
    newest = complete(cluster, before + 1)[0]
    recording = str(newest["id"])
    assert all(read_head(data, n).key for n, data in enumerate(chunks(cluster, recording)))
    assert cluster.tele("recordings", "verify", recording).stdout.startswith(b"ok:")
    assert WORD in cluster.tele("play", recording, "--format", "text").stdout.decode()


def test_attack_a_node_that_was_taken_over_records_in_clear(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Auth takes nothing of it; the node's log and the audit state why. It is set aside there.

    The node has a program of its own now, which ignores for whom it has to seal.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "from tele.recording import recorder\n"
        "begin = recorder.TapeRecorder.__init__\n"
        "def clear(self, *args, **words):\n"
        "    begin(self, *args, **words | {'recipients': tuple})\n"
        "recorder.TapeRecorder.__init__ = clear\n"
    )
    cluster.ssh(cluster.host, "true")
    complete(cluster, 1)
    before = len(json.loads(cluster.tele("recordings", "ls", "--format", "json").stdout))
    complete(cluster, before)
    cluster.kill("node")
    cluster.prefixes = {"node": ("env", f"PYTHONPATH={tmp_path}")}
    cluster.start("node")
    cluster.ssh(cluster.host, f"echo {WORD}")
    log = cluster.folder / "node.log"
    reason = "recordings of this cluster are encrypted, and this one is not: node web1 joined after"
    wait_for(lambda: reason in log.read_text(), "the reason to be in the node's log")
    archive = cluster.folder / "auth" / "recordings"
    assert not [path for path in archive.rglob("*.chunk") if WORD.encode() in path.read_bytes()]
    denied = cluster.tele("audit", "ls", "--event", "auth.denied", "--format", "json").stdout
    assert any("encrypted" in event["error"] for event in json.loads(denied))
    assert len(complete(cluster, before)) == before
    cluster.kill("node")
    cluster.prefixes = {}
    cluster.start("node")
    spool = cluster.folder / "node" / "spool"
    wait_for(lambda: list(spool.glob("refused-*")), "the recording to be set aside")
    assert "recording given up" in log.read_text()
    cluster.ssh(cluster.host, "true")
    assert len(complete(cluster, before + 1)) == before + 1


def test_a_session_that_runs_while_encryption_is_switched_on(
    tmp_path: Path, key: tuple[Path, str]
) -> None:
    """It is finished in clear, and the next one is sealed; switched off, it is the reverse."""
    cluster = make_cluster(tmp_path)
    try:
        config = tmp_path / "auth.yaml"
        clear = config.read_text()
        sealed = clear.replace("ed25519}", "ed25519, recording_encryption: {enabled: true}}")
        assert sealed != clear
        for number, text in enumerate((sealed, clear)):
            session = subprocess.Popen(
                ["ssh", "-F", str(cluster.ssh_config), cluster.host, "echo begun; read end"],
                env=cluster.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert session.stdout is not None
            assert session.stdout.readline() == b"begun\n"
            config.write_text(text)
            cluster.kill("auth")
            cluster.start("auth")
            wait_for(cluster.online, "the node to be online again")
            session.communicate(b"end\n", timeout=60)
            (newest, *_) = complete(cluster, 2 * number + 1)
            expected = number
            assert all(
                read_head(data, n).key == expected
                for n, data in enumerate(chunks(cluster, str(newest["id"])))
            )

            def next_is_sealed(expected: int = 1 - expected, number: int = number) -> bool:
                cluster.ssh(cluster.host, "true")
                found = complete(cluster, 2 * number + 2)[0]
                return [
                    read_head(data, n).key
                    for n, data in enumerate(chunks(cluster, str(found["id"])))
                ][:1] == [expected]

            wait_for(next_is_sealed, "the node to seal, or not")
            for row in complete(cluster, 2 * number + 2):
                assert cluster.tele("recordings", "verify", str(row["id"])).stdout[:3] == b"ok:"
    finally:
        cluster.stop()


def played(cluster: Cluster, recording: str, wanted: bytes, *words: str) -> bytes:
    """What ``tele play`` draws on a terminal until it shows ``wanted``; it is quit then."""
    terminal, end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    child = subprocess.Popen(
        [str(BIN / "tele"), "play", recording, *words],
        env={**cluster.environment, "TERM": "xterm"}, stdin=end, stdout=end, stderr=end,
    )  # fmt: skip
    os.close(end)
    shown = b""
    try:
        while wanted not in shown:
            assert select.select([terminal], [], [], 60)[0], shown
            with suppress(OSError):  # it has ended
                shown += os.read(terminal, 65536)
            assert child.poll() is None, shown
        os.write(terminal, b"q")
        with suppress(OSError):  # its end
            while data := os.read(terminal, 65536):
                shown += data
        assert child.wait(60) == 0, shown
    finally:
        child.kill()
        child.wait()
        os.close(terminal)
    return shown


def test_a_sealed_recording_is_sought_in(cluster: Cluster, key: tuple[Path, str]) -> None:
    """Its index is sealed, too, and opens with auth's key or the recovery key; its text is nowhere.

    An index that is damaged on the disk is made again, and played meanwhile.
    """
    cluster.ssh("-tt", cluster.host, f"seq 1 60000; echo {WORD}")
    rows = json.loads(cluster.tele("recordings", "ls", "--format", "json").stdout)
    recording = str(rows[0]["id"])
    folder = cluster.folder / "auth" / "recordings" / recording[:2] / recording
    wait_for((folder / "index").exists, "its index", 60)
    blob = (folder / "index").read_bytes()
    assert blob[:4] == b"TLXS"
    assert WORD.encode() not in blob
    for words in ((), ("--identity", str(key[0]))):
        assert b"60000" in played(cluster, recording, WORD.encode(), "--at", "1h", *words)
    file = cluster.folder / "sought.tape"
    cluster.tele("recordings", "export", recording, str(file))
    played(cluster, str(file), WORD.encode(), "--at", "1h", "--identity", str(key[0]))
    found = cluster.tele("recordings", "search", WORD, "--format", "json").stdout
    assert json.loads(found) == []
    text = cluster.folder / "auth" / "recordings-text.sqlite"
    assert WORD.encode() not in text.read_bytes()
    other = cluster.folder / "wrong.key"
    cluster.tele("recordings", "keygen", str(other))
    wrong = cluster.tele("play", recording, "--identity", str(other), check=False)
    assert wrong.returncode == 2
    assert b"not sealed for this key" in wrong.stderr
    (folder / "index").chmod(0o600)
    (folder / "index").write_bytes(blob[: len(blob) // 2])
    assert WORD.encode() in played(cluster, recording, WORD.encode(), "--at", "1h")
    wait_for((folder / "index.1").exists, "the index to be made again", 60)
    assert WORD.encode() in played(cluster, recording, WORD.encode(), "--at", "1h")
    assert cluster.tele("recordings", "verify", recording).stdout.startswith(b"ok:")


def test_a_key_is_not_overwritten(key: tuple[Path, str], cluster: Cluster) -> None:
    """Keygen refuses a file that exists."""
    content = key[0].read_bytes()
    again = cluster.tele("recordings", "keygen", str(key[0]), check=False)
    assert again.returncode == 2
    assert key[0].read_bytes() == content
