"""What auth acknowledged is stored after kill -9, also if other processes used its files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import evolve

from lone_auth import CLUSTER, READ_STORE, Ledger, LoneAuth, in_python
from three_processes import BIN, free_port, wait_for


@pytest.fixture
def auth(tmp_path: Path) -> Iterator[LoneAuth]:
    """A running auth."""
    running = LoneAuth(tmp_path)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def second_auth(auth: LoneAuth, other: LoneAuth | None = None) -> None:
    """Start a second auth on the same files; it has to be refused at once."""
    other = other or auth
    assert auth.process is not None
    with unchanged(auth):
        done = subprocess.run(
            other.words(), cwd=auth.folder, env=auth.surroundings, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    refusal = f"the auth of {auth.data_dir} runs already: process {auth.process.pid}; stop it"
    assert refusal in done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot listen" not in done.stderr


@contextmanager
def unchanged(auth: LoneAuth) -> Iterator[None]:
    """What is done here changes no file of auth, which is stopped meanwhile: it writes to them of
    its own accord.
    """
    assert auth.process is not None
    auth.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: _is_stopped(auth.process), "auth to stop")
        before = snapshot(auth.data_dir)
        yield
        assert snapshot(auth.data_dir) == before
    finally:
        auth.process.send_signal(signal.SIGCONT)


def _is_stopped(process: subprocess.Popen[bytes] | None) -> bool:
    assert process is not None
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, size and mode of each file of auth."""
    return {
        str(path): (found.st_ino, found.st_size, found.st_mode)
        for path in sorted(folder.rglob("*"))
        for found in [path.lstat()]
    }


def read_by_python(auth: LoneAuth) -> None:
    assert int(in_python(READ_STORE, auth.data_dir / "auth.sqlite")) > 0


def read_by_sqlite3(auth: LoneAuth) -> None:
    if not (program := shutil.which("sqlite3")):
        pytest.skip("needs the program sqlite3")
    words = [program, str(auth.data_dir / "auth.sqlite"), "SELECT count(*) FROM items"]
    assert int(subprocess.run(words, check=True, capture_output=True, timeout=60).stdout) > 0


def back_up(auth: LoneAuth) -> None:
    """Take a backup with SQLite's own interface for it."""
    program = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as source, sqlite3.connect(sys.argv[2]) as target:
    source.backup(target)
source.close(), target.close()
"""
    target = auth.folder / "backup"
    in_python(program, auth.data_dir / "auth.sqlite", target)
    assert int(in_python(READ_STORE, target)) > 0


def vacuum_into(auth: LoneAuth) -> None:
    """Take a backup as docs/howto/backup says."""
    program = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1])
file.execute("VACUUM INTO ?", sys.argv[2:])
file.close()
"""
    target = auth.folder / f"backup.{time.monotonic_ns()}"
    in_python(program, auth.data_dir / "auth.sqlite", target)
    assert int(in_python(READ_STORE, target)) > 0


def verify_offline(auth: LoneAuth) -> None:
    """Check the store beside auth, as an auditor would."""
    done = auth.run("audit", "verify", "--store", str(auth.data_dir / "auth.sqlite"))
    assert done.returncode == 0, done.stderr


def administer_locally(auth: LoneAuth) -> None:
    """Work on auth's own machine, beside it."""
    done = auth.run("tokens", "add", "--config", str(auth.config))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "touch",
    [second_auth, read_by_python, read_by_sqlite3, back_up, vacuum_into, verify_offline,
     administer_locally],
)  # fmt: skip
def test_nothing_acknowledged_is_lost(auth: LoneAuth, touch: object) -> None:
    """A program that opens auth's files and closes them takes nothing along: what is acknowledged
    before, and after, is there when auth is killed and starts again.
    """
    assert callable(touch)
    ledger = Ledger(auth)
    ledger.add()
    for _ in range(2):
        touch(auth)
        ledger.add()
    auth.kill()
    auth.start()
    assert ledger.missing() == []
    verify_offline(auth)


