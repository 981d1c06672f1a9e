"""A clock that is wrong is called that: not another CA, and not an old log-in."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from tele_command import Cluster, Tele

LIBRARIES = sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"))

pytestmark = pytest.mark.skipif(
    shutil.which("ssh") is None or not LIBRARIES, reason="OpenSSH or faketime is not installed"
)

PASSWORD = "correct horse battery staple"
#: How far a clock is off, and how that is said.
BEHIND = (-3, "the clock of this machine is 3 h behind auth's")
AHEAD = (30, "the clock of this machine is 1 d 6 h ahead of auth's")
#: What the own certificate, which is some minutes old, says of it.
AT_LEAST = re.compile("clock of this machine is at least (3 h|2 h [45][0-9] min) behind auth's")


def off(hours: int) -> dict[str, Any]:
    """Return the environment of a command whose clock is so many hours off."""
    return {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME": f"{hours:+d}h",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@pytest.mark.parametrize(("hours", "words"), [BEHIND, AHEAD], ids=["behind", "ahead"])
@pytest.mark.parametrize("command", ["ls", "sessions ls", "audit ls", "users ls"])
def test_every_call_of_auth_names_the_machine_with_the_wrong_clock(
    cluster: Cluster, command: str, hours: int, words: str
) -> None:
    """And by how much, with both dates; certificates of another CA are another thing."""
    said = cluster.tele.fails(1, *command.split(), **off(hours))
    assert words in said
    assert "set the clock that is wrong" in said
    for blamed in ("CA", "log in", "password", "denied"):
        assert blamed not in said


@pytest.mark.parametrize(("hours", "words"), [BEHIND, AHEAD], ids=["behind", "ahead"])
def test_a_login_names_the_machine_with_the_wrong_clock(
    tele: Tele, cluster: Cluster, hours: int, words: str
) -> None:
    """Before a password is sent: auth cannot be verified."""
    login = cluster.tele.json("status")
    known = {user["metadata"]["name"] for user in cluster.tele.json("users", "ls")}
    if "alice" not in known:
        cluster.tele.run(
            "users", "add", "alice", "--role", "access", "--login", login["logins"][0],
            "--password-file", "-", stdin=f"{PASSWORD}\n",
        )  # fmt: skip
    login_words = (
        "login", "--proxy", cluster.listen, "--user", "alice", "--password-file", "-",
        "--ca-pin", login["ca_pins"][0],
    )  # fmt: skip
    assert words in tele.fails(1, *login_words, stdin=f"{PASSWORD}\n", **off(hours))
    tele.run(*login_words, stdin=f"{PASSWORD}\n")
    note = tele.run(*login_words, stdin=f"{PASSWORD}\n", status=None, **off(1))
    assert note.returncode == 0
    assert "note: the clock of this machine is 1 h ahead of auth's" in note.stderr


def test_status_warns_of_a_wrong_clock(cluster: Cluster) -> None:
    """Where the own certificate is of the future, or over by this clock only."""
    behind = cluster.tele.run("status", **off(-3))
    assert AT_LEAST.search(behind.stderr)
    assert AHEAD[1] in cluster.tele.fails(1, "status", **off(AHEAD[0]))


def test_ssh_warns_of_a_wrong_clock_before_openssh_fails(cluster: Cluster) -> None:
    """OpenSSH calls a host's certificate invalid, or asks for a password."""
    node = socket.gethostname()
    behind = cluster.tele.run("ssh", "-o", "BatchMode=yes", node, "true", status=None, **off(-3))
    assert AT_LEAST.search(behind.stderr)
    assert AHEAD[1] in cluster.tele.fails(1, "ssh", node, "true", **off(AHEAD[0]))


def test_an_old_login_is_still_an_old_login(cluster: Cluster, tele: Tele) -> None:
    """With clocks that agree, the error for an expired certificate says so, with what to type."""
    shutil.copytree(cluster.tele.home, tele.home)
    (summary_file,) = (path for path in tele.home.glob("*/*.json") if "expires" in path.read_text())
    old = summary_file.read_text()
    expires = old.split('"expires": ')[1].split(",")[0].split("\n")[0]
    summary_file.write_text(old.replace(expires, "1000000000.0"))
    said = tele.fails(3, "ls")
    assert "expired 2001-" in said
    assert "type: tele login" in said
