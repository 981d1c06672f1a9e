"""Terminals in a real browser, on a node of a real cluster.

One Chromium does everything once (``browser/terminal.mjs``); each test looks at a part of that.
``TELE_PICTURES=FOLDER`` keeps pictures of the pages.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import subprocess
import threading
from typing import Any

import pytest
from attrs import frozen

from node_packages import install
from pages import HERE, build_pages, chromium
from tele_command import Cluster

PASSWORD = "a password of the browser's own"
#: What a session shows that would like to be more than text. The page would have ``window.script``.
HOSTILE = {
    "markup": "<img src=x onerror=script=1><script>script=2</script>",
    "escapes": r"\033]0;<b>evil</b>\007\033]52;c;c3RvbGVu\007\033[6n\033[c\033]4;1;?\007",
}


@frozen
class Seen:
    """What the browser saw."""

    parts: dict[str, Any]
    cluster: Cluster

    def __getitem__(self, part: str) -> Any:
        assert part in self.parts, self.parts["errors"].get(part, self.parts["errors"])
        return self.parts[part]


def kill(cluster: Cluster) -> None:
    """End the cluster at once, and start it again."""
    os.kill(int((cluster.folder / "tele.pid").read_text()), signal.SIGKILL)
    cluster.up("--cluster", cluster.name, "--listen", cluster.listen)


@pytest.fixture(scope="module")
def seen(cluster: Cluster) -> Seen:
    """Everything, done once."""
    executable = chromium()
    build_pages()
    modules = install(HERE, "playwright-core")
    secret = cluster.folder / "password"
    secret.touch(0o600)
    secret.write_text(PASSWORD + "\n")
    cluster.tele.run(
        "users", "add", "bea", "--role", "access", "--login", getpass.getuser(),
        "--password-file", secret,
    )  # fmt: skip
    wanted = cluster.folder / "wanted.json"
    wanted.write_text(json.dumps({
        "modules": str(modules), "chromium": executable, "url": f"https://{cluster.listen}",
        "user": "bea", "password": PASSWORD, "account": getpass.getuser(), "hostile": HOSTILE,
        "pictures": os.environ.get("TELE_PICTURES", ""),
    }))  # fmt: skip
    program = modules / "terminal.mjs"
    shutil.copy(HERE / program.name, program)
    browser = subprocess.Popen(
        ["node", str(program), str(wanted)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    timer = threading.Timer(480, browser.kill)
    timer.start()
    with browser:
        try:
            assert browser.stdout is not None
            assert browser.stderr is not None
            said = ""
            for line in browser.stderr:
                said += line
                if line.strip() == "kill":
                    kill(cluster)
            printed = browser.stdout.read()
            assert browser.wait() == 0, said
        finally:
            timer.cancel()
            browser.kill()
    return Seen(json.loads(printed), cluster)


def test_every_part_was_done_without_an_error(seen: Seen) -> None:
    """No part failed, no page logged an error, and the policy of the pages refused nothing."""
    assert seen.parts["errors"] == {}
    assert seen["problems"] == []
    assert seen["foreign"] == []


def test_a_terminal_on_a_node(seen: Seen) -> None:
    """A click in the list of nodes opens a shell of the account that was chosen."""
    found = seen["open"]
    assert found["links"] == [getpass.getuser()]
    assert "answer 42" in found["text"]
    assert "/DEV/PTS/" in found["text"]
    assert found["heading"].startswith(f"{getpass.getuser()}@")
    assert found["title"].startswith(f"{getpass.getuser()}@")


def test_the_session_is_recorded_as_any(seen: Seen) -> None:
    """It is a session of its user with a recording; its client address is the browser's."""
    started = [
        each for each in seen.cluster.tele.json("audit", "ls")
        if each["event"] == "session.start" and each.get("user") == "bea"
    ]  # fmt: skip
    assert len(started) == 3
    assert all(each["remote_addr"].startswith("127.0.0.1") for each in started)
    recorded = {each["id"] for each in seen.cluster.tele.json("recordings", "ls")}
    assert {each["session_id"] for each in started} <= recorded


def test_the_proxy_sees_no_plain_text(seen: Seen) -> None:
    """Nothing that is typed or shown passes the WebSocket in the clear (attack)."""
    assert seen["secret"] == 0


def test_resize(seen: Seen) -> None:
    """The terminal has the size of the page, and follows it."""
    before, after = seen["resize"]["before"], seen["resize"]["after"]
    assert before[0] > after[0]
    assert before[1] > after[1] > 20


def test_copy_and_paste(seen: Seen) -> None:
    """Ctrl+Shift+V pastes, Ctrl+Shift+C copies what is selected."""
    assert seen["clipboard"]["copied"] == "copyme77"


def test_search_in_what_was_scrolled_out(seen: Seen) -> None:
    """Lines that left the screen are kept, and found."""
    assert "1234" in seen["scrollback"]["found"]


def test_a_terminal_shows_text(seen: Seen) -> None:
    """Markup, titles, clipboard sequences and links run nothing, set no title of the page, and
    change no clipboard (attack).
    """
    found = seen["hostile"]
    assert (found["script"], found["after"]) == ("none", "none")
    assert "evil" not in found["title"]
    assert found["shownTitle"] == "<b>evil</b>"
    assert found["clipboard"] == "untouched"


def test_a_link_is_shown_before_it_is_opened(seen: Seen) -> None:
    """Where it leads is shown; it is opened without a reference to the page; no script is one."""
    found = seen["hostile"]
    assert found["evil"] == 0
    assert found["link"] == "https://other.example/path"
    assert {"noopener", "noreferrer"} <= set(found["relation"].split())
    assert found["opened"] == found["pages"]


def test_much_output_leaves_little_behind(seen: Seen) -> None:
    """The page keeps 10,000 lines, not all of them."""
    assert seen["flood"]["grown"] < 60_000_000


def test_a_link_from_elsewhere_opens_nothing(seen: Seen) -> None:
    """The page of a terminal waits for a click, unless one in our own pages led to it (attack).
    Two tabs have a session each, and one that ends says with which status.
    """
    assert seen["tabs"]["waited"] is True


def test_a_proxy_that_is_killed(seen: Seen) -> None:
    """The page says so, keeps what was shown, and connects again when the proxy is back."""
    assert "connection" in seen["killed"]["problem"]
    assert "first-10" in seen["killed"]["kept"]


@pytest.mark.parametrize("part", ["open", "tabs"])
def test_accessibility(seen: Seen, part: str) -> None:
    """axe-core finds no serious fault."""
    assert seen[part]["faults"] == []
