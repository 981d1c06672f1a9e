"""OpenSSH reads the configuration that tele writes, and gets arguments unchanged."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tele.cli.openssh import known_hosts, proxy_address
from tele.cli.ssh import _connection_options, destination
from tele.errors import InvalidInput, TeleError
from tele_command import Tele
from test_cli_start import fake_ssh, log_in_by_hand

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")


@pytest.fixture
def logged_in(tele: Tele) -> Tele:
    """A ``tele`` with a certificate for the cluster ``example``."""
    log_in_by_hand(tele, time.time() + 3600)
    return tele


def understood(configuration: Path, host: str) -> dict[str, list[str]]:
    """Return what ssh makes of a configuration for one host."""
    done = subprocess.run(
        ["ssh", "-G", "-F", str(configuration), host],
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    )
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def test_the_configuration_means_what_it_should(logged_in: Tele) -> None:
    """Ssh takes certificates only, ours, and knows hosts by the cluster's authority alone."""
    text = logged_in.run("config").stdout
    path = logged_in.folder / "config"
    path.write_text(text)
    node, proxy = understood(path, "web1.example"), understood(path, "proxy.example")
    folder = logged_in.home / "example"
    for seen in (node, proxy):
        assert seen["identityfile"] == [str(folder / "alice")]
        assert seen["certificatefile"] == [str(folder / "alice-cert.pub")]
        assert seen["identitiesonly"] == ["yes"]
        assert seen["stricthostkeychecking"] == ["true"]
        assert seen["globalknownhostsfile"] == ["/dev/null"]
        assert all("cert-v01" in each for each in seen["hostkeyalgorithms"][0].split(","))
    assert proxy["hostname"] == ["proxy.example.com"]
    assert proxy["port"] == ["3080"]
    assert proxy["user"] == ["alice"]
    assert proxy["hostkeyalias"] == ["proxy.example"]
    assert "proxycommand" not in proxy
    assert proxy["connecttimeout"] == ["10"]
    assert node["connecttimeout"] == ["none"], "a person may have to confirm a key at the proxy"
    assert node["proxycommand"][0].endswith(" proxy ssh --cluster example '%r@%h:%p'")
    assert node["port"] == ["3022"]
    # Names have no regard to case, as those of DNS.
    upper = understood(path, "WEB1.EXAMPLE")
    assert upper["certificatefile"] == node["certificatefile"]
    assert upper["proxycommand"] == node["proxycommand"]
    assert understood(path, "PROXY.EXAMPLE")["hostname"] == ["proxy.example.com"]
    assert "identityfile" not in understood(path, "elsewhere.com") or understood(
        path, "elsewhere.com"
    )["identityfile"] != [str(folder / "alice")]


def test_a_silent_server_gets_keepalives(logged_in: Tele) -> None:
    """OpenSSH's client sends keepalives to a silent proxy or node, often enough for NAT gateways,
    and gives up after minutes, not never.
    """
    path = logged_in.folder / "config"
    path.write_text(logged_in.run("config").stdout)
    for host in ("web1.example", "proxy.example"):
        seen = understood(path, host)
        assert seen["serveraliveinterval"] == ["30"]
        assert seen["serveralivecountmax"] == ["6"]


def test_paths_with_percent_signs(tmp_path: Path) -> None:
    """A percent sign in a path is a percent sign, not a token of ssh's."""
    tele = Tele(tmp_path / "100% mine")
    log_in_by_hand(tele, time.time() + 3600)
    path = tmp_path / "config"
    path.write_text(tele.run("config").stdout)
    seen = understood(path, "web1.example")
    assert seen["identityfile"][0].replace("%%", "%") == str(tele.home / "example" / "alice")


def test_paths_that_ssh_cannot_read_are_refused(tmp_path: Path) -> None:
    """No path can end a line or a quotation in the file."""
    tele = Tele(tmp_path / 'a"b\nHost *')
    log_in_by_hand(tele, time.time() + 3600)
    assert "OpenSSH cannot read the path" in tele.fails(2, "config")


def test_install_adds_one_line_once(logged_in: Tele) -> None:
    """The rest of ~/.ssh/config stays as it is, bytes and mode; twice is once."""
    path = logged_in.folder / ".ssh" / "config"
    path.parent.mkdir(mode=0o700)
    before = b"Host other\n    User caf\xe9\n"
    path.write_bytes(before)
    path.chmod(0o640)
    for _ in range(2):
        said = logged_in.run("config", "--install")
        assert said.stdout == ""
        assert str(path) in said.stderr
    content = path.read_bytes()
    assert content.endswith(b"\n\n" + before)
    assert content.count(b"Include") == 1
    assert content.startswith(b"Include ")
    assert path.stat().st_mode & 0o777 == 0o640
    seen = understood(path, "web1.example")
    assert seen["stricthostkeychecking"] == ["true"]
    assert understood(path, "other")["user"] != ["alice"]


