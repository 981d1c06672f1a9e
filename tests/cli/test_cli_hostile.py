"""A node and a user whose every text is made to hurt the terminal that shows it."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tele.cli.main import tele as program
from tele_command import Cluster, new_cluster

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")

#: A title, a cleared screen, turned and hidden text, line ends, C1 controls, a flood of accents.
EVIL = (
    "\x1b]0;owned\x07\x1b[2J\u202egpj.exe\u2066\u200b\U000e0041\u2028\x9b31m\r\x7f\x85"
    "e" + "\u0301" * 40 + "{{ 7 * 7 }}"
)
#: Commands that change what runs, or become another program.
NOT_WALKED = {("up",), ("down",), ("login",), ("logout",), ("ssh",), ("scp",), ("proxy", "ssh")}


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        elif (*path, name) not in NOT_WALKED:
            yield (*path, name), command


COMMANDS = dict(leaves(program))


def required(command: Any) -> list[Any]:
    return [each for each in command.params if each.required]


def formats(command: Any) -> list[str]:
    """The values of a command's ``--format``; one that has none is run once."""
    for each in command.params:
        if "--format" in each.opts:
            return [*each.type.choices]
    return [""]


def in_yaml(text: str) -> str:
    """Return ``text`` as YAML has it, each character as an escape."""
    return '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'


def only_shows(text: str) -> None:
    """Assert that a terminal would show ``text`` and obey nothing in it."""
    bad = {c for c in text if not c.isprintable() and c not in "\n\t"}
    assert not bad, f"{bad!r} in {text!r}"
    assert "\u0301" * 9 not in text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster in which a node, a role, commands and a recording say the worst."""
    cluster = new_cluster(tmp_path_factory.mktemp("up"))
    try:
        cluster.tele.run("down", "--dir", cluster.folder)
        config = cluster.folder / "tele.yaml"
        said = config.read_text() + "  labels:\n"
        for key, value in ((EVIL, "x"), ("note", EVIL), ("__ansible_vault", EVIL)):
            said += f"    {in_yaml(key)}: {in_yaml(value)}\n"
        said += f"  commands: {{shown: {{command: [printf, {in_yaml(EVIL)}]}}}}\n"
        config.write_text(said)
        cluster.up()
        role = {"kind": "role", "version": "v1", "metadata": {"name": "evil", "description": EVIL}}
        cluster.tele.run("apply", "-f", "-", stdin=json.dumps(role))
        node = socket.gethostname()
        cluster.tele.run("ssh", node, f"printf %s '{EVIL}'; true '{EVIL}'")
        only_shows(cluster.tele.run("ssh", "-s", node, EVIL, status=254).stderr)
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def recording(hostile: Cluster) -> str:
    """The id of the recording of what was said."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for row in hostile.tele.json("recordings", "ls"):
            if row["ended"]:
                return str(row["id"])
        time.sleep(0.1)
    raise AssertionError("no recording came")


def test_the_hostile_texts_were_stored(hostile: Cluster, recording: str) -> None:
    """Programs get them as they are: nothing was lost on the way, it is only not obeyed."""
    (node,) = hostile.tele.json("ls")
    assert node["labels"]["note"] == EVIL
    assert EVIL in node["labels"]
    events = hostile.tele.json("audit", "ls", "--event", "exec")
    assert any(EVIL in event.get("command", "") for event in events)
    assert hostile.tele.json("get", "role/evil")["metadata"]["description"] == EVIL


@pytest.mark.parametrize("path", [p for p, c in COMMANDS.items() if not required(c)], ids=" ".join)
def test_what_is_listed_only_shows(hostile: Cluster, recording: str, path: tuple[str, ...]) -> None:
    """Each command that needs no arguments, in each of its formats."""
    for form in formats(COMMANDS[path]):
        done = hostile.tele.run(*path, *(("--format", form) if form else ()), status=None)
        only_shows(done.stdout)
        only_shows(done.stderr)


#: Any text is right for these: a text to find, the name of a new file.
TAKE_ANY_TEXT = {("recordings", "search"), ("recordings", "keygen")}


@pytest.mark.parametrize("path", [p for p, c in COMMANDS.items() if required(c)], ids=" ".join)
def test_errors_with_hostile_texts_are_printable(hostile: Cluster, path: tuple[str, ...]) -> None:
    """Each command that takes texts, given hostile ones: a script may pass untrusted input."""
    words: list[str] = []
    for each in required(COMMANDS[path]):
        words += [EVIL] if isinstance(each, click.Argument) else [each.opts[0], EVIL]
    for more in ([], [f"--{EVIL}"], [EVIL], ["--format", EVIL], ["--cluster", EVIL]):
        done = hostile.tele.run(*path, *words, *more, status=None)
        only_shows(done.stdout)
        only_shows(done.stderr)
        assert (done.returncode == 0) == (path in TAKE_ANY_TEXT and not more)


@pytest.mark.parametrize(
    "words",
    [
        ("get", "node"), ("get", "role/evil"), ("get", "roles"), ("get", "users"),
        ("get", EVIL), ("ls", f"{EVIL}=x"), ("ls", EVIL), ("ssh", f"note={EVIL},x=y", "true"),
        ("login", "--proxy", EVIL), ("login", "--proxy", "127.0.0.1:1", "--user", EVIL),
        ("--home", EVIL, "ls"), (EVIL,), ("up", "--cluster", EVIL), ("up", "--login", EVIL),
        ("down", "--dir", EVIL),
    ],
    ids=lambda words: words[0] if words[0] != EVIL else "evil",
)  # fmt: skip
def test_results_with_hostile_texts_are_printable(hostile: Cluster, words: tuple[str, ...]) -> None:
    """Words that name something, and those of commands that are not walked."""
    done = hostile.tele.run(*words, status=None)
    only_shows(done.stdout)
    only_shows(done.stderr)


@pytest.mark.parametrize("form", ["text", "json", "cast"])
def test_a_recording_is_text(hostile: Cluster, recording: str, form: str, tmp_path: Path) -> None:
    """What a session printed comes out of each form but the replay itself as text."""
    only_shows(hostile.tele.run("play", recording, "--format", form).stdout)
    only_shows(hostile.tele.run("recordings", "export", recording, "-", "--format", form).stdout)


def test_the_log_is_text(hostile: Cluster, recording: str) -> None:
    """An administrator may read it in a terminal."""
    only_shows(hostile.log)


def test_names_are_words(hostile: Cluster) -> None:
    """``for node in $(tele ls --format names)`` meets names that are single words, no options."""
    (name,) = hostile.tele.run("ls", "--format", "names").stdout.splitlines()
    assert name == socket.gethostname()
    for line in hostile.tele.run("audit", "ls", "--format", "names").stdout.splitlines():
        assert len(line.split()) == 1
        assert not line.startswith("-")


def test_the_inventory_has_no_template(hostile: Cluster) -> None:
    """Of a node's labels nothing reaches Ansible that it would run or take for its own."""
    done = hostile.tele.run("ls", "--format", "ansible")
    said = json.loads(done.stdout)
    (variables,) = said["_meta"]["hostvars"].values()
    assert variables["tele_labels"]["note"] == {"__ansible_unsafe": EVIL}
    assert not [key for key in variables["tele_labels"] if "{" in key or key.startswith("__")]
    assert all(name.replace("_", "").isalnum() and name.isascii() for name in said)
    assert "left out: Ansible could not take the label" in done.stderr
