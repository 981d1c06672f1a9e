"""What a user left in their home runs nothing where a role leaves less than a shell (attacks)."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define

from private_machine import account, machine, make_machine, read_all
from small_cluster import SmallCluster, SmallNode, set_options, small_cluster
from tele.model.frame import FrameKind
from tele.testing.recorder import MemoryRecorder

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("useradd") is None, reason="useradd is not installed"),
    pytest.mark.skipif(shutil.which("sftp") is None, reason="OpenSSH's sftp is not installed"),
]

#: What shells, sshd and PAM's modules read of a user's home before anything else.
START_UP_FILES = (
    ".bashrc", ".bash_profile", ".bash_login", ".profile", ".bash_env", ".zshenv", ".zshrc",
    ".cshrc", ".tcshrc", ".login", ".kshrc", ".shrc", ".config/fish/config.fish", ".ssh/rc",
)  # fmt: skip
SETTINGS = {
    ".ssh/environment": "BASH_ENV={home}/.bash_env\nENV={home}/.bash_env\n",
    ".pam_environment": "BASH_ENV DEFAULT={home}/.bash_env\nENV DEFAULT={home}/.bash_env\n",
}


@define
class Client:
    """A user with an account of their own on a node that records."""

    cluster: SmallCluster
    node: SmallNode
    recorder: MemoryRecorder
    account: pwd.struct_passwd

    @property
    def marker(self) -> Path:
        """What their start-up files make."""
        return Path(self.account.pw_dir) / "it-ran"

    def words(self, *words: str) -> list[str]:
        """The arguments of OpenSSH's client: options stand before the node, others after it."""
        options = [word for word in words if word.startswith("-")]
        rest = [word for word in words if not word.startswith("-")]
        login = self.account.pw_name
        return self.cluster.ssh_words("alice", self.node, *options, "127.0.0.1", *rest, login=login)

    def ssh(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run ssh to its end."""
        return self.cluster.run("ssh", *self.words(*words), stdin=b"")

    def sftp(self, *words: str, batch: str = "pwd\n") -> subprocess.CompletedProcess[bytes]:
        """Have OpenSSH's sftp speak with whatever answers these words of ssh."""
        direct = shlex.join(["ssh", *self.words(*words)])
        return self.cluster.run("sftp", "-b", "-", "-D", direct, stdin=batch.encode())

    def upload_start_up_files(self) -> None:
        """Put every file that may be read before a command there, with what they may do."""
        home = self.account.pw_dir
        folder = self.cluster.folder / "start-up"
        folder.mkdir()
        script = f"echo ran >> {self.marker}\necho ESCAPED\n"
        texts = dict.fromkeys(START_UP_FILES, script)
        texts |= {name: text.format(home=home) for name, text in SETTINGS.items()}
        batch = ["-mkdir .ssh", "-mkdir .config", "-mkdir .config/fish"]
        for number, (name, text) in enumerate(texts.items()):
            (folder / str(number)).write_text(text)
            batch += [f"put {folder}/{number} {name}", f"chmod 700 {name}"]
        done = self.sftp("-s", "sftp", batch="\n".join(batch) + "\n")
        assert done.returncode == 0, done.stderr

    def launched(self) -> list[tuple[str, str]]:
        """What was launched, by the recordings."""
        opened = [f.data for f in self.recorder.frames if f.kind is FrameKind.OPEN]
        expected = [json.loads(data) for data in opened]
        return [(each["kind"], each["command"]) for each in expected]


@pytest.fixture(params=["/bin/bash", "/bin/sh"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    """A user with that shell."""
    with account(request.param) as made:
        yield from clients(made, tmp_path)


def clients(made: pwd.struct_passwd, folder: Path) -> Iterator[Client]:
    with small_cluster(folder) as cluster:
        cluster.person("alice", made.pw_name)
        recorder = MemoryRecorder()
        yield Client(cluster, cluster.node(recorder=recorder), recorder, made)


def test_the_files_would_run(client: Client) -> None:
    """A command without a restriction does begin with one of these files, where bash runs it."""
    client.upload_start_up_files()
    assert client.ssh("true").returncode == 0
    assert client.marker.exists() is (client.account.pw_shell == "/bin/bash")


@pytest.mark.parametrize(
    "words",
    [("-s", "sftp"), ("id",), (), ("-s", "unknown")],
    ids=["subsystem", "command", "shell", "other"],
)
def test_files_only_runs_no_file(client: Client, words: tuple[str, ...]) -> None:
    """A role that leaves files is not left by uploading what shells begin with (attack)."""
    set_options(client.cluster, client.node, force_command="internal-sftp")
    client.upload_start_up_files()
    done = client.sftp(*words)
    assert f"Remote working directory: {client.account.pw_dir}".encode() in done.stdout, done
    shown = client.ssh("-tt", *words)
    assert b"ESCAPED" not in done.stdout + done.stderr + shown.stdout + shown.stderr
    assert not client.marker.exists()
    assert set(client.launched()[:2]) == {("subsystem", "sftp")}


def test_sftp_runs_no_file(client: Client) -> None:
    """Where a shell is allowed, too: what is recorded as files is never a shell (attack)."""
    client.upload_start_up_files()
    assert client.sftp("-s", "sftp").returncode == 0
    done = client.ssh("-s", "sftp")
    assert b"ESCAPED" not in done.stdout + done.stderr
    assert not client.marker.exists()
    assert set(client.launched()) == {("subsystem", "sftp")}


@pytest.mark.parametrize(
    "words",
    [("-s", "sftp"), ("id",), ("-T",), ("-tt",), ("-tt", "id")],
    ids=["subsystem", "command", "shell", "terminal", "command on terminal"],
)
def test_a_forced_command_runs_no_file(client: Client, words: tuple[str, ...]) -> None:
    """A command that a role forces begins before anything of the user's (attack)."""
    client.upload_start_up_files()
    command = 'echo "alone [$BASH_ENV$ENV]"'
    set_options(client.cluster, client.node, force_command=command)
    done = client.ssh(*words)
    assert done.stdout.replace(b"\r", b"") == b"alone []\n", done
    assert not client.marker.exists()
    assert client.launched()[-1] == ("exec", command)


def test_an_account_with_a_shell_of_its_own(tmp_path: Path) -> None:
    """A shell that is a menu is asked by everything, on the record; the file server, which asks
    no shell, is refused (attack).
    """
    with tempfile.TemporaryDirectory() as name:
        menu = Path(name) / "menu"
        menu.parent.chmod(0o755)
        menu.write_text('#!/bin/sh\necho "menu [$*]"\n')
        menu.chmod(0o755)
        with account(str(menu)) as made:
            for client in clients(made, tmp_path):
                done = client.ssh("-s", "sftp")
                assert b"menu [" not in done.stdout
                assert b"no sftp" in done.stderr
                assert client.ssh("id").stdout == b"menu [-c id]\n"
                set_options(client.cluster, client.node, force_command="backup")
                assert client.ssh("-s", "sftp").stdout == b"menu [-c backup]\n"
                output = [f.data for f in client.recorder.frames if f.kind is FrameKind.OUTPUT]
                assert b"".join(output) == b"menu [-c id]\nmenu [-c backup]\n"


def test_an_account_that_is_for_no_sessions(tmp_path: Path) -> None:
    """An account whose shell is nologin gets no session, and no forwards without one (attack)."""
    with account("/usr/sbin/nologin") as made:
        for client in clients(made, tmp_path):
            for words in (("-Wlocalhost:9",), ("-N", "-R0:localhost:9"), ("-s", "sftp"), ("id",)):
                done = client.ssh(*words)
                assert done.returncode == 255
                assert b"is not for logging in" in done.stderr
            assert not client.recorder.frames


# -- PAM ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def user() -> Iterator[pwd.struct_passwd]:
    """An account with bash."""
    with account("/bin/bash") as made:
        yield made


@pytest.fixture
def root(tmp_path: Path, user: pwd.struct_passwd) -> Path:
    """The files of a machine whose PAM lets users set variables, as Debian's long did for sshd."""
    make_machine(tmp_path)
    tmp_path.chmod(0o755)
    home = Path(user.pw_dir)
    (home / ".bash_env").write_text(f"echo ran >> {home}/it-ran\n")
    (home / "variables").write_text(
        f"BASH_ENV={home}/.bash_env\nPATH={home}/bin:/usr/bin:/bin\nLANG=C.UTF-8\n"
    )
    (tmp_path / "etc/environment").write_text("FROM_MACHINE=yes\n")
    (tmp_path / "etc/pam.d/tele-test").write_text(
        f"account required pam_permit.so\nsession required pam_env.so envfile={home}/variables\n"
    )
    return tmp_path


def test_variables_that_pam_takes_from_the_user(root: Path, user: pwd.struct_passwd) -> None:
    """A forced command has none of them that could change what runs; a plain one may (attack)."""
    marker = Path(user.pw_dir) / "it-ran"
    command = b"env; bash -c true; exit 0"  # a second shell, as scripts are
    with machine(root, pam="tele-test") as it:
        text, report = it.run(user.pw_name, command, kind="forced")
        assert report["status"] == 0, text
        assert "BASH_ENV" not in text
        assert f"{user.pw_dir}/bin" not in text
        assert "LANG=C.UTF-8" in text.splitlines()
        assert "FROM_MACHINE=yes" in text.splitlines()
        assert not marker.exists()
        assert "BASH_ENV" in it.run(user.pw_name, command)[0]
        assert marker.exists()


def test_the_file_server_has_none_either(root: Path, user: pwd.struct_passwd) -> None:
    """Its process shows its initial environment: no variable, no argument of the user (attack)."""
    with machine(root, pam="tele-test") as it:
        reading, feed = os.pipe()
        output, report = it.start(user.pw_name, kind="sftp", stdin=reading)
        os.close(reading)
        assert report["event"] == "started", report
        began = Path(f"/proc/{report['pid']}")
        variables = (began / "environ").read_bytes().split(b"\0")
        words = (began / "cmdline").read_bytes().split(b"\0")
        os.close(feed)
        read_all(output)
        assert it.report()["status"] == 0
    assert words == [b"sftp-server", b""]
    names = {each.partition(b"=")[0] for each in variables if each}
    assert {b"HOME", b"PATH", b"LANG", b"FROM_MACHINE"} <= names
    assert b"BASH_ENV" not in names
    assert all(user.pw_dir.encode() + b"/bin" not in each for each in variables)