def test_install_makes_what_is_missing(logged_in: Tele) -> None:
    """Without ~/.ssh there is one afterwards, for its owner only."""
    logged_in.run("config", "--install")
    path = logged_in.folder / ".ssh" / "config"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_install_keeps_a_symbolic_link(logged_in: Tele) -> None:
    """A configuration that is a link into a repository stays one."""
    kept = logged_in.folder / "dotfiles"
    kept.write_text("Host x\n")
    (logged_in.folder / ".ssh").mkdir()
    (logged_in.folder / ".ssh" / "config").symlink_to(kept)
    logged_in.run("config", "--install")
    assert (logged_in.folder / ".ssh" / "config").is_symlink()
    assert kept.read_text().endswith("Host x\n")
    assert "Include" in kept.read_text()


@pytest.mark.parametrize(
    ("words", "end"),
    [
        (["web1"], ["web1.example"]),
        (["root@web1", "ls", "-l"], ["root@web1.example", "ls", "-l"]),
        (["web1.example"], ["web1.example"]),
        (["web1.dmz"], ["web1.dmz.example"]),
        (
            ["-tt", "-p", "22", "-l", "bob", "web1"],
            ["-tt", "-p", "22", "-l", "bob", "web1.example"],
        ),
        (["-vp22", "-oUser=x", "web1"], ["-vp22", "-oUser=x", "web1.example"]),
        (["-L", "1:a:2", "--", "web1", "-x"], ["-L", "1:a:2", "--", "web1.example", "-x"]),
        (["ssh://bob@web1:22"], ["ssh://bob@web1.example:22"]),
        (["--cluster", "example", "web1"], ["web1.example"]),
        (["--cluster=example", "-N", "web1"], ["-N", "web1.example"]),
        (["web1", "cat", "--cluster"], ["web1.example", "cat", "--cluster"]),
        (["web1", "echo", "$HOME; a b"], ["web1.example", "echo", "$HOME; a b"]),
    ],
)
def test_words_reach_ssh(logged_in: Tele, words: list[str], end: list[str]) -> None:
    """Only the node's name is completed; options and the command pass as they are."""
    path = f"{fake_ssh(logged_in)}:{logged_in.environment['PATH']}"
    got = logged_in.run("ssh", *words, PATH=path).stdout.splitlines()
    assert got[:2] == ["-F", str(logged_in.home / "example" / "ssh_config")]
    assert got[2:] == end


@pytest.mark.parametrize(
    ("words", "end"),
    [
        (["a", "web1:b"], ["a", "web1.example:b"]),
        (["-r", "root@web1:/x", "."], ["-r", "root@web1.example:/x", "."]),
        (["-P", "22", "./a:b", "/c:d", "web1:"], ["-P", "22", "./a:b", "/c:d", "web1.example:"]),
        (["scp://bob@web1:22/x", "y"], ["scp://bob@web1.example:22/x", "y"]),
    ],
)
def test_words_reach_scp(logged_in: Tele, words: list[str], end: list[str]) -> None:
    """Files on nodes get the node's full name; local ones stay, colons and all."""
    path = f"{fake_ssh(logged_in)}:{logged_in.environment['PATH']}"
    assert logged_in.run("scp", *words, PATH=path).stdout.splitlines()[2:] == end


def test_the_exit_status_is_that_of_ssh(logged_in: Tele) -> None:
    """Whatever ssh ends with, we end with."""
    path = f"{fake_ssh(logged_in, status=42)}:{logged_in.environment['PATH']}"
    logged_in.run("ssh", "web1", status=42, PATH=path)


def test_proxy_ssh_goes_through_the_proxy(logged_in: Tele) -> None:
    """Ssh's ProxyCommand is ssh -W through the proxy."""
    path = f"{fake_ssh(logged_in)}:{logged_in.environment['PATH']}"
    got = logged_in.run("proxy", "ssh", "root@web1.example:3022", PATH=path).stdout.splitlines()
    assert got[2:] == ["-W", "web1.example:3022", "proxy.example"]