def commands(section: str, auth: LoneAuth, target: Path) -> str:
    """The commands of a section of docs/howto/backup, for other folders of auth and of backups."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "backup.rst").read_text()
    blocks = text.split(f"\n{section}\n---")[1].split("\n---")[0].split("::\n\n")[1:]
    script = "\n".join(block.split("\n\n")[0] for block in blocks)
    for folder in ("/backup", "/root", "/etc/tele"):
        script = script.replace(f"{folder}/", f"{target}/")
    script = script.replace("tele backup ", f"tele backup --config {auth.config} ")
    return script.replace("/var/lib/tele", str(auth.data_dir))


def test_the_backup_of_the_documentation(auth: LoneAuth) -> None:
    """The commands in docs/backup, run while auth works, give a backup from which everything that
    was acknowledged before is there again.
    """
    backups = auth.folder / "backups"
    backups.mkdir()
    ledger = Ledger(auth)
    ledger.add(2)

    def do(section: str, where: LoneAuth) -> str:
        environment = {**where.surroundings, "PATH": f"{BIN}:{os.environ['PATH']}"}
        script = commands(section, where, backups)
        done = subprocess.run(
            ["sh", "-eux"], input=script, env=environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = do("Taking one", auth)
    Ledger(auth).add()  # it still works
    auth.stop()
    restored = LoneAuth(auth.folder / "restored")
    assert do("Restoring", restored) == shown
    restored.start()
    try:
        assert evolve(ledger, auth=restored).missing() == []
    finally:
        restored.stop()


#: ``sitecustomize`` of an auth that notes each file of the store that Python opens for it; what
#: SQLite opens by itself is not seen here.
WATCH_OPENING = """
import os, sys
def watch(name, details):
    store = str(name == "open" and details[0]).endswith(("auth.sqlite", "-wal", "-shm"))
    if not store or details[2] & os.O_EXCL:
        return
    if os.path.exists(details[0]):
        note = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(note, f"{details[0]}\\n".encode())
        os.close(note)
sys.addaudithook(watch)
"""


def test_only_sqlite_opens_the_store(tmp_path: Path) -> None:
    """Auth itself opens none of the store's files that are there, whatever it does: closing one
    would drop the locks that SQLite has on it.
    """
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH_OPENING)
    opened = tmp_path / "opened"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "OPENED": str(opened)}
    auth = LoneAuth(tmp_path, environment=environment)
    ledger = Ledger(auth)
    for _ in range(2):
        auth.start()
        try:
            ledger.add()
            verify_offline(auth)
            assert ledger.missing() == []
        finally:
            auth.stop()
    assert not opened.exists() or opened.read_text() == ""
    # The watch works: this is what it would have seen.
    path = auth.data_dir / "auth.sqlite"
    words = [sys.executable, "-c", "import sys; open(sys.argv[1]).close()", str(path)]
    subprocess.run(words, env=auth.surroundings, check=True, timeout=60)
    assert opened.read_text() == f"{path}\n"


def test_the_folder_is_refused_whatever_the_port(auth: LoneAuth) -> None:
    """A second auth is refused for the folder, also when its port is free; once the first is
    killed the folder is free.
    """
    other = LoneAuth(auth.folder / "other", data_dir=auth.data_dir)
    other.folder.mkdir()
    other.configure()
    second_auth(auth, other)
    auth.kill()
    other.start()
    other.stop()


def test_a_daemon_keeps_the_folder(tmp_path: Path) -> None:
    """Twistd forks to become a daemon: the folder stays locked, by the daemon's number."""
    auth = LoneAuth(tmp_path)
    auth.configure()
    pid_file = tmp_path / "pid"
    words = auth.words("--pidfile", str(pid_file), "--logfile", str(auth.log))
    subprocess.run(words, cwd=tmp_path, check=True, timeout=60, env=auth.surroundings)
    daemon = os.pidfd_open(int(pid_file.read_text()))
    try:
        wait_for((auth.data_dir / "auth.sock").exists, "the daemon to serve")
        done = subprocess.run(
            auth.words(), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
            env=auth.surroundings,
        )  # fmt: skip
        assert done.returncode == 1
        assert f"runs already: process {pid_file.read_text().strip()};" in done.stderr
    finally:
        signal.pidfd_send_signal(daemon, signal.SIGTERM)
        wait_for(lambda: not pid_file.exists(), "the daemon to end")
        os.close(daemon)


