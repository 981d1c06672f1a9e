"""Logging in and out: keys stay here, passwords go to a verified server only."""

from __future__ import annotations

import base64
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tele.auth.totp import code_of
from tele.membership.member import RENEW_AT
from tele.model.lifetimes import HOST_LIFETIME
from tele.model.second_factors import STEP_SECONDS
from tele_command import BIN, Cluster, Tele

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def pin(cluster: Cluster) -> str:
    """The pin of a cluster that has a user ``alice``."""
    login = cluster.tele.json("status")["logins"][0]
    cluster.tele.run(
        "users", "add", "alice", "--role", "access,auditor", "--login", login,
        "--password-file", "-", stdin=f"{PASSWORD}\n",
    )  # fmt: skip
    pins: list[str] = cluster.tele.json("status")["ca_pins"]
    return pins[0]


def log_in(
    tele: Tele, cluster: Cluster, *words: str, password: str = PASSWORD, status: int = 0
) -> subprocess.CompletedProcess[str]:
    return tele.run(
        "login", "--proxy", cluster.listen, "--user", "alice", "--password-file", "-", *words,
        stdin=f"{password}\n", status=status,
    )  # fmt: skip


def test_login_with_a_pin(tele: Tele, cluster: Cluster, pin: str) -> None:
    """A pin and a password give certificates with which everything works."""
    done = log_in(tele, cluster, "--ca-pin", pin)
    assert done.stdout == ""
    assert f"logged in to {cluster.name} as alice" in done.stderr
    assert tele.json("status")["roles"] == ["access", "auditor"]
    assert tele.json("status", "--tracing")["tracing"]["nodes"] == 1
    assert " of 1 nodes trace everything\n" in tele.run("status", "--tracing").stdout
    tele.run("ssh", socket.gethostname(), "true")
    listing = subprocess.run(
        ["ssh-keygen", "-Lf", tele.home / cluster.name / "alice-cert.pub"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert 'Key ID: "alice"' in listing


def test_without_a_pin_nothing_is_sent(tele: Tele, cluster: Cluster, pin: str) -> None:
    """Without a terminal to ask on, the first contact needs a pin; the error says so."""
    done = log_in(tele, cluster, status=3)
    assert "--ca-pin" in done.stderr
    assert not (tele.home / cluster.name).exists()


def test_a_wrong_pin_is_refused(tele: Tele, cluster: Cluster, pin: str) -> None:
    """Another cluster gets no password."""
    wrong = "sha256:" + "0" * 64
    assert "pin" in log_in(tele, cluster, "--ca-pin", wrong, status=4).stderr
    assert "not a CA pin" in log_in(tele, cluster, "--ca-pin", "12", status=2).stderr
    assert not (tele.home / cluster.name).exists()


def test_a_wrong_password_is_refused(tele: Tele, cluster: Cluster, pin: str) -> None:
    """The error does not reveal whether the user exists, and the password is stored nowhere."""
    done = log_in(tele, cluster, "--ca-pin", pin, password="wrong-secret", status=4)
    assert "wrong-secret" not in done.stderr
    assert not (tele.home / cluster.name / "alice").exists()
    unknown = tele.run(
        "login", "--proxy", cluster.listen, "--user", "nobody", "--password-file", "-",
        "--ca-pin", pin, stdin="x\n", status=4,
    )  # fmt: skip
    assert unknown.stderr == done.stderr
    assert "wrong-secret" not in cluster.log


def test_the_second_login_needs_no_pin(tele: Tele, cluster: Cluster, pin: str) -> None:
    """What was verified once is remembered; proxy and user, too."""
    log_in(tele, cluster, "--ca-pin", pin)
    tele.run("login", "--password-file", "-", stdin=f"{PASSWORD}\n")
    before = (tele.home / cluster.name / "alice-cert.pub").read_text()
    tele.run("login", "--if-needed")
    assert (tele.home / cluster.name / "alice-cert.pub").read_text() == before


def test_ttl_is_honoured(tele: Tele, cluster: Cluster, pin: str) -> None:
    """A short lifetime can be requested; an invalid one is a usage error."""
    log_in(tele, cluster, "--ca-pin", pin, "--ttl", "5m")
    assert "for 5m" in log_in(tele, cluster, "--ttl", "5m").stderr
    assert "length of time" in log_in(tele, cluster, "--ttl", "soon", status=2).stderr
    assert "has to be positive" in log_in(tele, cluster, "--ttl", "0s", status=2).stderr
    assert "for 12h" in log_in(tele, cluster, "--ttl", "12h").stderr


def test_logout_leaves_nothing_secret(tele: Tele, cluster: Cluster, pin: str) -> None:
    """Keys and certificates are gone; logging in again needs only the password."""
    log_in(tele, cluster, "--ca-pin", pin)
    tele.run("logout")
    assert "not logged in" in tele.fails(3, "ls")
    left = {path.name for path in (tele.home / cluster.name).iterdir()}
    assert left == {"profile.json", "ca.json", "known_hosts", "ssh_config"}
    tele.run("logout")
    tele.run("login", "--password-file", "-", stdin=f"{PASSWORD}\n")
    tele.run("logout", "--all")
    assert "not logged in" in tele.fails(3, "status")


def test_no_server_answers(tele: Tele) -> None:
    """A port where nothing is, and something that is no proxy, are unreachable."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    words = ("login", "--proxy", address, "--ca-pin", "sha256:" + "0" * 64, "--password-file", "-")
    assert "refused" in tele.fails(6, *words, stdin="x\n")
    assert "is not an address" in tele.fails(2, "login", "--proxy", "a b")
    assert "no proxy: give --proxy" in tele.run("login", status=2).stderr


def test_no_terminal_for_the_password(tele: Tele, cluster: Cluster, pin: str) -> None:
    """Without a terminal and without a file it is said what to use."""
    done = tele.run("login", "--proxy", cluster.listen, "--ca-pin", pin, status=2)
    assert "--password-file" in done.stderr


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, tele: Tele, *words: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [str(BIN / "tele"), *words],
            env=tele.environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def wait_for(self, question: str) -> None:
        """Wait until ``question`` is on the screen."""
        deadline = time.monotonic() + 60
        while question not in self.seen:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, self.seen
            self.seen += os.read(self.master, 65536).decode("utf-8", "replace")

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self.master, f"{text}\n".encode())

    def answer(self, question: str, reply: str) -> None:
        """Wait until ``question`` is on the screen, then type ``reply``."""
        self.wait_for(question)
        self.type(reply)

    def end(self) -> int:
        """Wait for the end and return the status."""
        try:
            while data := os.read(self.master, 4096):
                self.seen += data.decode()
        except OSError:
            pass  # Linux says EIO when the other end is closed
        os.close(self.master)
        return self.process.wait(60)


@pytest.fixture
def words(cluster: Cluster, pin: str) -> tuple[str, ...]:
    """A login without a pin."""
    return ("login", "--proxy", cluster.listen, "--user", "alice")


def test_on_a_terminal_the_pin_is_shown(tele: Tele, words: tuple[str, ...], pin: str) -> None:
    """A user compares the pin, then types the password, which is not echoed."""
    terminal = Terminal(tele, *words)
    terminal.answer("[y/N]", "y")
    terminal.answer("Password", PASSWORD)
    assert terminal.end() == 0, terminal.seen
    assert pin in terminal.seen
    assert PASSWORD not in terminal.seen
    assert tele.json("status")["ca_pins"] == [pin]


def test_on_a_terminal_no_is_no(tele: Tele, words: tuple[str, ...], cluster: Cluster) -> None:
    """Without a confirmation nothing is sent and nothing stored."""
    terminal = Terminal(tele, *words)
    terminal.answer("[y/N]", "n")
    assert terminal.end() == 3
    assert "nothing was sent" in terminal.seen
    assert not (tele.home / cluster.name).exists()


def test_a_password_is_changed_on_a_terminal(
    tele: Tele, cluster: Cluster, pin: str, words: tuple[str, ...]
) -> None:
    """It asks for the present one and twice for the new one, and shows none of them."""
    cluster.tele.run("users", "add", "paula", "--password-file", "-", stdin=f"{PASSWORD}\n")
    login = ("login", "--proxy", cluster.listen, "--user", "paula", "--ca-pin", pin)
    tele.run(*login, "--password-file", "-", stdin=f"{PASSWORD}\n")
    terminal = Terminal(tele, "passwd")
    terminal.answer("Present password", PASSWORD)
    terminal.answer("New password", "a fresh battery")
    terminal.answer("Repeat", "a fresh battery")
    assert terminal.end() == 0, terminal.seen
    assert PASSWORD not in terminal.seen
    assert "fresh" not in terminal.seen
    tele.fails(4, *login, "--password-file", "-", stdin=f"{PASSWORD}\n")
    tele.run(*login, "--password-file", "-", stdin="a fresh battery\n")
    assert "is the same as the present one" in tele.fails(
        2, "passwd", "--old-password-file", "-", "--password-file", _file(tele, "x"), stdin="x\n"
    )
    assert "wrong" in tele.fails(
        4, "passwd", "--old-password-file", "-", "--password-file", _file(tele, "y"), stdin="x\n"
    )


def test_an_invitation_is_accepted(tele: Tele, cluster: Cluster, pin: str) -> None:
    """Its user sets a password, in a terminal or from a file; the code is good once."""
    own = cluster.tele.json("status")["logins"][0]
    done = cluster.tele.run("users", "add", "ivy", "--login", own, "--invite", "--invite-ttl", "1h")
    code = done.stdout.strip()
    assert code.startswith("ivy:")
    assert code not in done.stderr
    words = f"login --proxy {cluster.listen} --ca-pin {pin} --invite"
    assert f"ivy types: tele {words}\n" in done.stderr
    terminal = Terminal(tele, *words.split())
    terminal.answer("Invitation", code)
    terminal.answer("New password", PASSWORD)
    terminal.answer("Repeat", PASSWORD)
    assert terminal.end() == 0, terminal.seen
    assert code not in terminal.seen
    tele.run("ssh", socket.gethostname(), "true")
    tele.run("login", "--user", "ivy", "--password-file", "-", stdin=f"{PASSWORD}\n")
    used = (*words.split(), code, "--password-file", "-")
    assert "unknown, expired or used" in tele.fails(4, *used, stdin=f"{PASSWORD}\n")
    made = cluster.tele.json("users", "reset", "ivy", "--invite")
    assert set(made) == {"name", "password", "invitation", "invitation_expires"}
    tele.fails(4, "login", "--user", "ivy", "--password-file", "-", stdin=f"{PASSWORD}\n")
    fresh = (*words.split(), made["invitation"], "--password-file", "-")
    assert "8 to 1024" in tele.fails(2, *fresh, stdin="short\n")
    tele.run(*fresh, stdin="a fresh battery\n")
    for wrong, why in (
        (("login", "--invite", "x"), "not an invitation"),
        (("login", "--invite", "ivy:x", "--user", "alice"), "is for 'ivy'"),
        (("login", "--invite", "ivy:x", "--if-needed"), "--if-needed and --invite exclude"),
    ):
        assert why in tele.fails(2, *wrong)
    for more, why in (
        (("--invite", "--password-file", "-"), "exclude each other"),
        (("--invite-ttl", "1h"), "needs --invite"),
        (("--invite", "--invite-ttl", "30d"), "7 days at most"),
    ):
        assert why in cluster.tele.fails(2, "users", "reset", "ivy", *more, stdin="x\n")
    cluster.tele.run("users", "rm", "ivy")


def _app(terminal: Terminal) -> bytes:
    """Wait for the key of a new authenticator app on the screen."""
    terminal.wait_for("Code that the app shows")
    found = re.search(r"enter the key there: ([A-Z2-7 ]+)", terminal.seen)
    assert found is not None, terminal.seen
    assert "\u2584" in terminal.seen or "\u2580" in terminal.seen  # half blocks of a QR code
    return base64.b32decode(found.group(1).replace(" ", ""))


def _code(secret: bytes, ahead: int = 0) -> str:
    return code_of(secret, int(time.time()) // STEP_SECONDS + ahead)


def test_a_second_factor_on_a_terminal(tele: Tele, cluster: Cluster, pin: str) -> None:
    """An app is set up by its QR code; logins ask for its code, or take it from an option."""
    cluster.tele.run("users", "add", "theo", "--password-file", "-", stdin=f"{PASSWORD}\n")
    login = ("login", "--proxy", cluster.listen, "--user", "theo", "--ca-pin", pin)
    by_file = (*login, "--password-file", _file(tele, PASSWORD))
    tele.run(*by_file)
    terminal = Terminal(tele, "mfa", "add")
    terminal.answer("Your password", PASSWORD)
    secret = _app(terminal)
    terminal.type(_code(secret))
    assert terminal.end() == 0, terminal.seen
    codes = re.findall(r"^((?:[a-z2-7]{4}-){3}[a-z2-7]{4})\r?$", terminal.seen, re.M)
    assert len(codes) == 8
    assert "--otp CODE" in tele.fails(4, *by_file)
    asked = Terminal(tele, *by_file)
    asked.answer("Code of your authenticator app", _code(secret, 1))
    assert asked.end() == 0, asked.seen
    assert "the code is wrong" in tele.fails(4, *by_file, "--otp", _code(secret, 1))
    tele.run(*by_file, "--otp", codes[0])
    listed = tele.json("mfa", "ls")
    assert [each["name"] for each in listed["devices"]] == ["phone"]
    assert listed["recovery_codes"] == 7
    words = ("--password-file", _file(tele, PASSWORD), "--otp")
    fresh = tele.json("mfa", "codes", *words, codes[1])["recovery_codes"]
    assert len(fresh) == 8
    assert "denied" in tele.fails(4, "users", "mfa", "reset", "alice")
    tele.run("mfa", "rm", "phone", *words, fresh[0])
    assert tele.json("mfa", "ls")["devices"] == []
    tele.run(*by_file)
    cluster.tele.run("users", "rm", "theo")


def test_a_second_factor_for_each_session(
    tele: Tele, cluster: Cluster, pin: str, tmp_path: Path
) -> None:
    """Where a role asks for it, ``tele ssh`` does; without a code nothing logs in there."""
    own, here = cluster.tele.json("status")["logins"][0], socket.gethostname()
    role = tmp_path / "role.yaml"
    role.write_text(
        "{kind: role, version: v1, metadata: {name: careful}, spec: {options: {require_mfa: true},"
        " allow: {logins: ['{{internal.logins}}'], node_labels: {'*': '*'}}}}"
    )
    cluster.tele.run("apply", "-f", role)
    cluster.tele.run(
        "users", "add", "cora", "--role", "careful", "--login", own, "--password-file", "-",
        stdin=f"{PASSWORD}\n",
    )  # fmt: skip
    login = ("login", "--proxy", cluster.listen, "--user", "cora", "--ca-pin", pin)
    by_file = (*login, "--password-file", _file(tele, PASSWORD))
    tele.run(*by_file)
    assert "none is set up" in tele.fails(4, "ssh", here, "true")
    terminal = Terminal(tele, "mfa", "add")
    terminal.answer("Your password", PASSWORD)
    secret = _app(terminal)
    terminal.type(_code(secret, -1))
    assert terminal.end() == 0, terminal.seen
    codes = re.findall(r"^((?:[a-z2-7]{4}-){3}[a-z2-7]{4})\r?$", terminal.seen, re.M)
    assert "TELE_OTP" in tele.fails(4, "ssh", here, "true")
    assert "the code is wrong" in tele.fails(4, "ssh", here, "true", TELE_OTP="000000")
    assert tele.run("ssh", here, "echo in", TELE_OTP=_code(secret)).stdout == "in\n"
    asked = Terminal(tele, "ssh", "-T", here, "echo $((6*7)) there")
    asked.answer("Code of your authenticator app", codes[0])
    assert asked.end() == 0, asked.seen
    assert "42 there" in asked.seen
    copied = tmp_path / "copied"
    tele.run("scp", f"{here}:/etc/hostname", copied, TELE_OTP=codes[1])
    assert copied.exists()
    config = tele.home / cluster.name / "ssh_config"
    plain = subprocess.run(
        ["ssh", "-F", config, f"{here}.{cluster.name}", "true"],
        env=tele.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (plain.returncode, "require_mfa" in plain.stderr) == (255, True)
    assert list((tele.home / cluster.name / "cora-sessions").iterdir())
    tele.run("logout")
    assert not (tele.home / cluster.name / "cora-sessions").exists()
    cluster.tele.run("users", "rm", "cora")
    cluster.tele.run("rm", "role/careful")


def test_a_required_second_factor_comes_with_the_invitation(
    tele: Tele, cluster: Cluster, pin: str, tmp_path: Path
) -> None:
    """Where one is required the invitation asks for an app; an administrator can remove it."""
    wanted = tmp_path / "cluster.yaml"
    text = f"{{kind: cluster, version: v1, metadata: {{name: {cluster.name}}}, spec: {{%s}}}}"
    wanted.write_text(text % "second_factor: required")
    assert "tele mfa add" in cluster.tele.fails(1, "apply", "-f", wanted)
    local = ("--config", cluster.folder / "tele.yaml")
    cluster.tele.run("apply", "-f", wanted, *local)
    try:
        refused = log_in(tele, cluster, "--ca-pin", pin, status=4)
        assert "ask an administrator for an invitation" in refused.stderr
        code = cluster.tele.run("users", "add", "rita", "--invite").stdout.strip()
        words = ("login", "--proxy", cluster.listen, "--ca-pin", pin, "--invite", code)
        by_file = (*words, "--password-file", _file(tele, PASSWORD))
        assert "set up on a terminal, or in a browser" in tele.fails(4, *by_file)
        terminal = Terminal(tele, *by_file)
        secret = _app(terminal)
        terminal.type(_code(secret))
        assert terminal.end() == 0, terminal.seen
        assert "recovery codes" in terminal.seen
        done = cluster.tele.run("users", "mfa", "reset", "rita")
        assert "needs an invitation" in done.stderr
        cluster.tele.run("users", "rm", "rita")
    finally:
        wanted.write_text(text % "")
        cluster.tele.run("apply", "-f", wanted, *local)


def _file(tele: Tele, text: str) -> str:
    path = tele.folder / "new-password"
    path.touch(0o600)
    path.write_text(text)
    return str(path)


@pytest.mark.skipif(not shutil.which("ssh-agent"), reason="needs ssh-agent")
def test_a_running_agent_gets_the_certificate(tele: Tele, cluster: Cluster, pin: str) -> None:
    """Login adds key and certificate with the certificate's lifetime; logout removes them."""
    path = tele.folder / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        secret = tele.folder / "password"
        secret.touch(0o600)
        secret.write_text(PASSWORD)
        tele.run(
            "login", "--proxy", cluster.listen, "--user", "alice", "--ca-pin", pin,
            "--password-file", secret, SSH_AUTH_SOCK=str(path),
        )  # fmt: skip
        assert "ED25519-CERT" in identities(path)
        tele.run("logout", SSH_AUTH_SOCK=str(path))
        assert "ED25519" not in identities(path)
    finally:
        agent.kill()
        agent.wait()


def identities(agent: Path) -> str:
    return subprocess.run(
        ["ssh-add", "-l"],
        env={**os.environ, "SSH_AUTH_SOCK": str(agent)},
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def test_a_dead_agent_does_not_matter(tele: Tele, cluster: Cluster, pin: str) -> None:
    """Logging in works without the agent; a note says that it was not used."""
    done = tele.run(
        "login", "--proxy", cluster.listen, "--user", "alice", "--ca-pin", pin,
        "--password-file", "-", stdin=f"{PASSWORD}\n", SSH_AUTH_SOCK=str(tele.folder / "no"),
    )  # fmt: skip
    assert "note: not in the ssh-agent" in done.stderr
    assert tele.json("status")["user"] == "alice"


def test_status_shows_how_long_nodes_use_cached_state(cluster: Cluster) -> None:
    """The window without auth is what is left of a host's certificate when it renews it."""
    alone = cluster.tele.json("status")["without_auth"]
    assert alone["at_most"] == HOST_LIFETIME.total_seconds()
    assert alone["at_least"] == round(HOST_LIFETIME.total_seconds() * (1 - RENEW_AT))
    assert "cached state for 8h to 24h" in cluster.tele.run("status").stdout


def test_others_guesses_do_not_keep_one_out(
    tele: Tele, cluster: Cluster, pin: str, tmp_path: Path
) -> None:
    """After wrong passwords from one address only a known machine can log in from there."""
    login = cluster.tele.json("status")["logins"][0]
    cluster.tele.run(
        "users", "add", "bob", "--role", "access", "--login", login, "--password-file", "-",
        stdin=f"{PASSWORD}\n",
    )  # fmt: skip
    words = ("--user", "bob", "--ca-pin", pin)
    log_in(tele, cluster, *words)
    (tmp_path / "elsewhere").mkdir()
    other = Tele(tmp_path / "elsewhere")
    for _ in range(5):
        log_in(other, cluster, *words, password="wrong-secret", status=4)
    refused = log_in(other, cluster, *words, status=4)
    assert "too many wrong" in refused.stderr
    log_in(tele, cluster, *words)
    events = cluster.tele.json("audit", "ls", "--event", "user.locked_out", "--of", "bob")
    assert [event["source"] for event in events] == ["127.0.0.1"]
    cluster.tele.run("users", "reset", "bob", "--password-file", "-", stdin=f"{PASSWORD}\n")
    log_in(other, cluster, *words)