def test_proxy_ssh_tries_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the proxy has addresses of both, ssh is handed a socket that is connected: by itself
    it would wait for one that is a black hole. Without a name ssh says what is wrong.
    """
    v4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 3080))
    v6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 3080, 0, 0))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for found, handed in (([v4, v4], False), ([v6], False), ([v6, v4], True)):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: found)
        assert ("ProxyUseFdpass=yes" in _connection_options("proxy.test", 3080)) == handed

    def fails(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert _connection_options("proxy.test", 3080) == []


@pytest.mark.parametrize("target", ["-oProxyCommand=x:22", "a@b", "a@$(x):22", "a@b c:22", "a:b:c"])
def test_proxy_ssh_takes_no_options_for_names(logged_in: Tele, target: str) -> None:
    """Arguments from another user's command line cannot become an option or a command."""
    path = f"{fake_ssh(logged_in)}:{logged_in.environment['PATH']}"
    assert "NODE:PORT" in logged_in.fails(2, "proxy", "ssh", "--", target, PATH=path)


def test_another_configuration_is_refused(logged_in: Tele) -> None:
    """``-F`` would take away what makes the node reachable, and its host known."""
    assert "-F" in logged_in.fails(2, "ssh", "-F", "/dev/null", "web1")
    assert "-F" in logged_in.fails(2, "ssh", "web1", "-F/dev/null")
    assert "no node given" in logged_in.fails(2, "ssh")


@pytest.mark.parametrize(
    "words",
    [
        ["-i", "deploy", "web1"], ["-ideploy", "web1"], ["-ti", "deploy", "web1"],
        ["web1", "-i", "deploy"], ["-o", "IdentityFile=deploy", "web1"],
        ["-oidentityfile deploy", "web1"], ["-o", " CertificateFile=x", "web1"], ["-tF/x", "web1"],
    ],
)  # fmt: skip
def test_another_identity_is_refused(logged_in: Tele, words: list[str]) -> None:
    """A key given with -i would be tried after the user's own certificate, and log in as them."""
    path = f"{fake_ssh(logged_in)}:{logged_in.environment['PATH']}"
    assert "tele config" in logged_in.fails(2, "ssh", *words, PATH=path)
    logged_in.run("ssh", "-p", "-i", "-o", "IdentitiesOnly=yes", "web1", "x", "-i", PATH=path)


def test_the_configuration_for_another_key_has_nothing_of_the_user(logged_in: Tele) -> None:
    """Key, certificate, name at the proxy and authority are those of the key; a key without a
    certificate is refused with what to type.
    """
    key = logged_in.folder / "deploy"
    assert "no file" in logged_in.fails(2, "config", "--identity", key)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    assert "tele ca sign-user deploy.pub" in logged_in.fails(2, "config", "--identity", key)
    (logged_in.folder / "deploy-cert.pub").write_text("x\n")
    assert "is not an SSH certificate" in logged_in.fails(2, "config", "--identity", key)
    subprocess.run(
        ["ssh-keygen", "-q", "-s", key, "-I", "robot", "-n", "www", f"{key}.pub"], check=True
    )
    assert "--install" in logged_in.fails(2, "config", "--install", "--identity", key)
    text = logged_in.run("config", "--identity", key).stdout
    assert "alice" not in text
    assert str(logged_in.home) not in text
    path = logged_in.folder / "config"
    path.write_text(text)
    node, proxy = understood(path, "web1.example"), understood(path, "proxy.example")
    assert node["identityfile"] == proxy["identityfile"] == [str(key)]
    assert node["certificatefile"] == [f"{key}-cert.pub"]
    assert node["proxyjump"] == ["proxy.example"]
    assert proxy["user"] == ["robot"]
    assert (logged_in.folder / "deploy-known_hosts").read_text().startswith("@cert-authority *.ex")


def test_missing_openssh_is_reported(logged_in: Tele) -> None:
    """A machine without OpenSSH gets a sentence with the package's name."""
    for words in (["ssh", "web1"], ["scp", "a", "web1:"], ["up"], ["config", "--install"]):
        said = logged_in.fails(1, *words, PATH="/nowhere")
        assert "openssh-client" in said


@pytest.mark.parametrize("word", ["", "-x", "root@", "root@-oA=b", "@"])
def test_what_is_no_destination(word: str) -> None:
    """A destination is never an option."""
    with pytest.raises(InvalidInput):
        destination(word, "example", lambda labels: labels)


@pytest.mark.parametrize("text", ["", "a:b", "a:0", "a:99999", "a b:1", "-x:1", "a\n:1", "%h:1"])
def test_what_is_no_address_of_a_proxy(text: str) -> None:
    """It is written into a configuration: nothing else may be."""
    with pytest.raises(InvalidInput):
        proxy_address(text)


def test_keys_are_only_keys() -> None:
    """A line break in what auth sent adds no line to known_hosts."""
    with pytest.raises(TeleError):
        known_hosts("c", ("ssh-ed25519 AAAA\n* ssh-rsa BBBB",))