def test_tele_up_and_twistd_keep_off_each_other(tmp_path: Path) -> None:
    """A cluster of ``tele up`` is refused to each of twistd's services, and the other way round."""
    folder = tmp_path / "up"
    environment = {**os.environ, "HOME": str(tmp_path), "TELE_HOME": str(tmp_path / "home")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip

    up = (str(BIN / "tele"), "up", "--dir", str(folder), "--detach")
    listen = ("--listen", f"127.0.0.1:{free_port()}")
    config = ("--config", str(folder / "tele.yaml"))
    started = run(*up, *listen)
    assert started.returncode == 0, started.stderr
    try:
        running = (folder / "tele.pid").read_text().strip()
        for name, part in (("tele-auth", "auth"), ("tele-proxy", "proxy"), ("tele-node", "node"),
                           ("tele", "auth")):  # fmt: skip
            done = run(str(BIN / "twistd"), "-n", "--pidfile=", name, *config)
            assert done.returncode == 1
            assert f"the {part} of {folder} runs already: process {running};" in done.stderr
    finally:
        run(str(BIN / "tele"), "down", "--dir", str(folder))
    with (
        (tmp_path / "node.log").open("wb") as log,
        subprocess.Popen(
            [str(BIN / "twistd"), "-n", "--pidfile=", "tele", *config],
            cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        ) as process,
    ):  # fmt: skip
        try:
            wait_for(lambda: _connects(folder / "auth.sock"), "auth to serve")
            done = run(*up, "--listen", f"127.0.0.1:{free_port()}")
            assert done.returncode == 1
            assert re.search(rf"the auth of {folder} runs already: process {process.pid};",
                             done.stderr)  # fmt: skip
        finally:
            process.terminate()


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_embedding_keeps_the_folder(auth: LoneAuth) -> None:
    """A program that embeds auth is refused the folder of one that runs, and leaves it alone."""
    program = f"""
import sys
from pathlib import Path
from twisted.internet import reactor
from tele.config.values import Address, AuthConfig
from tele.embed import auth_service
from tele.errors import Conflict
try:
    auth_service(reactor, AuthConfig("{CLUSTER}", Address("127.0.0.1", 0)), Path(sys.argv[1]))
except Conflict as error:
    print(error)
"""
    assert auth.process is not None
    with unchanged(auth):
        assert f"runs already: process {auth.process.pid};" in in_python(program, auth.data_dir)


def test_parts_of_one_data_dir_in_processes_of_their_own(auth: LoneAuth) -> None:
    """Auth, and a node beside it with the same data_dir, both work: they share no file."""
    made = auth.run("tokens", "add", "--format", "json", "--config", str(auth.config))
    token = json.loads(made.stdout)
    secret = auth.folder / "token"
    secret.touch(0o600)
    secret.write_text(token["token"])
    config = auth.folder / "node.yaml"
    config.write_text(
        f"version: v1\ndata_dir: {auth.data_dir}\nnode:\n  name: web1\n  listen: 127.0.0.1:0\n"
        f"  join: {{auth: '127.0.0.1:{auth.port}', token_file: {secret},"
        f" ca_pin: '{token['ca_pin']}'}}\n"
    )
    with (auth.folder / "node.log").open("wb") as log:
        node = subprocess.Popen(
            [str(BIN / "twistd"), "-n", "--pidfile=", "tele-node", "--config", str(config)],
            cwd=auth.folder, env=auth.surroundings, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log,
        )  # fmt: skip
    try:

        def online() -> bool:
            assert node.poll() is None, (auth.folder / "node.log").read_text()
            listed = auth.run("ls", "--format", "names", "--config", str(auth.config))
            return listed.stdout == "web1\n"

        wait_for(online, "the node to be listed")
    finally:
        node.terminate()
        node.wait()
