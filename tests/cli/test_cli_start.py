"""Commands that run once for each connection start fast: a test of what they import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from tele.cli.auth_client import running_socket
from tele.cli.home import CertificateSummary, Home, Profile
from tele_command import Tele

#: What is slow to import, or has no business in a command that only decides.
SLOW = {"twisted", "zope", "attr", "attrs", "cattrs", "cryptography", "ssl", "ruamel", "pyasn1"}


def log_in_by_hand(tele: Tele, expires: float) -> Home:
    """Make a home as a login leaves it; keys that are never used are left out."""
    home = Home(tele.home)
    profile = Profile("example", "proxy.example.com:3080", "alice", ("sha256:00",))
    home.save_profile(profile)
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ/ws5AfCc8yCqZUnhu0i+FlQ+t6OSzyomSdlu7pAEkZ"
    authorities = [{"kind": "host", "ssh_public_keys": [key], "tls_certificates": [], "pins": []}]
    home.write(home.files(profile).authorities, json.dumps(authorities))
    home.save_summary(profile, CertificateSummary("alice", ("root",), ("access",), expires))
    return home


def fake_ssh(tele: Tele, status: int = 0) -> Path:
    """Put programs into a folder that say how they were called."""
    folder = tele.folder / "bin"
    folder.mkdir()
    for name in ("ssh", "scp"):
        (folder / name).write_text(f'#!/bin/sh\nfor a; do echo "$a"; done\nexit {status}\n')
        (folder / name).chmod(0o755)
    return folder


def imported(tele: Tele, *words: str, **environment: str) -> set[str]:
    """Return the top-level names of all modules that a command imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tele.cli", *words],
        env={**tele.environment, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_proxy_ssh_imports_little(tele: Tele) -> None:
    """``tele proxy ssh`` becomes ssh without Twisted, attrs or cryptography."""
    log_in_by_hand(tele, time.time() + 3600)
    path = f"{fake_ssh(tele)}:{tele.environment['PATH']}"
    names = imported(tele, "proxy", "ssh", "root@web1.example:3022", PATH=path)
    assert "tele" in names
    assert not names & SLOW


def test_login_if_needed_imports_little(tele: Tele) -> None:
    """``tele login --if-needed`` with a valid certificate only reads it."""
    log_in_by_hand(tele, time.time() + 3600)
    assert not imported(tele, "login", "--if-needed") & SLOW
    tele.run("login", "--if-needed", "--proxy", "proxy.example.com")  # the port is the usual one


def test_help_and_completion_import_little(tele: Tele) -> None:
    """Help and completion of names come from a table."""
    assert not imported(tele, "--help") & SLOW
    completing = {"_TELE_COMPLETE": "bash_complete", "COMP_WORDS": "tele lo", "COMP_CWORD": "1"}
    assert not imported(tele, **completing) & SLOW


def test_a_replay_imports_no_checks_and_no_rules() -> None:
    """``tele play`` of a recording at auth checks no certificate, opens nothing that is sealed,
    exports nothing, and reads of a configuration only where auth is.
    """
    program = (
        "import sys, tele.cli.play, tele.cli.player, tele.cli.positions, tele.cli.auth_client,"
        " tele.config.document, tele.recording.seek, tele.recording.follow, tele.https.blocking;"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    names = set(done.stdout.split())
    assert "tele.recording.playback" in names
    unneeded = {"tele.certs.check", "tele.config.values", "tele.tape.exports.cast", "twisted"}
    assert not {*unneeded, "tele.tape.examine", "cryptography.hazmat.primitives.hpke"} & names


def test_where_auth_is_follows_from_its_data_dir(tmp_path: Path) -> None:
    """A command finds the socket by ``data_dir`` alone; if nothing is there, all is checked."""
    (tmp_path / "data").mkdir()
    config = tmp_path / "tele.yaml"
    config.write_text("version: v1\ndata_dir: x/../data\nauth: {cluster_name: example}\n")
    assert running_socket(config) is None
    (tmp_path / "data" / "auth.sock").touch()
    assert running_socket(config) == tmp_path / "data" / "auth.sock"
    for other in ("auth: {}\n", "data_dir: data\n", "data_dir: [data]\nauth: {}\n", ": :", "- x"):
        config.write_text(other)
        assert running_socket(config) is None


def test_completion_knows_the_commands(tele: Tele) -> None:
    """The shell's question is answered, for commands and for those of a group."""

    def completed(line: str, word: int) -> str:
        return tele.run(
            _TELE_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(word)
        ).stdout

    assert completed("tele lo", 1) == "plain,login\nplain,logout\nplain,locks\n"
    assert "plain,add\n" in completed("tele users a", 2)


def test_names_of_nodes_are_completed(tele: Tele) -> None:
    """As destination alone, with a login, as bash cuts it; not in what follows it."""
    home = log_in_by_hand(tele, time.time() + 3600)
    home.write(home.path / "example" / ".nodes", "db1\nweb1\nweb2\n")

    def completed(*words: str) -> list[str]:
        line = " ".join(["tele", *words])
        count = str(len(words))
        environment = {"COMP_WORDS": line, "COMP_CWORD": count, "_TELE_COMPLETE": "bash_complete"}
        return [
            each.removeprefix("plain,")
            for each in tele.run(status=0, stdin=None, seconds=60, **environment).stdout.split()
        ]

    assert completed("ssh", "w") == ["web1", "web2"]
    assert completed("ssh", "-p", "22", "root@d") == ["root@db1"]
    assert completed("ssh", "root", "@", "d") == ["@db1"]
    assert completed("ssh", "root", "@") == ["@db1", "@web1", "@web2"]
    assert completed("ssh", "web1", "w") == []
    assert completed("scp", "w") == ["file,w", "web1:", "web2:"]
    assert completed("nodes", "rm", "d") == ["db1"]


def test_completion_prints_nothing_when_no_server_answers(tele: Tele) -> None:
    """Old names are better than none, and an error on the prompt is worse than both."""
    completing = {"COMP_WORDS": "tele ssh w", "COMP_CWORD": "2", "_TELE_COMPLETE": "bash_complete"}
    assert tele.run(status=0, stdin=None, seconds=60, **completing).stderr == ""
    home = log_in_by_hand(tele, time.time() + 3600)
    kept = home.path / "example" / ".nodes"
    home.write(kept, "web1\n")
    os.utime(kept, (1, 1))
    done = tele.run(status=0, stdin=None, seconds=60, **completing)
    assert (done.stdout, done.stderr) == ("plain,web1\n", "")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_streams_do_no_harm(tele: Tele, closed: int) -> None:
    """A command that was started without a standard stream does its work all the same."""
    done = subprocess.run(
        [sys.executable, "-m", "tele.cli", "version"],
        env=tele.environment,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.close(closed),
    )
    assert done.stdout == ("" if closed == 1 else tele.run("--version").stdout)
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(tele: Tele, shell: str) -> None:
    """Each shell gets its script."""
    assert "_TELE_COMPLETE" in tele.run("completion", shell).stdout


def test_the_table_of_commands_is_true(tele: Tele) -> None:
    """Each line of help leads to a command, whose own help begins with the same words."""
    from tele.cli.lazy import LazyGroup
    from tele.cli.main import tele as root

    def check(group: LazyGroup, path: str) -> None:
        context = root.make_context("tele", [], resilient_parsing=True)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None, f"{path} {name}"
            assert command.help, f"{path} {name}"
            if isinstance(command, LazyGroup):
                check(command, f"{path} {name}")

    check(root, "tele")


def test_unknown_words_are_usage_errors(tele: Tele) -> None:
    """A command that does not exist ends with 2 and a hint, on standard error."""
    assert "No such command" in tele.fails(2, "lgoin")
    assert "No such option" in tele.fails(2, "ls", "--nothing")


def test_damaged_files_are_named(tele: Tele) -> None:
    """The error for a truncated file names it, and what to do."""
    home = log_in_by_hand(tele, time.time() + 3600)
    summary_file = home.path / "example" / "alice.json"
    for text in ('{"user"', "[]", "{}", '{"logins": 1, "roles": [], "user": "a", "expires": 1}'):
        summary_file.write_text(text)
        assert "alice.json is damaged" in tele.fails(1, "status")
    (home.path / "example" / "profile.json").write_text('{"cluster": 1}')
    assert "profile.json is damaged" in tele.fails(1, "status")


def test_not_logged_in_and_expired_are_3(tele: Tele) -> None:
    """A script recognizes by the status that it has to log in, and the error says how."""
    assert "type: tele login --proxy HOST:PORT" in tele.fails(3, "ls")
    assert "--proxy p.example:1" in tele.fails(3, "ls", TELE_PROXY="p.example:1")
    log_in_by_hand(tele, time.time() - 60)
    for words in (["ls"], ["status"], ["ssh", "web1"], ["proxy", "ssh", "a@b:1"], ["config"]):
        said = tele.fails(3, *words)
        assert "expired" in said
        assert "tele login --proxy proxy.example.com:3080 --user alice" in said


def test_names_that_would_leave_the_folder_are_refused(tele: Tele) -> None:
    """A cluster's and a user's name come from elsewhere and never become a path."""
    log_in_by_hand(tele, time.time() + 3600)
    assert "cannot be the name" in tele.fails(2, "status", "--cluster", "../../etc")
    assert "cannot be the name" in tele.fails(2, "status", "--user", "../x")
    for taken in ("known_hosts", "alice.pub", "profile", "x.tls.key"):
        assert "cannot be the name" in tele.fails(2, "status", "--user", taken)


def test_a_home_of_another_account_is_not_used(tele: Tele) -> None:
    """Keys are not written where others could read or replace them."""
    tele.home.mkdir(mode=0o755)
    home = log_in_by_hand(tele, time.time() + 3600)
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert (home.path / "example" / "ca.json").stat().st_mode & 0o777 == 0o600
    tele.home.rename(tele.folder / "was")
    tele.home.write_text("a file")
    assert "Not a directory" in tele.fails(1, "status")


def quoted_commands(page: Path) -> list[list[str]]:
    """Return the words of each line of a page that is a command of ours."""
    found = []
    for line in page.read_text().splitlines():
        words = line.partition("#")[0].split()
        for start, word in enumerate(words):
            if (
                word == "tele"
                and line.startswith("    ")
                and (start == 0 or words[start - 1] in {"&&", ";"})
            ):
                end = next((n for n in range(start, len(words)) if words[n] in {"&&", ";"}), None)
                found.append(words[start + 1 : end])
    return found


@pytest.mark.parametrize("page", ["README.rst", "docs/tutorial/first-cluster.rst"])
def test_the_commands_in_the_pages_exist(page: str) -> None:
    """Every command in the pages exists, with its options."""
    from tele.cli.main import tele as root

    commands = quoted_commands(Path(__file__).resolve().parents[2] / page)
    assert len(commands) > 5
    for words in commands:
        command: click.Command = root
        context = click.Context(root)
        rest = list(words)
        while isinstance(command, click.Group) and rest:
            inner = command.get_command(context, rest.pop(0))
            assert inner is not None, words
            command = inner
        known = {name for each in command.params for name in each.opts}
        assert {word for word in rest if word.startswith("--")} <= known, words
