"""The examples of Twisted's documentation run on our classes; only their imports change."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest
from attrs import frozen

import twisted_examples
from tele.certs.keys import PrivateKey

pytestmark = [
    pytest.mark.skipif(
        not twisted_examples.DISTRIBUTION.exists(), reason="tests/run gets Twisted's examples"
    ),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed"),
]


@frozen
class Server:
    """The example, running."""

    port: int
    folder: Path
    process: subprocess.Popen[str]

    @property
    def keys(self) -> Path:
        return self.folder / "ssh-keys"

    def ssh(self, *options: str, key: str = "client_rsa") -> list[str]:
        """Return the command line of OpenSSH's client."""
        arguments = (
            f"Port={self.port}", "BatchMode=yes", f"IdentityFile={self.keys}/{key}",
            "IdentitiesOnly=yes", f"UserKnownHostsFile={self.folder}/known_hosts",
            "GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes", "User=user",
            "HostKeyAlias=example",
        )  # fmt: skip
        given = [option for each in arguments for option in ("-o", each)]
        return ["ssh", "-F", "none", *given, *options, "127.0.0.1"]


def make_key(folder: Path, name: str) -> None:
    """Make an RSA key as the example needs it."""
    key = PrivateKey.generate("ssh-rsa")
    (folder / name).touch(0o600)
    (folder / name).write_bytes(key.to_openssh())
    (folder / f"{name}.pub").write_text(f"{key.public.line} example\n")


@contextmanager
def example_server(folder: Path) -> Iterator[Server]:
    """Run the example in ``folder``."""
    keys = folder / "ssh-keys"
    keys.mkdir()
    for name in ("ssh_host_rsa_key", "client_rsa", "other"):
        make_key(keys, name)
    host = (keys / "ssh_host_rsa_key.pub").read_text()
    (folder / "known_hosts").write_text(f"example {host}")
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, twisted_examples.__file__, "server"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, (folder / "log").read_text()
            yield Server(int(line), folder, process)
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example, for all tests here."""
    with example_server(tmp_path_factory.mktemp("example")) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_processes_left() -> None:
    """The server ends with the module and not with each test."""


def test_only_imports_change() -> None:
    """Line by line the example is Twisted's, but for lines that import."""
    before = twisted_examples.read_example("sshsimpleserver.py")
    after = twisted_examples.change_imports(before)
    changed = set(after.splitlines()) - set(before.splitlines())
    assert changed == {
        "from twisted.conch.ssh import keys",
        "from tele.embed.ssh import connection, factory, session, userauth",
        "from tele.embed.ssh.transport import SSHServerTransport",
    }


def test_openssh_logs_in_with_a_key(server: Server) -> None:
    """The shell of the example echoes; Ctrl-C ends it."""
    with subprocess.Popen(
        server.ssh("-tt"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as ssh:
        assert ssh.stdin is not None
        assert ssh.stdout is not None
        try:
            ssh.stdin.write(b"hello\n")
            ssh.stdin.flush()
            assert ssh.stdout.readline() == b"hello\n"
            ssh.stdin.write(b"\x03")
            ssh.stdin.flush()
            assert ssh.stdout.read() == b""
            ssh.wait(30)
        finally:
            ssh.kill()


def test_an_unknown_key_is_refused(server: Server) -> None:
    """The checker of the example decides."""
    done = subprocess.run(
        server.ssh("-T", key="other"), stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 255
    assert b"Permission denied (publickey,password)" in done.stderr


def test_a_wrong_password_is_refused(server: Server) -> None:
    """Passwords are offered, as the example has a checker for them, which refuses this one."""
    transport = paramiko.Transport(("127.0.0.1", server.port))
    transport.start_client(timeout=30)
    try:
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_password("user", "wrong")
    finally:
        transport.close()


def test_a_command_is_refused(server: Server) -> None:
    """The example raises; standard error and the exit status report it."""
    done = subprocess.run(
        [*server.ssh("-T"), "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (254, b"")
    assert b"could not be started" in done.stderr


def test_the_example_of_a_client(server: Server) -> None:
    """Twisted's client example against the server example, both on ours."""
    blob = (server.keys / "ssh_host_rsa_key.pub").read_text().split()[1]
    digest = hashlib.md5(base64.b64decode(blob), usedforsecurity=False).hexdigest()
    fingerprint = ":".join(digest[i : i + 2] for i in range(0, 32, 2))
    done = subprocess.run(
        [sys.executable, twisted_examples.__file__, "client", str(server.port), fingerprint],
        cwd=server.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "ignore"}, check=False,
    )  # fmt: skip
    assert "true status was: 254" in done.stdout, done.stdout + done.stderr
    assert "false status was: 254" in done.stdout
    assert "got data from cat: b''" in done.stdout


def test_the_client_knows_a_wrong_server(server: Server) -> None:
    """``verifyHostKey`` of the example fails: the client has sent nothing."""
    example = twisted_examples.__file__
    process = subprocess.Popen(
        ["timeout", "60", sys.executable, "-u", example, "client", str(server.port), "00:11"],
        cwd=server.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        try:
            seen = []
            for line in process.stdout:
                seen.append(line)
                if "Bad server key" in line or "status was" in line:
                    break
            assert "Bad server key" in seen[-1], seen
        finally:
            process.terminate()
